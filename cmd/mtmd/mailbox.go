package main

import (
	"context"
	"sync"
	"time"

	"mtm/coordinator"
)

// mailbox holds the events that the brain has not seen. Posting never blocks, so no driver can wait for the brain
// while the brain waits for it; what is in flight is bounded by the gates of all nodes.
type mailbox struct {
	mu     sync.Mutex
	events []coordinator.Event
	bell   chan struct{}
}

func newMailbox() *mailbox { return &mailbox{bell: make(chan struct{}, 1)} }

func (m *mailbox) post(ev coordinator.Event) {
	m.mu.Lock()
	m.events = append(m.events, ev)
	m.mu.Unlock()
	select {
	case m.bell <- struct{}{}:
	default:
	}
}

// take waits for events, or for tick, and returns all events there are, oldest first. spare is reused for the next ones.
func (m *mailbox) take(ctx context.Context, tick <-chan time.Time, spare []coordinator.Event) (events []coordinator.Event, ticked bool, err error) {
	for {
		m.mu.Lock()
		if len(m.events) > 0 {
			events := m.events
			m.events = spare[:0]
			m.mu.Unlock()
			return events, false, nil
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-m.bell:
		case <-tick:
			return nil, true, nil
		}
	}
}
