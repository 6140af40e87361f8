package devcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"mtm/cert"
	"mtm/cmd/mtmctl/admin"
)

func (c *Cluster) certDir() string { return filepath.Join(c.dir, "certs") }

// makeCerts makes an authority for this cluster, a certificate for each node, and one for mtmctl.
func (c *Cluster) makeCerts() error {
	err := cert.InitCA(c.certDir(), c.st.Name)
	for _, n := range c.st.Nodes {
		if err == nil {
			err = cert.Issue(c.certDir(), cert.NodeName(n.ID), "127.0.0.1", "localhost")
		}
	}
	if err == nil && c.st.Referee != nil {
		err = cert.Issue(c.certDir(), string(Referee), "127.0.0.1", "localhost")
	}
	if err == nil {
		err = cert.Issue(c.certDir(), cert.AdminName)
	}
	return err
}

// AdminNodes prepares to call every node as the operator, straight and not through the fault proxy. The returned
// function ends the connections.
func (c *Cluster) AdminNodes() (nodes []admin.Node, done func(), err error) {
	var conns []*admin.Conn
	done = func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
	for _, n := range c.st.Nodes {
		conn, err := admin.Dial(addr(n.PeerPort), n.ID, cert.In(c.certDir(), cert.AdminName))
		if err != nil {
			done()
			return nil, nil, err
		}
		conns = append(conns, conn)
		nodes = append(nodes, admin.Node{ID: n.ID, Peer: addr(n.PeerPort), Conninfo: c.url(n), Admin: conn})
	}
	return nodes, done, nil
}

// Name is the cluster's name.
func (c *Cluster) Name() string { return c.st.Name }

// Init makes one cluster of the nodes: what "mtmctl init-cluster" does.
func (c *Cluster) Init(ctx context.Context) error {
	nodes, done, err := c.AdminNodes()
	if err != nil {
		return err
	}
	defer done()
	if err := c.waitAdmin(ctx); err != nil {
		return err
	}
	if all, err := admin.Precheck(ctx, c.st.Name, nodes); err != nil {
		return fmt.Errorf("%w:\n%s", err, admin.Failed(all))
	}
	if err := admin.Init(ctx, c.st.Name, nodes); err != nil {
		for _, n := range c.st.Nodes {
			err = errors.Join(err, fmt.Errorf("--- %s:\n%s", n.MtmdLog, tail(n.MtmdLog, 15)))
		}
		return err
	}
	return nil
}

// waitAdmin waits until every mtmd listens where it serves mtmctl, which is a moment after it answers /status.
func (c *Cluster) waitAdmin(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, mtmdStartWait, fmt.Errorf("after %v", mtmdStartWait))
	defer cancel()
	return c.forEach(func(n *node) error {
		err := poll(ctx, fmt.Sprintf("peer_listen of node %d", n.ID), func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr(n.PeerPort))
			if err != nil {
				return err
			}
			return conn.Close()
		})
		return n.explain(err)
	})
}
