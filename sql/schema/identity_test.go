package schema

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const identities = `SELECT relname || ' ' || relreplident::text FROM pg_class
	WHERE relkind IN ('r', 'p') AND oid >= 16384 AND relnamespace = 'public'::regnamespace ORDER BY 1`

func TestTablesWithoutAKeyCanBeUpdated(t *testing.T) {
	conn := newNode(t, 1)
	for _, step := range []struct {
		ddl  string
		want []string
	}{
		{`CREATE TABLE a (x int); INSERT INTO a VALUES (1); UPDATE a SET x = 2; DELETE FROM a`, []string{"a f"}},
		{`ALTER TABLE a ADD PRIMARY KEY (x)`, []string{"a d"}},
		{`ALTER TABLE a DROP CONSTRAINT a_pkey`, []string{"a f"}},
		{`CREATE UNIQUE INDEX ax ON a (x); ALTER TABLE a ALTER x SET NOT NULL; ALTER TABLE a REPLICA IDENTITY USING INDEX ax`, []string{"a i"}},
		{`DROP TABLE a; CREATE TABLE a (x int PRIMARY KEY DEFERRABLE); INSERT INTO a VALUES (1); UPDATE a SET x = 2`, []string{"a f"}},
		{`DROP TABLE a; CREATE TABLE a AS SELECT 1 AS x; UPDATE a SET x = 2; SELECT 1 AS y INTO b`, []string{"a f", "b f"}},
		{`DROP TABLE a, b; CREATE UNLOGGED TABLE a (x int)`, []string{"a d"}},
		{`ALTER TABLE a SET LOGGED; INSERT INTO a VALUES (1); DELETE FROM a`, []string{"a f"}},
		{`DROP TABLE a; CREATE TABLE a (x int); ALTER TABLE a REPLICA IDENTITY NOTHING`, []string{"a n"}},
		{`ALTER TABLE a REPLICA IDENTITY FULL; ALTER TABLE a ADD PRIMARY KEY (x)`, []string{"a f"}}, // the user's own FULL stays
		{`DROP TABLE a; CREATE TABLE a (k int, x int) PARTITION BY LIST (k); CREATE TABLE a1 PARTITION OF a FOR VALUES IN (1);
		  INSERT INTO a VALUES (1, 1); UPDATE a SET x = 2`, []string{"a d", "a1 f"}},
		{`ALTER TABLE a ADD PRIMARY KEY (k)`, []string{"a d", "a1 d"}},
		{`CREATE TABLE a2 (k int NOT NULL, x int); ALTER TABLE a ATTACH PARTITION a2 FOR VALUES IN (2)`, []string{"a d", "a1 d", "a2 d"}},
		{`ALTER TABLE a DROP CONSTRAINT a_pkey; UPDATE a SET x = 3`, []string{"a d", "a1 f", "a2 f"}},
		{`DROP TABLE a; CREATE TEMP TABLE tmp (x int); CREATE TABLE a (); CREATE TABLE b () INHERITS (a)`, []string{"a f", "b f"}},
		{`DROP TABLE a CASCADE; CREATE TABLE a (x int PRIMARY KEY); ALTER TABLE a DROP COLUMN x`, []string{"a f"}},
		{`DROP TABLE a; CREATE TABLE a (x int, y int GENERATED ALWAYS AS (x + 1) STORED PRIMARY KEY); INSERT INTO a VALUES (1); UPDATE a SET x = 2`,
			[]string{"a f"}},
	} {
		mustExec(t, conn, step.ddl)
		require.Equal(t, step.want, query(t, conn, identities), step.ddl)
	}
	require.Equal(t, []string{"d"}, query(t, conn, `SELECT relreplident FROM pg_class WHERE relname = 'tmp'`))
}

func TestTablesThatWereThereBefore(t *testing.T) {
	conn := connectAs(t, newDatabase(t), "postgres")
	mustExec(t, conn, `CREATE TABLE a (x int); CREATE TABLE b (x int PRIMARY KEY)`)
	require.NoError(t, Install(testContext(t), conn, threeNodes(1)))
	require.Equal(t, []string{"a f", "b d"}, query(t, conn, identities))
}

func TestDeferrableKeysAreAlwaysChecked(t *testing.T) {
	conn := connectAs(t, newDatabase(t), "postgres")
	always := `SELECT c.relname || ' ' || t.tgenabled::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		WHERE t.tgfoid = 'unique_key_recheck'::regproc ORDER BY 1`
	mustExec(t, conn, `CREATE TABLE a (x int UNIQUE DEFERRABLE)`)
	require.NoError(t, Install(testContext(t), conn, threeNodes(1)))
	mustExec(t, conn, `CREATE TABLE b (x int, EXCLUDE (x WITH =) DEFERRABLE); CREATE TABLE c (x int, y int) PARTITION BY LIST (x);
		CREATE TABLE c1 PARTITION OF c FOR VALUES IN (1); ALTER TABLE c ADD UNIQUE (x, y) DEFERRABLE;
		CREATE TABLE c2 PARTITION OF c FOR VALUES IN (2); CREATE TEMP TABLE d (x int UNIQUE DEFERRABLE)`)
	require.Equal(t, []string{"a A", "b A", "c A", "c1 A", "c2 A", "d A"}, query(t, conn, always))
	for _, sql := range []string{
		`INSERT INTO a VALUES (1), (1)`, `INSERT INTO b VALUES (1), (1)`, `INSERT INTO c VALUES (1, 1), (1, 1)`, `INSERT INTO c VALUES (2, 1), (2, 1)`,
	} {
		_, err := conn.Exec(testContext(t), `SET session_replication_role = replica; `+sql)
		require.ErrorContains(t, err, "23", sql)
	}
}
