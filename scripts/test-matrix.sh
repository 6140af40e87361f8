#!/usr/bin/env bash
# make test-matrix: the core scenarios on each supported version of PostgreSQL, and on all of them in one cluster; the drivers' tests on
# those that make test does not run them on.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/pgbin.sh

start=$SECONDS
declare -A bins
first=$(pg_bin)
bins[$("$first/postgres" --version | grep -o '[0-9]*' | head -1)]=$first
for bin in $(scripts/fetch-pg.sh "$@"); do
	bins[$("$bin/postgres" --version | grep -o '[0-9]*' | head -1)]=$bin
done
failed=()
for version in $(printf '%s\n' "${!bins[@]}" | sort -n); do
	echo "=== PostgreSQL $version (${bins[$version]})"
	MTM_PG_BIN=${bins[$version]} go test -count=1 -timeout 10m -run 'TestCore' ./testcluster/... || failed+=("$version")
	[ "${bins[$version]}" != "$first" ] || continue
	MTM_PG_BIN=${bins[$version]} go test -count=1 -timeout 15m ./logrep/... ./sql/... ./cmd/... || failed+=("$version: drivers")
done
echo "=== one cluster of all versions"
all=$(for version in $(printf '%s\n' "${!bins[@]}" | sort -n); do printf '%s:' "${bins[$version]}"; done)
MTM_PG_BINS=${all%:} go test -count=1 -timeout 10m -run 'TestCore' ./testcluster/... || failed+=("mixed")
if [ ${#failed[@]} -gt 0 ]; then
	echo "FAILED after $((SECONDS - start)) s: ${failed[*]}"
	exit 1
fi
echo "all versions passed in $((SECONDS - start)) s: $(printf '%s\n' "${!bins[@]}" | sort -n | tr '\n' ' ')and mixed"
