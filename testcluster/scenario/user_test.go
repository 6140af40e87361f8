package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// TestWhatUsersPrepare is PREPARE TRANSACTION 'x' by a client, and its end from anywhere.
func TestWhatUsersPrepare(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{})
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE held (id int PRIMARY KEY, v text); INSERT INTO held SELECT g, 'old' FROM generate_series(100, 120) g")
	for _, one := range []struct {
		name string
		test func(*testing.T, *testcluster.Cluster)
	}{
		{"it is seen, and locked, on every node", heldEverywhere},
		{"who may end it, and how it is refused", heldRefusals},
		{"of two orders one is carried out", heldRace},
		{"a client cannot forge an order", heldForged},
		{"locks that do not travel stop nobody", heldLocks},
		{"of statements about roles one is first, on every node", heldRoles},
		{"it outlives its session and its node", heldOutlivesNode},
		{"a node that was away has it prepared", heldRecovered},
		{"drivers for transaction managers: psycopg tpc, JDBC XA", driversPrepare},
		{"it outlives all daemons", heldOutlivesAll},
	} {
		t.Run(one.name, func(t *testing.T) {
			c := c.For(t)
			c.WaitOnline()
			one.test(t, c)
			requireNonePrepared(t, c)
			c.RequireEqual()
		})
	}
}

// prepareAs prepares, in a session of node, a transaction that runs sql.
func prepareAs(t testing.TB, n *testcluster.Node, name, sql string) {
	t.Helper()
	db := n.Connect()
	for _, s := range []string{"BEGIN", sql, "PREPARE TRANSACTION '" + strings.ReplaceAll(name, "'", "''") + "'"} {
		execSQL(t, db, s)
	}
}

// holds lists what users have prepared, as a client of n sees it.
func holds(t testing.TB, n *testcluster.Node) string {
	return one[string](t, n.Connect(), "SELECT coalesce(string_agg(gid || ' ' || owner || ' ' || prepared, ', ' ORDER BY gid), '') FROM pg_prepared_xacts")
}

func stateOf(t testing.TB, db *pgx.Conn, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := db.Exec(ctx, sql)
	return sqlState(err)
}

func heldEverywhere(t *testing.T, c *testcluster.Cluster) {
	prepareAs(t, c.Node(1), "it's held", "INSERT INTO held VALUES (1, 'one')")
	first := holds(t, c.Node(1))
	require.Regexp(t, `^it's held postgres 2\d\d\d-.*`, first)
	for _, n := range c.Nodes() {
		db := n.Connect()
		require.Equal(t, first, holds(t, n))
		require.Zero(t, one[int](t, db, "SELECT count(*) FROM held WHERE id = 1"))
		require.Len(t, prepared(t, n.ConnectPg()), 1)
		execSQL(t, db, "SET lock_timeout = '50ms'")
		require.Equal(t, "55P03", stateOf(t, db, "INSERT INTO held VALUES (1, 'rival')"), "node %d", n.ID)
		execSQL(t, db, fmt.Sprintf("UPDATE held SET v = 'by %d' WHERE id = 100", n.ID)) // others go on
	}
	execSQL(t, c.Node(3).Connect(), "COMMIT PREPARED 'it''s held'")
	for _, n := range c.Nodes() {
		require.Equal(t, "one", one[string](t, n.Connect(), "SELECT v FROM held WHERE id = 1"))
		require.Empty(t, holds(t, n))
	}
	// Large, with DDL, and what changes nothing.
	prepareAs(t, c.Node(2), "large", "CREATE TABLE more AS SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g")
	prepareAs(t, c.Node(3), "empty", "SELECT 1")
	execSQL(t, c.Node(1).Connect(), "ROLLBACK PREPARED 'empty'")
	execSQL(t, c.Node(1).Connect(), "COMMIT PREPARED 'large'")
	for _, n := range c.Nodes() {
		require.Equal(t, 20000, one[int](t, n.Connect(), "SELECT count(*) FROM more"))
	}
}

