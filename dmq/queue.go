package dmq

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	protobuf "google.golang.org/protobuf/proto"

	"mtm"
	"mtm/proto"
	"mtm/proto/mtmpb"
)

// Queue is this node's end of all its links.
type Queue struct {
	cfg      Config
	links    [mtm.MaxNodes + 1]atomic.Pointer[link] // by node
	added    chan *link                             // to be started
	stopping chan struct{}                          // closed when Run ends
	rest     *rest
	readers  sync.WaitGroup // goroutines of the handlers
}

// New makes a queue; nothing happens before Run.
func New(cfg Config) (*Queue, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.fill()
	q := &Queue{cfg: cfg, added: make(chan *link, mtm.MaxNodes), stopping: make(chan struct{}), rest: newRest()}
	for id, addr := range cfg.Peers {
		if err := q.AddPeer(id, addr); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// AddPeer makes a node a peer, from now on: it is dialled at addr, and let in. Of one that is a peer already it changes the
// address; what is queued for it is lost if that is another one. It may be called at any time.
func (q *Queue) AddPeer(id mtm.NodeID, addr string) error {
	if err := q.cfg.checkPeer(id, addr); err != nil {
		return err
	}
	l := newLink(&q.cfg, id, addr, q.rest)
	if q.links[id].CompareAndSwap(nil, l) {
		q.cfg.know(id)
		q.added <- l // there is room for every node
		return nil
	}
	q.cfg.know(id)
	q.links[id].Load().move(addr)
	return nil
}

// RemovePeer makes a node a peer no more: it is neither dialled nor let in.
func (q *Queue) RemovePeer(id mtm.NodeID) {
	if l := q.link(id); l != nil {
		q.cfg.unknow(id)
		l.move("")
	}
}

// link is the link to a node; nil: it is no peer.
func (q *Queue) link(id mtm.NodeID) *link {
	if !id.Valid() {
		return nil
	}
	return q.links[id].Load()
}

// all are the links there are, in the order of their nodes.
func (q *Queue) all() (all []*link) {
	for i := range q.links {
		if l := q.links[i].Load(); l != nil {
			all = append(all, l)
		}
	}
	return all
}

// Run serves until ctx is done, then closes everything and gives nil; it may be called once. The sink is not called any
// more when it has returned; peers that were up are not reported down.
func (q *Queue) Run(ctx context.Context) error {
	server := q.newServer()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(q.cfg.Listener); err != nil && ctx.Err() == nil {
			return fmt.Errorf("dmq: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		close(q.stopping)
		server.Stop()
		for _, l := range q.all() {
			l.close()
		}
		return nil
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case l := <-q.added:
				q.start(ctx, g, l)
			}
		}
	})
	err := g.Wait()
	q.readers.Wait()
	return err
}

// start runs a link.
func (q *Queue) start(ctx context.Context, g *errgroup.Group, l *link) {
	g.Go(func() error { return l.run(ctx) })
	g.Go(func() error { l.box.deliver(ctx, l.node, q.cfg.Sink); return nil })
	for range bulkTransfers {
		g.Go(func() error { return l.runBulk(ctx) })
	}
}

func (q *Queue) newServer() *grpc.Server {
	s := grpc.NewServer(
		grpc.Creds(loggedTLS{credentials.NewTLS(q.cfg.ServerTLS), q.cfg.Logger}),
		grpc.StreamInterceptor(q.cfg.admitStream), grpc.UnaryInterceptor(q.cfg.admitUnary),
		grpc.MaxRecvMsgSize(maxGRPC), grpc.MaxSendMsgSize(maxGRPC),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(2*window),
		grpc.WriteBufferSize(64<<10), grpc.ReadBufferSize(64<<10),
		grpc.MaxConcurrentStreams(64), grpc.MaxHeaderListSize(16<<10), grpc.ConnectionTimeout(2*connectTimeout),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 10 * time.Second, Time: 10 * time.Second, Timeout: 5 * time.Second}),
	)
	mtmpb.RegisterPeerServer(s, &server{q: q})
	if q.cfg.Register != nil {
		q.cfg.Register(s)
	}
	return s
}

