package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Link is one way to dial: connections of node From that arrive at Listen go on to node To at Upstream.
type Link struct {
	Direction
	Listen   string `json:"listen"`   // host:port
	Upstream string `json:"upstream"` // host:port
}

// Proxy serves links. Make one with New, then Run it.
type Proxy struct {
	links     []Link
	listeners []net.Listener
	control   net.Listener
	book      ruleBook
	stop      chan struct{} // closed when Run is to end

	group errgroup.Group
	mu    sync.Mutex       // of listeners and what follows
	conns map[net.Conn]end // to be closed when Run ends
}

// end is one of the two connections that the proxy joins: with the node that dialled, or with the one that was dialled.
type end struct {
	link    Direction
	dialled bool
}

// New listens at control (host:port, for Client) and at each link.
func New(control string, links []Link) (*Proxy, error) {
	p := &Proxy{
		links: links, stop: make(chan struct{}), conns: map[net.Conn]end{},
		book: ruleBook{rules: map[Direction]Rule{}, changed: make(chan struct{})},
	}
	var err error
	if p.control, err = net.Listen("tcp", control); err != nil {
		return nil, fmt.Errorf("fault proxy, control: %w", err)
	}
	for _, link := range links {
		l, err := net.Listen("tcp", link.Listen)
		if err != nil {
			p.closeListeners()
			return nil, fmt.Errorf("fault proxy, link %v: %w", link.Direction, err)
		}
		p.listeners = append(p.listeners, l)
	}
	return p, nil
}

// Run serves until ctx is over, then closes every connection and returns after all its goroutines did.
func (p *Proxy) Run(ctx context.Context) error {
	for i, l := range p.listeners {
		p.group.Go(func() error { return p.serveLink(l, p.links[i]) })
	}
	p.group.Go(func() error { return p.serveControl() })
	<-ctx.Done()
	close(p.stop)
	p.closeListeners()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	return p.group.Wait()
}

// add serves one more link, from now on.
func (p *Proxy) add(link Link) error {
	l, err := net.Listen("tcp", link.Listen)
	if err != nil {
		return fmt.Errorf("fault proxy, link %v: %w", link.Direction, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.stop:
		return errors.Join(net.ErrClosed, l.Close())
	default:
	}
	p.listeners = append(p.listeners, l)
	p.group.Go(func() error { return p.serveLink(l, link) })
	return nil
}

func (p *Proxy) closeListeners() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.control.Close()
	for _, l := range p.listeners {
		l.Close()
	}
}

// serveLink accepts until the listener is closed.
func (p *Proxy) serveLink(l net.Listener, link Link) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return fmt.Errorf("fault proxy, link %v: %w", link.Direction, err)
		}
		if p.track(c, end{link.Direction, false}) {
			p.group.Go(func() error { p.serve(c.(*net.TCPConn), link); return nil })
		}
	}
}

// track remembers c to close it at the end; false means that the end has come.
func (p *Proxy) track(c net.Conn, of end) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.stop:
		c.Close()
		return false
	default:
		p.conns[c] = of
		return true
	}
}

func (p *Proxy) untrack(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

// reset breaks the connections of the links that are named; new ones are let through. late: only for the node that dialled. The other one still
// gets what is on its way, when it is due, and sees the end behind it.
func (p *Proxy) reset(links []Direction, late bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, of := range p.conns {
		if slices.Contains(links, of.link) && !(late && of.dialled) {
			c.(*net.TCPConn).SetLinger(0) //nolint:errcheck // it may be closed already
			c.Close()
		}
	}
}

// serve carries one connection.
func (p *Proxy) serve(client *net.TCPConn, link Link) {
	defer p.untrack(client)
	if !p.waitHandshake(client, link.Direction) {
		return
	}
	up, err := net.DialTimeout("tcp", link.Upstream, 10*time.Second)
	if err != nil {
		client.SetLinger(0) //nolint:errcheck // a reset is as near to "connection refused" as we can come
		return
	}
	if !p.track(up, end{link.Direction, true}) {
		return
	}
	defer p.untrack(up)
	server := up.(*net.TCPConn)
	var g sync.WaitGroup
	var there, back bool
	g.Go(func() { there = p.carry(client, server, link.Direction) })
	g.Go(func() { back = p.carry(server, client, link.Reverse()) })
	g.Wait()
	if !there || !back { // something was not delivered: a reset says so
		client.SetLinger(0) //nolint:errcheck
		server.SetLinger(0) //nolint:errcheck
	}
}

// waitHandshake waits for as long as TCP's handshake would take; false means that the client left meanwhile.
func (p *Proxy) waitHandshake(client *net.TCPConn, d Direction) bool {
	there, _ := p.book.get(d)
	back, _ := p.book.get(d.Reverse())
	if !p.sleepUntil(time.Now().Add(there.lateness(1) + back.lateness(1))) {
		return false
	}
	if !there.Blocked && !back.Blocked {
		return true
	}
	gone := make(chan struct{})
	done := make(chan struct{})
	var g sync.WaitGroup
	g.Go(func() { p.watchClient(client, gone, done) })
	open := p.book.waitOpen(gone, d, d.Reverse())
	close(done)
	g.Wait()
	return open
}

// watchClient closes gone when the client has closed its side, or Run is to end; it returns then, or at done.
func (p *Proxy) watchClient(client *net.TCPConn, gone chan<- struct{}, done <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !closedByPeer(client) {
		select {
		case <-tick.C:
		case <-done:
			return
		case <-p.stop:
			close(gone)
			return
		}
	}
	close(gone)
}

// sleepUntil waits; false means that Run is to end.
func (p *Proxy) sleepUntil(due time.Time) bool {
	left := time.Until(due)
	if left <= 0 {
		return true
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.stop:
		return false
	}
}
