package dmq

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	protobuf "google.golang.org/protobuf/proto"

	"mtm"
	"mtm/proto"
	"mtm/proto/mtmpb"
)

// server implements the Peer service.
type server struct {
	mtmpb.UnimplementedPeerServer
	q *Queue
}

// incoming is the stream from a peer while it lasts.
type incoming struct {
	l       *link
	s       *stream
	rpc     grpc.BidiStreamingServer[mtmpb.LinkFrame, mtmpb.LinkAck]
	silence *time.Timer
	acked   uint64 // told to the peer
	bytes   int    // received since then
}

// Link serves one stream. gRPC gives a handler no way to stop its own Recv but to return, so a goroutine reads; Run
// waits for it.
func (s *server) Link(rpc grpc.BidiStreamingServer[mtmpb.LinkFrame, mtmpb.LinkAck]) error {
	ctx, cancel := context.WithCancelCause(rpc.Context())
	defer cancel(nil)
	in := &incoming{rpc: rpc, s: &stream{cancel: cancel, done: ctx.Done()}}
	s.q.readers.Add(1)
	go func() {
		defer s.q.readers.Done()
		cancel(s.serve(in))
	}()
	select {
	case <-ctx.Done():
	case <-s.q.stopping:
		cancel(errStopping)
	}
	return refusal(context.Cause(ctx))
}

// errResting tells a peer that there is no use in waiting for the link to come back at once.
var errResting = status.Error(codes.FailedPrecondition, "dmq: the node cannot work at the moment")

var errStopping = status.Error(codes.Unavailable, "dmq: the node is stopping")

// refusal gives err a gRPC status, so that the peer's log has its text.
func refusal(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Aborted, err.Error())
}

func (s *server) serve(in *incoming) error {
	frame, err := in.rpc.Recv()
	if err != nil {
		return err
	}
	in.l, err = s.q.hello(in.rpc.Context(), frame.GetHello())
	if err != nil {
		return err
	}
	l := in.l
	mine, received, err := l.greeted(in.s, decodeEnd(frame.Hello.End))
	if err != nil {
		return err
	}
	defer l.ended(in.s)
	in.acked = received
	in.silence = time.AfterFunc(l.cfg.RecvTimeout, func() {
		err := fmt.Errorf("nothing heard for %v", l.cfg.RecvTimeout)
		l.downIf(in.s, err)
		in.s.cancel(err)
	})
	defer in.silence.Stop()
	err = in.rpc.Send(&mtmpb.LinkAck{Welcome: &mtmpb.Welcome{
		Version: proto.WireVersion, End: mine.encode(), Received: received,
	}})
	for err == nil {
		if frame, err = in.rpc.Recv(); err == nil {
			in.silence.Reset(l.cfg.RecvTimeout)
			err = in.frame(frame)
		}
	}
	return err
}

// hello checks who begins a stream, and gives the link that it belongs to.
func (q *Queue) hello(ctx context.Context, h *mtmpb.Hello) (*link, error) {
	name, err := q.cfg.caller(ctx)
	if err != nil {
		return nil, err
	}
	if resting, _ := q.rest.now(); resting {
		return nil, errResting
	}
	refuse := func(format string, args ...any) (*link, error) {
		err := status.Errorf(codes.PermissionDenied, "dmq: "+format, args...)
		q.cfg.Logger.Warn("peer refused", keyName, name, keyError, err)
		return nil, err
	}
	from := mtm.NodeID(h.GetFrom())
	switch {
	case h.GetEnd().GetIncarnation() == 0:
		return refuse("the stream does not begin with a greeting")
	case h.Version < proto.MinWireVersion:
		return refuse("the peer speaks version %d, this daemon %d to %d", h.Version, proto.MinWireVersion, proto.WireVersion)
	case name != nodeName(from):
		return refuse("the certificate is of %q, the peer says that it is node %d", name, from)
	case h.Cluster != q.cfg.Cluster:
		return refuse("the peer is of cluster %q, this is %q", h.Cluster, q.cfg.Cluster)
	case mtm.NodeID(h.To) != q.cfg.Node:
		return refuse("the peer looks for node %d, this is node %d", h.To, q.cfg.Node)
	}
	l := q.link(from)
	if l == nil {
		return refuse("node %d is no peer of node %d", from, q.cfg.Node)
	}
	return l, nil
}

// frame takes what one frame brings. The heartbeat comes first: it does not wait for the messages.
func (in *incoming) frame(f *mtmpb.LinkFrame) error {
	ack := &mtmpb.LinkAck{}
	if h := f.Heartbeat; h != nil {
		in.l.heard(in.s)
		ack.Heartbeat = h.Seq
		if err := in.gotUrgent(h.State); err != nil {
			in.l.downIf(in.s, err)
			return err
		}
	}
	received, err := in.messages(f)
	if err != nil {
		in.l.downIf(in.s, err) // the peer would only send it again
		return err
	}
	if ack.Heartbeat > 0 || received-in.acked >= ackEvery || in.bytes >= ackBytes {
		ack.Received, in.acked, in.bytes = received, received, 0
		return in.rpc.Send(ack)
	}
	return nil
}

// messages hands the frame's messages to the inbox, and gives the highest sequence that has arrived.
func (in *incoming) messages(f *mtmpb.LinkFrame) (received uint64, err error) {
	events := make([]event, 0, len(f.Messages))
	for _, p := range f.Messages {
		m, err := in.l.decode(p)
		if err != nil {
			return 0, err
		}
		if payloadOf(m.Body).Spill != "" {
			return 0, fmt.Errorf("a large payload on the wrong stream, in a %T", m.Body)
		}
		size := protobuf.Size(p)
		in.bytes += size
		events = append(events, event{message: m, size: size})
	}
	if len(events) > 0 {
		in.l.awaitUp(in.s)
		in.l.box.waitRoom(in.s.done)
	}
	return in.l.arrived(in.s, f.First, events)
}

// decode checks what a peer sent in its own name.
func (l *link) decode(p *mtmpb.Message) (mtm.Message, error) {
	m, err := proto.DecodeMessage(p)
	if err == nil && (m.From != l.node || m.To != l.cfg.Node) {
		err = fmt.Errorf("a message from node %d to node %d", m.From, m.To)
	}
	return m, err
}

// awaitUp returns when the link is up, or s over. The peer may see the link up, and send, a moment before we do.
func (l *link) awaitUp(s *stream) {
	for {
		up, changed := l.isUp()
		if up {
			return
		}
		select {
		case <-changed:
		case <-s.done:
			return
		}
	}
}

// arrived delivers events, the first of which has sequence first, if s is still the stream from the peer.
func (l *link) arrived(s *stream, first uint64, events []event) (received uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s != l.in {
		return 0, errStale
	}
	if len(events) == 0 {
		return l.inSeq, nil
	}
	if first != l.inSeq+1 || !l.up {
		return 0, fmt.Errorf("message %d arrived after %d", first, l.inSeq)
	}
	l.inSeq += uint64(len(events))
	l.stats.received += uint64(len(events))
	l.box.put(events...)
	return l.inSeq, nil
}

// heard notes a heartbeat, which is about to be acknowledged.
func (l *link) heard(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s == l.in {
		l.lastHeard = time.Now()
	}
}

// heartbeatAcked notes that the peer has the heartbeat that was sent at the given time.
func (l *link) heartbeatAcked(s *stream, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s != l.out {
		return
	}
	l.lastAck = at
	rtt := time.Since(at)
	if l.rtt == 0 {
		l.rtt = rtt
	}
	l.rtt += (rtt - l.rtt) / 8
}
