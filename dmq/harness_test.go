package dmq

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"mtm"
	"mtm/cert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second // the machine may be busy

// pki makes certificates for a cluster named "test".
func pki(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, cert.InitCA(dir, "test"))
	for _, n := range names {
		require.NoError(t, cert.Issue(dir, n))
	}
	return dir
}

func tlsOf(t testing.TB, dir, name string) (server, client *tls.Config) {
	t.Helper()
	server, err := cert.ServerConfig(cert.In(dir, name))
	require.NoError(t, err)
	client, err = cert.ClientConfig(cert.In(dir, name), "")
	require.NoError(t, err)
	return server, client
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	return l
}

// seen is what a sink was told.
type seen struct {
	up, down    bool
	incarnation uint64
	message     mtm.Message
}

// sink keeps what it was told, and lets tests wait for it.
type sink struct {
	mu      sync.Mutex
	all     []seen
	counts  counts
	changed chan struct{}
	block   chan struct{} // not nil: Received waits until it is closed
}

type counts struct{ ups, downs, messages int }

func newSink() *sink { return &sink{changed: make(chan struct{})} }

func (s *sink) add(e seen) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, e)
	switch {
	case e.up:
		s.counts.ups++
	case e.down:
		s.counts.downs++
	default:
		s.counts.messages++
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *sink) Received(m mtm.Message) {
	s.mu.Lock()
	block := s.block
	s.mu.Unlock()
	if block != nil {
		<-block
	}
	s.add(seen{message: m})
}
func (s *sink) Urgent(m mtm.Message) { s.add(seen{message: m}) }
func (s *sink) PeerUp(_ mtm.NodeID, incarnation uint64) {
	s.add(seen{up: true, incarnation: incarnation})
}
func (s *sink) PeerDown(mtm.NodeID) { s.add(seen{down: true}) }

// wait returns when enough says so of everything told so far.
func (s *sink) wait(t testing.TB, what string, enough func(all []seen) bool) []seen {
	t.Helper()
	return s.waitCounts(t, what, func(counts) bool { return enough(s.all) })
}

// waitCounts does so by the counts; enough is called with s locked.
func (s *sink) waitCounts(t testing.TB, what string, enough func(c counts) bool) []seen {
	t.Helper()
	limit := time.After(patience)
	for {
		s.mu.Lock()
		ok, all, changed := enough(s.counts), s.all[:len(s.all):len(s.all)], s.changed
		s.mu.Unlock()
		if ok {
			return all
		}
		select {
		case <-changed:
		case <-limit:
			require.FailNow(t, "waited in vain", "for %s; told: %d things, the last %+v", what, len(all), all[max(0, len(all)-3):])
		}
	}
}

func count(all []seen, is func(seen) bool) (n int) {
	for _, e := range all {
		if is(e) {
			n++
		}
	}
	return n
}

func (s *sink) waitUp(t testing.TB, n int) {
	t.Helper()
	s.waitCounts(t, "PeerUp", func(c counts) bool { return c.ups >= n })
}

func (s *sink) waitDown(t testing.TB, n int) {
	t.Helper()
	s.waitCounts(t, "PeerDown", func(c counts) bool { return c.downs >= n })
}

func (s *sink) waitMessages(t testing.TB, n int) []seen {
	t.Helper()
	return s.waitCounts(t, fmt.Sprint(n, " messages"), func(c counts) bool { return c.messages >= n })
}

// node is a running queue.
type node struct {
	*Queue
	sink *sink
	dir  string // of spill files
	stop func()
}

func testLogger(id mtm.NodeID) *slog.Logger {
	if os.Getenv("DMQ_LOG") == "" {
		return slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", int(id))
}

// start runs node id; change may alter the configuration.
func start(t testing.TB, pki string, id mtm.NodeID, l net.Listener, peers map[mtm.NodeID]string, change func(*Config)) *node {
	t.Helper()
	server, client := tlsOf(t, pki, nodeName(id))
	n := &node{sink: newSink(), dir: t.TempDir()}
	cfg := Config{Node: id, Cluster: "test", Listener: l, Peers: peers, ServerTLS: server, ClientTLS: client,
		Sink: n.sink, Spills: spills{n.dir}, Logger: testLogger(id)}
	if change != nil {
		change(&cfg)
	}
	q, err := New(cfg)
	require.NoError(t, err)
	n.Queue = q
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	t.Cleanup(n.stop)
	return n
}

// pair starts nodes 1 and 2, which reach each other through a proxy each.
func pair(t testing.TB, change func(*Config)) (a, b *node, toA, toB *proxy) {
	t.Helper()
	dir := pki(t, "node-1", "node-2", "admin")
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	toA, toB = newProxy(t, la.Addr().String()), newProxy(t, lb.Addr().String())
	a = start(t, dir, 1, la, map[mtm.NodeID]string{2: toB.addr()}, change)
	b = start(t, dir, 2, lb, map[mtm.NodeID]string{1: toA.addr()}, change)
	a.sink.waitUp(t, 1)
	b.sink.waitUp(t, 1)
	return a, b, toA, toB
}

func msg(to mtm.NodeID, n uint64) mtm.Message { return mtm.Message{To: to, Body: mtm.Forget{Upto: n}} }

// numbers are the Forget messages' numbers in order.
func numbers(all []seen) (out []uint64) {
	for _, e := range all {
		if f, ok := e.message.Body.(mtm.Forget); ok {
			out = append(out, f.Upto)
		}
	}
	return out
}

// proxy forwards TCP, and breaks it when told to.
type proxy struct {
	l      net.Listener
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	frozen chan struct{} // not nil: nothing passes until it is closed
}

func newProxy(t testing.TB, target string) *proxy {
	p := &proxy{l: listen(t, "127.0.0.1:0"), target: target, conns: map[net.Conn]bool{}}
	p.wg.Add(1)
	go p.accept()
	t.Cleanup(p.close)
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	defer p.wg.Done()
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.(*net.TCPConn).SetLinger(0)
			in.Close()
			continue
		}
		p.mu.Lock()
		p.conns[in], p.conns[out] = true, true
		p.mu.Unlock()
		p.wg.Add(2)
		go p.copy(in, out)
		go p.copy(out, in)
	}
}

func (p *proxy) copy(to, from net.Conn) {
	defer p.wg.Done()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		if frozen != nil {
			<-frozen
		}
		if err == nil {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			to.Close()
			from.Close()
			p.mu.Lock()
			delete(p.conns, to)
			delete(p.conns, from)
			p.mu.Unlock()
			return
		}
	}
}

// cut breaks every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// freeze makes the network silent, until thaw.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil {
		p.frozen = make(chan struct{})
	}
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

func (p *proxy) close() {
	p.l.Close()
	p.thaw()
	p.cut()
	p.wg.Wait()
}

// spills is a directory of spill files.
type spills struct{ dir string }

func (s spills) Open(name string) (io.ReadSeekCloser, error) {
	f, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (s spills) Create() (SpillWriter, error) {
	f, err := os.CreateTemp(s.dir, "tmp-*")
	return &spill{File: f, dir: s.dir}, err
}

type spill struct {
	*os.File
	dir  string
	done bool
}

func (w *spill) Name() string { return filepath.Base(w.File.Name())[4:] }

func (w *spill) Commit() error {
	w.done = true
	w.Close()
	return os.Rename(w.File.Name(), filepath.Join(w.dir, w.Name()))
}

func (w *spill) Abort() error {
	if w.done {
		return nil
	}
	w.Close()
	return os.Remove(w.File.Name())
}
