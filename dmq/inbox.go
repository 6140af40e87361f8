package dmq

import (
	"context"
	"sync"

	"mtm"
)

// event is one call of the sink: a message, or the link going up or down.
type event struct {
	message     mtm.Message
	size        int
	up, down    bool
	incarnation uint64
}

// inbox keeps the order of what one peer's link brings, until the sink takes it. put never waits, so that the link's
// state can change at any time; who receives from the network asks for room first.
type inbox struct {
	mu     sync.Mutex
	events []event
	bytes  int
	limit  int
	filled chan struct{} // capacity 1
	room   chan struct{} // capacity 1
}

func newInbox(limit int) *inbox {
	return &inbox{limit: limit, filled: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func (b *inbox) put(all ...event) {
	b.mu.Lock()
	for _, e := range all {
		b.bytes += e.size
	}
	b.events = append(b.events, all...)
	b.mu.Unlock()
	signal(b.filled)
}

// waitRoom returns when less than the limit is undelivered, or done is closed. One goroutine at a time may wait.
func (b *inbox) waitRoom(done <-chan struct{}) {
	for {
		b.mu.Lock()
		full := b.bytes >= b.limit
		b.mu.Unlock()
		if !full {
			return
		}
		select {
		case <-b.room:
		case <-done:
			return
		}
	}
}

// deliver calls the sink until ctx is done.
func (b *inbox) deliver(ctx context.Context, node mtm.NodeID, sink Sink) {
	var batch []event
	for {
		b.mu.Lock()
		batch, b.events = b.events, batch[:0]
		b.mu.Unlock()
		for i := range batch {
			if ctx.Err() != nil {
				return
			}
			e := &batch[i]
			switch {
			case e.up:
				sink.PeerUp(node, e.incarnation)
			case e.down:
				sink.PeerDown(node)
			default:
				sink.Received(e.message)
			}
			b.taken(e.size)
			*e = event{} // lets the payload go
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-b.filled:
		case <-ctx.Done():
			return
		}
	}
}

func (b *inbox) taken(size int) {
	b.mu.Lock()
	was := b.bytes
	b.bytes -= size
	freed := was >= b.limit && b.bytes < b.limit
	b.mu.Unlock()
	if freed {
		signal(b.room)
	}
}

// signal wakes the one who waits on c, now or when he next looks.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
