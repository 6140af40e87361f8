#!/usr/bin/env bash
# make demo: three PostgreSQL become one database, in a minute, on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/pgbin.sh

mtmctl=$PWD/bin/mtmctl
psql=$(pg_program psql)
pgbench=$(pg_program pgbench)
dir=$(mktemp -d /tmp/mtm-demo-XXXXXX)
chmod 755 "$dir"
export PSQLRC=/dev/null PGCONNECT_TIMEOUT=10

finish() {
	local code=$?
	trap - EXIT
	if [ $code -ne 0 ]; then
		echo
		echo "The demo failed. The end of each log:"
		for log in "$dir"/node*/*.log; do
			[ -e "$log" ] && echo "--- $log" && tail -n 15 "$log"
		done
	fi
	"$mtmctl" devcluster destroy --dir "$dir" 2>/dev/null || true
	rm -rf "$dir"
	exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
url() { "$mtmctl" devcluster url --dir "$dir" --node "$1"; }
on() { # on NODE SQL: shows the statement and its result
	printf 'node %s=> %s\n' "$1" "$2"
	"$psql" -X -v ON_ERROR_STOP=1 -q "$(url "$1")" -c "$2"
}

say "1. Three empty, stock PostgreSQL and three mtmd, on free ports of this machine"
"$mtmctl" devcluster start --dir "$dir" --nodes 3

say "2. A table and its first rows, written on node 1"
on 1 "CREATE TABLE book (id serial PRIMARY KEY, title text NOT NULL, written_on int)"
on 1 "INSERT INTO book (title, written_on) VALUES ('Paxos Made Simple', 1), ('Time, Clocks', 1) RETURNING *"

say "3. They are on nodes 2 and 3 when node 1 has said COMMIT"
on 2 "SELECT * FROM book ORDER BY id"
on 3 "SELECT * FROM book ORDER BY id"

say "4. The others write too; serial numbers of different nodes never meet"
on 2 "INSERT INTO book (title, written_on) VALUES ('Increasing the Resilience', 2) RETURNING *"
on 3 "UPDATE book SET title = 'Time, Clocks, and the Ordering of Events' WHERE title = 'Time, Clocks' RETURNING *"
on 1 "SELECT * FROM book ORDER BY id"
on 2 "SELECT count(*) AS rows_on_node_2 FROM book"
on 3 "SELECT count(*) AS rows_on_node_3 FROM book"

say "5. A constraint of one holds for all: this must fail"
printf "node 3=> INSERT INTO book (id, title) SELECT id, 'a copy' FROM book LIMIT 1\n"
if "$psql" -X -q "$(url 3)" -c "INSERT INTO book (id, title) SELECT id, 'a copy' FROM book LIMIT 1"; then
	echo "it did not fail" >&2
	exit 1
fi

say "6. Each node tells how it is"
for n in 1 2 3; do on $n "SELECT my_node_id, status, connected, gen_num, gen_members FROM mtm.status()"; done

say "7. pgbench on all three at once, five seconds"
"$pgbench" -i -q -s 2 "$(url 1)" 2>&1 | tail -1
pids=()
for n in 1 2 3; do
	"$pgbench" -n -N -M prepared -c 2 -T 5 --max-tries=100 "$(url $n)" >"$dir/pgbench$n" 2>&1 &
	pids+=($!)
done
for n in 1 2 3; do
	if ! wait "${pids[$((n - 1))]}"; then cat "$dir/pgbench$n"; exit 1; fi
	printf 'node %s: %s, %s\n' "$n" "$(grep -o 'number of transactions actually processed: [0-9]*' "$dir/pgbench$n")" "$(grep -o 'tps = [0-9.]*' "$dir/pgbench$n")"
done

say "8. Every row of every table, on every node"
"$mtmctl" devcluster compare --dir "$dir" --wait 10s
on 1 "SELECT count(*) AS history FROM pgbench_history"
on 2 "SELECT count(*) AS history FROM pgbench_history"
on 3 "SELECT count(*) AS history FROM pgbench_history"

say "9. A power cut on node 3: its PostgreSQL and its mtmd are killed"
"$mtmctl" devcluster kill --dir "$dir" --node 3 --what both
on 1 "INSERT INTO book (title, written_on) VALUES ('Written while node 3 was dead', 1) RETURNING *"
on 2 "SELECT my_node_id, status, gen_num, gen_members FROM mtm.status()"
on 2 "UPDATE book SET title = title || ' (2nd edition)' WHERE written_on = 2 RETURNING *"

say "10. It comes back, catches up by itself, and has the rows"
"$mtmctl" devcluster start-node --dir "$dir" --node 3 --wait 1m
on 3 "SELECT * FROM book ORDER BY id"
on 3 "SELECT my_node_id, status, gen_num, gen_members FROM mtm.status()"
"$mtmctl" devcluster compare --dir "$dir" --wait 10s

say "11. Stop"
"$mtmctl" devcluster stop --dir "$dir" --all
"$mtmctl" devcluster info --dir "$dir"
echo
echo "Done. For one that stays: bin/mtmctl devcluster start --dir /var/tmp/mtm-dev"
