package logrep

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"mtm"
)

// pair is an origin (node 1) and a member (node 2) with all parts running; the test plays the coordinator.
type pair struct {
	t       testing.TB
	a, b    *node
	capture *Capture
	applier *Applier
	finishA *Finisher
	finishB *Finisher
	sink    *testSink
	seq     uint64
}

// testSink turns callbacks into channels that tests wait on.
type testSink struct {
	captured  chan captured
	incidents chan string
	applied   chan applied
	finished  chan mtm.GID
	blocked   chan [2]mtm.GID
	conflicts chan uint32
	refused   chan applied
	handled   bool // what Conflict answers

	mu   sync.Mutex
	seen map[mtm.GID]int // Applied calls
}

type captured struct {
	gid mtm.GID
	lsn mtm.LSN
	p   mtm.Payload
	at  time.Time
}

type applied struct {
	gid mtm.GID
	err *mtm.Error
}

func newTestSink() *testSink {
	return &testSink{
		captured: make(chan captured, 10000), incidents: make(chan string, 1000), applied: make(chan applied, 10000),
		finished: make(chan mtm.GID, 20000), blocked: make(chan [2]mtm.GID, 100000), conflicts: make(chan uint32, 100000), refused: make(chan applied, 100),
		seen: map[mtm.GID]int{},
	}
}

func (s *testSink) Captured(gid mtm.GID, lsn mtm.LSN, p mtm.Payload) {
	s.captured <- captured{gid, lsn, p, time.Now()}
}
func (s *testSink) Refused(gid mtm.GID, _ mtm.LSN, err *mtm.Error) { s.refused <- applied{gid, err} }
func (s *testSink) Stalled(gid mtm.GID, pid uint32) bool {
	if pid != 0 {
		s.conflicts <- pid
	} else {
		s.blocked <- [2]mtm.GID{gid}
	}
	return pid == 0
}
func (s *testSink) Incident(text string) { s.incidents <- text }
func (s *testSink) Applied(gid mtm.GID, err *mtm.Error) {
	s.mu.Lock()
	s.seen[gid]++
	s.mu.Unlock()
	s.applied <- applied{gid, err}
}
func (s *testSink) Finished(gid mtm.GID)           { s.finished <- gid }
func (s *testSink) Blocked(waiter, holder mtm.GID) { s.blocked <- [2]mtm.GID{waiter, holder} }
func (s *testSink) Conflict(_ mtm.GID, _ uint64, pid uint32, _ func() error) bool {
	s.conflicts <- pid
	return s.handled
}

// wait takes the next value, or fails.
func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(60 * time.Second):
		require.Fail(t, "nothing came: "+what)
	}
	panic("unreachable")
}

// newPair runs setup on both nodes, then starts everything.
func newPair(t testing.TB, setup ...string) *pair {
	p := &pair{t: t, a: newNode(t, pgA, 1), b: newNode(t, pgB, 2), sink: newTestSink()}
	for _, sql := range setup {
		p.a.exec(sql)
		p.b.exec(sql)
	}
	p.a.exec("CREATE PUBLICATION mtm FOR ALL TABLES")
	_, err := CreateSlot(t.Context(), p.a.cfg)
	require.NoError(t, err)
	p.b.cfg.Spills = p.a.cfg.Spills // as if it had been sent
	p.capture = NewCapture(p.a.cfg, p.sink)
	p.applier = NewApplier(p.b.cfg, p.sink)
	p.finishA = NewFinisher(p.a.cfg, p.sink)
	p.finishB = NewFinisher(p.b.cfg, p.sink)
	p.run(p.capture.Run, p.applier.Run, p.finishA.Run, p.finishB.Run)
	return p
}

// run runs parts until the test ends.
func (p *pair) run(parts ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	for _, part := range parts {
		g.Go(func() error { return part(ctx) })
	}
	p.t.Cleanup(func() {
		cancel()
		require.ErrorIs(p.t, g.Wait(), context.Canceled)
	})
}

func (p *pair) gid() mtm.GID {
	p.seq++
	return mtm.GID{Origin: 1, Gen: 1, Seq: p.seq}
}

// prepare runs statements on the origin and prepares them; it returns what was captured.
func (p *pair) prepare(sql ...string) captured {
	p.t.Helper()
	gid := p.gid()
	p.a.exec("BEGIN")
	for _, s := range sql {
		p.a.exec(s)
	}
	p.a.exec(gid.SQL("PREPARE TRANSACTION"))
	p.capture.Expect(gid)
	c := wait(p.t, p.sink.captured, "Captured")
	require.Equal(p.t, gid, c.gid)
	return c
}

// apply applies what was captured on the member.
func (p *pair) apply(c captured) *mtm.Error {
	p.t.Helper()
	p.applier.Apply(c.gid, 0, c.p)
	r := wait(p.t, p.sink.applied, "Applied")
	require.Equal(p.t, c.gid, r.gid)
	return r.err
}

func (p *pair) finish(gid mtm.GID, commit bool) {
	p.t.Helper()
	p.finishA.Finish(gid, commit)
	p.finishB.Finish(gid, commit)
	require.Equal(p.t, gid, wait(p.t, p.sink.finished, "Finished"))
	require.Equal(p.t, gid, wait(p.t, p.sink.finished, "Finished"))
}

// commit does all of it.
func (p *pair) commit(sql ...string) captured {
	p.t.Helper()
	c := p.prepare(sql...)
	if err := p.apply(c); err != nil {
		p.finish(c.gid, false)
		lines, _ := Describe(c.p, p.a.cfg.Spills, 20)
		require.Fail(p.t, "not applied", "%+v\n%s", err, strings.Join(lines, "\n"))
	}
	p.finish(c.gid, true)
	p.capture.Ack(c.lsn)
	return c
}

// same asserts that the tables are equal on both nodes, and returns how many rows they have.
func (p *pair) same(tables ...string) int {
	p.t.Helper()
	n := 0
	for _, table := range tables {
		sql := fmt.Sprintf("SELECT x::text FROM %s x ORDER BY x::text COLLATE \"C\"", table)
		a, b := p.a.rows(sql), p.b.rows(sql)
		require.Equal(p.t, a, b, table)
		n += len(a)
	}
	return n
}