func heldRefusals(t *testing.T, c *testcluster.Cluster) {
	db := c.Node(1).Connect()
	execSQL(t, db, "CREATE ROLE held_a LOGIN; CREATE ROLE held_b LOGIN; GRANT ALL ON held TO held_a")
	for _, s := range []string{"SET ROLE held_a", "BEGIN", "INSERT INTO held VALUES (2, 'two')", "PREPARE TRANSACTION 'mine'", "RESET ROLE"} {
		execSQL(t, db, s)
	}
	require.Contains(t, holds(t, c.Node(2)), "mine held_a ")
	other := c.Node(2).Connect()
	execSQL(t, other, "SET ROLE held_b")
	require.Equal(t, "42501", stateOf(t, other, "COMMIT PREPARED 'mine'"))
	require.Equal(t, "42501", stateOf(t, other, "ROLLBACK PREPARED 'mine'"))
	require.Equal(t, "42704", stateOf(t, other, "COMMIT PREPARED 'not mine'"))
	require.Equal(t, "22023", stateOf(t, other, "COMMIT PREPARED 'mtm-1-1-1'"))

	third := c.Node(3).Connect()
	for want, name := range map[string]string{"42710": "mine", "22023": strings.Repeat("x", 200)} {
		execSQL(t, third, "BEGIN")
		execSQL(t, third, "INSERT INTO held VALUES (3, 'three')")
		require.Equal(t, want, stateOf(t, third, "PREPARE TRANSACTION '"+name+"'"))
		require.EqualValues(t, 'I', third.PgConn().TxStatus())
	}
	for _, sql := range []string{"CREATE TEMPORARY TABLE gone (a int)", "NOTIFY held"} {
		execSQL(t, third, "BEGIN")
		execSQL(t, third, sql)
		require.Equal(t, "0A000", stateOf(t, third, "PREPARE TRANSACTION 'open'"))
		require.EqualValues(t, 'I', third.PgConn().TxStatus())
	}
	execSQL(t, third, "BEGIN")
	require.Equal(t, "25001", stateOf(t, third, "COMMIT PREPARED 'mine'"))
	execSQL(t, third, "ROLLBACK")
	execSQL(t, third, "SET ROLE held_a")
	execSQL(t, third, "ROLLBACK PREPARED 'mine'")
	require.Zero(t, one[int](t, third, "SELECT count(*) FROM held WHERE id IN (2, 3)"))
}

// heldRace: COMMIT PREPARED on one node and ROLLBACK PREPARED on another, at the same time.
func heldRace(t *testing.T, c *testcluster.Cluster) {
	var at [3]*pgx.Conn
	for i := range at {
		at[i] = c.Node(i + 1).Connect()
	}
	commits := 0
	for round := range 12 {
		name := fmt.Sprintf("race %d", round)
		prepareAs(t, c.Node(1+round%3), name, fmt.Sprintf("INSERT INTO held VALUES (%d, 'raced')", 1000+round))
		var states [2]string
		var wg sync.WaitGroup
		for i, verb := range []string{"COMMIT", "ROLLBACK"} {
			db := at[(round+i)%3]
			wg.Go(func() { states[i] = stateOf(t, db, verb+" PREPARED '"+name+"'") })
		}
		wg.Wait()
		want := [2]string{"42704", ""}
		if states[0] == "" {
			want = [2]string{"", "42704"}
			commits++
		}
		require.Equal(t, want, states, name)
		for i, db := range at {
			require.Equal(t, states[0] == "", one[bool](t, db, "SELECT EXISTS (SELECT FROM held WHERE id = $1)", 1000+round), "%s, node %d", name, i+1)
		}
	}
	t.Logf("%d of 12 were committed", commits)
}

// heldLocks: a row lock of a transaction that did not change the row is on its own node only. What another node commits must
// not wait for it without end.
func heldLocks(t *testing.T, c *testcluster.Cluster) {
	prepareAs(t, c.Node(1), "locks", "SELECT * FROM held WHERE id = 110 FOR UPDATE")
	db := c.Node(2).Connect()
	execSQL(t, db, "BEGIN")
	execSQL(t, db, "UPDATE held SET v = 'new' WHERE id = 110")
	require.Equal(t, "40001", stateOf(t, db, "COMMIT"))
	execSQL(t, db, "UPDATE held SET v = 'new' WHERE id = 111")
	execSQL(t, db, "COMMIT PREPARED 'locks'")
	execSQL(t, db, "UPDATE held SET v = 'new' WHERE id = 110")
}

// heldRoles: PostgreSQL lets REVOKE or DROP OWNED pass a DROP ROLE of the role that they name. A node that recovered them in the other order would
// not find the role, for ever.
func heldRoles(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE ROLE held_group; CREATE ROLE held_member; CREATE ROLE held_reader; GRANT SELECT ON held TO held_reader")
	for _, sql := range []string{"REVOKE held_group FROM held_member", "DROP OWNED BY held_member", "GRANT held_group TO held_member"} {
		prepareAs(t, c.Node(1), "roles", sql)
		for _, n := range c.Nodes() {
			db := n.Connect()
			execSQL(t, db, "SET lock_timeout = '200ms'")
			want := "55P03" // its lock is here
			if n.ID == 1 {
				want = "40001" // and there
			}
			require.Equal(t, want, stateOf(t, db, "DROP ROLE held_member"), "node %d, %s", n.ID, sql)
		}
		grant, want := c.Node(1).Connect(), "" // it names no role without a lock on it
		if sql == "DROP OWNED BY held_member" {
			want = "55P03" // it concerns what all other DDL makes
		}
		execSQL(t, grant, "SET lock_timeout = '200ms'")
		require.Equal(t, want, stateOf(t, grant, "GRANT UPDATE ON held TO held_reader"), sql)
		execSQL(t, c.Node(2).Connect(), "COMMIT PREPARED 'roles'")
	}
	execSQL(t, c.Node(3).Connect(), "DROP OWNED BY held_reader; DROP ROLE held_member, held_group, held_reader")
	for _, n := range c.Nodes() {
		require.Zero(t, one[int](t, n.Connect(), "SELECT count(*) FROM pg_auth_members WHERE member >= 16384"))
	}
}

