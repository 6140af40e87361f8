package notify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mtm"
)

// Relay is one node's part. Make it with New; Listen, Unlisten, Receive and Look may be called at any time, from any goroutine.
type Relay struct {
	cfg  Config
	look chan struct{} // the nodes in reach may have changed

	mu      sync.Mutex
	changed signal                      // anything below
	own     own                         // what this node's clients listen to
	peers   [mtm.MaxNodes + 1]*peer     // nil: nothing is known of it
	union   map[string]int              // what other nodes' clients listen to: how many nodes
	stale   map[string]bool             // of it, what the session has yet to LISTEN or UNLISTEN to
	live    bool                        // there is a session, which knows of all of union but for stale
	aim     uint64                      // grows whenever union changes
	effect  uint64                      // the aim that the session has reached; 0: there is no session
	heard   []Note                      // by the session, and not passed on yet
	bytes   int                         // of heard
	sayings []*saying                   // what the session is to say
	kicked  bool                        // … or there is something else for it to do
	kick    context.CancelFunc          // interrupts the session; nil: it does not wait
	run     func(func(context.Context)) // starts a part of Run; nil: it does not run
}

// peer is another node.
type peer struct {
	id   mtm.NodeID
	life uint64 // of its channels; 0: none are known

	version  uint64          // of its channels
	channels map[string]bool // that its clients listen to

	known uint64 // the version of our channels that it has
	again bool   // it is to be told, whatever it has
	fails int    // how often in a row that could not be done
	queue []Note // for it, as marks say
	marks []mark // where a batch of queue begins
	bytes int    // of queue
	gone  time.Time

	theirLife uint64 // of the batches it sends
	seq       uint64 // the last one
	arrived   []Batch
	waiting   int // bytes of arrived
}

// mark says that the next n notifications tell of nothing later than at.
type mark struct {
	n  int
	at Position
}

// New makes a Relay; nothing happens before Run.
func New(cfg Config) *Relay {
	if cfg.Lost == nil {
		cfg.Lost = func(int) {}
	}
	return &Relay{
		cfg: cfg, look: make(chan struct{}, 1), own: newOwn(), union: map[string]int{}, stale: map[string]bool{}, aim: 1,
	}
}

// Run relays until ctx ends, and returns its error.
func (r *Relay) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	r.mu.Lock()
	r.run = func(part func(context.Context)) {
		g.Go(func() error { part(ctx); return ctx.Err() })
	}
	for _, p := range r.peers {
		if p != nil {
			r.start(p)
		}
	}
	r.mu.Unlock()
	g.Go(func() error { return r.sessions(ctx) })
	g.Go(func() error { return r.passOn(ctx) })
	g.Go(func() error { return r.watch(ctx) })
	return g.Wait()
}

// peer is what is known of a node; mu is held.
func (r *Relay) peer(id mtm.NodeID) *peer {
	if r.peers[id] == nil {
		p := &peer{id: id, channels: map[string]bool{}, again: true}
		r.peers[id] = p
		if r.run != nil {
			r.start(p)
		}
	}
	return r.peers[id]
}

// start runs what serves a node; mu is held.
func (r *Relay) start(p *peer) {
	r.run(func(ctx context.Context) { r.tellChannels(ctx, p) })
	r.run(func(ctx context.Context) { r.sendBatches(ctx, p) })
	r.run(func(ctx context.Context) { r.sayArrived(ctx, p) })
}

// Look says that other nodes may have come into reach, or have gone. It never blocks.
func (r *Relay) Look() {
	select {
	case r.look <- struct{}{}:
	default:
	}
}

// watch follows who is in reach.
func (r *Relay) watch(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		r.meet()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-r.look:
		}
	}
}

// meet looks who is in reach.
func (r *Relay) meet() {
	reach := r.cfg.Peers().Without(r.cfg.Node)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range reach.IDs() {
		r.peer(id)
	}
	for _, p := range r.peers {
		if p != nil {
			r.reached(p, reach.Has(p.id))
		}
	}
	r.changed.tell()
}

// reached: a node is in reach, or is not; mu is held. One that comes back is told our channels anew: it may have lost them.
func (r *Relay) reached(p *peer, in bool) {
	switch {
	case in && !p.gone.IsZero():
		p.gone, p.again = time.Time{}, true
	case in:
	case p.gone.IsZero():
		p.gone = time.Now()
	case p.life != 0 && time.Since(p.gone) > forgetAfter:
		r.forget(p)
	}
}

// forget drops what waits for a node, and what its clients listen to; mu is held.
func (r *Relay) forget(p *peer) {
	if n := len(p.queue); n > 0 {
		r.cfg.Lost(n)
		r.cfg.Log.Warn("notifications for a node that is out of reach are dropped", keyNode, p.id, keyCount, n)
	}
	p.queue, p.marks, p.bytes = nil, nil, 0
	for name := range p.channels {
		r.want(name, -1)
	}
	p.life, p.version, p.channels = 0, 0, map[string]bool{}
}

// up waits until a node is in reach and work, called under mu, gives something to do.
func (r *Relay) up(ctx context.Context, p *peer, work func() bool) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return await(ctx, &r.mu, &r.changed, func() bool { return p.gone.IsZero() && work() })
}

// Receive takes a message of another node. An error means that it is to be repeated, or was refused.
func (r *Relay) Receive(ctx context.Context, m Message) (Answer, error) {
	if err := m.check(); err != nil {
		return Answer{}, fmt.Errorf("notifications: %w", err)
	}
	if m.From == r.cfg.Node {
		return Answer{}, errors.New("notifications: from this node itself")
	}
	ctx, cancel := context.WithTimeout(ctx, effectWait)
	defer cancel()
	if m.Channels != nil {
		return r.receiveChannels(ctx, m.From, m.Life, m.Channels)
	}
	return Answer{}, r.receiveBatch(ctx, m.From, m.Life, *m.Batch)
}
