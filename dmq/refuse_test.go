package dmq

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"mtm"
	"mtm/cert"
	"mtm/proto"
	"mtm/proto/mtmpb"
)

// admin is an Admin service that only answers.
type admin struct {
	mtmpb.UnimplementedAdminServer
}

func (admin) Call(_ context.Context, r *mtmpb.AdminRequest) (*mtmpb.AdminResponse, error) {
	return &mtmpb.AdminResponse{Json: r.Json, Done: true}, nil
}

// alone starts node 1, whose peer 2 the test plays. It gives a client with the certificate of name, of the PKI in dir.
func alone(t *testing.T, change ...func(*Config)) (dir string, n *node, as func(dir, name string) *grpc.ClientConn) {
	dir = pki(t, "node-1", "node-2", "node-3", "admin")
	l := listen(t, "127.0.0.1:0")
	nobody := listen(t, "127.0.0.1:0")
	require.NoError(t, nobody.Close())
	n = start(t, dir, 1, l, map[mtm.NodeID]string{2: nobody.Addr().String()}, func(c *Config) {
		c.Register = func(s *grpc.Server) { mtmpb.RegisterAdminServer(s, admin{}) }
		for _, f := range change {
			f(c)
		}
	})
	return dir, n, func(dir, name string) *grpc.ClientConn {
		conf, err := cert.ClientConfig(cert.In(dir, name), "node-1")
		require.NoError(t, err)
		cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(conf)))
		require.NoError(t, err)
		t.Cleanup(func() { cc.Close() })
		return cc
	}
}

func hello() *mtmpb.Hello {
	return &mtmpb.Hello{Version: proto.WireVersion, Cluster: "test", From: 2, To: 1,
		End: &mtmpb.End{Incarnation: 7, Session: 1}}
}

// greet opens a stream with h, and gives it if node 1 takes it.
func greet(t *testing.T, cc *grpc.ClientConn, h *mtmpb.Hello) (grpc.BidiStreamingClient[mtmpb.LinkFrame, mtmpb.LinkAck], error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	s, err := mtmpb.NewPeerClient(cc).Link(ctx)
	require.NoError(t, err)
	if err := s.Send(&mtmpb.LinkFrame{Hello: h}); !errors.Is(err, io.EOF) { // EOF: refused already, Recv says why
		require.NoError(t, err)
	}
	a, err := s.Recv()
	if err == nil {
		require.NotNil(t, a.Welcome)
	}
	return s, err
}

func TestWhoIsNotThePeerIsRefused(t *testing.T) {
	dir, _, as := alone(t)
	refused := func(name, why string, change func(h *mtmpb.Hello)) {
		t.Helper()
		h := hello()
		change(h)
		_, err := greet(t, as(dir, name), h)
		require.Equal(t, codes.PermissionDenied, status.Code(err), err)
		require.ErrorContains(t, err, why)
	}
	refused("node-2", "says that it is node 3", func(h *mtmpb.Hello) { h.From = 3 })
	refused("node-2", `of cluster "other"`, func(h *mtmpb.Hello) { h.Cluster = "other" })
	refused("node-2", "looks for node 3", func(h *mtmpb.Hello) { h.To = 3 })
	refused("node-2", "version 0", func(h *mtmpb.Hello) { h.Version = 0 })
	refused("node-2", "greeting", func(h *mtmpb.Hello) { h.End = nil })
	refused("node-1", "no peer", func(h *mtmpb.Hello) { h.From = 1 })
	refused("node-3", "does not allow", func(h *mtmpb.Hello) { h.From = 3 })
	refused("admin", "does not allow", func(*mtmpb.Hello) {})

	_, err := greet(t, as(dir, "node-2"), hello())
	require.NoError(t, err, "and who is the peer is not")
}

func TestAnotherAuthorityIsRefused(t *testing.T) {
	_, _, as := alone(t)
	other := pki(t, "node-2")
	s, err := mtmpb.NewPeerClient(as(other, "node-2")).Link(context.Background())
	if err == nil {
		_, err = s.Recv()
	}
	require.ErrorContains(t, err, "unknown authority")
}

func TestOneAuthorityForTwoClusters(t *testing.T) {
	cfg := &Config{Cluster: "test"}
	for _, c := range []struct{ cluster, err string }{{"test", ""}, {"", ""}, {"other", `certificate of cluster "other"`}} {
		dir := t.TempDir()
		require.NoError(t, cert.InitCA(dir, c.cluster))
		require.NoError(t, cert.Issue(dir, "node-2"))
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node-2.crt"), filepath.Join(dir, "node-2.key"))
		require.NoError(t, err)
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		require.NoError(t, err)
		name, err := cfg.identity(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})
		if c.err == "" {
			require.NoError(t, err)
			require.Equal(t, "node-2", name)
		} else {
			require.ErrorContains(t, err, c.err)
		}
	}
	_, err := cfg.identity(tls.ConnectionState{})
	require.Error(t, err)
}