func heldOutlivesNode(t *testing.T, c *testcluster.Cluster) {
	prepareAs(t, c.Node(1), "orphan", "INSERT INTO held VALUES (10, 'ten'); UPDATE held SET v = 'orphan' WHERE id = 112")
	prepareAs(t, c.Node(1), "other", "INSERT INTO held VALUES (11, 'eleven')")
	c.Node(1).Kill()
	awaitWrite(t, c, 2)
	execSQL(t, c.Node(2).Connect(), "COMMIT PREPARED 'orphan'")
	execSQL(t, c.Node(3).Connect(), "ROLLBACK PREPARED 'other'")
	execSQL(t, c.Node(3).Connect(), "UPDATE held SET v = 'after' WHERE id = 112")
	c.Node(1).Start()
	c.WaitOnline()
	db := c.Node(1).Connect()
	require.Equal(t, "after", one[string](t, db, "SELECT v FROM held WHERE id = 112"))
	require.Equal(t, 1, one[int](t, db, "SELECT count(*) FROM held WHERE id IN (10, 11)"))
}

// awaitWrite waits until node commits again.
func awaitWrite(t testing.TB, c *testcluster.Cluster, node int) {
	t.Helper()
	await(t, c, "a commit", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		db, err := c.Node(node).ConnectErr(ctx)
		if err != nil {
			return err
		}
		defer db.Close(context.Background()) //nolint:errcheck // it was used
		_, err = db.Exec(ctx, "UPDATE held SET v = 'awaited' WHERE id = 120")
		return err
	})
}

func heldRecovered(t *testing.T, c *testcluster.Cluster) {
	prepareAs(t, c.Node(3), "before", "SELECT * FROM held WHERE id = 115 FOR UPDATE")
	c.Node(3).Kill()
	awaitWrite(t, c, 1)
	prepareAs(t, c.Node(1), "away", "INSERT INTO held VALUES (20, 'twenty'); CREATE TABLE away (a int PRIMARY KEY)")
	prepareAs(t, c.Node(2), "ended", "INSERT INTO held VALUES (21, 'twenty-one')")
	execSQL(t, c.Node(1).Connect(), "COMMIT PREPARED 'ended'")
	// What node 3 has locked, and only there: in recovery the order is carried out ahead of what waits for the lock.
	execSQL(t, c.Node(1).Connect(), "UPDATE held SET v = 'changed' WHERE id = 115")
	execSQL(t, c.Node(1).Connect(), "ROLLBACK PREPARED 'before'")
	c.Node(3).Start()
	c.WaitOnline()
	require.Equal(t, holds(t, c.Node(1)), holds(t, c.Node(3)))
	require.Equal(t, 1, one[int](t, c.Node(3).Connect(), "SELECT count(*) FROM held WHERE id IN (20, 21)"))
	db := c.Node(3).Connect()
	execSQL(t, db, "SET lock_timeout = '50ms'")
	require.Equal(t, "55P03", stateOf(t, db, "INSERT INTO held VALUES (20, 'rival')"))
	execSQL(t, db, "COMMIT PREPARED 'away'")
	for _, n := range c.Nodes() {
		require.Equal(t, 0, one[int](t, n.Connect(), "SELECT count(*) FROM away"))
		require.Equal(t, "changed", one[string](t, n.Connect(), "SELECT v FROM held WHERE id = 115"))
	}
}

func heldOutlivesAll(t *testing.T, c *testcluster.Cluster) {
	prepareAs(t, c.Node(1), "first", "INSERT INTO held VALUES (30, 'thirty')")
	prepareAs(t, c.Node(2), "second", "INSERT INTO held VALUES (31, 'thirty-one')")
	before := holds(t, c.Node(1))
	c.Node(1).Kill()
	c.Node(2).KillMtmd()
	c.Node(3).KillPostgres()
	c.Node(3).KillMtmd()
	for _, n := range c.Nodes() {
		n.Start()
	}
	c.WaitOnline()
	for _, n := range c.Nodes() {
		require.Equal(t, before, holds(t, n))
	}
	execSQL(t, c.Node(3).Connect(), "COMMIT PREPARED 'first'")
	execSQL(t, c.Node(1).Connect(), "ROLLBACK PREPARED 'second'")
	for _, n := range c.Nodes() {
		require.Equal(t, "{30}", one[string](t, n.Connect(), "SELECT array_agg(id)::text FROM held WHERE id IN (30, 31)"))
	}
}

