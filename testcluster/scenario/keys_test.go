package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"mtm/testcluster"
)

// TestKeysHoldAcrossNodes proves that what PostgreSQL promises of rows that depend on one another holds when they are
// changed on several nodes at once, and what each client is told (REFERENCE.md, the last table).
func TestKeysHoldAcrossNodes(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{})
	for _, one := range []struct {
		name string
		test func(*testing.T, *testcluster.Cluster)
	}{
		{"a parent deleted on one node, a child inserted on another", orphans},
		{"one value of a deferrable key on two nodes", deferrableKeys},
		{"both nodes update a row, then commit", rowAgainstRow},
		{"duplicate key, the other insert not yet committed", duplicateKey},
		{"SERIALIZABLE, write skew on two nodes", writeSkew},
	} {
		t.Run(one.name, func(t *testing.T) { one.test(t, c.For(t)) })
	}
}

const rounds = 100

// race lets two nodes run a and b, each in a block of its own, at once; the start of one is at random up to 5 ms late.
func race(t *testing.T, dbs [2]*pgx.Conn, sql [2][]string) (errs [2]error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longestWait)
	defer cancel()
	var g errgroup.Group
	late, delay := rand.IntN(2), rand.N(5*time.Millisecond)
	for i, db := range dbs {
		g.Go(func() error {
			if i == late {
				<-time.After(delay) // what is tested: all interleavings
			}
			errs[i] = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
				for _, s := range sql[i] {
					if _, err := tx.Exec(ctx, s); err != nil {
						return err
					}
				}
				return nil
			})
			return nil
		})
	}
	require.NoError(t, g.Wait())
	require.NoError(t, ctx.Err(), "a transaction waited longer than %v", longestWait)
	return errs
}

// tell counts what clients were told.
func tell(t *testing.T, counts map[string]int, errs [2]error, allowed ...string) (committed int) {
	t.Helper()
	for i, err := range errs {
		code := "committed"
		if err != nil {
			code = sqlState(err)
			require.Contains(t, allowed, code, "%d: %v", i, err)
		} else {
			committed++
		}
		counts[fmt.Sprintf("%d %s", i, code)]++
	}
	return committed
}

func orphans(t *testing.T, c *testcluster.Cluster) {
	db := [2]*pgx.Conn{c.Node(1).Connect(), c.Node(2).Connect()}
	execSQL(t, db[0], `CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE children (id int PRIMARY KEY, p int REFERENCES parents);
		CREATE TABLE cascaded (id int PRIMARY KEY, p int REFERENCES parents (id) ON UPDATE CASCADE ON DELETE CASCADE)`)
	for _, kind := range []struct{ delete, insert string }{
		{"DELETE FROM parents WHERE id = %d", "INSERT INTO children VALUES (%[1]d, %[1]d)"},
		{"DELETE FROM parents WHERE id = %d", "INSERT INTO cascaded VALUES (%[1]d, %[1]d)"},
		{"UPDATE parents SET id = -id WHERE id = %d", "INSERT INTO cascaded VALUES (%[1]d, %[1]d)"},
	} {
		execSQL(t, db[0], "TRUNCATE parents, children, cascaded; INSERT INTO parents SELECT generate_series(1, 1000)")
		counts := map[string]int{}
		for id := range rounds {
			sql := [2][]string{{fmt.Sprintf(kind.delete, id+1)}, {fmt.Sprintf(kind.insert, id+1)}}
			if id%2 == 0 { // and the other way round in the block
				sql[0] = append([]string{"SELECT 1"}, sql[0]...)
				sql[1] = append(sql[1], "SELECT 1")
			}
			require.Positive(t, tell(t, counts, race(t, db, sql), "40001", "23503"), "both lost: %v", counts)
		}
		t.Logf("%s: %v", kind.delete, counts)
		for _, n := range c.Nodes() {
			require.Zero(t, one[int](t, n.Connect(), `SELECT count(*) FROM (TABLE children UNION ALL TABLE cascaded) x
				WHERE NOT EXISTS (SELECT FROM parents WHERE id = x.p)`), "orphans on node %d", n.ID)
		}
		c.RequireEqual()
	}
}

func deferrableKeys(t *testing.T, c *testcluster.Cluster) {
	db := [2]*pgx.Conn{c.Node(2).Connect(), c.Node(3).Connect()}
	execSQL(t, db[0], "CREATE TABLE late (id int PRIMARY KEY, x int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO late VALUES (1, 1), (2, 2)")
	counts := map[string]int{}
	for x := range rounds {
		insert := func(node int) []string {
			return []string{fmt.Sprintf("INSERT INTO late VALUES (%d, %d)", 1000*node+x, 1000+x)}
		}
		require.LessOrEqual(t, tell(t, counts, race(t, db, [2][]string{insert(1), insert(2)}), "40001", "23505"), 1, "both committed")
	}
	t.Logf("%v", counts)
	require.Greater(t, counts["0 committed"]+counts["1 committed"], rounds/2)
	execSQL(t, db[0], "UPDATE late SET x = 3 - x WHERE x < 3") // as one statement it is no duplicate
	for _, n := range c.Nodes() {
		require.Zero(t, one[int](t, n.Connect(), "SELECT count(*) - count(DISTINCT x) FROM late"), "node %d", n.ID)
	}
	c.RequireEqual()
}