// Suspend takes all links down and keeps them so until Resume: a node that cannot work should not look as if it could.
func (q *Queue) Suspend(why error) {
	q.rest.set(true)
	for _, l := range q.all() {
		l.down(why)
	}
}

// Resume ends Suspend.
func (q *Queue) Resume() { q.rest.set(false) }

// Send queues m for m.To and never waits. m.From is this node. A message to a node that is down, or that is no peer, is
// dropped; so is one outside the bounds of package proto, which is logged. m's payload and dependencies may not be
// changed afterwards.
func (q *Queue) Send(m mtm.Message) {
	m.From = q.cfg.Node
	l := q.link(m.To)
	if l == nil {
		q.cfg.Logger.Error("message to a node that is no peer", keyPeer, int(m.To), keyBody, fmt.Sprintf("%T", m.Body))
		return
	}
	if up, _ := l.isUp(); !up {
		return
	}
	p := proto.EncodeMessage(m)
	if _, err := proto.DecodeMessage(p); err != nil {
		q.cfg.Logger.Error("message that cannot be sent", keyPeer, int(m.To), keyError, err)
		return
	}
	if urgent(m.Body) {
		l.sendUrgent(p)
		return
	}
	l.send(p, protobuf.Size(p))
}

// Incarnation is what peers are told of this process.
func (q *Queue) Incarnation() uint64 { return q.cfg.Incarnation }

// Large reports whether a large payload is on its way to node: it arrives, or the link is reported down.
func (q *Queue) Large(node mtm.NodeID) bool {
	l := q.link(node)
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.large.len() > 0
}

// LastAck is when this node sent the newest heartbeat that the present process of node has acknowledged; zero if there
// is none. The time has a monotonic reading: compare it with time.Since.
func (q *Queue) LastAck(node mtm.NodeID) time.Time {
	l := q.link(node)
	if l == nil {
		return time.Time{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastAck
}

// LastHeard is when this node last took, and acknowledged, a heartbeat of node; zero if never.
func (q *Queue) LastHeard(node mtm.NodeID) time.Time {
	l := q.link(node)
	if l == nil {
		return time.Time{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastHeard
}

// PeerStats is how one link is.
type PeerStats struct {
	Node        mtm.NodeID
	Connected   bool
	Incarnation uint64        // of the peer as last heard; 0: never
	RTT         time.Duration // moving average of heartbeats; 0: none yet
	Queued      int           // messages not acknowledged
	QueuedBytes int
	Sent        uint64 // messages accepted by Send since the start
	Received    uint64 // messages delivered, or about to be
	Connects    uint64 // streams established to the peer
	Downs       uint64 // times it was reported down
	LastError   string // why it is down, or was the last time; empty: up, or never tried
}

// Stats tells of each peer, in the order of their ids.
func (q *Queue) Stats() []PeerStats {
	var all []PeerStats
	for _, l := range q.all() {
		if l.address() != "" {
			all = append(all, l.snapshot())
		}
	}
	return all
}

func (l *link) snapshot() PeerStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return PeerStats{
		Node: l.node, Connected: l.up, Incarnation: l.theirs.incarnation, RTT: l.rtt,
		Queued: len(l.queue) + l.large.len(), QueuedBytes: l.bytes,
		Sent: l.stats.sent, Received: l.stats.received, Connects: l.stats.connects, Downs: l.stats.downs,
		LastError: l.lastErr,
	}
}

// LogValue implements slog.LogValuer.
func (p PeerStats) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("node", int(p.Node)), slog.Bool("connected", p.Connected),
		slog.Duration("rtt", p.RTT), slog.Int("queued", p.Queued), slog.Uint64("sent", p.Sent),
		slog.Uint64("received", p.Received))
}
