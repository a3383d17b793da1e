#!/bin/sh
# Seconds from start to the login prompt, yado against QEMU TCG: bench/login.sh [N]. See bench/bench.py.
exec python3 "$(dirname "$0")/bench.py" login "$@"
