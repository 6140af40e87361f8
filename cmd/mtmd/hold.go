package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"mtm"
	"mtm/coordinator"
)

// finishes passes on what ends prepared transactions, and can hold it back for a moment, in which PostgreSQL has exactly what the
// brain knows to be finished (coordinator.Node.Have).
type finishes struct {
	to   finisher
	open func(coordinator.Finish) bool // of one that a session holds open; false: that session is gone

	mu      sync.Mutex
	held    bool
	waiting []coordinator.Finish
	under   map[mtm.GID]int // way; how often
	idle    chan struct{}   // closed when nothing is under way; nil: nobody waits for it
	fewer   chan struct{}   // closed when less is under way; nil: nobody waits for it
}

// finisher ends prepared transactions (logrep.Finisher).
type finisher interface {
	Finish(gid mtm.GID, commit bool)
}

// holdWait is how long a hold may last, until it is given up: the clients of this node wait for it.
const holdWait = 500 * time.Millisecond

// finish carries out coordinator.Finish, soon.
func (f *finishes) finish(x coordinator.Finish) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held {
		f.waiting = append(f.waiting, x)
		return
	}
	f.start(x)
}

// start carries it out; mu is held. A session that holds the transaction open, and is lost, has told, or will tell.
func (f *finishes) start(x coordinator.Finish) {
	if x.Open {
		if f.open(x) {
			f.note(x.GID)
		}
		return
	}
	f.note(x.GID)
	f.to.Finish(x.GID, x.Commit)
}

func (f *finishes) note(gid mtm.GID) {
	if f.under == nil {
		f.under = map[mtm.GID]int{}
	}
	f.under[gid]++
}

// finished: one is done, and the brain was told.
func (f *finishes) finished(gid mtm.GID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.under[gid]--; f.under[gid] <= 0 {
		delete(f.under, gid)
	}
	if f.fewer != nil {
		close(f.fewer)
		f.fewer = nil
	}
	f.tellIdle()
}

// pass waits until the brain was told of the end of everything that is under way now: whoever has seen anything that PostgreSQL
// committed finds it in coordinator.Node.Have from then on.
func (f *finishes) pass(ctx context.Context) error {
	var before []mtm.GID
	for first := true; ; first = false {
		f.mu.Lock()
		if first {
			before = slices.Collect(maps.Keys(f.under))
		}
		before = slices.DeleteFunc(before, func(gid mtm.GID) bool { return f.under[gid] == 0 })
		if len(before) == 0 {
			f.mu.Unlock()
			return nil
		}
		if f.fewer == nil {
			f.fewer = make(chan struct{})
		}
		fewer := f.fewer
		f.mu.Unlock()
		select {
		case <-fewer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *finishes) tellIdle() {
	if len(f.under) == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// hold runs do while nothing is under way. What comes meanwhile waits for it.
func (f *finishes) hold(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, holdWait, fmt.Errorf("commits were held back for %v", holdWait))
	defer cancel()
	idle := make(chan struct{})
	f.mu.Lock()
	if f.held {
		f.mu.Unlock()
		return fmt.Errorf("another node is being copied at this moment")
	}
	f.held, f.idle = true, idle
	f.tellIdle()
	f.mu.Unlock()
	defer f.release()
	select {
	case <-idle:
		return do(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *finishes) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held, f.idle = false, nil
	for _, x := range f.waiting {
		f.start(x)
	}
	f.waiting = nil
}

// haveAsk is a question to the brain, in its place among the events.
type haveAsk struct {
	coordinator.Tick // an event; its time means nothing
	answer           chan<- haveAnswer
}

// haveAnswer is what a copy begins with.
type haveAnswer struct {
	status coordinator.Status
	have   []mtm.OriginHave
}

// askHave asks the brain what is finished here.
func (d *daemon) askHave(ctx context.Context) (haveAnswer, error) {
	answer := make(chan haveAnswer, 1)
	d.mail.post(haveAsk{answer: answer})
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		return haveAnswer{}, context.Cause(ctx)
	}
}
