package logrep

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm"
)

func TestLargeTransactionIsStreamedToASpillFile(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE small (id int PRIMARY KEY)")
	spills := p.a.cfg.Spills.(*dirSpills)
	c := p.commit("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 100000) g", "UPDATE t SET v = 'y' WHERE id % 10000 = 0",
		"INSERT INTO small VALUES (1)", "DELETE FROM t WHERE id > 99000", "TRUNCATE small")
	require.NotEmpty(t, c.p.Spill)
	require.Greater(t, c.p.Size, int64(10<<20))
	require.Equal(t, 99000, p.same("t", "small"))
	require.Equal(t, 1, spills.count())
}

func TestSavepointRolledBackInAStreamedTransaction(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE u (id int PRIMARY KEY)")
	const fill = "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(%d, %d) g"
	c := p.commit(fmt.Sprintf(fill, 1, 30000), "SAVEPOINT a", fmt.Sprintf(fill, 30001, 60000), "INSERT INTO u VALUES (1)",
		"SAVEPOINT b", fmt.Sprintf(fill, 60001, 90000), "ROLLBACK TO a",
		"INSERT INTO u VALUES (2)", "SAVEPOINT c", fmt.Sprintf(fill, 30001, 60000), "RELEASE c", "UPDATE t SET v = 'z' WHERE id = 30001",
		"SAVEPOINT d", "ALTER TABLE u ADD x int", "INSERT INTO u VALUES (3, 3)", fmt.Sprintf(fill, 60001, 90000), "ROLLBACK TO d", "INSERT INTO u VALUES (4)")
	require.NotEmpty(t, c.p.Spill)
	require.Equal(t, 60000+2, p.same("t", "u"))
	// All that counted was rolled back: nothing is left to replicate.
	c = p.prepare("SAVEPOINT a", "INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(100000, 150000) g", "ROLLBACK TO a",
		"SELECT pg_logical_emit_message(true, 'mtm', 'wait=off')")
	require.True(t, c.p.Has(mtm.PayloadEmpty|mtm.PayloadWaitLocal))
	require.Nil(t, p.apply(c))
	p.finish(c.gid, true)
}

func TestStreamedTransactionsThatEndBadlyLeaveNoSpillFile(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	p.a.exec("BEGIN")
	p.a.exec("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 100000) g")
	p.a.exec("ROLLBACK")
	p.commit("INSERT INTO t VALUES (1, 'a')")
	require.Zero(t, p.a.cfg.Spills.(*dirSpills).count())
}

func TestFlags(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE mtm.x (id int PRIMARY KEY); CREATE UNLOGGED TABLE un (id int)")
	drop := func(c captured) { p.finish(c.gid, false) }
	note := "SELECT pg_logical_emit_message(true, 'mtm', '%s')"
	for text, want := range map[string]mtm.PayloadFlags{"wait=off": mtm.PayloadWaitLocal, "wait=on": 0, "x=1 wait=No": mtm.PayloadWaitLocal,
		"await=off": 0, "": 0, "wait= isolation=serializable": mtm.PayloadSerializable, "isolation=off wait=serializable": 0} {
		c := p.prepare("INSERT INTO t VALUES (1, 'a')", fmt.Sprintf(note, text))
		require.Equal(t, want, c.p.Flags, text)
		drop(c)
	}
	c := p.prepare("INSERT INTO mtm.x VALUES (1)", "INSERT INTO un VALUES (1)", fmt.Sprintf(note, ""), "SELECT pg_logical_emit_message(true, 'user', 'x')")
	require.Equal(t, mtm.PayloadEmpty, c.p.Flags)
	drop(c)
}

func TestWritesThatBypassUsAreIncidents(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE mtm.x (id int PRIMARY KEY)")
	p.a.exec("INSERT INTO mtm.x VALUES (1)") // ours: no incident
	p.a.exec("SELECT pg_replication_origin_create('somebody'), pg_replication_origin_session_setup('somebody')")
	p.a.exec("INSERT INTO t VALUES (100, 'replicated')") // came by replication: none
	p.a.exec("SELECT pg_replication_origin_session_reset()")
	p.a.exec("INSERT INTO t VALUES (1, 'a')")
	require.Contains(t, wait(t, p.sink.incidents, "Incident"), "public.t")
	p.a.exec("INSERT INTO t VALUES (2, 'a')") // within the second: counted, not told
	p.a.exec("BEGIN; INSERT INTO t VALUES (3, 'a'); PREPARE TRANSACTION 'users'")
	p.a.exec("COMMIT PREPARED 'users'")
	// Other nodes' transactions are echoes, not captured.
	p.a.exec("BEGIN; INSERT INTO t VALUES (4, 'a'); PREPARE TRANSACTION 'mtm-3-1-1'")
	p.a.exec("COMMIT PREPARED 'mtm-3-1-1'")
	p.commit("DELETE FROM t WHERE id < 0", "SELECT pg_logical_emit_message(true, 'mtm', '')")
	require.Empty(t, p.sink.incidents)
	require.Empty(t, p.sink.captured)
}

