package referee

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"mtm"
	"mtm/cert"
	"mtm/proto/mtmpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is one referee, and certificates.
type bench struct {
	t      *testing.T
	certs  string
	dir    string
	addr   string
	server *Server
	ended  chan error
	stop   func()
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, certs: t.TempDir(), dir: t.TempDir()}
	require.NoError(t, cert.InitCA(b.certs, "shop"))
	for _, name := range []string{Name, "node-1", "node-2", "admin"} {
		require.NoError(t, cert.Issue(b.certs, name, "127.0.0.1"))
	}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

func (b *bench) start() {
	addr := b.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	require.NoError(b.t, err)
	b.addr = l.Addr().String()
	tls, err := cert.ServerConfig(cert.In(b.certs, Name))
	require.NoError(b.t, err)
	b.server, err = NewServer(ServerConfig{Cluster: "shop", Dir: b.dir, Listener: l, TLS: tls, Logger: quiet})
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	b.ended = make(chan error, 1)
	go func() { b.ended <- b.server.Run(ctx) }()
	b.stop = func() {
		cancel()
		<-b.ended
		b.stop = func() {}
	}
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// asker is a node that asks.
type asker struct {
	t       *testing.T
	client  *Client
	answers chan mtm.RefereeAnswer
}

func (b *bench) node(id int) *asker { return b.as(cert.NodeName(id), "shop") }

func (b *bench) as(name, cluster string) *asker {
	a := &asker{t: b.t, answers: make(chan mtm.RefereeAnswer, 16)}
	tls, err := cert.ClientConfig(cert.In(b.certs, name), Name)
	require.NoError(b.t, err)
	a.client, err = NewClient(ClientConfig{
		Cluster: cluster, Addr: b.addr, TLS: tls, Logger: quiet, Answer: func(r mtm.RefereeAnswer) { a.answers <- r },
	})
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.client.Run(ctx)
	}()
	b.t.Cleanup(func() { cancel(); <-done })
	return a
}

// ask repeats the question until the answer comes, as the brain does.
func (a *asker) ask(kind mtm.RefereeKind, node mtm.NodeID, gen uint64) mtm.RefereeAnswer {
	deadline := time.After(20 * time.Second)
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		a.client.Ask(mtm.RefereeRequest{Kind: kind, Node: node, Gen: gen, Configured: mtm.Nodes(1, 2)})
		for waits := true; waits; {
			select {
			case r := <-a.answers:
				if r.Kind == kind && r.Gen == gen { // else it answers a question that was repeated before
					return r
				}
			case <-again.C:
				waits = false
			case <-deadline:
				require.Fail(a.t, "no answer")
			}
		}
	}
}

func (b *bench) arm() (one, two *asker) {
	one, two = b.node(1), b.node(2)
	require.False(b.t, one.ask(mtm.RefereeClear, 1, 1).OK)
	require.True(b.t, two.ask(mtm.RefereeClear, 2, 1).OK)
	return one, two
}

func TestOneNodeIsGrantedAndTheOtherIsNot(t *testing.T) {
	b := newBench(t)
	require.Equal(t, "new", b.server.Status().Status)
	one, two := b.arm()
	require.True(t, one.ask(mtm.RefereeGrant, 1, 5).OK)
	r := two.ask(mtm.RefereeProbe, 2, 6)
	require.False(t, r.OK)
	require.Equal(t, mtm.NodeID(1), r.Holder)
	require.Equal(t, uint64(5), r.HolderGen)
	require.Contains(t, r.Why, "grant was already issued to node 1 in generation 5")
	require.Equal(t, Status{Cluster: "shop", Status: "granted", Nodes: []int{1, 2}, Holder: 1, HolderGen: 5, Cleared: 1}, b.server.Status())
	require.True(t, two.ask(mtm.RefereeClear, 2, 7).OK)
	require.Equal(t, "idle", b.server.Status().Status)
}

func TestAGrantSurvivesARestart(t *testing.T) {
	b := newBench(t)
	one, two := b.arm()
	require.True(t, one.ask(mtm.RefereeGrant, 1, 5).OK)
	b.stop()
	b.start()
	require.Equal(t, 1, b.server.Status().Holder)
	require.False(t, two.ask(mtm.RefereeGrant, 2, 9).OK)
	require.True(t, one.ask(mtm.RefereeGrant, 1, 10).OK)
}

func TestNobodySpeaksForAnother(t *testing.T) {
	b := newBench(t)
	_, two := b.arm()
	for _, who := range []*asker{two, b.as("admin", "shop")} {
		conn, err := who.client.cfg.dial()
		require.NoError(t, err)
		_, err = mtmpb.NewRefereeClient(conn).Ask(t.Context(), &mtmpb.RefereeRequest{Version: 1, Kind: 1, Node: 1, Gen: 5, Configured: 6})
		require.ErrorContains(t, err, "does not speak for node 1")
		require.NoError(t, conn.Close())
	}
	require.Zero(t, b.server.Status().Holder)
}

