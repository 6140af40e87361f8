package dmq

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"mtm"
	"mtm/proto/mtmpb"
)

// adminName is the operator's name in certificates; nodes are node-<id>.
const adminName = "admin"

func nodeName(id mtm.NodeID) string { return fmt.Sprintf("node-%d", id) }

// clientTLS is what node dials with: it must be node, of our cluster, that answers.
func (c *Config) clientTLS(node mtm.NodeID) *tls.Config {
	conf := c.ClientTLS.Clone()
	conf.ServerName = nodeName(node)
	conf.NextProtos = []string{"h2"}
	before := conf.VerifyConnection
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		if before != nil {
			if err := before(cs); err != nil {
				return err
			}
		}
		name, err := c.identity(cs)
		if err == nil && name != nodeName(node) {
			err = fmt.Errorf("dmq: %s answers where %s is expected", name, nodeName(node))
		}
		return err
	}
	return conf
}

// identity is the name in the certificate, which must be of our cluster if it names one.
func (c *Config) identity(cs tls.ConnectionState) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", errors.New("dmq: the other side showed no certificate")
	}
	subject := cs.PeerCertificates[0].Subject
	if org := subject.Organization; len(org) > 0 && org[0] != c.Cluster {
		return "", fmt.Errorf("dmq: %s has a certificate of cluster %q, this is %q", subject.CommonName, org[0], c.Cluster)
	}
	return subject.CommonName, nil
}

// caller tells who makes the call of ctx.
func (c *Config) caller(ctx context.Context) (string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", status.Error(codes.Unauthenticated, "dmq: no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", status.Error(codes.Unauthenticated, "dmq: no TLS")
	}
	name, err := c.identity(info.State)
	if err != nil {
		return "", status.Error(codes.PermissionDenied, err.Error())
	}
	return name, nil
}

// admit decides who may call what: peers everything, the operator everything but Peer, others nothing. While this node waits
// to be made one of a cluster any node of that may do so; a cluster of one does not wait.
func (c *Config) admit(ctx context.Context, method string) error {
	name, err := c.caller(ctx)
	if err != nil {
		c.Logger.Warn("call refused", keyMethod, method, keyError, err)
		return err
	}
	if _, isNode := c.nodeOf(name); isNode {
		return nil
	}
	forAdmin := !strings.HasPrefix(method, "/"+mtmpb.Peer_ServiceDesc.ServiceName+"/")
	if c.Waits && c.known.Load() == 0 && forAdmin && isNodeName(name) {
		return nil // this node waits to be added, and a node of the cluster adds it (mtm.add_node)
	}
	if name == adminName && forAdmin {
		return nil
	}
	level := slog.LevelWarn
	if c.Waits && c.known.Load() == 0 { // this node waits to be added, and the others look whether it is there yet
		level = slog.LevelDebug
	}
	c.Logger.Log(ctx, level, "call refused", keyMethod, method, keyName, name)
	return status.Errorf(codes.PermissionDenied, "dmq: the certificate of %q does not allow %s", name, method)
}

func isNodeName(name string) bool {
	for id := mtm.NodeID(1); id <= mtm.MaxNodes; id++ {
		if nodeName(id) == name {
			return true
		}
	}
	return false
}

// nodeOf reads a node's name: this node or one of its peers.
func (c *Config) nodeOf(name string) (mtm.NodeID, bool) {
	for id := mtm.NodeID(1); id <= mtm.MaxNodes; id++ {
		known := mtm.NodeSet(c.known.Load()).Has(id)
		if (known || id == c.Node) && nodeName(id) == name {
			return id, true
		}
	}
	return 0, false
}

func (c *Config) admitUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := c.admit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (c *Config) admitStream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := c.admit(s.Context(), info.FullMethod); err != nil {
		return err
	}
	return next(srv, s)
}

// loggedTLS tells the operator of this node, too, who was not let in.
type loggedTLS struct {
	credentials.TransportCredentials
	log *slog.Logger
}

func (t loggedTLS) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ServerHandshake(raw)
	switch {
	case errors.Is(err, io.EOF): // somebody only looked whether the port is open
		t.log.Debug("connection without a handshake", keyAddr, raw.RemoteAddr().String())
	case err != nil:
		t.log.Warn("connection refused", keyAddr, raw.RemoteAddr().String(), keyError, err)
	}
	return conn, info, err
}

func (t loggedTLS) Clone() credentials.TransportCredentials {
	return loggedTLS{t.TransportCredentials.Clone(), t.log}
}
