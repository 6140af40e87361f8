package schema

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// failsWith runs a statement that must fail.
func failsWith(t *testing.T, conn *pgx.Conn, code, sql string) {
	t.Helper()
	_, err := conn.PgConn().Exec(testContext(t), sql).ReadAll()
	require.Equal(t, code, sqlState(err), "%s: %v", sql, err)
}

func TestMakeTableLocal(t *testing.T) {
	conn := newNode(t, 1)
	mustExec(t, conn, `CREATE TABLE "T t" (id serial PRIMARY KEY, up int REFERENCES "T t"); CREATE TABLE gone (id int); CREATE UNLOGGED TABLE un (id int)`)
	failsWith(t, conn, "55000", `SELECT mtm.make_table_local('"T t"')`) // nobody would hear of it
	mustExec(t, conn, `SET mtm.gateway = on; BEGIN; SELECT mtm.make_table_local('gone'); SAVEPOINT a; SELECT mtm.make_table_local('"T t"'); ROLLBACK TO a; COMMIT;
		BEGIN; SELECT mtm.make_table_local('un'); ROLLBACK`)
	const listed = `SELECT relid FROM mtm.local_tables ORDER BY 1`
	require.Equal(t, []string{"gone"}, query(t, conn, listed))
	mustExec(t, conn, `SELECT mtm.make_table_local('"T t"'), mtm.make_table_local('"T t"'), mtm.make_table_local('un'), mtm.make_table_local(NULL)`)
	require.Len(t, query(t, conn, listed), 3)
	require.Equal(t, []string{"on|1"}, query(t, conn, `BEGIN; SELECT mtm.make_table_local('"T t"'); CREATE TABLE x (id int); SELECT mtm.make_table_local('x');
		SELECT current_setting('mtm.ddl_nested'), count(*) FROM pg_locks WHERE relation = 'x'::regclass AND mode = 'ShareRowExclusiveLock'; COMMIT`)[2:3])
	mustExec(t, conn, `CREATE SCHEMA s; ALTER TABLE "T t" RENAME TO t; ALTER TABLE t SET SCHEMA s; DROP TABLE gone, un; CREATE TABLE gone (id int);
		ALTER TABLE x ADD y int; ALTER TABLE x DROP y; ALTER TABLE s.t DROP up`)
	require.Equal(t, []string{"s.t", "x"}, query(t, conn, listed))
	mustExec(t, conn, `DROP SCHEMA s CASCADE; DROP TABLE x`)
	require.Empty(t, query(t, conn, `SELECT * FROM mtm.local_tables`))
}

// The list leaves no lock that who looks at his own would see.
func TestLocalTablesDoNotShowInLocks(t *testing.T) {
	conn := newNode(t, 1)
	mustExec(t, conn, `SET mtm.gateway = on; CREATE TABLE l (id int); SET mtm.sequence_mode = monotonic; CREATE TABLE mono (id serial)`)
	mustExec(t, conn, `BEGIN; ALTER TABLE l ADD x int; CREATE TABLE other (id int); DROP TABLE other`)
	require.Empty(t, query(t, conn, `SELECT relation::regclass FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'mtm'::regnamespace AND relname ~ '^(sequences|local)')`))
	mustExec(t, conn, `COMMIT`)
}

func TestWhatCannotBeLocal(t *testing.T) {
	conn := newNode(t, 1)
	mustExec(t, conn, `SET mtm.gateway = on; CREATE TABLE p (k int) PARTITION BY LIST (k); CREATE TABLE p1 PARTITION OF p DEFAULT; CREATE TABLE a (id int);
		CREATE TABLE b () INHERITS (a); CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent);
		CREATE VIEW v AS SELECT 1; CREATE MATERIALIZED VIEW m AS SELECT 1; CREATE TEMP TABLE tmp (x int); CREATE SEQUENCE s;
		CREATE TABLE plain (k int); CREATE TABLE l (id int PRIMARY KEY); CREATE TABLE l2 (id int)`)
	for code, names := range map[string][]string{
		"0A000": {"p", "p1", "a", "b", "parent", "child"},
		"42809": {"v", "m", "tmp", "s", "pg_class", "mtm.node", "l_pkey"},
	} {
		for _, name := range names {
			failsWith(t, conn, code, `SELECT mtm.make_table_local('`+name+`')`)
		}
	}
	failsWith(t, conn, "42P01", `SELECT mtm.make_table_local(1234567)`)
	mustExec(t, conn, `SELECT mtm.make_table_local('l'), mtm.make_table_local('l2')`)
	for _, ddl := range []string{
		`ALTER TABLE plain ADD FOREIGN KEY (k) REFERENCES l`, `ALTER TABLE l2 ADD FOREIGN KEY (id) REFERENCES parent`, `CREATE TABLE x (i int REFERENCES l)`,
		`ALTER TABLE l2 ADD k int; ALTER TABLE l2 INHERIT plain`, `CREATE TABLE x () INHERITS (l)`, `CREATE SCHEMA y CREATE TABLE x (i int REFERENCES public.l)`,
		`ALTER TABLE l2 ADD k int; ALTER TABLE l2 DROP id; ALTER TABLE p DETACH PARTITION p1; ALTER TABLE p ATTACH PARTITION l2 DEFAULT`,
	} {
		failsWith(t, conn, "0A000", ddl)
	}
	mustExec(t, conn, `ALTER TABLE l2 ADD FOREIGN KEY (id) REFERENCES l; ALTER TABLE l ADD y int DEFAULT 1`)
}

func TestOnlyTheOwnerMakesATableLocal(t *testing.T) {
	conn := newNode(t, 1)
	mustExec(t, conn, `CREATE TABLE others (id int); GRANT ALL ON others TO public`)
	user := ordinary(t, conn)
	mustExec(t, user, `SET mtm.gateway = on; CREATE TABLE ordinary.mine (id int); REVOKE ALL ON ordinary.mine FROM ordinary; SET search_path = ''`)
	mustExec(t, user, `SELECT mtm.make_table_local('ordinary.mine')`)
	for _, sql := range []string{
		`SELECT mtm.make_table_local('public.others')`, `INSERT INTO mtm.local_tables VALUES ('public.others')`, `DELETE FROM mtm.local_tables`,
		`UPDATE mtm.local_tables SET relid = 'public.others'`, `INSERT INTO mtm.local_tables VALUES ('ordinary.mine') ON CONFLICT (relid) DO UPDATE SET relid = 'public.others'`,
		`TRUNCATE mtm.local_tables`, `SELECT mtm.on_make_local()`, `CREATE TABLE ordinary.copy (LIKE mtm.local_tables); CREATE TRIGGER x BEFORE INSERT ON ordinary.copy FOR EACH ROW EXECUTE FUNCTION mtm.on_make_local()`,
	} {
		failsWith(t, user, "42501", sql)
	}
	mustExec(t, user, `DROP TABLE ordinary.mine`)
	require.Empty(t, query(t, conn, `SELECT * FROM mtm.local_tables`))
	// As a worker does it.
	mustExec(t, conn, `RESET mtm.gateway; SET session_replication_role = replica; INSERT INTO mtm.local_tables VALUES ('others')`)
	failsWith(t, conn, "42809", `INSERT INTO mtm.local_tables VALUES ('pg_class')`)
}
