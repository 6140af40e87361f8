package main

import (
	"sync"
	"time"
)

// pace lets connections to PostgreSQL that end for the same reason end one by one, for a while: when many PostgreSQL processes end at
// once, all others on the machine may wait for tens of milliseconds, those of other nodes too.
type pace struct {
	mu   sync.Mutex
	next time.Time // when the next one may end
}

const (
	paceStep = 8 * time.Millisecond   // about twice what one takes of a processor
	paceMax  = 250 * time.Millisecond // nobody waits longer
)

// wait returns when the caller's turn has come.
func (p *pace) wait() {
	if d := p.turn(time.Now()); d > 0 {
		<-time.After(d)
	}
}

func (p *pace) turn(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.Before(now) {
		p.next = now
	}
	d := p.next.Sub(now)
	if d >= paceMax {
		return paceMax
	}
	p.next = p.next.Add(paceStep)
	return d
}
