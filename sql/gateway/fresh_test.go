package gateway

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm"
)

// A node that was cut off, or stopped, between a read and its answer does not tell what it read.
func TestAnswerGoesOutUnderALease(t *testing.T) {
	h := start(t)
	direct, err := pgx.Connect(bg, directURL("postgres"))
	require.NoError(t, err)
	defer direct.Close(bg)
	for name, mode := range modes {
		for what, text := range map[string]string{
			"rows":   "select 1 from pg_advisory_xact_lock_shared(4711)",
			"none":   "with l as materialized (select pg_advisory_xact_lock_shared(4711) is null as x) select 1 from l where x",
			"block":  "select pg_advisory_xact_lock_shared(4711)",
			"cursor": "fetch all from c",
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				conn := h.connect(t, mode)
				if what == "block" || what == "cursor" {
					_, err := conn.Exec(bg, "begin")
					require.NoError(t, err)
				}
				if what == "cursor" {
					_, err := conn.Exec(bg, "declare c cursor for select pg_advisory_xact_lock_shared(4711)")
					require.NoError(t, err)
				}
				_, err := direct.Exec(bg, "select pg_advisory_lock(4711)")
				require.NoError(t, err)
				answer := make(chan error, 1)
				go func() {
					_, err := conn.Exec(bg, text)
					answer <- err
				}()
				waitBlocked(t, direct)
				h.fake.setRefuse(mtm.NotOnline(mtm.StatusIsolated, "cut off"))
				defer h.fake.setRefuse(nil)
				_, err = direct.Exec(bg, "select pg_advisory_unlock(4711)")
				require.NoError(t, err)
				err = <-answer
				require.Equal(t, "57P03", code(err), "%v", err)
				require.Eventually(t, conn.IsClosed, 5*time.Second, time.Millisecond)
			})
		}
	}
}

// waitBlocked waits until somebody waits for an advisory lock.
func waitBlocked(t *testing.T, direct *pgx.Conn) {
	t.Helper()
	require.Eventually(t, func() bool {
		var n int
		return direct.QueryRow(bg, "select count(*) from pg_locks where locktype = 'advisory' and not granted").Scan(&n) == nil && n > 0
	}, 10*time.Second, time.Millisecond)
}

// What is committed is told, whatever became of the node meanwhile: 57P03 would say that it is not.
func TestCommitIsToldWithoutALease(t *testing.T) {
	h := start(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			fresh(t, h)
			conn := h.connect(t, mode)
			hold, waits := make(chan struct{}), make(chan mtm.GID, 1)
			h.fake.mu.Lock()
			h.fake.hold, h.fake.waits = hold, waits
			h.fake.mu.Unlock()
			defer func() {
				h.fake.mu.Lock()
				h.fake.hold, h.fake.waits = nil, nil
				h.fake.mu.Unlock()
				h.fake.setRefuse(nil)
			}()
			answer := make(chan error, 1)
			var id int
			go func() { answer <- conn.QueryRow(bg, "insert into t values (5, 'x') returning id").Scan(&id) }()
			<-waits
			h.fake.setRefuse(mtm.NotOnline(mtm.StatusIsolated, "cut off"))
			close(hold)
			require.NoError(t, <-answer)
			require.Equal(t, 5, id)
			_, err := conn.Exec(bg, "select 1")
			require.Equal(t, "57P03", code(err))
			require.False(t, conn.IsClosed(), "who is refused before a statement keeps his session")
		})
	}
}

// An operator gets in, others do not, and drivers that look for a node to write on see that this is none.
func TestAdminGetsIn(t *testing.T) {
	h := start(t)
	direct, err := pgx.Connect(bg, directURL("postgres"))
	require.NoError(t, err)
	defer direct.Close(bg)
	_, err = direct.Exec(bg, `do $$ begin
		if not exists (select from pg_roles where rolname = 'mtm_admin') then create role mtm_admin; end if; end $$;
		create role operator login in role mtm_admin; create role stranger login`)
	require.NoError(t, err)
	h.fake.setRefuse(mtm.NotOnline(mtm.StatusRecovery, "catching up"))
	defer h.fake.setRefuse(nil)
	connect := func(user, app string) *pgx.Conn {
		cfg, err := pgx.ParseConfig(h.url(user))
		require.NoError(t, err)
		cfg.RuntimeParams["application_name"] = app
		conn, err := pgx.ConnectConfig(bg, cfg)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close(context.Background()) })
		return conn
	}
	admin := connect("operator", "mtm_admin")
	_, err = admin.Exec(bg, "select count(*) from pg_class")
	require.NoError(t, err)
	require.Equal(t, "off", admin.PgConn().ParameterStatus("default_transaction_read_only"))
	for _, conn := range []*pgx.Conn{connect("operator", "psql"), connect("stranger", "mtm_admin")} {
		_, err = conn.Exec(bg, "select count(*) from pg_class")
		require.Equal(t, "57P03", code(err))
	}
	require.Equal(t, "on", connect("operator", "psql").PgConn().ParameterStatus("default_transaction_read_only"))
}