func TestAnotherClusterIsRefused(t *testing.T) {
	b := newBench(t)
	b.stop()
	tls, err := cert.ServerConfig(cert.In(b.certs, Name))
	require.NoError(t, err)
	l, err := net.Listen("tcp", b.addr)
	require.NoError(t, err)
	defer l.Close()
	// The file is of cluster "shop" once something was stored.
	b.dir = t.TempDir()
	st, _, err := openStore(b.dir, "shop")
	require.NoError(t, err)
	require.NoError(t, st.save(mtm.RefereeState{Pair: mtm.Nodes(1, 2), Floor: 1}))
	require.NoError(t, st.close())
	_, err = NewServer(ServerConfig{Cluster: "other", Dir: b.dir, Listener: l, TLS: tls, Logger: quiet})
	require.ErrorContains(t, err, `belongs to cluster "shop"`)
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	b := newBench(t)
	one, _ := b.arm()
	conn, err := one.client.cfg.dial()
	require.NoError(t, err)
	defer conn.Close()
	for _, r := range []*mtmpb.RefereeRequest{
		{}, {Version: 99, Node: 1, Configured: 6}, {Version: 1, Node: 1, Configured: 1 << 40}, {Version: 1, Node: 1, Configured: 1},
	} {
		_, err := mtmpb.NewRefereeClient(conn).Ask(t.Context(), r)
		require.Error(t, err, "%v", r)
	}
	a, err := mtmpb.NewRefereeClient(conn).Ask(t.Context(), &mtmpb.RefereeRequest{Version: 1, Kind: 77, Node: 1, Gen: 5, Configured: 6})
	require.NoError(t, err)
	require.False(t, a.GetOk(), "an unknown kind")
	a, err = mtmpb.NewRefereeClient(conn).Ask(t.Context(), &mtmpb.RefereeRequest{Version: 1, Kind: 1, Node: 1, Gen: 5, Configured: 14})
	require.NoError(t, err)
	require.Contains(t, a.GetWhy(), "a referee is for two nodes")
}

func TestGarbageOnThePort(t *testing.T) {
	b := newBench(t)
	for range 3 * maxConns {
		c, err := net.Dial("tcp", b.addr)
		require.NoError(t, err)
		junk := make([]byte, 4096)
		_, _ = rand.Read(junk)
		_, _ = c.Write(junk)
		c.Close()
	}
	one, _ := b.arm()
	require.True(t, one.ask(mtm.RefereeGrant, 1, 5).OK)
}

// A disk that fails ends the referee: what it granted may or may not be there.
func TestADiskThatFailsEndsIt(t *testing.T) {
	b := newBench(t)
	one, _ := b.arm()
	require.NoError(t, b.server.store.db.Close())
	conn, err := one.client.cfg.dial()
	require.NoError(t, err)
	defer conn.Close()
	_, err = mtmpb.NewRefereeClient(conn).Ask(t.Context(), &mtmpb.RefereeRequest{Version: 1, Kind: 1, Node: 1, Gen: 5, Configured: 6})
	require.Error(t, err)
	ended := <-b.ended
	require.ErrorContains(t, ended, "database not open")
	require.False(t, errors.Is(ended, context.Canceled))
	b.ended <- ended
}

func TestCheckTellsWhetherTheRefereeAnswersThisNode(t *testing.T) {
	b := newBench(t)
	one := b.node(1)
	require.NoError(t, Check(t.Context(), one.client.cfg, 1))
	require.ErrorContains(t, Check(t.Context(), one.client.cfg, 2), "does not speak for node 2")
	b.stop()
	require.Error(t, Check(t.Context(), one.client.cfg, 1))
}

func TestANodeThatCouldNotServeAsksForNoGrant(t *testing.T) {
	b := newBench(t)
	one, _ := b.arm()
	one.client.Pause(true)
	one.client.Ask(mtm.RefereeRequest{Kind: mtm.RefereeGrant, Node: 1, Gen: 5, Configured: mtm.Nodes(1, 2)})
	require.True(t, one.ask(mtm.RefereeClear, 1, 1).OK, "what is asked after it is answered")
	require.Zero(t, b.server.Status().Holder)
	one.client.Pause(false)
	require.True(t, one.ask(mtm.RefereeGrant, 1, 5).OK)
}

func TestTheOperatorSeesTheRow(t *testing.T) {
	b := newBench(t)
	b.arm()
	admin := b.as("admin", "shop")
	conn, err := admin.client.cfg.dial()
	require.NoError(t, err)
	defer conn.Close()
	r, err := mtmpb.NewAdminClient(conn).Call(t.Context(), &mtmpb.AdminRequest{Method: "status"})
	require.NoError(t, err)
	require.JSONEq(t, `{"cluster":"shop","version":"","status":"idle","nodes":[1,2],"holder":0,"holder_gen":0,"cleared_gen":1}`, string(r.GetJson()))
	_, err = mtmpb.NewAdminClient(conn).Call(t.Context(), &mtmpb.AdminRequest{Method: "init"})
	require.ErrorContains(t, err, "a referee has no method")
}

func TestTheClientTellsWhetherItIsAnswered(t *testing.T) {
	b := newBench(t)
	one, _ := b.arm()
	require.True(t, one.client.Reach().Reachable)
	b.stop()
	require.Eventually(t, func() bool {
		one.client.Ask(mtm.RefereeRequest{Kind: mtm.RefereeProbe, Node: 1, Gen: 5, Configured: mtm.Nodes(1, 2)})
		return !one.client.Reach().Reachable
	}, 10*time.Second, 20*time.Millisecond)
	b.start()
	require.True(t, one.ask(mtm.RefereeProbe, 1, 5).OK)
}
