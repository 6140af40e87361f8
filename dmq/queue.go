package dmq

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
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
	links    map[mtm.NodeID]*link
	stopping chan struct{} // closed when Run ends
	rest     *rest
	readers  sync.WaitGroup // goroutines of the handlers
}

// New makes a queue; nothing happens before Run.
func New(cfg Config) (*Queue, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.fill()
	q := &Queue{cfg: cfg, links: map[mtm.NodeID]*link{}, stopping: make(chan struct{}), rest: newRest()}
	for id, addr := range cfg.Peers {
		q.links[id] = newLink(&q.cfg, id, addr, q.rest)
	}
	return q, nil
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
		for _, l := range q.links {
			l.close()
		}
		return nil
	})
	for _, l := range q.links {
		g.Go(func() error { return l.run(ctx) })
		g.Go(func() error { l.box.deliver(ctx, l.node, q.cfg.Sink); return nil })
		for range bulkTransfers {
			g.Go(func() error { return l.runBulk(ctx) })
		}
	}
	err := g.Wait()
	q.readers.Wait()
	return err
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
	for _, l := range q.links {
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
	l := q.links[m.To]
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

// LastAck is when this node sent the newest heartbeat that the present process of node has acknowledged; zero if there
// is none. The time has a monotonic reading: compare it with time.Since.
func (q *Queue) LastAck(node mtm.NodeID) time.Time {
	l := q.links[node]
	if l == nil {
		return time.Time{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastAck
}

// LastHeard is when this node last took, and acknowledged, a heartbeat of node; zero if never.
func (q *Queue) LastHeard(node mtm.NodeID) time.Time {
	l := q.links[node]
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
	for id := mtm.NodeID(1); id <= mtm.MaxNodes; id++ {
		if l := q.links[id]; l != nil {
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
