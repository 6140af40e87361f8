package scenario

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// TestNodesAreDropped: of four nodes a living one is dropped under load, and then a dead one. The others go on, the dropped
// node says that it was dropped and serves nobody, also after a restart; the dead one learns it when it is back.
func TestNodesAreDropped(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{Nodes: 4})
	drop := func(id int) (string, int) { return mtmctl(t, "drop-node", strconv.Itoa(id), "--dev", c.Dev().Dir()) }
	execSQL(t, c.Node(1).Connect(), `CREATE TABLE probe (id serial PRIMARY KEY, node int)`)
	out, code := drop(9)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "there is no node 9: the cluster has nodes {1,2,3,4}")

	probes := []*probe{startProbe(t, c.Node(1)), startProbe(t, c.Node(2))}
	open := c.Node(4).Connect()
	execSQL(t, open, `BEGIN; SELECT count(*) FROM probe`)
	out, code = drop(4)
	require.Zero(t, code, out)
	require.Contains(t, out, "node 4 is dropped; the cluster has nodes 1,2,3")
	dropped := func(id int) {
		c.Node(id).WaitStatus("disabled")
		await(t, c, "the refusal of the dropped node", func() error {
			conn, err := c.Node(id).ConnectErr(t.Context())
			if err == nil {
				defer conn.Close(t.Context())
				_, err = conn.Exec(t.Context(), `SELECT count(*) FROM probe`)
			}
			if err == nil || sqlState(err) != "57P03" {
				return fmt.Errorf("node %d answers: %w", id, err)
			}
			require.ErrorContains(t, err, "not online")
			return nil
		})
	}
	dropped(4)
	_, err := open.Exec(t.Context(), `SELECT count(*) FROM probe`)
	require.Error(t, err, "no old transaction reads")
	c.Node(4).StopMtmd()
	c.Node(4).StartMtmd()
	dropped(4)
	require.Equal(t, "1,2,3", c.Node(1).Psql(`SELECT string_agg(id::text, ',' ORDER BY id) FROM mtm.nodes()`))

	c.Node(3).Kill()
	out, code = drop(3)
	require.Zero(t, code, out)
	for _, p := range probes {
		since := time.Now()
		await(t, c, "commits without the dropped nodes", func() error {
			if _, ok := p.silence(since, since); !ok {
				return fmt.Errorf("no commit on node %d: %v", p.node, p.failures())
			}
			return nil
		})
		p.finish()
	}
	require.Equal(t, "{1,2}", c.Node(2).Psql(`SELECT gen_configured FROM mtm.status()`))
	c.Node(3).Start()
	dropped(3)

	out, code = mtmctl(t, "verify", "--dev", c.Dev().Dir(), "--skip", "3", "--skip", "4", "--quiet")
	require.Zero(t, code, out)
	execSQL(t, c.Node(1).Connect(), `INSERT INTO probe (node) VALUES (0)`)
	require.Equal(t, "1", c.Node(2).Psql(`SELECT count(*) FROM probe WHERE node = 0`))
}
