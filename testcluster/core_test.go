package testcluster_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// Tests named TestCore… also run on PostgreSQL 16 to 18 and on a mixture (make test-matrix).

func three(t *testing.T) *testcluster.Cluster {
	t.Helper()
	return testcluster.Start(t, testcluster.Options{Nodes: 3})
}

// execute runs each statement through the gateway of node n.
func execute(t *testing.T, n *testcluster.Node, sql ...string) {
	t.Helper()
	conn := n.Connect()
	for _, one := range sql {
		_, err := conn.Exec(t.Context(), one)
		require.NoError(t, err, one)
	}
}

// requireRows reads from every node, through the gateway.
func requireRows(t *testing.T, c *testcluster.Cluster, sql, want string) {
	t.Helper()
	for _, n := range c.Nodes() {
		require.Equal(t, want, n.Psql(sql), "node %d: %s", n.ID, sql)
	}
}

// TestCoreSQL is one cluster and one table or more for each thing that clients do.
func TestCoreSQL(t *testing.T) {
	c := three(t)
	for _, one := range []struct {
		name string
		test func(*testing.T, *testcluster.Cluster)
	}{
		{"write anywhere, read everywhere", writeAnywhere},
		{"blocks and savepoints", blocksAndSavepoints},
		{"tables of many kinds", tablesOfManyKinds},
		{"sequences never meet", sequencesNeverMeet},
		{"copy both ways", copyBothWays},
		{"conflicts end and lose nothing", conflictsLoseNothing},
		{"pgbench on all at once", pgbenchOnAll},
	} {
		t.Run(one.name, func(t *testing.T) {
			one.test(t, c.For(t))
			c.For(t).RequireEqual()
		})
	}
}

func writeAnywhere(t *testing.T, c *testcluster.Cluster) {
	execute(t, c.Node(1), "CREATE TABLE plain (id int PRIMARY KEY, v text)")
	for i, n := range c.Nodes() {
		execute(t, n, fmt.Sprintf("INSERT INTO plain VALUES (%d, 'from %d')", i, n.ID))
		requireRows(t, c, "SELECT count(*) FROM plain", strconv.Itoa(i+1))
	}
	execute(t, c.Node(2), "UPDATE plain SET id = id + 10 WHERE id = 0", "DELETE FROM plain WHERE id = 1")
	requireRows(t, c, "SELECT * FROM plain ORDER BY 1", "2|from 3\n10|from 1")
	execute(t, c.Node(3), "TRUNCATE plain")
	requireRows(t, c, "SELECT count(*) FROM plain", "0")
}

func blocksAndSavepoints(t *testing.T, c *testcluster.Cluster) {
	execute(t, c.Node(1), "CREATE TABLE blocks (id int PRIMARY KEY)")
	execute(t, c.Node(2), "BEGIN", "INSERT INTO blocks VALUES (1)", "SAVEPOINT s", "INSERT INTO blocks VALUES (2)", "ROLLBACK TO s",
		"INSERT INTO blocks VALUES (3)", "COMMIT")
	requireRows(t, c, "SELECT * FROM blocks ORDER BY 1", "1\n3")
	execute(t, c.Node(3), "BEGIN", "DELETE FROM blocks", "ROLLBACK")
	requireRows(t, c, "SELECT count(*) FROM blocks", "2")
}

func tablesOfManyKinds(t *testing.T, c *testcluster.Cluster) {
	execute(t, c.Node(1),
		"CREATE TYPE mood AS ENUM ('sad', 'glad')",
		"CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
		"CREATE TYPE pair AS (a int, b text)",
		`CREATE TABLE every (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m mood, p positive, q pair, r int4range, a text[],
			j jsonb, n numeric, f float8, d date, ts timestamptz, iv interval, u uuid, b bytea, bt bit(5), ip inet,
			twice int GENERATED ALWAYS AS (p * 2) STORED)`,
		"CREATE TABLE parts (k int, v text, PRIMARY KEY (k)) PARTITION BY RANGE (k)",
		"CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100)",
		"CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (200)",
		"CREATE TABLE keyless (x int, y text)",
		"CREATE TABLE toasted (id int PRIMARY KEY, small int, big text)",
	)
	execute(t, c.Node(2),
		`INSERT INTO every (m, p, q, r, a, j, n, f, d, ts, iv, u, b, bt, ip) VALUES ('glad', 7, '(1,"x y")', '[1,5)', '{a,NULL,"b c"}',
			'{"k": [1, null]}', 'NaN', '-0', '0044-03-15 BC', 'infinity', '1 mon -3 days', '6b1f1b2e-5d7a-4a1c-9f3e-000000000001',
			'\x00ff', B'10101', '10.0.0.1/8')`,
		"INSERT INTO every (p) VALUES (1)",
		"INSERT INTO parts SELECT g, 'v' || g FROM generate_series(0, 199, 10) g",
		"INSERT INTO keyless VALUES (1, 'a'), (1, 'a'), (NULL, NULL)",
		"INSERT INTO toasted SELECT 1, 1, string_agg(md5(g::text), '') FROM generate_series(1, 5000) g",
	)
	execute(t, c.Node(3),
		"UPDATE every SET m = 'sad', a = a || 'more'::text WHERE p = 7",
		"UPDATE parts SET k = k + 101 WHERE k = 50",
		"UPDATE keyless SET y = 'b' WHERE ctid = (SELECT min(ctid) FROM keyless)",
		"DELETE FROM keyless WHERE x IS NULL",
		"UPDATE toasted SET small = 2",
	)
	requireRows(t, c, "SELECT m, twice, a FROM every ORDER BY p", "|2|\nsad|14|{a,NULL,\"b c\",more}")
	requireRows(t, c, "SELECT count(*) FROM parts_high", "11")
	requireRows(t, c, "SELECT * FROM keyless ORDER BY y", "1|a\n1|b")
	requireRows(t, c, "SELECT small, length(big) FROM toasted", "2|160000")
}

