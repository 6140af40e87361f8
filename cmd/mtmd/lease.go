package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"mtm"
)

// lease says whether this node may answer reads now. While it may, that is one number compared with the clock; a
// lease that has lapsed is waited for, and a node that is out of the cluster refuses at once.
type lease struct {
	clock clock
	end   atomic.Uint64 // by clock
	limit time.Duration // how long a lapsed one is waited for

	waiting atomic.Int64
	mu      sync.Mutex
	refusal *mtm.Error    // why this node serves nobody; nil when it does, or may do so in a moment
	news    chan struct{} // closed and replaced when something changed
}

func newLease(c clock, limit time.Duration) *lease {
	return &lease{clock: c, limit: limit, news: make(chan struct{})}
}

// extend takes over what the brain says; 0: no lease.
func (l *lease) extend(end uint64) {
	if l.end.Swap(end) != end && l.waiting.Load() > 0 {
		l.mu.Lock()
		l.wake()
		l.mu.Unlock()
	}
}

// refuse makes who has no lease fail with e; nil: he waits.
func (l *lease) refuse(e *mtm.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusal = e
	l.wake()
}

func (l *lease) wake() {
	close(l.news)
	l.news = make(chan struct{})
}

func (l *lease) why() *mtm.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusal
}

// held reports whether there is a lease now.
func (l *lease) held() bool { return l.clock.now() < l.end.Load() }

// refused is why the node serves nobody now.
func (l *lease) refused() *mtm.Error {
	if l.held() {
		return nil
	}
	return l.why()
}

// hold returns nil when there is a lease.
func (l *lease) hold(ctx context.Context) error {
	if l.held() {
		return nil
	}
	return l.wait(ctx)
}

func (l *lease) wait(ctx context.Context) error {
	l.waiting.Add(1)
	defer l.waiting.Add(-1)
	timer := time.NewTimer(l.limit)
	defer timer.Stop()
	for {
		l.mu.Lock()
		refusal, news := l.refusal, l.news
		l.mu.Unlock()
		switch {
		case l.held():
			return nil
		case refusal != nil:
			return refusal
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return mtm.NotOnline(mtm.StatusIsolated, "The other nodes do not confirm that it is up to date.")
		}
	}
}
