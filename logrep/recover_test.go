package logrep

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"mtm"
)

// recoverSink notes how far recovery is.
type recoverSink struct {
	t       testing.TB
	handled bool

	mu        sync.Mutex
	at        uint64
	conflicts int
	changed   chan struct{}
}

func newRecoverSink(t testing.TB) *recoverSink {
	return &recoverSink{t: t, changed: make(chan struct{}, 1)}
}

func (s *recoverSink) Recovered(at uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at < s.at {
		s.t.Errorf("recovered %d after %d", at, s.at)
	}
	s.at = at
	signal(s.changed)
}

func (s *recoverSink) Conflict(mtm.GID, uint64, uint32, func() error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conflicts++
	return s.handled
}

// reach waits until recovery is at at.
func (s *recoverSink) reach(at uint64) {
	s.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		s.mu.Lock()
		now := s.at
		s.mu.Unlock()
		if now >= at {
			require.Equal(s.t, at, now)
			return
		}
		select {
		case <-s.changed:
		case <-deadline:
			require.Fail(s.t, "recovery does not get on", "it is at %d, not %d", now, at)
		}
	}
}

// recovery is node b of a pair being recovered, instead of applying.
func (p *pair) recovery() (*Recoverer, *recoverSink) {
	sink := newRecoverSink(p.t)
	r := NewRecoverer(p.b.cfg, sink)
	p.run(r.Run)
	return r, sink
}

// committed is what the origin commits alone.
func (p *pair) committed(sql ...string) captured {
	p.t.Helper()
	c := p.prepare(sql...)
	p.finishA.Finish(c.gid, true)
	require.Equal(p.t, c.gid, wait(p.t, p.sink.finished, "Finished"))
	p.capture.Ack(c.lsn)
	return c
}

func ddlNote(text string) string {
	return say("mtm.ddl", `{"v":1,"text":"`+text+`","search_path":"public"}`)
}

var ddlEnd = say("mtm.ddlend", "")

func TestWhatIsToldToBeRecoveredOutlivesACrash(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int)")
	r, sink := p.recovery()
	for at := 1; at <= 4; at++ {
		c := p.committed(fmt.Sprintf("INSERT INTO t VALUES (%d, 0)", at))
		r.Apply(c.gid, uint64(at), c.p)
		sink.reach(uint64(at))
		p.b.pg.stop() // at once: what it has not written is lost
		_ = p.b.conn.Close(context.Background())
		require.NoError(t, p.b.pg.start())
		p.b.conn = p.b.session()
		require.Equal(t, []string{fmt.Sprintf("|%d", at)}, p.b.rows("SELECT at FROM mtm.recovered"))
		require.Equal(t, at, p.same("t"))
	}
}

func TestRecoveredTransactionsAreCommittedWithTheirPosition(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE log (v text); ALTER TABLE log REPLICA IDENTITY FULL")
	incidents := newTestSink()
	p.b.exec("CREATE PUBLICATION mtm FOR ALL TABLES")
	_, err := CreateSlot(t.Context(), p.b.cfg)
	require.NoError(t, err)
	p.run(NewCapture(p.b.cfg, incidents).Run)
	at, err := RecoveredPosition(t.Context(), p.b.cfg)
	require.NoError(t, err)
	require.Zero(t, at)

	var all []captured
	for i := range 60 {
		all = append(all, p.committed(fmt.Sprintf("INSERT INTO t VALUES (%d, 'x')", i), fmt.Sprintf("INSERT INTO log VALUES ('%d')", i)))
	}
	all = append(all, p.committed("UPDATE t SET v = 'y' WHERE id % 2 = 0"), p.committed("DELETE FROM t WHERE id = 7", "DELETE FROM log WHERE v = '8'"),
		p.committed(ddlNote("CREATE TYPE mood AS ENUM ('bad')"), "CREATE TYPE mood AS ENUM ('bad')", ddlEnd),
		p.committed(ddlNote("CREATE TABLE m (id int PRIMARY KEY, m mood)"), "CREATE TABLE m (id int PRIMARY KEY, m mood)", ddlEnd),
		p.committed("INSERT INTO m VALUES (1, 'bad')"),
		p.committed(ddlNote("ALTER TYPE mood ADD VALUE 'good'"), "ALTER TYPE mood ADD VALUE 'good'", ddlEnd),
		p.committed("INSERT INTO m VALUES (2, 'good')"),
		p.committed(ddlNote("CREATE INDEX ON t (v)"), "CREATE INDEX ON t (v)", ddlEnd),
		p.committed(ddlNote("ALTER TABLE t ADD w int"), "ALTER TABLE t ADD w int", ddlEnd),
		p.committed("UPDATE t SET w = id"),
		p.committed("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1000, 60000) g"),
		p.committed("UPDATE t SET w = 1 WHERE id = 1"), p.committed("DELETE FROM t WHERE id = 1001"))
	require.NotEmpty(t, all[len(all)-3].p.Spill)
	r, sink := p.recovery()
	for i, c := range all {
		r.Apply(c.gid, uint64(i+1), c.p)
	}
	sink.reach(uint64(len(all)))
	require.Greater(t, p.same("t", "log", "m"), 59000)
	require.Equal(t, []string{"|t"}, p.b.rows("SELECT count(*) = 2 FROM pg_indexes WHERE tablename = 't'"))

	// Again: it is covered. And what writes nothing moves the position too.
	again, sink2 := p.recovery()
	for i, c := range all {
		again.Apply(c.gid, uint64(i+1), c.p)
	}
	sink2.reach(uint64(len(all)))
	empty := p.committed("SELECT pg_logical_emit_message(true, 'mtm', '')")
	again.Apply(empty.gid, uint64(len(all)+1), empty.p)
	sink2.reach(uint64(len(all) + 1))
	p.same("t", "log", "m")
	at, err = RecoveredPosition(t.Context(), p.b.cfg)
	require.NoError(t, err)
	require.EqualValues(t, len(all)+1, at)

	// Capture of this node has read all of it, and calls none of it an incident.
	p.b.exec("INSERT INTO log VALUES ('direct')")
	require.Contains(t, wait(t, incidents.incidents, "Incident"), "public.log")
	require.Empty(t, incidents.incidents)
}

