# Sourced: pg_bin prints the directory of PostgreSQL's programs, or nothing; pg_program NAME a client program's path.
pg_bin() {
	if [ -n "${MTM_PG_BIN:-}" ]; then
		echo "$MTM_PG_BIN"
		return
	fi
	local found
	found=$(for d in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do if [ -x "$d/initdb" ]; then echo "$d"; fi; done | sort -V | tail -1)
	if [ -z "$found" ] && command -v pg_ctl >/dev/null 2>&1; then
		found=$(dirname "$(readlink -f "$(command -v pg_ctl)")")
	fi
	echo "$found"
}

pg_program() {
	if [ -x "$(pg_bin)/$1" ]; then echo "$(pg_bin)/$1"; else command -v "$1"; fi
}