// until polls what PostgreSQL only shows.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		require.True(t, time.Now().Before(deadline), what)
		time.Sleep(5 * time.Millisecond)
	}
}

func TestNothingIsConfirmedBeforeAck(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	c := p.prepare("INSERT INTO t VALUES (1, 'a')")
	passed := func(lsn mtm.LSN) bool {
		return p.a.rows(fmt.Sprintf("SELECT confirmed_flush_lsn >= '%s' FROM pg_replication_slots WHERE slot_name = '%s'", lsn, p.a.cfg.Slot))[0] == "|t"
	}
	seen, confirmed := p.capture.positions()
	require.GreaterOrEqual(t, seen, c.lsn)
	require.Less(t, confirmed, c.lsn)
	p.finish(c.gid, true)
	require.False(t, passed(c.lsn))
	p.capture.Ack(c.lsn)
	until(t, "the slot moves to what was acknowledged", func() bool { return passed(c.lsn) })
	// Idle WAL does not stay either.
	p.a.exec("CREATE TABLE filler AS SELECT g FROM generate_series(1, 10000) g; DROP TABLE filler")
	end := p.a.rows("SELECT pg_current_wal_flush_lsn() - '0/0'")[0][1:]
	lsn, err := parseLSN([]byte(end))
	require.NoError(t, err)
	until(t, "idle WAL is confirmed", func() bool { return passed(lsn) })
}

func TestCaptureGoesOnAfterItsConnectionIsLost(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	p.commit("INSERT INTO t VALUES (1, 'a')")
	c := p.prepare("INSERT INTO t VALUES (2, 'not acknowledged')")
	p.a.exec("SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '" + p.a.cfg.Slot + "'")
	require.Nil(t, p.apply(c))
	p.finish(c.gid, true)
	p.commit("INSERT INTO t VALUES (3, 'c')") // and what comes again is not delivered again
	require.Empty(t, p.sink.captured)
	require.Equal(t, 3, p.same("t"))
}

func TestWhatWasNotAcknowledgedComesAgain(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	c := p.prepare("INSERT INTO t VALUES (4, 'd')")
	sink := newTestSink()
	second := NewCapture(p.a.cfg, sink) // takes the slot from the first, as a new process does
	p.run(second.Run)
	again := wait(t, sink.captured, "Captured again")
	require.Equal(t, c.gid, again.gid)
	require.Equal(t, c.lsn, again.lsn)
	require.Equal(t, c.p, again.p)
}

// TestWhatCannotBeDecodedIsTold: decoding waits for a lock that goes only if somebody else makes it go.
func TestWhatCannotBeDecodedIsTold(t *testing.T) {
	p := newPair(t, "CREATE TYPE known AS (a int); CREATE TABLE uses (k known)")
	watch := p.a.session()
	look := func() { require.NoError(t, p.capture.Unblock(t.Context(), watch)) }
	stalled := func() bool {
		return len(p.a.rows("SELECT pid FROM pg_stat_activity WHERE application_name = 'mtm_capture' AND wait_event_type = 'Lock'")) > 0
	}
	look()
	look()

	gid := p.gid()
	p.a.exec("BEGIN")
	p.a.exec("CREATE TYPE fresh AS (a int)")
	p.a.exec("CREATE TABLE made (f fresh)")
	p.a.exec("INSERT INTO made VALUES (ROW(1))")
	p.a.exec(gid.SQL("PREPARE TRANSACTION"))
	p.capture.Expect(gid)
	until(t, "decoding waits", stalled)
	look()
	require.Empty(t, p.sink.blocked, "one look is not enough")
	look()
	require.Equal(t, [2]mtm.GID{gid}, wait(t, p.sink.blocked, "Stalled"))
	p.a.exec(gid.SQL("ROLLBACK PREPARED"))
	until(t, "decoding goes on", func() bool { return !stalled() })

	// A session that is idle, and does not belong to the gateway, is ended.
	idle := p.a.session()
	p.a.exec("SELECT ROW(1)::known")
	require.NoError(t, run(t.Context(), idle, "BEGIN; ALTER TYPE known RENAME ATTRIBUTE a TO b"))
	gid = p.gid()
	p.a.exec("BEGIN")
	p.a.exec("INSERT INTO uses VALUES (ROW(1))")
	p.a.exec(gid.SQL("PREPARE TRANSACTION"))
	p.capture.Expect(gid)
	until(t, "decoding waits", stalled)
	look()
	look()
	require.Equal(t, idle.PID(), wait(t, p.sink.conflicts, "Stalled"))
	c := wait(t, p.sink.captured, "Captured")
	for c.gid != gid { // the first may come yet: as it was rolled back, or not at all
		c = wait(t, p.sink.captured, "Captured")
	}
	require.Error(t, run(t.Context(), idle, "SELECT 1"))
	p.a.exec(gid.SQL("ROLLBACK PREPARED"))
	look()
	require.Empty(t, p.capture.blockers)
}

