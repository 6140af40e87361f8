package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"mtm"
	"mtm/coordinator"
	"mtm/logrep"
	"mtm/sql/gateway"
)

// This file is about transactions that PostgreSQL cannot prepare: client sessions hold them open, and the brain tells them
// how to end.

// holds knows which sessions hold what.
type holds struct {
	mu      sync.Mutex
	obey    map[mtm.GID]func(gateway.Order)
	gone    []goneTxn        // whose sessions were lost: PostgreSQL is to be asked
	more    chan struct{}    // gone is not empty
	ending  map[mtm.GID]bool // their sessions were told to end them
	catalog atomic.Pointer[logrep.Catalog]

	finished func(mtm.GID) // one of ending has ended, and the brain was told
}

type goneTxn struct {
	gid mtm.GID
	xid uint64
}

// end carries out coordinator.Finish of what a session holds; false: it does no more.
func (g *gate) end(x coordinator.Finish) bool {
	h := &g.holds
	h.mu.Lock()
	obey := h.obey[x.GID]
	if obey != nil {
		h.ending[x.GID] = true
	}
	h.mu.Unlock()
	switch {
	case obey == nil:
		return false
	case x.Commit:
		failPoint("open-commit")
		obey(gateway.OrderCommit)
	default:
		obey(gateway.OrderAbort)
	}
	return true
}

// Held implements gateway.Commits.
func (g *gate) Held(gid mtm.GID, _ uint64, obey func(gateway.Order)) {
	h := &g.holds
	h.mu.Lock()
	h.obey[gid] = obey
	h.mu.Unlock()
	g.ended(coordinator.Prepared{GID: gid, Open: true}, g.expectOpen.Load())
	late := mtm.Conflict("Its session holds it open, and it did not come to all nodes within " + openTimeout.String() + ".")
	time.AfterFunc(openTimeout, func() { g.post(coordinator.Cancelled{GID: gid, Err: late}) }) // does nothing to what has been accepted by then
}

// openTimeout bounds how long a transaction that is held open may take to come to its precommit: a reconnect of the slot can
// pass over it.
const openTimeout = 30 * time.Second

// confirm carries out coordinator.Confirm. A session that is lost has told, or will tell.
func (g *gate) confirm(gid mtm.GID) {
	g.holds.mu.Lock()
	obey := g.holds.obey[gid]
	g.holds.mu.Unlock()
	if obey != nil {
		obey(gateway.OrderConfirm)
	}
}

// Obeyed implements gateway.Commits.
func (g *gate) Obeyed(gid mtm.GID, done gateway.Order) {
	if done == gateway.OrderConfirm {
		failPoint("open-confirmed")
		g.post(coordinator.Confirmed{GID: gid})
		return
	}
	failPoint("open-committed")
	g.holds.drop(gid)
	g.tell(gid, coordinator.Finished{GID: gid})
}

// tell says how a transaction ended that was held open.
func (g *gate) tell(gid mtm.GID, ev coordinator.Event) {
	h := &g.holds
	if c := h.catalog.Load(); c != nil {
		c.Finished(gid)
	}
	g.post(ev)
	h.mu.Lock()
	asked := h.ending[gid]
	delete(h.ending, gid)
	h.mu.Unlock()
	if asked {
		h.finished(gid)
	}
}

// Gone implements gateway.Commits.
func (g *gate) Gone(gid mtm.GID, xid uint64, rolledBack bool) {
	g.holds.drop(gid)
	if rolledBack {
		g.tell(gid, coordinator.Lost{GID: gid})
		return
	}
	h := &g.holds
	h.mu.Lock()
	h.gone = append(h.gone, goneTxn{gid, xid})
	h.mu.Unlock()
	select {
	case h.more <- struct{}{}:
	default:
	}
}

// drop: the session does nothing more with gid.
func (h *holds) drop(gid mtm.GID) {
	h.mu.Lock()
	delete(h.obey, gid)
	h.mu.Unlock()
}

// fates finds out what became of transactions whose sessions were lost.
type fates struct {
	gate *gate
	ask  func(ctx context.Context, xid uint64) (committed bool, err error)
	log  *slog.Logger
}

func (f *fates) run(ctx context.Context) error {
	h := &f.gate.holds
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.more:
		}
		h.mu.Lock()
		list := h.gone
		h.gone = nil
		h.mu.Unlock()
		for _, t := range list {
			if err := f.find(ctx, t); err != nil {
				return err
			}
		}
	}
}

func (f *fates) find(ctx context.Context, t goneTxn) error {
	for {
		committed, err := f.ask(ctx, t.xid)
		if err == nil {
			if committed {
				f.gate.tell(t.gid, coordinator.Finished{GID: t.gid})
			} else {
				f.gate.tell(t.gid, coordinator.Lost{GID: t.gid})
			}
			return nil
		}
		f.log.Warn("cannot find out yet what became of a transaction whose session was lost", "gid", t.gid.String(), keyError, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startupRetry):
		}
	}
}