// TestRecoveryIsExactlyOnce kills what can be killed while transactions are recovered: the backend, PostgreSQL, and
// recovery itself. The table has no key, so that a row applied twice is there twice.
func TestRecoveryIsExactlyOnce(t *testing.T) {
	p := newPair(t, "CREATE TABLE log (v int); CREATE TABLE t (id int PRIMARY KEY, v int)")
	p.a.exec("INSERT INTO t VALUES (1, 0)")
	p.b.exec("INSERT INTO t VALUES (1, 0)")
	var all []captured
	const n = 240
	for i := range n {
		all = append(all, p.committed(fmt.Sprintf("INSERT INTO log SELECT %d", i), "UPDATE t SET v = v + 1"))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	done := uint64(0)
	for life := 0; done < n; life++ {
		at, err := RecoveredPosition(t.Context(), p.b.cfg)
		require.NoError(t, err)
		require.GreaterOrEqual(t, at, done, "what was told is durable")
		done = at
		ctx, cancel := context.WithCancel(context.Background())
		sink := newRecoverSink(t)
		r := NewRecoverer(p.b.cfg, sink)
		var g errgroup.Group
		g.Go(func() error { return r.Run(ctx) })
		upto := min(n, at+uint64(1+rng.IntN(80)))
		for i := at; i < upto; i++ {
			r.Apply(all[i].gid, i+1, all[i].p)
			if i%20 == 0 {
				sleepABit(rng)
			}
		}
		switch life % 4 {
		case 0: // the backend
			p.b.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mtm_recover' AND datname = current_database()")
			sink.reach(upto)
		case 1: // PostgreSQL
			require.NoError(t, p.b.conn.Close(context.Background()))
			p.b.pg.stop()
			require.NoError(t, p.b.pg.start())
			p.b.conn = p.b.session()
			sink.reach(upto)
		case 2:
			sink.reach(upto)
		}
		cancel() // and recovery, whatever it is at
		require.ErrorIs(t, g.Wait(), context.Canceled)
		sink.mu.Lock()
		done = max(done, sink.at)
		sink.mu.Unlock()
	}
	require.Equal(t, n+1, p.same("log", "t"))
}

// sleepABit lets a kill meet recovery at different points; nothing depends on it.
func sleepABit(rng *rand.Rand) { time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond) }

func TestLocalSessionsDoNotStandInTheWayOfRecovery(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	all := []captured{p.committed("INSERT INTO t VALUES (1, 'a')"), p.committed("UPDATE t SET v = 'b'")}
	r, sink := p.recovery()
	r.Apply(all[0].gid, 1, all[0].p)
	sink.reach(1)
	s := p.b.session()
	require.NoError(t, run(t.Context(), s, "BEGIN; UPDATE t SET v = 'local'"))
	r.Apply(all[1].gid, 2, all[1].p)
	sink.reach(2)
	require.Error(t, run(t.Context(), s, "COMMIT"))
	require.Positive(t, sink.conflicts)
	p.same("t")
}

// TestWhatCannotBeRecoveredIsNotPassedOver: a row that should not be there stops recovery there, and not before.
func TestWhatCannotBeRecoveredIsNotPassedOver(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	var all []captured
	for i := range 10 {
		all = append(all, p.committed(fmt.Sprintf("INSERT INTO t VALUES (%d, 'a')", i)))
	}
	p.b.exec("INSERT INTO t VALUES (5, 'wrong')")
	r, sink := p.recovery()
	for i, c := range all {
		r.Apply(c.gid, uint64(i+1), c.p)
	}
	sink.reach(5)
	require.Equal(t, "|0,1,2,3,4,5", p.b.rows("SELECT string_agg(id::text, ',' ORDER BY id) FROM t")[0])
	p.b.exec("DELETE FROM t WHERE id = 5")
	sink.reach(10)
	p.same("t")
}

// BenchmarkRecover: transactions that update one row and insert another, as a donor sends them.
func BenchmarkRecover(b *testing.B) {
	for _, rows := range []int{2, 20} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			p := newPair(b, "CREATE TABLE t (id int PRIMARY KEY, v int, filler char(84)); INSERT INTO t SELECT g, 0, '' FROM generate_series(1, 100000) g",
				"CREATE TABLE log (id int, delta int, at timestamptz, filler char(22))")
			var payloads []mtm.Payload
			for i := range 100 {
				var sql []string
				for k := range rows / 2 {
					sql = append(sql, fmt.Sprintf("UPDATE t SET v = v + 1 WHERE id = %d", 1+i*1000+k), "INSERT INTO log VALUES (1, 2, now(), 'x')")
				}
				payloads = append(payloads, p.committed(strings.Join(sql, ";")).p)
			}
			r, sink := p.recovery()
			b.ResetTimer()
			for i := range b.N {
				r.Apply(mtm.GID{Origin: 1, Gen: 1, Seq: uint64(i)}, uint64(i+1), payloads[i%len(payloads)])
			}
			sink.reach(uint64(b.N))
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
			b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