func TestDialedNodeMustBeTheOneMeant(t *testing.T) {
	dir := pki(t, "node-1", "node-2", "node-3")
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	a := start(t, dir, 1, la, map[mtm.NodeID]string{3: lb.Addr().String()}, nil) // node 2 is there
	start(t, dir, 2, lb, map[mtm.NodeID]string{1: la.Addr().String()}, nil)
	require.Eventually(t, func() bool { return a.Stats()[0].LastError != "" }, patience, time.Millisecond)
	require.Contains(t, a.Stats()[0].LastError, "node-3")
}

func TestOperatorMayCallAdminOnly(t *testing.T) {
	dir, _, as := alone(t)
	for _, name := range []string{"admin", "node-2"} {
		r, err := mtmpb.NewAdminClient(as(dir, name)).Call(context.Background(), &mtmpb.AdminRequest{Method: "m", Json: []byte("{}")})
		require.NoError(t, err)
		require.Equal(t, "{}", string(r.Json))
	}
	_, err := mtmpb.NewAdminClient(as(dir, "node-3")).Call(context.Background(), &mtmpb.AdminRequest{})
	require.Equal(t, codes.PermissionDenied, status.Code(err), "no node of this cluster's configuration")
}

func TestGarbageEndsTheStreamAndNothingElse(t *testing.T) {
	dir, n, as := alone(t)
	bad := []*mtmpb.LinkFrame{
		{First: 1, Messages: []*mtmpb.Message{{}}},
		{First: 1, Messages: []*mtmpb.Message{{From: 2, To: 1}}},
		{First: 1, Messages: []*mtmpb.Message{{From: 3, To: 1, Body: &mtmpb.Message_Forget{Forget: &mtmpb.Forget{}}}}},
		{First: 1, Messages: []*mtmpb.Message{{From: 2, To: 1, Body: &mtmpb.Message_Prepare{Prepare: &mtmpb.Prepare{
			Gid: &mtmpb.GID{Origin: 1}, Payload: &mtmpb.Payload{Spill: "x", Size: 5}}}}}},
		{Heartbeat: &mtmpb.Heartbeat{Seq: 1, State: make([]byte, maxState+1)}},
		{First: 1, Messages: []*mtmpb.Message{{From: 2, To: 1, Body: &mtmpb.Message_Prepare{Prepare: &mtmpb.Prepare{
			Gid: &mtmpb.GID{Origin: 1}, Payload: &mtmpb.Payload{Data: make([]byte, maxGRPC)}}}}}},
	}
	for i, f := range bad {
		s, err := greet(t, as(dir, "node-2"), hello())
		require.NoError(t, err)
		s.Send(f)
		_, err = s.Recv()
		require.Error(t, err, "frame %d", i)
		require.NotEqual(t, codes.DeadlineExceeded, status.Code(err), "frame %d", i)
	}
	require.Zero(t, n.Stats()[0].Received)
	_, err := greet(t, as(dir, "node-2"), hello())
	require.NoError(t, err, "node 1 still serves")
}

func TestGarbageInsteadOfTLS(t *testing.T) {
	dir, n, as := alone(t)
	for _, b := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0xff}, 1<<16), {0x16, 0x03, 0x01}} {
		c, err := net.Dial("tcp", n.cfg.Listener.Addr().String())
		require.NoError(t, err)
		c.Write(b)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c) // until the node hangs up
		c.Close()
	}
	_, err := greet(t, as(dir, "node-2"), hello())
	require.NoError(t, err)
}

// TestWaitingNodeMayBeAddedByANode: without peers it takes calls of its cluster's nodes, but no messages. A cluster of one takes none.
func TestWaitingNodeMayBeAddedByANode(t *testing.T) {
	for _, waits := range []bool{true, false} {
		dir, n, as := alone(t, func(c *Config) { c.Waits = waits })
		n.RemovePeer(2)
		node := codes.OK
		if !waits {
			node = codes.PermissionDenied
		}
		for name, want := range map[string]codes.Code{"node-2": node, "node-3": node, "admin": codes.OK, "other": codes.PermissionDenied} {
			if name == "other" {
				require.NoError(t, cert.Issue(dir, name, "127.0.0.1"))
			}
			_, err := mtmpb.NewAdminClient(as(dir, name)).Call(context.Background(), &mtmpb.AdminRequest{Method: "m"})
			require.Equal(t, want, status.Code(err), "%s: %v", name, err)
		}
		_, err := greet(t, as(dir, "node-3"), hello())
		require.Equal(t, codes.PermissionDenied, status.Code(err))
	}
}
