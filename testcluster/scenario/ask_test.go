package scenario

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// outcomesAreAsked: what became of a transaction is told by every node, through the gateway and without, for ever and alike.
func outcomesAreAsked(t *testing.T, c *testcluster.Cluster) {
	ctx := context.Background()
	db := c.Node(1).Connect()
	execSQL(t, db, "CREATE TABLE asked (id int PRIMARY KEY)")
	rival := c.Node(2).Connect()
	var gids []string
	for i := range 3 {
		execSQL(t, db, "INSERT INTO asked VALUES ($1)", i)
		gids = append(gids, one[string](t, db, "SELECT mtm.last_gid()"))
	}
	_, err := rival.Exec(ctx, "INSERT INTO asked VALUES (1)")
	require.Error(t, err)
	require.Nil(t, one[*string](t, rival, "SELECT mtm.last_gid()"), "its only transaction failed")
	require.Equal(t, gids[2], one[string](t, db, "SELECT mtm.last_gid()"))
	check := func() {
		for _, n := range c.Nodes() {
			through, direct := n.Connect(), n.ConnectPg()
			execSQL(t, through, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
			require.Equal(t, 3, one[int](t, through, "SELECT count(*) FROM asked"))
			for _, gid := range gids {
				require.Equal(t, "committed", one[string](t, through, "SELECT mtm.outcome($1)", gid), "node %d", n.ID)
			}
			require.Nil(t, one[*string](t, through, "SELECT mtm.outcome('mtm-2-1-999999999')"))
			execSQL(t, through, "COMMIT")
			require.Equal(t, "committed", one[string](t, direct, "SELECT mtm.outcome($1)", gids[0]), "node %d", n.ID)
			require.Nil(t, one[*string](t, direct, "SELECT mtm.last_gid()"))
		}
	}
	check()
	// What changes nothing that is replicated leaves nothing in a journal: its outcome is forgotten, and with it that of all before it.
	execSQL(t, db, "CREATE UNLOGGED TABLE asked_local (id int)")
	execSQL(t, db, "INSERT INTO asked_local VALUES (1)")
	here := one[string](t, db, "SELECT mtm.last_gid()")
	await(t, c, "that it is forgotten", func() error {
		for _, n := range c.Nodes() {
			switch known := one[*string](t, n.Connect(), "SELECT mtm.outcome($1)", here); {
			case known == nil:
			case *known != "committed":
				t.Fatalf("node %d says %s of a transaction that was committed", n.ID, *known)
			default:
				return errors.New("not yet")
			}
		}
		return nil
	})
	check()
}

// leftInDoubt: with the origin and another node gone, a transaction is in doubt on the third, which says so; it is ended when they return,
// and nobody has said anything else of it meanwhile.
func leftInDoubt(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE doubted (id int PRIMARY KEY)")
	gid := ""
	for id := 1; gid == ""; id++ { // it is too late when node 1 has given node 2 up
		gid = killInDoubt(t, c, id)
	}
	third := c.Node(3).Connect()
	await(t, c, "that node 3 shows it", func() error {
		const show = "SELECT coalesce(string_agg(format('%s %s %s %s', gid, prepared, votes, waits_for), ','), 'nothing') FROM mtm.in_doubt"
		if got := one[string](t, third, show); got != gid+" t {3} {1,2}" {
			return errors.New("it shows " + got)
		}
		return nil
	})
	require.Equal(t, "in progress", one[string](t, third, "SELECT mtm.outcome($1)", gid))
	c.Node(3).StopMtmd()
	direct := c.Node(3).ConnectPg()
	require.Equal(t, gid, one[string](t, direct, "SELECT string_agg(gid, ',') FROM mtm.in_doubt WHERE votes IS NULL AND waits_for IS NULL"))
	_, err := direct.Exec(t.Context(), "SELECT mtm.outcome($1)", gid)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "55000", refused.Code)
	for _, n := range c.Nodes() {
		n.Start()
	}
	c.WaitOnline()
	var said []string
	for _, n := range c.Nodes() {
		db := n.Connect()
		await(t, c, "the end of it", func() error {
			switch outcome := one[*string](t, db, "SELECT mtm.outcome($1)", gid); {
			case outcome == nil:
				return errors.New("not known")
			case *outcome == "in progress":
				return errors.New(*outcome)
			default:
				said = append(said, *outcome)
			}
			return nil
		})
		require.Zero(t, one[int](t, db, "SELECT count(*) FROM mtm.in_doubt"))
	}
	require.Equal(t, []string{"aborted", "aborted", "aborted"}, said, "nobody can have accepted it")
	c.RequireEqual()
}

// killInDoubt leaves node 3 alone with a transaction of node 1 that it has prepared; "": it was aborted first, and all are back.
func killInDoubt(t *testing.T, c *testcluster.Cluster, id int) (gid string) {
	db, watch := c.Node(1).Connect(), c.Node(3).ConnectPg()
	c.Node(2).FreezePostgres() // it does not vote
	failed := make(chan error, 1)
	go func() {
		_, err := db.Exec(context.Background(), "INSERT INTO doubted VALUES ($1)", id)
		failed <- err
	}()
	const prepared = "SELECT coalesce(max(gid), '') FROM pg_prepared_xacts WHERE gid LIKE 'mtm-1-%'"
	for gid == "" && len(failed) == 0 {
		gid = one[string](t, watch, prepared)
	}
	c.Node(1).KillMtmd()
	c.Node(2).Kill()
	require.Error(t, <-failed)
	if gid != "" && one[string](t, watch, prepared) == gid {
		return gid
	}
	c.Node(1).StartMtmd()
	c.Node(2).Start()
	c.WaitOnline()
	return ""
}
