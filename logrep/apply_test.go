package logrep

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm"
)

// session is another client of n.
func (n *node) session() *pgconn.PgConn {
	conn, err := pgconn.Connect(n.t.Context(), n.cfg.DSN)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestBlockedByAPreparedTransaction(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY); INSERT INTO t VALUES (1, 0)")
	for _, hold := range []string{
		"UPDATE t SET v = 9",
		"SAVEPOINT a; UPDATE t SET v = 9", // the lock of a sub-transaction
		"LOCK TABLE t IN SHARE MODE",
	} {
		p.b.exec("BEGIN; " + hold + "; PREPARE TRANSACTION 'mtm-2-1-77'")
		c := p.prepare("UPDATE t SET v = v + 1", "INSERT INTO u VALUES (1)")
		p.applier.Apply(c.gid, 0, c.p)
		pair := wait(t, p.sink.blocked, "Blocked")
		require.Equal(t, [2]mtm.GID{c.gid, {Origin: 2, Gen: 1, Seq: 77}}, pair, hold)
		p.applier.Cancel(c.gid)
		r := wait(t, p.sink.applied, "Applied")
		require.Equal(t, mtm.CodeSerialization, r.err.Code)
		for len(p.sink.blocked) > 0 {
			<-p.sink.blocked
		}
		p.finish(c.gid, false)
		p.b.exec("ROLLBACK PREPARED 'mtm-2-1-77'")
		require.Empty(t, p.b.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"))
	}
}

func TestAnotherWorkerBlocks(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)")
	p.b.exec("BEGIN; UPDATE t SET v = 9 WHERE id = 2; PREPARE TRANSACTION 'mtm-2-1-77'")
	first := p.prepare("UPDATE t SET v = v + 1 WHERE id = 1", "UPDATE t SET v = v + 1 WHERE id = 2")
	p.finishA.Finish(first.gid, true)
	wait(t, p.sink.finished, "Finished")
	p.applier.Apply(first.gid, 0, first.p) // holds row 1, waits for row 2
	require.Equal(t, first.gid, wait(t, p.sink.blocked, "Blocked")[0])
	second := p.prepare("UPDATE t SET v = v + 1 WHERE id = 1")
	p.applier.Apply(second.gid, 0, second.p)
	until(t, "the second waits for the first", func() bool {
		return wait(t, p.sink.blocked, "Blocked") == [2]mtm.GID{second.gid, first.gid}
	})
	p.b.exec("ROLLBACK PREPARED 'mtm-2-1-77'")
	require.Equal(t, applied{gid: first.gid}, wait(t, p.sink.applied, "Applied"))
	p.finishB.Finish(first.gid, true)
	wait(t, p.sink.finished, "Finished")
	require.Equal(t, applied{gid: second.gid}, wait(t, p.sink.applied, "Applied"))
	p.finish(second.gid, true)
	p.same("t")
}

func TestAClientInTheWayLoses(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)")
	ctx := t.Context()
	for i, statement := range []string{"", "SELECT pg_sleep(60)"} {
		client := p.b.session()
		require.NoError(t, run(ctx, client, "BEGIN; UPDATE t SET v = 5"))
		result := make(chan error, 1)
		if statement != "" {
			go func() { result <- run(context.Background(), client, statement) }()
		}
		p.commit(fmt.Sprintf("UPDATE t SET v = %d", i+1))
		until(t, "it is told of", func() bool { return wait(t, p.sink.conflicts, "Conflict") == client.PID() }) // the last one maybe twice
		if statement != "" {
			require.Equal(t, "57014", sqlState(<-result))
		} else {
			require.Error(t, run(ctx, client, "SELECT 1"))
		}
	}
	// One that the gateway takes care of is left to it.
	p.sink.handled = true
	client := p.b.session()
	require.NoError(t, run(ctx, client, "BEGIN; UPDATE t SET v = 5"))
	c := p.prepare("UPDATE t SET v = 7")
	p.applier.Apply(c.gid, 0, c.p)
	until(t, "two reports", func() bool { return wait(t, p.sink.conflicts, "Conflict") == client.PID() })
	require.NoError(t, run(ctx, client, "ROLLBACK"))
	require.Nil(t, wait(t, p.sink.applied, "Applied").err)
	p.finish(c.gid, true)
}

