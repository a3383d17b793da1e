#!/bin/sh
# `sysbench cpu --time=10 run`, events per second in the guest, yado against QEMU's TCG and the host itself, medians of N
# rounds: bench/sysbench.sh [N]. See bench.py.
case "${1:-3}$2" in
    *[!0-9]*)
        sed -n 's/^# //p' "$0"
        [ "$1" = --help ]
        exit
        ;;
esac
cd "$(dirname "$0")/.."
export TIMES="${1:-3}" ROWS=cpu1,cpu2 TIME=10 ENGINES="${ENGINES:-native,yado,tcg}" OUT="${OUT:-${BUILD:-build}/bench/sysbench}"
exec bench/bench.py
