#!/bin/sh
# `sysbench cpu --time=10 run` in the guest, events per second, yado against QEMU TCG: bench/sysbench.sh [N].
# See bench/bench.py.
exec python3 "$(dirname "$0")/bench.py" sysbench "$@"
