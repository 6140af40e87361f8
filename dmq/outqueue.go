package dmq

import (
	"context"
	"fmt"

	"mtm/proto/mtmpb"
)

// take gives the next messages for stream s, and the sequence of the first; none if there are none.
func (l *link) take(s *stream, into []*mtmpb.Message) (messages []*mtmpb.Message, first uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s != l.out {
		return into, 0
	}
	first = l.first + uint64(l.sent)
	for bytes := 0; l.sent < len(l.queue) && bytes < frameBytes; l.sent++ {
		it := l.queue[l.sent]
		into = append(into, it.message)
		bytes += it.size
	}
	return into, first
}

// acked notes that the peer has everything up to seq.
func (l *link) acked(s *stream, seq uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s != l.out {
		return errStale
	}
	if seq >= l.first+uint64(l.sent) {
		return fmt.Errorf("peer acknowledges %d, but %d was not sent", seq, l.first+uint64(l.sent))
	}
	l.ackLocked(seq)
	return nil
}

func (l *link) ackLocked(seq uint64) {
	if seq < l.first {
		return
	}
	n := int(seq - l.first + 1)
	for i := range n {
		l.bytes -= l.queue[i].size
		l.queue[i] = item{}
	}
	l.stats.acked += uint64(n)
	l.queue = l.queue[n:]
	l.first = seq + 1
	l.sent = max(0, l.sent-n)
}

// largeQueue holds the messages whose payload lies in a spill file. Sequences start at 1 in each session.
type largeQueue struct {
	waiting []largeItem
	active  map[uint64]context.CancelFunc // being sent; each is cancelled when the session is over
	next    uint64
}

type largeItem struct {
	item
	seq uint64
}

// reset forgets everything: the session is over.
func (q *largeQueue) reset() {
	for _, cancel := range q.active {
		cancel()
	}
	*q = largeQueue{next: 1, active: map[uint64]context.CancelFunc{}}
}

func (q *largeQueue) len() int { return len(q.waiting) + len(q.active) }

func (q *largeQueue) add(it item) {
	q.waiting = append(q.waiting, largeItem{it, q.next})
	q.next++
}

// take gives the next message to send; cancel stops that.
func (q *largeQueue) take(cancel context.CancelFunc) (it largeItem, ok bool) {
	if len(q.waiting) == 0 {
		return largeItem{}, false
	}
	it, q.waiting = q.waiting[0], q.waiting[1:]
	q.active[it.seq] = cancel
	return it, true
}

// floor is the lowest sequence that may still be sent.
func (q *largeQueue) floor() uint64 {
	low := q.next
	if len(q.waiting) > 0 {
		low = q.waiting[0].seq
	}
	for seq := range q.active {
		low = min(low, seq)
	}
	return low
}
