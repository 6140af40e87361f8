package scenario

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// localTables: what is written to a local table stays where it is written, from the moment when it was made one.
func localTables(t *testing.T, c *testcluster.Cluster) {
	ids := func(table string) (all []string) {
		for _, n := range c.Nodes() {
			all = append(all, one[string](t, n.Connect(), "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM "+table))
		}
		return all
	}
	db := c.Node(2).Connect()
	execSQL(t, db, "CREATE ROLE keeper LOGIN; CREATE SCHEMA kept AUTHORIZATION keeper; CREATE TABLE around (id int PRIMARY KEY)")
	cfg := db.Config()
	cfg.User = "keeper"
	keeper, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer keeper.Close(t.Context())
	execSQL(t, keeper, "CREATE TABLE kept.log (id int PRIMARY KEY, v text)")
	execSQL(t, keeper, "INSERT INTO kept.log VALUES (0)")
	_, err = keeper.Exec(t.Context(), "SELECT mtm.make_table_local('around')")
	require.Equal(t, "42501", sqlState(err))

	// Others write to it meanwhile: each row is on all nodes, or on one.
	stop := make(chan struct{})
	written := make(chan []int, 3)
	for _, n := range c.Nodes() {
		go func() {
			var mine []int
			conn, err := n.ConnectErr(t.Context())
			for i := n.ID; err == nil; i += 10 {
				if _, err := conn.Exec(t.Context(), "INSERT INTO kept.log VALUES ($1)", i); err == nil {
					mine = append(mine, i)
				}
				select {
				case <-stop:
					conn.Close(t.Context()) //nolint:errcheck // nothing is lost
					written <- mine
					return
				default:
				}
			}
			written <- nil
		}()
	}
	execSQL(t, keeper, "BEGIN")
	execSQL(t, keeper, "ROLLBACK")
	execSQL(t, keeper, "SELECT mtm.make_table_local('kept.log')")
	close(stop)
	all := 0
	for range 3 {
		mine := <-written
		require.NotNil(t, mine)
		all += len(mine)
	}
	have := map[int]int{}
	for _, n := range c.Nodes() {
		for _, id := range one[[]int](t, n.Connect(), "SELECT array_agg(id) FROM kept.log") {
			have[id]++
		}
	}
	require.Len(t, have, all+1)
	for id, n := range have {
		require.True(t, n == 1 || n == 3, "row %d is on %d nodes", id, n)
	}

	for _, n := range c.Nodes() {
		execSQL(t, n.Connect(), "INSERT INTO kept.log VALUES ($1)", -n.ID)
		require.Equal(t, -n.ID, one[int](t, n.Connect(), "SELECT sum(id) FROM kept.log WHERE id < 0"))
	}
	execSQL(t, keeper, "DELETE FROM kept.log WHERE id < 0")
	for _, n := range c.Nodes() {
		conn := n.Connect()
		execSQL(t, conn, "TRUNCATE kept.log")
		for _, sql := range []string{"BEGIN", "INSERT INTO around VALUES ($1)", "INSERT INTO kept.log VALUES ($1, 'x')", "COMMIT"} {
			if sql[0] == 'I' {
				execSQL(t, conn, sql, n.ID)
			} else {
				execSQL(t, conn, sql)
			}
		}
	}
	require.Equal(t, []string{"1 2 3", "1 2 3", "1 2 3"}, ids("around"))
	require.Equal(t, []string{"1", "2", "3"}, ids("kept.log"))
	out, code := mtmctl(t, "verify", "--dev", c.Dev().Dir(), "--quiet")
	require.Zero(t, code, out)

	// In functions, in a block with DDL, and as NOTIFY has it; by another name.
	execSQL(t, db, "DO $$ BEGIN CREATE TABLE kept.more (id int); PERFORM mtm.make_table_local('kept.more'); INSERT INTO kept.more VALUES (0); END $$")
	execSQL(t, db, "BEGIN; CREATE TABLE kept.last (id int); SELECT mtm.make_table_local('kept.last'); NOTIFY x; ALTER TABLE kept.last RENAME TO latest; COMMIT")
	execSQL(t, db, "BEGIN; SAVEPOINT a; SELECT mtm.make_table_local('around'); ROLLBACK TO a; INSERT INTO around VALUES (4); COMMIT")
	for _, n := range c.Nodes() {
		execSQL(t, n.Connect(), fmt.Sprintf("INSERT INTO kept.more VALUES (%[1]d); INSERT INTO kept.latest VALUES (%[1]d); ALTER TABLE kept.log ADD c%[1]d int DEFAULT random() * 1000", n.ID))
	}
	require.Equal(t, []string{"0 1", "0 2", "0 3"}, ids("kept.more"))
	require.Equal(t, []string{"1", "2", "3"}, ids("kept.latest"))
	require.Equal(t, []string{"1", "2", "3"}, ids("kept.log"))
	require.Equal(t, []string{"1 2 3 4", "1 2 3 4", "1 2 3 4"}, ids("around"))
	_, err = db.Exec(t.Context(), "ALTER TABLE kept.log ADD FOREIGN KEY (id) REFERENCES around")
	require.Equal(t, "0A000", sqlState(err))
	execSQL(t, db, "DROP SCHEMA kept CASCADE; DROP TABLE around; DROP ROLE keeper")
	for _, n := range c.Nodes() {
		require.Zero(t, one[int](t, n.Connect(), "SELECT count(*) FROM mtm.local_tables"))
	}
}
