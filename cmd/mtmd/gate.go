package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"mtm"
	"mtm/coordinator"
	"mtm/sql/gateway"
)

// gate stands between client sessions and the brain: it numbers transactions while the brain lets it, bounds how many
// are in flight, and hands the outcomes back. It implements gateway.Commits.
type gate struct {
	id      mtm.NodeID
	post    func(coordinator.Event)
	metrics *metrics
	timeout time.Duration // how long a permit is waited for
	resolve time.Duration // how long an outcome is waited for

	expect     atomic.Pointer[func(mtm.GID)] // tells capture that gid is due; nil before the node serves
	expectOpen atomic.Pointer[func(mtm.GID)] // … of one that its session holds open
	holds      holds
	lease      *lease
	announce   atomic.Pointer[func(mtm.GID, bool)]                                               // tells logrep that a session prepares something for its client, or that it does not; nil before the node serves
	yield      atomic.Pointer[func(context.Context, mtm.GID, time.Duration, time.Duration) bool] // nil before the node serves

	mu        sync.Mutex
	open      bool
	reason    *mtm.Error // why it is not open
	gen       uint64
	next      uint64
	below     uint64
	limit     int
	preparing int
	stopped   int                 // who keeps new transactions waiting (still)
	closing   uint64              // the Seq of the CloseGate that is being carried out
	inFlight  int                 // are not finished everywhere
	waiting   map[mtm.GID]*commit // until Wait has taken the outcome
	changed   chan struct{}       // closed and replaced whenever somebody may go on
}

// commit is one transaction between its permit and its outcome.
type commit struct {
	done     chan *mtm.Error
	began    time.Time
	prepared time.Time
	last     time.Time // when the last phase ended
}

func newGate(id mtm.NodeID, post func(coordinator.Event), m *metrics, l *lease, timeout, resolve time.Duration) *gate {
	g := &gate{
		id: id, post: post, metrics: m, lease: l, timeout: timeout, resolve: resolve, waiting: map[mtm.GID]*commit{},
		changed: make(chan struct{}), reason: mtm.NotOnline(mtm.StatusDisabled, "The node is starting."),
	}
	g.holds.ending = map[mtm.GID]bool{}
	g.holds.obey, g.holds.more = map[mtm.GID]func(gateway.Order){}, make(chan struct{}, 1)
	return g
}

func (g *gate) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// allow carries out coordinator.OpenGate.
func (g *gate) allow(a coordinator.OpenGate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next = max(g.next, a.First)
	g.open, g.reason, g.gen, g.below, g.limit = true, nil, a.Gen, a.Below, a.Limit
	g.wake()
}

// forbid carries out coordinator.CloseGate.
func (g *gate) forbid(a coordinator.CloseGate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.reason, g.closing = false, a.Reason, a.Seq
	g.closedIfIdle()
}

func (g *gate) closedIfIdle() {
	if !g.open && g.preparing == 0 {
		g.post(coordinator.GateClosed{Next: g.next, Seq: g.closing})
	}
}

// Admit implements gateway.Commits.
func (g *gate) Admit(ctx context.Context, _ bool) error { return g.lease.hold(ctx) }

// Refused implements gateway.Commits.
func (g *gate) Refused() *mtm.Error { return g.lease.refused() }

