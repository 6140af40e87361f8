package scenario

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// TestAnExistingDatabaseBecomesACluster: a database with data and clients becomes a cluster of one, and grows while it is written to.
func TestAnExistingDatabaseBecomesACluster(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{Nodes: 2, NoInit: true})
	before := c.Node(1).ConnectPg()
	execSQL(t, before, `CREATE ROLE owner; CREATE TABLE t (id serial PRIMARY KEY, v text); ALTER TABLE t OWNER TO owner;
		INSERT INTO t (v) SELECT 'old' FROM generate_series(1, 1000);
		CREATE TABLE keyless (v int); INSERT INTO keyless VALUES (1), (1);
		CREATE VIEW seen AS SELECT * FROM t; CREATE SEQUENCE fives INCREMENT 5; SELECT nextval('fives')`)
	target := []string{"--cluster", c.Dev().Name(), "--cert-dir", filepath.Join(c.Dev().Dir(), "certs"), "--node", "1=" + c.Node(1).Info().Peer}

	out, code := mtmctl(t, append([]string{"init-cluster"}, target...)...)
	require.Zero(t, code, out)
	require.Contains(t, out, "pg_terminate_backend", "who is connected already is told of")
	c.Node(1).WaitStatus("online")
	execSQL(t, c.Node(1).Connect(), `UPDATE keyless SET v = 2`)
	db := c.Node(1).Connect()
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := db.Exec(t.Context(), `INSERT INTO t (v) VALUES ('meanwhile')`); err != nil {
				done <- err
				return
			}
		}
	}()
	out, code = mtmctl(t, append([]string{"add-node", "2=" + c.Node(2).Info().Peer}, target...)...)
	require.Zero(t, code, out)
	close(stop)
	require.NoError(t, <-done)
	for id := 1; id <= 2; id++ {
		require.Equal(t, id, one[int](t, c.Node(id).Connect(), `INSERT INTO t (v) VALUES ('new') RETURNING 1 + (id - 1) % 16`), "its own class of numbers")
		require.Equal(t, (id-1)*5+1, one[int](t, c.Node(id).Connect(), `SELECT nextval('fives') % 80`), "and of fives")
	}
	out, code = mtmctl(t, "verify", "--dev", c.Dev().Dir())
	require.Zero(t, code, out)
}
