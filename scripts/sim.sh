#!/usr/bin/env bash
# make sim SEEDS=n: n seeds of the simulator in all. Half of them with elections and recovery, a quarter with two nodes and a referee,
# an eighth with nodes added and dropped, an eighth with fixed members. SEED is the first; each prints how to see a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
SEEDS=${SEEDS:-20000} SEED=${SEED:-1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go build -o "$dir/sim" ./testcluster/sim
"$dir/sim" -seed "$SEED" -seeds $((SEEDS / 8))
"$dir/sim" -referee -seed "$SEED" -seeds $((SEEDS / 4))
"$dir/sim" -elections -seed "$SEED" -seeds $((SEEDS / 2))
"$dir/sim" -members -seed "$SEED" -seeds $((SEEDS / 8))