// Permit implements gateway.Commits. Permitted is posted under the lock, so the brain meets the numbers in order.
func (g *gate) Permit(ctx context.Context, age uint64) (mtm.GID, error) {
	if age == 0 {
		age = uint64(time.Now().UnixMicro())
	}
	var timer *time.Timer
	for {
		g.mu.Lock()
		if g.open && g.stopped == 0 && g.next < g.below && g.inFlight < g.limit {
			gid := mtm.GID{Origin: g.id, Gen: g.gen, Seq: g.next}
			g.next++
			g.preparing++
			g.inFlight++
			g.waiting[gid] = &commit{done: make(chan *mtm.Error, 1), began: time.Now()}
			g.post(coordinator.Permitted{GID: gid, Age: age})
			g.mu.Unlock()
			failPoint("permit")
			return gid, nil
		}
		changed, reason := g.changed, g.reason
		g.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(g.timeout)
			defer timer.Stop()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return mtm.GID{}, ctx.Err()
		case <-timer.C:
			if reason == nil {
				reason = &mtm.Error{Code: "53400", Msg: "too many transactions are waiting to commit",
					Hint: "Raise max_prepared_transactions on every node, or see \"mtmctl status\" for a slow node."}
			}
			return mtm.GID{}, reason
		}
	}
}

// Announce implements gateway.Commits.
func (g *gate) Announce(gid mtm.GID) {
	if announce := g.announce.Load(); announce != nil {
		(*announce)(gid, true)
	}
}

// Prepared implements gateway.Commits.
func (g *gate) Prepared(gid mtm.GID, err *mtm.Error, unknown bool) {
	expect := g.expect.Load()
	if err != nil || unknown {
		expect = nil
	}
	if announce := g.announce.Load(); announce != nil && err != nil && !unknown {
		(*announce)(gid, false)
	}
	g.ended(coordinator.Prepared{GID: gid, Err: err, Unknown: unknown}, expect)
}

// ended tells the brain how a session has ended what it was permitted.
func (g *gate) ended(ev coordinator.Prepared, expect *func(mtm.GID)) {
	gid := ev.GID
	failPoint("prepare-answered")
	g.mu.Lock()
	g.preparing--
	if c := g.waiting[gid]; c != nil {
		c.prepared = time.Now()
		c.last = c.prepared
		g.metrics.phase("prepare", c.prepared.Sub(c.began))
	}
	if expect != nil {
		(*expect)(gid)
	}
	if ev.Err != nil || ev.Unknown {
		delete(g.waiting, gid)
	}
	g.post(ev)
	g.closedIfIdle()
	g.mu.Unlock()
}

// Wait implements gateway.Commits. It is called once for each transaction that was prepared, soon or late.
func (g *gate) Wait(ctx context.Context, gid mtm.GID) *mtm.Error {
	g.mu.Lock()
	c := g.waiting[gid]
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.waiting, gid)
		g.mu.Unlock()
	}()
	if c == nil {
		return mtm.Unknown(gid, "Nobody waits for it.")
	}
	timer := time.NewTimer(g.resolve)
	defer timer.Stop()
	for {
		select {
		case err := <-c.done:
			g.metrics.committed(c, err)
			return err
		case <-ctx.Done():
			return mtm.Unknown(gid, "The session ended first.")
		case <-timer.C:
			if !g.lease.held() {
				return mtm.Unknown(gid, "No quorum answered within resolve_timeout.")
			}
			timer.Reset(g.resolve) // the cluster works, and a large transaction takes its time
		}
	}
}

// mark ends a phase of an own transaction, if somebody waits for it.
func (g *gate) mark(gid mtm.GID, phase string) {
	if gid.Origin != g.id {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.waiting[gid]; c != nil && !c.last.IsZero() {
		now := time.Now()
		g.metrics.phase(phase, now.Sub(c.last))
		c.last = now
	}
}

// Yield implements gateway.Commits.
func (g *gate) Yield(ctx context.Context, gid mtm.GID, quiet, limit time.Duration) bool {
	yield := g.yield.Load()
	return yield == nil || (*yield)(ctx, gid, quiet, limit)
}

// Cancel implements gateway.Commits.
func (g *gate) Cancel(gid mtm.GID) { g.post(coordinator.Cancelled{GID: gid}) }

// reply carries out coordinator.Reply.
func (g *gate) reply(r coordinator.Reply) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.waiting[r.GID]; c != nil {
		c.done <- r.Err
	}
}

// release carries out coordinator.Release.
func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	g.wake()
}
