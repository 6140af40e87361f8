#!/usr/bin/env bash
# Installs the PostgreSQL drivers of other languages that TestDrivers of sql/gateway uses, where that is possible, and says what is
# missing where it is not. Never fails: the tests of what is missing are skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
node=.cache/node

absent() {
	for m in psycopg2:python3-psycopg2 psycopg:python3-psycopg asyncpg:python3-asyncpg; do
		/usr/bin/python3 -c "import ${m%%:*}" 2>/dev/null || echo "${m##*:}"
	done
	[ -e /usr/share/java/postgresql.jar ] || echo libpostgresql-jdbc-java
	java --describe-module jdk.compiler >/dev/null 2>&1 || echo default-jdk-headless
	command -v npm >/dev/null || echo npm
}

packages=$(absent)
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "installing" $packages "(apt-get)"
	export DEBIAN_FRONTEND=noninteractive
	timeout 60 apt-get update -qq && timeout 240 apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi
if ! [ -d $node/node_modules/pg ] && command -v npm >/dev/null; then
	mkdir -p $node
	timeout 60 npm install --silent --no-audit --no-fund --prefix $node pg@8
fi

packages=$(absent)
[ -z "$packages" ] || echo "missing, so that their tests are skipped: apt-get install" $packages
[ -d $node/node_modules/pg ] || echo "missing, so that its test is skipped: npm install --prefix $node pg@8"
exit 0