func sequencesNeverMeet(t *testing.T, c *testcluster.Cluster) {
	execute(t, c.Node(1), "CREATE TABLE s (id serial PRIMARY KEY, node int)")
	for range 5 {
		for _, n := range c.Nodes() {
			execute(t, n, fmt.Sprintf("INSERT INTO s (node) VALUES (%d), (%d)", n.ID, n.ID))
		}
	}
	requireRows(t, c, "SELECT count(*), count(DISTINCT id) FROM s", "30|30")
}

func copyBothWays(t *testing.T, c *testcluster.Cluster) {
	execute(t, c.Node(1), "CREATE TABLE copied (id int PRIMARY KEY, v text)")
	conn := c.Node(2).Connect()
	n, err := conn.CopyFrom(t.Context(), pgx.Identifier{"copied"}, []string{"id", "v"}, pgx.CopyFromSlice(10000, func(i int) ([]any, error) {
		return []any{i, fmt.Sprint("row ", i)}, nil
	}))
	require.NoError(t, err)
	require.EqualValues(t, 10000, n)
	requireRows(t, c, "SELECT count(*), sum(id) FROM copied", "10000|49995000")
	out := c.Node(3).Psql("COPY (SELECT * FROM copied ORDER BY id LIMIT 2) TO STDOUT")
	require.Equal(t, "0\trow 0\n1\trow 1", out)
}

func conflictsLoseNothing(t *testing.T, c *testcluster.Cluster) {
	execute(t, c.Node(1), "CREATE TABLE counter (id int PRIMARY KEY, n int)", "INSERT INTO counter SELECT g, 0 FROM generate_series(1, 3) g")
	const clients, rounds = 2, 20
	errs := make(chan error)
	for _, n := range c.Nodes() {
		for range clients {
			go func() { errs <- increment(t.Context(), n, rounds) }()
		}
	}
	for range 3 * clients {
		require.NoError(t, <-errs)
	}
	requireRows(t, c, "SELECT sum(n) FROM counter", strconv.Itoa(3*clients*rounds))
}

// increment adds 1 to some row, rounds times, and tries again when it lost a conflict.
func increment(ctx context.Context, n *testcluster.Node, rounds int) error {
	conn, err := n.ConnectErr(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for i := 0; i < rounds; {
		_, err := conn.Exec(ctx, "UPDATE counter SET n = n + 1 WHERE id = $1", i%3+1)
		switch {
		case err == nil:
			i++
		case !strings.Contains(err.Error(), "40001") && !strings.Contains(err.Error(), "40P01"):
			return fmt.Errorf("node %d: %w", n.ID, err)
		}
	}
	return nil
}

func pgbenchOnAll(t *testing.T, c *testcluster.Cluster) {
	runPgbench(t, c.Node(1), "-i", "-q", "-s", "1")
	done := make(chan string)
	for i, n := range c.Nodes() {
		mode := []string{"simple", "extended", "prepared"}[i]
		go func() { done <- tryPgbench(n, "-n", "-M", mode, "-c", "2", "-T", "4", "--max-tries", "1000") }()
	}
	for range c.Nodes() {
		require.Empty(t, <-done)
	}
	requireRows(t, c, `SELECT sum(abalance) = (SELECT sum(bbalance) FROM pgbench_branches) AND sum(abalance) = (SELECT sum(tbalance)
		FROM pgbench_tellers) AND sum(abalance) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history) FROM pgbench_accounts`, "t")
}

// TestCoreAllDaemonsKilledDuringInserts: what was acknowledged is there, once, on all nodes. MTM_ROWS sets the number of
// rows; CI runs a part of the hundred thousand of a full run.
func TestCoreAllDaemonsKilledDuringInserts(t *testing.T) {
	rows := 6000
	if text := os.Getenv("MTM_ROWS"); text != "" {
		var err error
		rows, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	c := three(t)
	load := startInserts(t, c, 8, rows)
	load.waitAcked(rows / 2)
	for _, n := range c.Nodes() {
		n.KillMtmd()
	}
	for _, n := range c.Nodes() {
		n.StartMtmd()
	}
	load.finish()
	require.GreaterOrEqual(t, load.count(), rows)
}

func TestCorePostgresAndDaemonKilledDuringInserts(t *testing.T) {
	c := three(t)
	load := startInserts(t, c, 4, 0)
	for _, n := range c.Nodes() {
		load.waitAcked(100)
		n.Kill()
		n.Start()
		n.WaitStatus("online")
	}
	load.waitAcked(100)
	load.finish()
}

func TestCoreFreezeAndPartitionDuringInserts(t *testing.T) {
	c := three(t)
	load := startInserts(t, c, 4, 0)
	load.waitAcked(100)
	c.Node(2).Freeze()
	c.Node(1).WaitFor("loss of node 2", func(s testcluster.Status) bool { return len(s.Connected) == 2 })
	c.Node(2).Thaw()
	c.WaitOnline()
	load.waitAcked(100)
	c.Partition("1,2/3")
	c.Node(3).WaitFor("loss of nodes 1 and 2", func(s testcluster.Status) bool { return len(s.Connected) == 1 })
	c.Heal()
	c.WaitOnline()
	load.waitAcked(100)
	c.PartitionOneWay("1/2")
	c.Node(2).WaitFor("loss of node 1", func(s testcluster.Status) bool { return len(s.Connected) < 3 })
	c.Heal()
	c.Slow("1-3", 20*time.Millisecond, 0.02)
	c.WaitOnline()
	load.waitAcked(50)
	c.Heal()
	load.waitAcked(100)
	load.finish()
}
