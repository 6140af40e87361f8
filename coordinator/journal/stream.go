package journal

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mtm"
	"mtm/coordinator"
)

// Streamer answers what nodes that recover ask of this one, from the journal: it carries out StreamJournal, StreamAcked
// and TellOutcome. Make it with NewStreamer, run it with Run; its other methods may be called at any time, from any
// goroutine, and do not block.
type Streamer struct {
	j   *Journal
	cfg StreamConfig

	mu      sync.Mutex
	streams map[mtm.NodeID]*stream
	queue   []func(context.Context) // what Run has yet to start
	more    chan struct{}
}

// StreamConfig is what a Streamer needs. Send is called from several goroutines, for one stream in order.
type StreamConfig struct {
	Send   func(mtm.Message)              // puts a message into the queue of its node
	Failed func(to mtm.NodeID, err error) // told when a stream ends by an error; nil: nobody is
	Every  time.Duration                  // how often a donor shows that it lives; a third of RecoverAfter; default 300 ms
	Window int64                          // bytes that may be sent and not done there; default 16 MiB
	Large  func(to mtm.NodeID) bool       // whether a large payload is on its way; nil: nobody knows
	Log    *slog.Logger                   // nil: slog.Default()
}

func (c StreamConfig) withDefaults() StreamConfig {
	if c.Every == 0 {
		c.Every = 300 * time.Millisecond
	}
	if c.Window == 0 {
		c.Window = 16 << 20
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Large == nil {
		c.Large = func(mtm.NodeID) bool { return false }
	}
	if c.Failed == nil {
		c.Failed = func(mtm.NodeID, error) {}
	}
	return c
}

// NewStreamer makes a Streamer; nothing happens before Run.
func NewStreamer(j *Journal, cfg StreamConfig) *Streamer {
	return &Streamer{j: j, cfg: cfg.withDefaults(), streams: map[mtm.NodeID]*stream{}, more: make(chan struct{}, 1)}
}

// Run works until ctx ends, and returns its error when all streams have ended.
func (s *Streamer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-s.more:
			}
			for _, work := range s.take() {
				g.Go(func() error { work(ctx); return nil })
			}
		}
	})
	return g.Wait()
}

func (s *Streamer) take() []func(context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.queue
	s.queue = nil
	return all
}

// start puts work into the queue. Caller holds mu.
func (s *Streamer) start(work func(context.Context)) {
	s.queue = append(s.queue, work)
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// Stream begins to answer a request, and ends the stream that goes to the same node.
//
// An error that wraps ErrTruncated, told to StreamConfig.Failed, means that the node was away for longer than the journal
// reaches back: it needs a fresh copy, if no other donor has more.
func (s *Streamer) Stream(a coordinator.StreamJournal) {
	st := newStream(s, a)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(a.To)
	s.streams[a.To] = st
	s.start(func(ctx context.Context) {
		err := st.run(ctx)
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("journal: cannot bring a node up to date", "node", a.To, "error", err)
			s.cfg.Failed(a.To, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.streams[a.To] == st {
			delete(s.streams, a.To)
		}
	})
}

// PeerDown ends the stream to a node: the link is lost, and with it what was on its way.
func (s *Streamer) PeerDown(node mtm.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(node)
}

// end stops the stream to node, if there is one. Caller holds mu.
func (s *Streamer) end(node mtm.NodeID) {
	if st := s.streams[node]; st != nil {
		close(st.stop)
		delete(s.streams, node)
	}
}

// Acked lets a stream go on.
func (s *Streamer) Acked(a coordinator.StreamAcked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[a.To]; st != nil && st.req.Stream == a.Stream {
		st.flow.acked(a.Seq)
	}
}

// TellOutcome answers a node that asks for the outcome of a transaction that this one has forgotten. If the journal does
// not reach back to it, nothing is said.
func (s *Streamer) TellOutcome(a coordinator.TellOutcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start(func(context.Context) {
		found, err := s.j.Lookup(a.GID)
		switch {
		case err != nil:
			s.cfg.Log.Error("journal: cannot look up a transaction", "gid", a.GID.String(), "error", err)
		case found[a.GID] != Unknown:
			s.cfg.Send(mtm.Message{To: a.To, Body: mtm.Decided{GID: a.GID, Commit: found[a.GID] == Committed}})
		}
	})
}

// flow bounds what is sent and not done.
type flow struct {
	window int64
	heard  chan struct{} // an ack came

	mu    sync.Mutex
	sent  []sending
	bytes int64 // of sent
}

type sending struct {
	seq  uint64
	size int64
	over func() // called once, when it is done or the stream has ended
}

func newFlow(window int64) *flow { return &flow{window: window, heard: make(chan struct{}, 1)} }

func (f *flow) acked(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for n < len(f.sent) && f.sent[n].seq <= seq {
		f.forget(f.sent[n])
		n++
	}
	f.sent = f.sent[n:]
	select {
	case f.heard <- struct{}{}:
	default:
	}
}

func (f *flow) forget(s sending) {
	f.bytes -= s.size
	if s.over != nil {
		s.over()
	}
}

// room reports whether size bytes more may be sent: at least one message is always allowed.
func (f *flow) room(size int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sent) == 0 || f.bytes+size <= f.window
}

func (f *flow) add(s sending) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, s)
	f.bytes += s.size
}

// end: the stream sends no more.
func (f *flow) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sent {
		f.forget(s)
	}
	f.sent = nil
}