// TestWhoWorksMayFinish: a session that keeps PostgreSQL from decoding is left alone while it works, and only then.
func TestWhoWorksMayFinish(t *testing.T) {
	p := newPair(t, "CREATE TABLE uses (id int PRIMARY KEY); INSERT INTO uses VALUES (1)",
		"CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(current_setting('my.sleep', true)::float); RETURN i; END $$; "+
			"CREATE TABLE rewritten (i int); CREATE INDEX slowly ON rewritten (slow(i)); INSERT INTO rewritten VALUES (1)")
	watch := p.a.session()
	looks := func(n int) {
		for range n {
			require.NoError(t, p.capture.Unblock(t.Context(), watch))
		}
	}
	known := 0
	holds := func(then string) (*pgconn.PgConn, mtm.GID) {
		holder := p.a.session()
		gid := p.gid()
		known++ // the walsender has met none of them
		p.a.exec(fmt.Sprintf("CREATE TYPE known%[1]d AS (a int); CREATE TABLE knows%[1]d (k known%[1]d)", known))
		p.a.exec("BEGIN")
		p.a.exec("UPDATE uses SET id = id")
		p.a.exec(fmt.Sprintf("INSERT INTO knows%d VALUES (ROW(1))", known))
		require.NoError(t, run(t.Context(), holder, fmt.Sprintf("SET my.sleep = 600; BEGIN; ALTER TYPE known%d RENAME ATTRIBUTE a TO b", known)))
		p.a.exec(gid.SQL("PREPARE TRANSACTION"))
		p.capture.Expect(gid)
		go func() { _ = run(context.WithoutCancel(t.Context()), holder, then) }()
		until(t, "decoding waits for who is busy", func() bool {
			return len(p.a.rows(fmt.Sprintf("SELECT FROM pg_stat_activity a, pg_stat_activity h WHERE a.application_name = 'mtm_capture' AND a.datname = current_database() "+
				"AND h.pid = ANY (pg_blocking_pids(a.pid)) AND h.pid = %d AND h.state = 'active' AND h.query = %s", holder.PID(), quoteLiteral(then)))) > 0
		})
		return holder, gid
	}
	ended := func(gid mtm.GID) {
		require.NotZero(t, wait(t, p.sink.conflicts, "Stalled"))
		until(t, "the session has gone", func() bool {
			return len(p.a.rows("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")) == 0
		})
		p.a.exec(gid.SQL("ROLLBACK PREPARED"))
		looks(1)
		require.Empty(t, p.capture.blockers)
	}
	_, gid := holds("SELECT pg_sleep(600)")
	looks(workingLooks - 1)
	require.Empty(t, p.sink.conflicts)
	looks(1)
	ended(gid)

	holder, gid := holds("CLUSTER rewritten USING slowly")
	looks(2 * workingLooks)
	require.Empty(t, p.sink.conflicts)
	p.a.exec(fmt.Sprintf("SELECT pg_terminate_backend(%d, 5000)", holder.PID()))
	p.a.exec(gid.SQL("ROLLBACK PREPARED"))

	_, gid = holds("UPDATE uses SET id = 3") // waits for the prepared one, whose decoding waits for it
	looks(stalledLooks)
	ended(gid)
}
