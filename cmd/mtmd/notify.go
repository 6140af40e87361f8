package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"mtm"
	"mtm/cmd/mtmctl/admin"
	"mtm/coordinator"
	"mtm/sql/notify"
)

// This file carries NOTIFY between the nodes: package notify, over the port that nodes call one another on.

// notifyWait bounds one call between nodes, and how long is waited for what a notification may follow.
const notifyWait = 5 * time.Second

// relay is a notify.Relay with its connections.
type relay struct {
	*notify.Relay
	calls *notifyCalls
}

// Run relays until ctx ends.
func (r relay) Run(ctx context.Context) error {
	defer r.calls.close()
	return r.Relay.Run(ctx)
}

func (d *daemon) newRelay() relay {
	calls := &notifyCalls{d: d, conns: map[mtm.NodeID]*notifyConn{}}
	return relay{calls: calls, Relay: notify.New(notify.Config{
		Node: d.cfg.NodeID, Life: rand.Uint64() | 1, Log: d.log,
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return d.connect(ctx, notify.AppName) },
		Peers: func() mtm.NodeSet {
			if l := d.current.Load(); l != nil {
				return l.roster.others()
			}
			return 0
		},
		Call: calls.call, Have: d.haveNow, Caught: d.caught, Lost: func(n int) { d.metrics.unheard.Add(float64(n)) },
	})}
}

// haveNow is what is committed here, all that PostgreSQL has shown to anybody included.
func (d *daemon) haveNow(ctx context.Context) (at notify.Position, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, notifyWait, errors.New("a commit takes too long"))
	defer cancel()
	if l := d.current.Load(); l != nil {
		if err := l.finishes.pass(ctx); err != nil {
			return at, context.Cause(ctx)
		}
	}
	a, err := d.askHave(ctx)
	return notify.Position{Gen: a.status.Generation.Num, Have: a.have}, err
}

// caughtAsk is a question to the brain that is answered when this node has what another had.
type caughtAsk struct {
	coordinator.Tick // an event; its time means nothing
	at               notify.Position
	caught           chan struct{} // closed then
	gone             <-chan struct{}
}

// caught blocks until this node is online, and has finished all that another had.
func (d *daemon) caught(ctx context.Context, at notify.Position) error {
	ask := caughtAsk{at: at, caught: make(chan struct{}), gone: ctx.Done()}
	d.mail.post(ask)
	select {
	case <-ask.caught:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// notifyCalls keeps a connection to each other node.
type notifyCalls struct {
	d     *daemon
	mu    sync.Mutex
	conns map[mtm.NodeID]*notifyConn
}

type notifyConn struct {
	*admin.Conn
	addr string
}

func (c *notifyCalls) call(ctx context.Context, to mtm.NodeID, m notify.Message) (a notify.Answer, err error) {
	conn, err := c.conn(to)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(ctx, notifyWait)
	defer cancel()
	if err = conn.Call(ctx, "notify", m, &a); errors.Is(err, admin.ErrNotReachable) {
		c.drop(to, conn) // or it would wait ever longer before it tries again
	}
	return a, err
}

func (c *notifyCalls) drop(to mtm.NodeID, conn *notifyConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns[to] == conn {
		delete(c.conns, to)
		_ = conn.Close()
	}
}

// conn is the connection to a node; it mends itself.
func (c *notifyCalls) conn(to mtm.NodeID) (*notifyConn, error) {
	r, err := c.d.rosterOf()
	if err != nil {
		return nil, err
	}
	state := r.now.Load()
	addr := ""
	for _, n := range state.Nodes {
		if n.ID == to && !n.gone() {
			addr = c.d.peerAddress(n)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.conns[to]
	if old != nil && old.addr == addr {
		return old, nil
	}
	conn, err := c.d.dialNode(state, to)
	if err != nil {
		return nil, err
	}
	if old != nil {
		_ = old.Close()
	}
	c.conns[to] = &notifyConn{conn, addr}
	return c.conns[to], nil
}

// close ends all; nobody calls any more.
func (c *notifyCalls) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	clear(c.conns)
}
