package schema

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm"
)

func threeNodes(self int) Params {
	return Params{NodeID: mtm.NodeID(self), Cluster: "test", Nodes: []Node{
		{ID: 1, ConnInfo: "host=n1 password=secret user=u"},
		{ID: 2, ConnInfo: "postgres://u:secret@n2:5432/db"},
		{ID: 3, ConnInfo: "host=n3"},
	}}
}

// catalog lists everything that Install might leave behind.
func catalog(t *testing.T, conn *pgx.Conn) []string {
	return query(t, conn, `
		SELECT 'namespace', nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)' UNION ALL
		SELECT 'class', relnamespace::regnamespace || '.' || relname, relreplident::text FROM pg_class WHERE oid >= 16384
			AND relnamespace <> 'pg_toast'::regnamespace UNION ALL
		SELECT 'proc', oid::regprocedure::text, proacl::text FROM pg_proc WHERE oid >= 16384 UNION ALL
		SELECT 'type', oid::regtype::text, '' FROM pg_type WHERE oid >= 16384 UNION ALL
		SELECT 'sequence', seqrelid::regclass::text, (seqstart, seqincrement, seqmin, seqmax, seqcycle)::text FROM pg_sequence UNION ALL
		SELECT 'publication', pubname, '' FROM pg_publication UNION ALL
		SELECT 'event trigger', evtname, '' FROM pg_event_trigger UNION ALL
		SELECT 'trigger', tgname, tgenabled::text FROM pg_trigger UNION ALL
		SELECT 'setting', setrole::text, setconfig::text FROM pg_db_role_setting
			WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) UNION ALL
		SELECT 'slot', slot_name, '' FROM pg_replication_slots UNION ALL
		SELECT 'origin', roname, '' FROM pg_replication_origin UNION ALL
		SELECT 'role', rolname, '' FROM pg_roles UNION ALL
		SELECT 'lock', pid::text, '' FROM pg_locks WHERE locktype = 'advisory' UNION ALL
		SELECT 'dependency', count(*)::text, '' FROM pg_depend UNION ALL
		SELECT 'description', count(*)::text, '' FROM pg_description
		ORDER BY 1, 2`)
}

func TestUninstallLeavesNothingBehind(t *testing.T) {
	for _, before := range []string{"", "on", "off"} {
		t.Run("guard="+before, func(t *testing.T) {
			ctx := testContext(t)
			db := newDatabase(t)
			conn := connectAs(t, db, "postgres")
			mustExec(t, conn, `CREATE TABLE nokey (a int); CREATE TABLE key (id serial PRIMARY KEY);
				CREATE TABLE late (a int PRIMARY KEY DEFERRABLE, b int UNIQUE DEFERRABLE INITIALLY DEFERRED);
				CREATE TABLE mine (a int); ALTER TABLE mine REPLICA IDENTITY FULL;
				CREATE SEQUENCE down INCREMENT BY -3 CYCLE MINVALUE -1000; SELECT nextval('key_id_seq')`)
			if before != "" {
				mustExec(t, conn, `ALTER DATABASE `+db+` SET default_transaction_read_only = `+before)
			}
			old := catalog(t, conn)
			require.NoError(t, Install(ctx, conn, threeNodes(2)))
			require.NotEqual(t, old, catalog(t, conn))
			mustExec(t, conn, `SELECT pg_replication_origin_create('mtm_1_1')`)
			mustExec(t, conn, `SELECT pg_create_logical_replication_slot('mtm', 'pgoutput', false, true)`)
			require.NoError(t, Uninstall(ctx, connectWith(t, db, "postgres"))) // a session under the guard
			require.Equal(t, old, catalog(t, conn))
			version, err := Version(ctx, conn)
			require.NoError(t, err)
			require.Zero(t, version)
		})
	}
}

func TestFailedInstallLeavesNothingBehind(t *testing.T) {
	conn := connectAs(t, newDatabase(t), "postgres")
	mustExec(t, conn, `CREATE PUBLICATION mtm`) // in the way of ours
	old := catalog(t, conn)
	err := Install(testContext(t), conn, threeNodes(1))
	require.ErrorContains(t, err, "42710")
	require.Equal(t, old, catalog(t, conn))
	mustExec(t, conn, `DROP PUBLICATION mtm`)
	require.NoError(t, Install(testContext(t), conn, threeNodes(1)))
}

func TestInstallTwiceIsRefused(t *testing.T) {
	conn := newNode(t, 1)
	var e *mtm.Error
	require.ErrorAs(t, Install(testContext(t), conn, threeNodes(1)), &e)
	require.Equal(t, "42710", e.Code)
	require.NotEmpty(t, e.Hint)
}

func TestInstallRefusesForeignSchemaAndBadNodes(t *testing.T) {
	conn := connectAs(t, newDatabase(t), "postgres")
	var e *mtm.Error
	for _, p := range []Params{{NodeID: 1}, {NodeID: 17, Nodes: []Node{{ID: 17}}}, {NodeID: 1, Nodes: []Node{{ID: 1}, {ID: 1}}}} {
		require.ErrorAs(t, Install(testContext(t), conn, p), &e)
		require.Equal(t, "22023", e.Code)
	}
	mustExec(t, conn, `CREATE SCHEMA mtm`)
	require.ErrorAs(t, Install(testContext(t), conn, threeNodes(1)), &e)
	require.Equal(t, "42P06", e.Code)
}

func TestGuardStopsDirectWrites(t *testing.T) {
	conn := newNode(t, 1)
	direct := connectWith(t, conn.Config().Database, "postgres")
	_, err := direct.Exec(testContext(t), `CREATE TABLE t (a int)`)
	require.ErrorContains(t, err, "25006")
}

func TestUpgrade(t *testing.T) {
	ctx := testContext(t)
	empty := connectAs(t, newDatabase(t), "postgres")
	require.ErrorContains(t, Upgrade(ctx, empty), "3F000")
	conn := newNode(t, 1)
	require.NoError(t, Upgrade(ctx, conn))
	require.NoError(t, inTx(ctx, conn, func(tx pgx.Tx) error { return execAll(ctx, tx, functionsSQL...) })) // runs again
	mustExec(t, conn, `UPDATE mtm.version SET version = 99`)
	require.ErrorContains(t, Upgrade(ctx, conn), "0A000")
}

func TestUninstallWaitsForDaemonAndTransactions(t *testing.T) {
	ctx := testContext(t)
	conn := newNode(t, 1)
	daemon := connectAs(t, conn.Config().Database, "postgres")
	require.NoError(t, Announce(ctx, daemon, "v1", 0))
	require.ErrorContains(t, Uninstall(ctx, conn), "55006")
	require.NoError(t, daemon.Close(ctx))
	mustExec(t, conn, `CREATE TABLE t (a int); BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'mtm-1-1-1'`)
	require.ErrorContains(t, Uninstall(ctx, conn), "55000")
	mustExec(t, conn, `ROLLBACK PREPARED 'mtm-1-1-1'`)
	require.NoError(t, Uninstall(ctx, conn))
}