func TestWaitingWorkersDoNotHoldOthers(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g")
	p.b.exec("BEGIN; UPDATE t SET v = 9; PREPARE TRANSACTION 'mtm-2-1-77'")
	var held []captured
	for i := range 40 { // more than the hot set
		c := p.prepare(fmt.Sprintf("UPDATE t SET v = 1 WHERE id = %d", i+1))
		held = append(held, c)
		p.applier.Apply(c.gid, 0, c.p)
	}
	c := p.prepare("INSERT INTO t VALUES (1000, 0)")
	require.Nil(t, p.apply(c))
	p.finish(c.gid, true)
	p.b.exec("ROLLBACK PREPARED 'mtm-2-1-77'")
	for range held {
		require.Nil(t, wait(t, p.sink.applied, "Applied").err)
	}
	for _, c := range held {
		p.finishA.Finish(c.gid, true)
		p.finishB.Finish(c.gid, true)
	}
	for range 2 * len(held) {
		wait(t, p.sink.finished, "Finished")
	}
	require.Equal(t, 101, p.same("t"))
	require.Len(t, p.sink.seen, 41)
	for gid, n := range p.sink.seen {
		require.Equal(t, 1, n, gid.String())
	}
}

// TestTheOldestIsApplied: it may be what all others wait for, so it finds a worker, however many wait.
func TestTheOldestIsApplied(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 9) g")
	cfg := p.b.cfg
	cfg.MaxWorkers = 2
	sink := newTestSink()
	applier := NewApplier(cfg, sink)
	p.run(applier.Run)
	p.b.exec("BEGIN; UPDATE t SET v = 9 WHERE id < 5; PREPARE TRANSACTION 'mtm-2-1-77'")
	var jobs []captured
	for i, id := range []int{1, 2, 3, 9} {
		jobs = append(jobs, p.prepare(fmt.Sprintf("UPDATE t SET v = 1 WHERE id = %d", id)))
		applier.Apply(jobs[i].gid, []uint64{20, 30, 40, 10}[i], jobs[i].p) // the last is the oldest
		if i < cfg.MaxWorkers {
			until(t, "it waits", func() bool { return wait(t, sink.blocked, "Blocked")[0] == jobs[i].gid })
		}
	}
	refused := wait(t, sink.applied, "Applied")
	require.Equal(t, jobs[1].gid, refused.gid)
	require.Equal(t, mtm.CodeSerialization, refused.err.Code)
	require.Contains(t, refused.err.Detail, "too many")
	require.Equal(t, applied{gid: jobs[3].gid}, wait(t, sink.applied, "Applied"))
	p.b.exec("ROLLBACK PREPARED 'mtm-2-1-77'")
	for range 2 {
		require.Nil(t, wait(t, sink.applied, "Applied").err)
	}
	for i, c := range jobs {
		p.finish(c.gid, i != 1)
	}
}

func TestApplyAgainAfterARestart(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)")
	c := p.prepare("UPDATE t SET v = 1")
	require.Nil(t, p.apply(c))
	found, err := Prepared(t.Context(), p.b.cfg) // ends the workers' sessions, as at a start
	require.NoError(t, err)
	require.Equal(t, []PreparedXact{{GID: c.gid}}, found)
	sink := newTestSink()
	second := NewApplier(p.b.cfg, sink)
	p.run(second.Run)
	second.Apply(c.gid, 0, c.p)
	require.Equal(t, applied{gid: c.gid}, wait(t, sink.applied, "Applied"))
	// The first does not know that it is prepared and runs into its lock.
	require.Nil(t, p.apply(c))
	p.finish(c.gid, true)
	require.Equal(t, 1, p.same("t"))
}

func TestWorkersThatLoseTheirConnectionTryAgain(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)")
	p.commit("UPDATE t SET v = 1")
	kill := "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND application_name IN ('mtm_apply', 'mtm_finish')"
	p.b.exec(kill)
	p.commit("UPDATE t SET v = 2")
	p.b.exec("BEGIN; UPDATE t SET v = 9; PREPARE TRANSACTION 'mtm-2-1-77'")
	c := p.prepare("UPDATE t SET v = 3")
	p.applier.Apply(c.gid, 0, c.p)
	wait(t, p.sink.blocked, "Blocked")
	p.b.exec(kill)
	p.b.exec("ROLLBACK PREPARED 'mtm-2-1-77'")
	require.Nil(t, wait(t, p.sink.applied, "Applied").err)
	p.finish(c.gid, true)
	p.same("t")
	require.Equal(t, []string{"|1|3"}, p.b.rows("SELECT * FROM t"))
}

