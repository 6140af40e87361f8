package dmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"mtm/proto"
	"mtm/proto/mtmpb"
)

// outgoing is the stream to a peer while it lasts.
type outgoing struct {
	l       *link
	s       *stream
	rpc     grpc.BidiStreamingClient[mtmpb.LinkFrame, mtmpb.LinkAck]
	silence *time.Timer

	mu    sync.Mutex
	beats []beat // sent and not acknowledged, ascending
}

type beat struct {
	seq uint64
	at  time.Time
}

// connect dials the peer and serves the stream until it ends. established: both sides had agreed on it.
func (l *link) connect(ctx context.Context) (established bool, err error) {
	cc, closeConn, err := l.dial(ctx)
	if err != nil {
		return false, err
	}
	defer closeConn()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o := &outgoing{l: l, s: &stream{cancel: cancel, done: ctx.Done()}}
	o.silence = time.AfterFunc(l.cfg.RecvTimeout, func() {
		err := fmt.Errorf("no answer for %v", l.cfg.RecvTimeout)
		l.downIf(o.s, err)
		cancel(err)
	})
	defer o.silence.Stop()
	if o.rpc, err = mtmpb.NewPeerClient(cc).Link(ctx); err != nil {
		return false, cause(ctx, err)
	}
	if err := o.greet(); err != nil {
		return false, cause(ctx, err)
	}
	defer l.ended(o.s)
	g := errgroup.Group{}
	g.Go(func() error { err := o.write(ctx); cancel(err); return err })
	g.Go(func() error { err := o.read(); cancel(err); return err })
	g.Wait()
	return true, context.Cause(ctx)
}

// cause prefers what ended ctx to what gRPC made of it.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// greet says Hello and takes the Welcome.
func (o *outgoing) greet() error {
	l := o.l
	mine, first := l.hello()
	err := o.rpc.Send(&mtmpb.LinkFrame{Hello: &mtmpb.Hello{
		Version: proto.WireVersion, Cluster: l.cfg.Cluster, From: uint32(l.cfg.Node), To: uint32(l.node),
		End: mine.encode(), First: first,
	}})
	if err != nil && !errors.Is(err, io.EOF) { // EOF: Recv knows why
		return err
	}
	answer, err := o.rpc.Recv()
	if err != nil {
		return err
	}
	w := answer.GetWelcome()
	if w == nil || w.Version < proto.MinWireVersion || w.Version > proto.WireVersion {
		return fmt.Errorf("peer speaks version %d, this daemon %d to %d", w.GetVersion(), proto.MinWireVersion, proto.WireVersion)
	}
	o.silence.Reset(l.cfg.RecvTimeout)
	return l.welcomed(o.s, mine, decodeEnd(w.End), w.Received)
}

// write sends what is queued as soon as it is, all of it in one frame, and heartbeats.
func (o *outgoing) write(ctx context.Context) error {
	tick := time.NewTicker(o.l.cfg.HeartbeatInterval)
	defer tick.Stop()
	var frame mtmpb.LinkFrame
	var buf []*mtmpb.Message
	due, seq := true, uint64(0)
	var last time.Time // when the last one was sent
	for {
		clear(buf)
		buf, frame.First = o.l.take(o.s, buf[:0])
		frame.Messages, frame.Heartbeat = buf, nil
		state := o.l.takeUrgent(o.s)
		// What is urgent comes about as often as heartbeats do: it takes one along, and the next tick needs none.
		if lately := time.Since(last) < o.l.cfg.HeartbeatInterval/2; due && !lately || state != nil && !lately {
			seq, last = seq+1, time.Now()
			frame.Heartbeat = o.heartbeat(seq)
		}
		due = false
		if state != nil {
			if frame.Heartbeat == nil {
				frame.Heartbeat = &mtmpb.Heartbeat{} // without a number: it wants no answer
			}
			frame.Heartbeat.State = state
		}
		if len(buf) > 0 || frame.Heartbeat != nil {
			if err := o.rpc.Send(&frame); err != nil {
				return err
			}
			select {
			case <-tick.C:
				due = true
			default:
			}
			continue
		}
		select {
		case <-o.l.wake:
		case <-tick.C:
			due = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// heartbeat notes the time before it is sent: a lease must not count from later.
func (o *outgoing) heartbeat(seq uint64) *mtmpb.Heartbeat {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.beats = append(o.beats, beat{seq, time.Now()})
	return &mtmpb.Heartbeat{Seq: seq}
}

// read takes the acknowledgements.
func (o *outgoing) read() error {
	for {
		a, err := o.rpc.Recv()
		if err != nil {
			return err
		}
		o.silence.Reset(o.l.cfg.RecvTimeout)
		if a.Received > 0 {
			if err := o.l.acked(o.s, a.Received); err != nil {
				return err
			}
		}
		if a.Heartbeat > 0 {
			o.beaten(a.Heartbeat)
		}
	}
}

// beaten notes that the peer has heartbeat seq.
func (o *outgoing) beaten(seq uint64) {
	o.mu.Lock()
	var at time.Time
	for len(o.beats) > 0 && o.beats[0].seq <= seq {
		at = o.beats[0].at
		o.beats = o.beats[1:]
	}
	o.mu.Unlock()
	if !at.IsZero() {
		o.l.heartbeatAcked(o.s, at)
	}
}
