package logrep

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// TestOwnSessionsHaveNoLimits: what a DBA sets for clients is not for mtm's own sessions, after they forgot everything, too.
func TestOwnSessionsHaveNoLimits(t *testing.T) {
	n := newNode(t, pgA, 1)
	set := n.rows("SELECT name FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout', " +
		"'idle_session_timeout', 'idle_in_transaction_session_timeout') ORDER BY 1")
	require.Len(t, set, map[bool]int{true: 5, false: 4}[pgA.version >= 17])
	for _, name := range set {
		n.exec("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET " + name[1:] + " = ''7s''', current_database()); END $$")
	}
	for range 2 { // the first learns what the server knows
		conn, err := n.cfg.connect(t.Context(), appApply, nil)
		require.NoError(t, err)
		defer closeConn(conn)
		for _, before := range []string{"SELECT", "DISCARD ALL"} {
			require.NoError(t, run(t.Context(), conn, before))
			for _, name := range set {
				rows, err := query(t.Context(), conn, "SELECT current_setting($1)", name[1:])
				require.NoError(t, err)
				require.Equal(t, "0", string(rows[0][0]), name)
			}
		}
	}
	conn, err := n.cfg.connect(t.Context(), "mtm_slot", map[string]string{"statement_timeout": "5ms"})
	require.NoError(t, err)
	defer closeConn(conn)
	_, err = query(t.Context(), conn, "SELECT pg_sleep(100)")
	require.Equal(t, "57014", sqlState(err))
}

// TestOwnSessionsFireNoLoginTrigger: what one writes would be on this node only.
func TestOwnSessionsFireNoLoginTrigger(t *testing.T) {
	n := newNode(t, pgA, 1)
	if pgA.version < 17 {
		return // which has none
	}
	n.exec("CREATE TABLE logins (who text); CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS " +
		"'BEGIN INSERT INTO logins VALUES (current_setting(''application_name'')); END'; CREATE EVENT TRIGGER l ON login EXECUTE FUNCTION f()")
	for _, app := range []string{appApply, appMonitor} {
		conn, err := n.cfg.connect(t.Context(), app, nil)
		require.NoError(t, err)
		closeConn(conn)
	}
	client, err := pgconn.Connect(t.Context(), n.cfg.DSN+" application_name=client")
	require.NoError(t, err)
	require.NoError(t, client.Close(context.Background()))
	require.Equal(t, []string{"|client"}, n.rows("SELECT who FROM logins"))
}
