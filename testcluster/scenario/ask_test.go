package scenario

import (
	"context"
	"errors"
	"testing"

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
