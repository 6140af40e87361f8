package notify

import (
	"context"
	"fmt"
	"slices"

	"mtm"
)

// passOn hands what the session heard to the queues of those nodes whose clients listen.
func (r *Relay) passOn(ctx context.Context) error {
	for {
		if err := await(ctx, &r.mu, &r.changed, func() bool { return len(r.heard) > 0 }); err != nil {
			return err
		}
		r.mu.Lock()
		notes := r.heard
		r.heard, r.bytes = nil, 0
		r.mu.Unlock()
		at, err := r.have(ctx)
		if err != nil {
			return err
		}
		r.mu.Lock()
		for _, p := range r.peers {
			if p != nil {
				r.enqueue(p, notes, at)
			}
		}
		r.changed.tell()
		r.mu.Unlock()
	}
}

// have is Config.Have, for as long as it takes: what was heard must not be told before what it follows is known. What comes meanwhile waits, bounded.
func (r *Relay) have(ctx context.Context) (Position, error) {
	for said := false; ; said = true {
		at, err := r.cfg.Have(ctx)
		if err == nil || ctx.Err() != nil {
			return at, ctx.Err()
		}
		if !said {
			r.cfg.Log.Warn("notifications wait: it is not known yet what they follow", keyError, err)
		}
		rest(ctx, retryAfter)
	}
}

// enqueue adds to what is to be sent to a node; mu is held.
func (r *Relay) enqueue(p *peer, notes []Note, at Position) {
	n, dropped := 0, 0
	for _, note := range notes {
		switch {
		case !p.channels[string(note.Channel)]:
		case p.bytes+note.size() > maxQueue:
			dropped++
		default:
			p.queue = append(p.queue, note)
			p.bytes += note.size()
			n++
		}
	}
	if n > 0 {
		p.marks = append(p.marks, mark{n, at})
	}
	if dropped > 0 {
		r.lost(int(p.id), dropped)
	}
}

// cut takes the next batch off p's queue; mu is held.
func (p *peer) cut() Batch {
	m := &p.marks[0]
	n, bytes := 0, 0
	for n < m.n && (n == 0 || bytes+p.queue[n].size() <= maxBatch) {
		bytes += p.queue[n].size()
		n++
	}
	b := Batch{At: m.at, Notes: slices.Clone(p.queue[:n])}
	p.queue, p.bytes = p.queue[n:], p.bytes-bytes
	if m.n -= n; m.n == 0 {
		p.marks = p.marks[1:]
	}
	return b
}

// sendBatches sends a node what its clients listen to, one batch after the other.
func (r *Relay) sendBatches(ctx context.Context, p *peer) {
	for seq := uint64(1); ; seq++ {
		if r.up(ctx, p, func() bool { return len(p.marks) > 0 }) != nil {
			return
		}
		r.mu.Lock()
		b, life := p.cut(), p.life
		r.mu.Unlock()
		b.Seq, b.For = seq, life
		for {
			_, err := r.cfg.Call(ctx, p.id, Message{From: r.cfg.Node, Life: r.cfg.Life, Batch: &b})
			if err == nil {
				break
			}
			r.cfg.Log.Debug("send notifications", keyNode, p.id, keyError, err)
			rest(ctx, retryAfter)
			gone := false
			if r.up(ctx, p, func() bool { gone = p.life != life; return true }) != nil {
				return
			}
			if gone { // those who listened are no more
				break
			}
		}
	}
}

// receiveBatch takes notifications of another node, once.
func (r *Relay) receiveBatch(ctx context.Context, from mtm.NodeID, life uint64, b Batch) error {
	size := b.size()
	var p *peer
	err := await(ctx, &r.mu, &r.changed, func() bool {
		p = r.peer(from)
		if p.theirLife == life && b.Seq <= p.seq {
			return true // repeated
		}
		if b.For != r.cfg.Life {
			return true // those who listened are gone
		}
		if len(p.arrived) > 0 && p.waiting+size > maxQueue {
			return false
		}
		p.theirLife, p.seq = life, b.Seq
		p.arrived, p.waiting = append(p.arrived, b), p.waiting+size
		r.changed.tell()
		return true
	})
	if err != nil {
		return fmt.Errorf("notifications: too many wait on node %d: %w", r.cfg.Node, err)
	}
	return nil
}

// sayArrived has the session say what another node sent, in its order, each when this node has committed what it follows.
func (r *Relay) sayArrived(ctx context.Context, p *peer) {
	for {
		if await(ctx, &r.mu, &r.changed, func() bool { return len(p.arrived) > 0 }) != nil {
			return
		}
		r.mu.Lock()
		b := p.arrived[0]
		r.mu.Unlock()
		if err := r.cfg.Caught(ctx, b.At); err != nil {
			if ctx.Err() != nil {
				return
			}
			r.cfg.Log.Debug("wait for what notifications follow", keyNode, p.id, keyError, err)
			rest(ctx, retryAfter)
			continue
		}
		s := &saying{notes: b.Notes, done: make(chan struct{})}
		r.mu.Lock()
		r.sayings = append(r.sayings, s)
		r.wakeSession()
		r.mu.Unlock()
		select {
		case <-s.done:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		p.arrived = p.arrived[1:]
		p.waiting -= b.size()
		r.changed.tell()
		r.mu.Unlock()
	}
}
