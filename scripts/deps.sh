#!/usr/bin/env bash
# Finds what the tests, the demo and the benchmark need, installs PostgreSQL where that is possible, and says exactly
# what is missing where it is not.
set -euo pipefail
. "$(dirname "$0")/pgbin.sh"

missing=()
have() { command -v "$1" >/dev/null 2>&1; }

install() {
	echo "installing $* (apt-get)" >&2
	# Debian's package starts a cluster of its own, which nobody here needs.
	mkdir -p /etc/postgresql-common
	[ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
	DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

have go || missing+=("go 1.26 or newer (https://go.dev/dl)")
have gcc || have cc || missing+=("a C compiler (Debian: apt-get install gcc libc6-dev)")
if [ -z "$(pg_bin)" ] || ! [ -x "$(pg_bin)/pgbench" ]; then
	if [ "$(id -u)" = 0 ] && have apt-get; then
		install postgresql postgresql-contrib || true
	fi
fi
bin=$(pg_bin)
if [ -z "$bin" ]; then
	missing+=("PostgreSQL 15 to 18, server and client programs (Debian: sudo apt-get install postgresql; or MTM_PG_BIN=directory with initdb)")
else
	for p in initdb postgres psql pgbench pg_basebackup; do
		[ -x "$bin/$p" ] || have "$p" || missing+=("$p, which is not in $bin nor in PATH")
	done
fi
if [ "$(id -u)" = 0 ] && ! id postgres >/dev/null 2>&1; then
	missing+=("a user postgres, because PostgreSQL refuses to run as root (adduser --system --group postgres)")
fi

if [ ${#missing[@]} -gt 0 ]; then
	echo "missing:" >&2
	printf '  - %s\n' "${missing[@]}" >&2
	exit 1
fi
