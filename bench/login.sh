#!/bin/sh
# Seconds from start to the login prompt, yado against QEMU's TCG, medians of N starts: bench/login.sh [N]. See bench.py.
case "${1:-3}$2" in
    *[!0-9]*)
        sed -n 's/^# //p' "$0"
        [ "$1" = --help ]
        exit
        ;;
esac
cd "$(dirname "$0")/.."
export TIMES="${1:-3}" ROWS=login ENGINES="${ENGINES:-yado,tcg}" OUT="${OUT:-${BUILD:-build}/bench/login}"
exec bench/bench.py
