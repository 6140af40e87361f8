package gateway

import (
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// The notice of mtm.ask() rings, at once, and no client sees it; others pass.
func TestQuestionRings(t *testing.T) {
	var rung atomic.Int64
	h := start(t, func(c *Config) { c.Asked = func() { rung.Add(1) } })
	cfg, err := pgx.ParseConfig(h.url("postgres"))
	require.NoError(t, err)
	var notices []string
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Code+" "+n.Message) }
	conn, err := pgx.ConnectConfig(bg, cfg)
	require.NoError(t, err)
	defer conn.Close(bg)
	for _, c := range []struct {
		raise string
		shown []string
		rings int64
	}{
		{`NOTICE 'mtm.ask' USING ERRCODE = 'MTM01'`, nil, 1},
		{`WARNING 'mtm.ask' USING ERRCODE = 'MTM02'`, []string{"MTM02 mtm.ask"}, 1},
		{`NOTICE 'mtm.asks' USING ERRCODE = 'MTM01'`, []string{"MTM01 mtm.asks"}, 1},
		{`NOTICE 'mtm.ask' USING ERRCODE = 'MTM01', DETAIL = repeat('x', 5000)`, []string{"MTM01 mtm.ask"}, 1},
	} {
		notices = nil
		_, err := conn.Exec(bg, "DO $$ BEGIN RAISE "+c.raise+"; END $$")
		require.NoError(t, err)
		require.Equal(t, c.shown, notices, c.raise)
		require.Equal(t, c.rings, rung.Load(), c.raise)
	}
}

func TestLastGIDOfASession(t *testing.T) {
	h := start(t)
	fresh(t, h)
	conn, other := h.connect(t, pgx.QueryExecModeSimpleProtocol), h.connect(t, pgx.QueryExecModeSimpleProtocol)
	last := func(c *pgx.Conn) string { return h.LastGID(int32(c.PgConn().PID())).String() }
	none := last(conn)
	require.True(t, h.LastGID(int32(conn.PgConn().PID())).IsZero())
	_, err := conn.Exec(bg, "insert into t values (1, 'x')")
	require.NoError(t, err)
	first := last(conn)
	require.NotEqual(t, none, first)
	_, err = conn.Exec(bg, "begin; insert into t values (2, 'x'); commit")
	require.NoError(t, err)
	second := last(conn)
	require.NotEqual(t, first, second)
	_, err = conn.Exec(bg, "insert into t values (2, 'x')")
	require.Error(t, err)
	_, err = conn.Exec(bg, "select 1")
	require.NoError(t, err)
	require.Equal(t, second, last(conn))
	require.Equal(t, none, last(other))
	require.True(t, h.LastGID(-1).IsZero())
}
