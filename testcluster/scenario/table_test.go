package scenario

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// TestReferenceTable has the rows of REFERENCE.md's last table, by their names, that no other test is named after (docs/testing.md lists those).
func TestReferenceTable(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{})
	for _, one := range []struct {
		name string
		test func(*testing.T, *testcluster.Cluster)
	}{
		{"right after init_cluster", rightAfterInit},
		{"setval on one node", setvalOnOneNode},
		{"NOTIFY in a transaction that writes", notifyAndWrite},
		{"ADD COLUMN DEFAULT random() or serial, CTAS, SELECT INTO, matview with random()", randomDDL},
		{"large object", largeObject},
		{"REINDEX CONCURRENTLY, CREATE INDEX CONCURRENTLY", indexesConcurrently},
		{"COMMIT AND CHAIN", commitAndChain},
		{"id collision", idCollision}, // of its list of scenarios
	} {
		t.Run(one.name, func(t *testing.T) {
			one.test(t, c.For(t))
			c.For(t).RequireEqual()
		})
	}
}

// rightAfterInit: the first statement of all, on each node, succeeds.
func rightAfterInit(t *testing.T, c *testcluster.Cluster) {
	for _, n := range c.Nodes() {
		execSQL(t, n.Connect(), fmt.Sprintf("CREATE TABLE first%d AS SELECT 1", n.ID))
	}
}

// setvalOnOneNode: no node gives what another gave, nor what setval has passed by, in whatever way setval is called.
func setvalOnOneNode(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE counted (id serial PRIMARY KEY, node int); CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE cached CACHE 7")
	past := 0
	for i, set := range []string{
		"SELECT setval('counted_id_seq', %d)",
		"SELECT pg_catalog . SETVAL('counted_id_seq'::regclass, %d, true)",
		"SELECT 1; SELECT setval('counted_id_seq', (SELECT max(id) + %d FROM counted)); SELECT 2",
		"BEGIN; SELECT setval('counted_id_seq', %d + 1, false); COMMIT",
		"DO $$ BEGIN PERFORM setval('counted_id_seq', %d); END $$",
		"PREPARE p AS SELECT setval('counted_id_seq', $1); EXECUTE p (%d)",
	} {
		past += 98 + 1000000*(i%2) // a short way, and a long one
		execSQL(t, c.Node(1+i%3).Connect(), fmt.Sprintf(set, past))
		for _, n := range c.Nodes() {
			for range 3 {
				id := one[int](t, n.Connect(), "INSERT INTO counted (node) VALUES ($1) RETURNING id", n.ID)
				require.Greater(t, id, past, "node %d after %s", n.ID, set)
			}
		}
		past = one[int](t, c.Node(1).Connect(), "SELECT max(id) FROM counted")
	}
	for _, n := range c.Nodes() { // as drivers send it
		_, err := n.Connect().Exec(t.Context(), "SELECT setval($1::text::regclass, $2)", pgx.QueryExecModeExec, "counted_id_seq", past+1000*n.ID)
		require.NoError(t, err)
	}
	require.Equal(t, 1, one[int](t, c.Node(2).Connect(), "INSERT INTO counted (node) VALUES (0) RETURNING id / $1", past+3000))
	// Back: the own node goes there, the others stay, and ids do not meet.
	execSQL(t, c.Node(3).Connect(), "DELETE FROM counted; SELECT setval('counted_id_seq', 1, false), setval('down', -500), setval('cached', 500)")
	for _, n := range c.Nodes() {
		db := n.Connect()
		execSQL(t, db, "INSERT INTO counted (node) SELECT $1 FROM generate_series(1, 300)", n.ID)
		require.True(t, one[bool](t, db, "SELECT nextval('down') < -500 AND nextval('cached') > 500"))
		require.Equal(t, "22003", sqlState(errOf(db.Exec(t.Context(), "SELECT setval('down', 5)"))))
	}
	require.Less(t, one[int](t, c.Node(1).Connect(), "SELECT min(id) FROM counted WHERE node = 3"), 20)
}

func errOf[T any](_ T, err error) error { return err }

func notifyAndWrite(t *testing.T, c *testcluster.Cluster) {
	l := listenOn(c.Node(3), "written")
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE told (id int PRIMARY KEY)")
	execSQL(t, c.Node(1).Connect(), "BEGIN; INSERT INTO told VALUES (1); NOTIFY written, 'one'; COMMIT")
	l.hears(t, "written=one")
}

