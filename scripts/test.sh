#!/usr/bin/env bash
# make test: vet, unit tests, the simulator, tests on real clusters; in that order, each told as it goes.
set -uo pipefail
cd "$(dirname "$0")/.."
SEEDS=${SEEDS:-20000}
start=$SECONDS
failed=()

step() {
	local name=$1 from=$SECONDS
	shift
	echo "=== $name"
	if "$@"; then
		echo "--- $name: ok ($((SECONDS - from)) s)"
	else
		echo "--- $name: FAILED ($((SECONDS - from)) s)"
		failed+=("$name")
	fi
}

formatted() {
	local bad
	bad=$(gofmt -l $(git ls-files '*.go'))
	[ -z "$bad" ] || { echo "not formatted (make fmt):"; echo "$bad"; return 1; }
}

# Packages that start whole clusters run one at a time, so that none starves another of processor and disk.
clusters=$(go list ./testcluster/... ./cmd/... | grep -v /testcluster/sim)
others=$(go list ./... | grep -vxF "$clusters")

step "build" go build -o bin/ ./cmd/...
[ ${#failed[@]} -eq 0 ] || exit 1
step "format" formatted
step "vet" go vet ./...
step "drivers of other languages" scripts/drivers.sh
export MTM_NODE_PATH=$PWD/.cache/node/node_modules
[ -d "$MTM_NODE_PATH/pg" ] || unset MTM_NODE_PATH
step "unit tests" go test -count=1 -timeout 10m $others
if [ -d testcluster/sim ]; then
	step "simulator, $SEEDS seeds" go run ./testcluster/sim -seeds "$SEEDS"
	step "simulator with elections and recovery, $((SEEDS / 10)) seeds" go run ./testcluster/sim -elections -seeds $((SEEDS / 10))
	step "simulator with nodes added and dropped, $((SEEDS / 40)) seeds" go run ./testcluster/sim -members -seeds $((SEEDS / 40))
	step "simulator with a referee, $((SEEDS / 5)) seeds" go run ./testcluster/sim -referee -seeds $((SEEDS / 5))
fi
step "real clusters" go test -count=1 -p 1 -timeout 60m $clusters

if [ ${#failed[@]} -gt 0 ]; then
	echo "FAILED after $((SECONDS - start)) s: ${failed[*]}"
	exit 1
fi
echo "all tests passed in $((SECONDS - start)) s"
