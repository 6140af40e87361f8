package scenario

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// checkQueries: under load no query is said to differ, though its result changes all the time; what differs is told, with a row.
func checkQueries(t *testing.T, c *testcluster.Cluster) {
	var warnings []string
	cfg, err := pgx.ParseConfig(c.Node(2).URL())
	require.NoError(t, err)
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.Severity == "WARNING" {
			warnings = append(warnings, n.Message)
		}
	}
	db, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer db.Close(t.Context()) //nolint:errcheck // nothing is lost
	same := func(sql string) bool {
		t.Helper()
		return one[bool](t, db, "SELECT mtm.check_query($1)", sql)
	}

	l := newLoad(t, c, 2)
	l.start(t)
	l.awaitProgress(t, c, 3)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		require.True(t, same("SELECT count(*), max(id) FROM entries"), "%v", warnings)
		require.True(t, same("SELECT * FROM accounts"), "%v", warnings)
	}
	l.awaitProgress(t, c, 3)
	l.finish()
	l.check(t, c)

	require.Empty(t, warnings)
	require.True(t, same("  SELECT id FROM accounts ORDER BY random() ; -- in any order"))
	require.True(t, same("TABLE accounts"))
	require.True(t, same("SELECT WHERE false"))
	for _, n := range c.Nodes() { // rows that each node has for itself
		execSQL(t, n.Connect(), fmt.Sprintf("CREATE UNLOGGED TABLE IF NOT EXISTS own (id int, q text); INSERT INTO own SELECT g, 'ä' FROM generate_series(1, 2000 + %d / 2) g", n.ID))
	}
	require.False(t, same("SELECT id AS q FROM own"))
	require.Equal(t, []string{"the row (2001) is there so many times: node 2: 1, node 1: 0, node 3: 1"}, warnings)
	require.True(t, same("SELECT id FROM own WHERE id <= 2000"))
	execSQL(t, db, "SET search_path = mtm")
	require.False(t, same("SELECT id FROM node"))
	execSQL(t, db, "RESET search_path")
	for sql, code := range map[string]string{
		"DELETE FROM own": "42601", "SELECT 1; SELECT 2": "42601", "SELECT * FROM nowhere": "42P01", "SELECT 1/0": "22012", "SHOW work_mem": "42601",
		"SELECT 1) x; DROP TABLE own; --": "42601", "SELECT nextval('counted')": "42P01",
	} {
		var none bool
		err := db.QueryRow(t.Context(), "SELECT mtm.check_query($1)", sql).Scan(&none)
		require.Equal(t, code, sqlState(err), "%s: %v", sql, err)
	}
	execSQL(t, db, "CREATE ROLE checker LOGIN IN ROLE mtm_admin; SET SESSION AUTHORIZATION checker")
	_, err = db.Exec(t.Context(), "SELECT mtm.check_query('SELECT 1')")
	require.Equal(t, "42501", sqlState(err))
	execSQL(t, db, "RESET SESSION AUTHORIZATION; DROP ROLE checker; DROP TABLE own")
}