func randomDDL(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(2).Connect(), `CREATE TABLE chance (id int PRIMARY KEY); INSERT INTO chance SELECT generate_series(1, 100);
		ALTER TABLE chance ADD COLUMN r float8 DEFAULT random(), ADD COLUMN n serial; ALTER TABLE chance ALTER COLUMN r TYPE numeric USING random() * id;
		CREATE TABLE chance_as AS SELECT id, random() AS r FROM chance; SELECT id, clock_timestamp() AS r INTO chance_into FROM chance`)
	execSQL(t, c.Node(3).Connect(), "CREATE MATERIALIZED VIEW chance_view AS SELECT random() AS r FROM chance")
	sum := `SELECT (SELECT sum(r * n) FROM chance) || ' ' || (SELECT sum(r * id) FROM chance_as) || (SELECT sum(extract(epoch FROM r)) FROM chance_into)
		|| (SELECT sum(r) FROM chance_view)`
	want := one[string](t, c.Node(1).Connect(), sum)
	for _, n := range c.Nodes() {
		require.Equal(t, want, one[string](t, n.Connect(), sum), "node %d", n.ID)
	}
}

func largeObject(t *testing.T, c *testcluster.Cluster) {
	for _, sql := range []string{"SELECT lo_create(0)", "SELECT lo_from_bytea(0, 'x')"} {
		_, err := c.Node(1).Connect().Exec(t.Context(), sql)
		require.Equal(t, "0A000", sqlState(err), "%s: %v", sql, err)
		require.ErrorContains(t, err, "large objects cannot be replicated")
	}
}

// indexesConcurrently: made, and made anew, on every node; nothing invalid is left where it cannot be.
func indexesConcurrently(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE indexed (id int PRIMARY KEY, v int); INSERT INTO indexed SELECT g, g % 7 FROM generate_series(1, 1000) g")
	execSQL(t, c.Node(2).Connect(), "CREATE INDEX CONCURRENTLY indexed_v ON indexed (v)")
	files := func() (all []int) {
		for _, n := range c.Nodes() {
			all = append(all, one[int](t, n.Connect(), "SELECT pg_relation_filenode('indexed_v')::int"))
		}
		return all
	}
	for i, sql := range []string{"REINDEX INDEX CONCURRENTLY indexed_v", "REINDEX (CONCURRENTLY, VERBOSE) TABLE indexed"} {
		before := files()
		if i == 0 {
			execSQL(t, c.Node(3).Connect(), sql)
		} else {
			_, err := c.Node(1).Connect().Exec(t.Context(), sql, pgx.QueryExecModeExec)
			require.NoError(t, err)
		}
		for k, file := range files() {
			require.NotEqual(t, before[k], file, "node %d: %s", k+1, sql)
		}
	}
	_, err := c.Node(1).Connect().Exec(t.Context(), "CREATE UNIQUE INDEX CONCURRENTLY twice ON indexed (v)")
	require.Equal(t, "23505", sqlState(err))
	for _, n := range c.Nodes() {
		require.Equal(t, 2, one[int](t, n.Connect(), "SELECT count(*) FROM pg_index WHERE indrelid = 'indexed'::regclass AND indisvalid"))
		require.Zero(t, one[int](t, n.Connect(), "SELECT count(*) FROM pg_index WHERE NOT indisvalid"))
	}
}

func commitAndChain(t *testing.T, c *testcluster.Cluster) {
	db := c.Node(1).Connect()
	execSQL(t, db, "CREATE TABLE chained (id int PRIMARY KEY)")
	execAll(t, db, "BEGIN ISOLATION LEVEL REPEATABLE READ", "INSERT INTO chained VALUES (1)", "COMMIT AND CHAIN")
	require.Equal(t, 1, one[int](t, c.Node(2).Connect(), "SELECT count(*) FROM chained"))
	require.Equal(t, "repeatable read", one[string](t, db, "SHOW transaction_isolation"))
	execAll(t, db, "INSERT INTO chained VALUES (2)", "ROLLBACK AND CHAIN", "INSERT INTO chained VALUES (3)", "COMMIT")
	require.Equal(t, 4, one[int](t, c.Node(3).Connect(), "SELECT sum(id) FROM chained"))
}

// idCollision: a number that a node has is given to no other; nothing is changed.
func idCollision(t *testing.T, c *testcluster.Cluster) {
	for _, id := range []int{1, 2} {
		_, err := c.Node(1).Connect().Exec(t.Context(), "SELECT mtm.add_node($1)", fmt.Sprintf("%d=127.0.0.1:1", id))
		require.Equal(t, "55000", sqlState(err), "%v", err)
		require.Contains(t, detailOf(err), fmt.Sprintf("the cluster has nodes [1 2 3], the new one is %d", id))
	}
	statusOnAll(t, c)
}