// endUser ends a transaction as a client does who prepared it, on any node: he asks again until he knows.
func (l *load) endUser(ctx context.Context, db *pgx.Conn, id string) error {
	if rand.IntN(2) == 0 {
		other := session{url: l.urls[rand.IntN(len(l.urls))], app: l.app + "-ender"}
		if other.open() {
			defer other.close()
			db = other.conn
		}
	}
	verb := "COMMIT"
	if rand.IntN(8) == 0 {
		verb = "ROLLBACK"
	}
	for {
		_, err := db.Exec(ctx, verb+" PREPARED 'load "+id+"'")
		switch code := sqlState(err); {
		case err == nil && verb == "ROLLBACK":
			return &pgconn.PgError{Code: "57014", Message: "the client rolled it back"}
		case code == "40001" && ctx.Err() == nil: // it is as it was
		case code != "":
			return fmt.Errorf("%s PREPARED: %s", verb, detailOf(err)) // the cleaner was first, or will be
		default:
			return err
		}
	}
}

// cleanUp ends what clients have left prepared for a while, as an operator does; with 0 all.
func (l *load) cleanUp(ctx context.Context, age time.Duration) (left int, err error) {
	db := session{url: l.urls[rand.IntN(len(l.urls))], app: l.app + "-cleaner"}
	if !db.open() {
		return 0, errors.New("the node does not answer")
	}
	defer db.close()
	rows, err := db.conn.Query(ctx, "SELECT gid FROM pg_prepared_xacts WHERE prepared < now() - $1::interval OR prepared > now() + interval '10 s'", age) // a clock may have jumped
	if err != nil {
		return 0, err
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, gid := range gids {
		_, e := db.conn.Exec(ctx, []string{"COMMIT", "ROLLBACK"}[rand.IntN(2)]+" PREPARED '"+gid+"'")
		err = errors.Join(err, e)
	}
	return len(gids), err
}

// clean does so while the load runs.
func (l *load) clean(done <-chan struct{}) {
	for tick := time.NewTicker(300 * time.Millisecond); ; {
		select {
		case <-done:
			tick.Stop()
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), txLimit)
		l.cleanUp(ctx, time.Second) //nolint:errcheck // it is tried again
		cancel()
	}
}

// cleanAll leaves nothing prepared on any node.
func (l *load) cleanAll(t testing.TB, c *testcluster.Cluster) {
	t.Helper()
	await(t, c, "the end of what clients prepared", func() error {
		left, err := l.cleanUp(t.Context(), 0)
		if err == nil && left > 0 {
			err = fmt.Errorf("%d were left", left)
		}
		return err
	})
}

// heldForged: what the nodes tell one another of prepared transactions a client can write too. It does nothing.
func heldForged(t *testing.T, c *testcluster.Cluster) {
	prepareAs(t, c.Node(1), "forged", "INSERT INTO held VALUES (40, 'forty')")
	gid := prepared(t, c.Node(1).ConnectPg())[0]
	db := c.Node(2).Connect()
	execSQL(t, db, "CREATE ROLE held_c; GRANT ALL ON held TO held_c; SET ROLE held_c")
	for _, prefix := range []string{"mtm.finish", "mtm.prepare"} {
		execSQL(t, db, "BEGIN")
		execSQL(t, db, "UPDATE held SET v = 'forger' WHERE id = 118")
		execSQL(t, db, fmt.Sprintf(`SELECT pg_logical_emit_message(true, '%s', '{"v":1,"gid":"%s","commits":true,"name":"y","owner":"y","prepared":"now"}')`, prefix, gid))
		execSQL(t, db, "COMMIT")
	}
	require.Equal(t, "42501", stateOf(t, db, "SELECT mtm.finish_prepared('forged', true)"))
	require.Equal(t, "42501", stateOf(t, db, "UPDATE mtm.prepared SET commits = true"))
	for _, n := range c.Nodes() {
		require.Contains(t, holds(t, n), "forged ")
	}
	owner := c.Node(3).Connect()
	execSQL(t, owner, "SELECT mtm.finish_prepared('forged', true)") // as good as COMMIT PREPARED
	for _, n := range c.Nodes() {
		require.Equal(t, "forty", one[string](t, n.Connect(), "SELECT v FROM held WHERE id = 40"))
	}
}