func TestBadPayloadsAreRefused(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int)")
	good := p.prepare("INSERT INTO t VALUES (1, 1)")
	for n := range len(good.p.Data) {
		bad := good
		bad.p.Data = good.p.Data[:n]
		require.NotNil(t, p.apply(bad), "cut at %d", n)
		bad.p.Data = append([]byte(nil), good.p.Data...)
		bad.p.Data[n] ^= 0x41
		if p.apply(bad) == nil {
			p.finishB.Finish(bad.gid, false)
			wait(t, p.sink.finished, "Finished")
		}
	}
	require.NotNil(t, p.apply(captured{gid: good.gid, p: mtm.Payload{Spill: "nowhere"}}))
	require.Nil(t, p.apply(good))
	p.finish(good.gid, true)
	require.Equal(t, 1, p.same("t"))
}

func TestCancel(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')")
	cfg := p.b.cfg
	cfg.MaxWorkers = 1
	sink := newTestSink()
	applier := NewApplier(cfg, sink)
	p.run(applier.Run)
	p.b.exec("BEGIN; UPDATE t SET v = 'b'; PREPARE TRANSACTION 'mtm-2-1-77'")
	running, queued := p.prepare("UPDATE t SET v = 'c'"), p.prepare("INSERT INTO t VALUES (2, 'x')")
	applier.Apply(running.gid, 0, running.p)
	wait(t, sink.blocked, "Blocked")
	applier.Apply(queued.gid, 0, queued.p)
	applier.Cancel(mtm.GID{Origin: 3, Gen: 1, Seq: 1}) // unknown: ignored
	for _, c := range []captured{queued, running} {
		applier.Cancel(c.gid)
		r := wait(t, sink.applied, "Applied")
		require.Equal(t, c.gid, r.gid)
		require.Equal(t, mtm.CodeSerialization, r.err.Code)
		p.finish(c.gid, false)
	}
	p.b.exec("ROLLBACK PREPARED 'mtm-2-1-77'")
	// In the middle of a large one, that is over before its end is read.
	large := p.prepare("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1000, 200000) g")
	applier.Apply(large.gid, 0, large.p)
	until(t, "rows arrive", func() bool {
		return len(p.b.rows("SELECT 1 FROM pg_stat_progress_copy WHERE datname = current_database() AND tuples_processed > 0")) > 0
	})
	applier.Cancel(large.gid)
	require.NotNil(t, wait(t, sink.applied, "Applied").err)
	applier.Apply(large.gid, 0, large.p) // and again, from the start
	require.Nil(t, wait(t, sink.applied, "Applied").err)
	p.finish(large.gid, true)
	require.Equal(t, 199002, p.same("t"))
}

// Functions of indexes and ALWAYS triggers name things without a schema; values are still spelled with one.
func TestFunctionsFindWhatTheyName(t *testing.T) {
	p := newPair(t, "CREATE TABLE log (n int PRIMARY KEY); CREATE TABLE t (id int, r regclass)",
		"CREATE FUNCTION inner_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'",
		"CREATE FUNCTION outer_one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN inner_one($1); END'",
		"CREATE INDEX ON t (outer_one(id)); ALTER TABLE t REPLICA IDENTITY FULL",
		"CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM 1 FROM log; RETURN NEW; END'",
		"CREATE TRIGGER note BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE t ENABLE ALWAYS TRIGGER note")
	p.commit("INSERT INTO t VALUES (1, 'log')")
	p.commit("INSERT INTO t SELECT g, 'log' FROM generate_series(2, 100) g")
	p.commit(join([]string{"INSERT INTO t VALUES (101, 't')"}, text("ALTER TABLE t ADD x int"), []string{"INSERT INTO t VALUES (102, 't')"})...)
	require.Equal(t, 102, p.same("t"))
}

// A copy of a catalog holds expressions in a form that PostgreSQL writes and does not read.
func TestACopyOfACatalog(t *testing.T) {
	p := newPair(t, "CREATE FUNCTION mtm.node_tree(cstring) RETURNS pg_node_tree LANGUAGE internal IMMUTABLE STRICT AS 'textin'",
		"CREATE TABLE parted (a int) PARTITION BY LIST (a); CREATE TABLE part PARTITION OF parted FOR VALUES IN (7)")
	p.commit(text("CREATE TABLE copied AS SELECT * FROM pg_class")...)
	p.commit("ALTER TABLE copied REPLICA IDENTITY FULL")
	p.commit("UPDATE copied SET relpartbound = NULL WHERE relname <> 'part'", "UPDATE copied SET relname = 'p' WHERE relname = 'part'")
	require.Greater(t, p.same("copied"), 300)
	require.Equal(t, []string{"|FOR VALUES IN (7)"}, p.b.rows("SELECT pg_get_expr(relpartbound, 0) FROM copied WHERE relname = 'p'"))
}