// rowAgainstRow: one always wins, and the other is told within milliseconds.
func rowAgainstRow(t *testing.T, c *testcluster.Cluster) {
	db := [2]*pgx.Conn{c.Node(1).Connect(), c.Node(3).Connect()}
	execSQL(t, db[0], "CREATE TABLE one_row (id int PRIMARY KEY, v int); INSERT INTO one_row VALUES (1, 0)")
	counts := map[string]int{}
	update := []string{"UPDATE one_row SET v = v + 1"}
	sum := 0
	var slowest time.Duration
	for range rounds {
		began := time.Now()
		n := tell(t, counts, race(t, db, [2][]string{update, update}), "40001")
		require.Positive(t, n, "both lost")
		sum += n
		slowest = max(slowest, time.Since(began))
	}
	t.Logf("%v, the slowest pair took %v", counts, slowest)
	require.Less(t, slowest, time.Second)
	require.Equal(t, sum, one[int](t, db[1], "SELECT v FROM one_row"))
}

func duplicateKey(t *testing.T, c *testcluster.Cluster) {
	db := [2]*pgx.Conn{c.Node(1).Connect(), c.Node(2).Connect()}
	execSQL(t, db[0], "CREATE TABLE unique_id (id int PRIMARY KEY, node int)")
	counts := map[string]int{}
	for id := range rounds {
		insert := func(node int) []string {
			return []string{fmt.Sprintf("INSERT INTO unique_id VALUES (%d, %d)", id, node)}
		}
		require.Equal(t, 1, tell(t, counts, race(t, db, [2][]string{insert(1), insert(2)}), "40001", "23505"))
	}
	t.Logf("%v", counts)
	require.Equal(t, rounds, one[int](t, db[1], "SELECT count(*) FROM unique_id"))
}

// writeSkew: it cannot be prevented between nodes, so the client is warned, and told what does prevent it.
func writeSkew(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE on_call (id int PRIMARY KEY, here boolean); INSERT INTO on_call VALUES (1, true), (2, true)")
	var warnings []*pgconn.Notice
	cfg, err := pgx.ParseConfig(c.Node(1).URL())
	require.NoError(t, err)
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { warnings = append(warnings, n) }
	db, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer db.Close(context.Background()) //nolint:errcheck // the test has ended
	read := func() {
		execSQL(t, db, "BEGIN ISOLATION LEVEL SERIALIZABLE")
		require.Equal(t, 2, one[int](t, db, "SELECT count(*) FROM on_call WHERE here"))
		execSQL(t, db, "COMMIT")
	}
	read()
	require.Empty(t, warnings)
	write := func(db *pgx.Conn) {
		execSQL(t, db, "BEGIN ISOLATION LEVEL SERIALIZABLE")
		execSQL(t, db, "UPDATE on_call SET here = here WHERE id = 1")
		execSQL(t, db, "COMMIT")
	}
	write(db)
	require.Empty(t, warnings, "on one node alone it is true")
	write(c.Node(2).Connect())
	write(db)
	write(db)
	require.Len(t, warnings, 1, "once per session")
	require.Equal(t, "WARNING", warnings[0].Severity)
	require.Contains(t, warnings[0].Message, "SERIALIZABLE")
	require.Contains(t, warnings[0].Hint, "FOR UPDATE")
	// On one node it is true, and locks make it so on two.
	for _, nodes := range [][2]int{{1, 1}, {1, 2}} {
		lock := ""
		if nodes[0] != nodes[1] {
			lock = " FOR UPDATE"
		}
		counts := map[string]int{}
		for range 20 {
			execSQL(t, c.Node(1).Connect(), "UPDATE on_call SET here = true")
			dbs := [2]*pgx.Conn{c.Node(nodes[0]).Connect(), c.Node(nodes[1]).Connect()}
			leave := func(id int) []string {
				return []string{"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT FROM on_call WHERE here" + lock,
					fmt.Sprintf("UPDATE on_call SET here = false WHERE id = %d AND (SELECT count(*) FROM on_call WHERE here) > 1", id)}
			}
			tell(t, counts, race(t, dbs, [2][]string{leave(1), leave(2)}), "40001", "40P01")
			require.Positive(t, one[int](t, dbs[1], "SELECT count(*) FROM on_call WHERE here"), "write skew on nodes %v", nodes)
		}
		t.Logf("nodes %v: %v", nodes, counts)
	}
}
