package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mtm"
	"mtm/cert"
	"mtm/cmd/mtmctl/admin"
	"mtm/coordinator"
)

// This file keeps the list of nodes: who they are and where they are reached. It is no matter of votes (generations say who
// counts), so every change is taken over at once, saved, and told to the other nodes; who was away asks when he is back.

// roster is the list of nodes of a daemon that serves.
type roster struct {
	d      *daemon
	peers  peers
	status func() *coordinator.Status // nil: not known yet
	now    atomic.Pointer[clusterState]
	mu     sync.Mutex      // of changes
	ask    chan mtm.NodeID // who came up; 0: the list was changed
}

// peers are the links to other nodes (dmq.Queue).
type peers interface {
	AddPeer(id mtm.NodeID, addr string) error
	RemovePeer(id mtm.NodeID)
}

const (
	rosterRetry = time.Second
	rosterWait  = 3 * time.Second // for the answer of one node
)

func newRoster(d *daemon, c *clusterState, p peers, status func() *coordinator.Status) *roster {
	r := &roster{d: d, peers: p, status: status, ask: make(chan mtm.NodeID, 4*mtm.MaxNodes)}
	r.now.Store(c)
	return r
}

// rosterMessage is what nodes tell one another: each list in exchange for the other.
type rosterMessage struct {
	Nodes []nodeState `json:"nodes"`
}

// merge takes over what is newer in nodes; it is durable, and the links are as they should be, when merge returns.
func (r *roster) merge(nodes []nodeState) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.now.Load()
	fresh := *old
	fresh.Nodes = slices.Clone(old.Nodes)
	var changed []nodeState
	for _, n := range nodes {
		if err := n.check(); err != nil {
			return err
		}
		at := slices.IndexFunc(fresh.Nodes, func(o nodeState) bool { return o.ID == n.ID })
		switch {
		case at < 0:
			fresh.Nodes = append(fresh.Nodes, n)
		case n.Since > fresh.Nodes[at].Since:
			fresh.Nodes[at] = n
		default:
			continue
		}
		changed = append(changed, n)
	}
	if len(changed) == 0 {
		return nil
	}
	if err := r.d.saveCluster(&fresh); err != nil {
		return err
	}
	r.now.Store(&fresh)
	for _, n := range changed {
		if err := r.link(n); err != nil {
			return err
		}
	}
	r.wake(0)
	return nil
}

// link makes the link to n what it should be.
func (r *roster) link(n nodeState) error {
	switch {
	case n.ID == r.d.cfg.NodeID:
		return nil
	case n.gone():
		r.peers.RemovePeer(n.ID)
		return nil
	}
	r.d.log.Info("a node is known", keyNode, n.ID, "peer", r.d.peerAddress(n))
	return r.peers.AddPeer(n.ID, r.d.peerAddress(n))
}

// relink follows changed settings.
func (r *roster) relink() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.now.Load().Nodes {
		if err := r.link(n); err != nil {
			r.d.log.Error("setting peers", keyNode, n.ID, keyError, err)
		}
	}
}

// introduce lets a node in that is to be added, or moves one that is. A configured node keeps its address.
func (r *roster) introduce(n nodeState) error {
	s := r.status()
	switch {
	case s == nil:
		return fmt.Errorf("node %d does not serve yet", r.d.cfg.NodeID)
	case s.Generation.Configured.Has(n.ID):
		return fmt.Errorf("there is a node %d already: the cluster has nodes %v", n.ID, s.Generation.Configured)
	}
	n.Since = max(s.Generation.Num, 1)
	for _, o := range r.now.Load().Nodes {
		switch {
		case o.ID == n.ID && o.Peer == n.Peer && o.Conninfo == n.Conninfo:
			return nil
		case o.ID == n.ID:
			n.Since = max(n.Since, o.Since+1)
		case !o.gone() && o.Peer == n.Peer && s.Generation.Configured.Has(o.ID):
			return fmt.Errorf("%s is the address of node %d", n.Peer, o.ID)
		}
	}
	return r.merge([]nodeState{n})
}

// forget undoes introduce.
func (r *roster) forget(id mtm.NodeID) error {
	if s := r.status(); s == nil || s.Generation.Configured.Has(id) {
		return fmt.Errorf("node %d is part of the cluster", id)
	}
	for _, o := range r.now.Load().Nodes {
		if o.ID == id && !o.gone() {
			return r.merge([]nodeState{{ID: id, Since: o.Since + 1}})
		}
	}
	return nil
}

// wake has Run exchange lists; it never blocks.
func (r *roster) wake(id mtm.NodeID) {
	select {
	case r.ask <- id:
	default: // there is more to be done than fits: Run asks everybody
	}
}

// Run exchanges lists with who comes up, and with everybody after a change, until ctx ends.
func (r *roster) Run(ctx context.Context) error {
	var due mtm.NodeSet
	again := time.NewTicker(rosterRetry)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case id := <-r.ask:
			if due = due.With(id); id == 0 {
				due = r.others()
			}
		case <-again.C:
			if s := r.status(); s != nil && !r.now.Load().members().Contains(s.Generation.Configured) {
				due = r.others()
			}
		}
		due = due.Intersect(r.others())
		for _, id := range due.IDs() {
			if err := r.exchange(ctx, id); err != nil {
				r.d.log.Debug("exchange the list of nodes", keyNode, id, keyError, err)
				continue
			}
			due = due.Without(id)
		}
	}
}

// others are the nodes in reach.
func (r *roster) others() mtm.NodeSet {
	s := r.status()
	if s == nil {
		return 0
	}
	return s.Connected.Intersect(r.now.Load().members()).Without(r.d.cfg.NodeID)
}

func (r *roster) exchange(ctx context.Context, id mtm.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, rosterWait)
	defer cancel()
	state := r.now.Load()
	conn, err := r.d.dialNode(state, id)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	var answer rosterMessage
	if err := conn.Call(ctx, "roster", rosterMessage{state.Nodes}, &answer); err != nil {
		return err
	}
	return r.merge(answer.Nodes)
}

// dialNode prepares to call another node as this one.
func (d *daemon) dialNode(c *clusterState, id mtm.NodeID) (*admin.Conn, error) {
	for _, n := range c.Nodes {
		if n.ID == id && !n.gone() {
			return admin.Dial(d.peerAddress(n), int(id), cert.Files{CA: d.cfg.TLSCA, Cert: d.cfg.TLSCert, Key: d.cfg.TLSKey})
		}
	}
	return nil, fmt.Errorf("node %d is not known here", id)
}

// check refuses what cannot be a node.
func (n nodeState) check() error {
	if !n.ID.Valid() {
		return fmt.Errorf("node %d: a number must be 1 to %d", n.ID, mtm.MaxNodes)
	}
	if _, _, err := net.SplitHostPort(n.Peer); err != nil && !n.gone() {
		return fmt.Errorf("node %d at %q: the address must be host:port", n.ID, n.Peer)
	}
	return nil
}

// rosterOf is the list of a daemon that serves.
func (d *daemon) rosterOf() (*roster, error) {
	if l := d.current.Load(); l != nil {
		return l.roster, nil
	}
	return nil, fmt.Errorf("node %d is not part of a cluster that serves", d.cfg.NodeID)
}

// introduce lets a node in that is to be added, or takes that back.
func (d *daemon) introduce(in bool, n nodeState) error {
	r, err := d.rosterOf()
	switch {
	case err != nil:
		return err
	case in:
		return r.introduce(n)
	}
	return r.forget(n.ID)
}

// exchangeRoster answers another node's exchange.
func (d *daemon) exchangeRoster(m rosterMessage) (rosterMessage, error) {
	r, err := d.rosterOf()
	if err != nil {
		return rosterMessage{}, err
	}
	if err := r.merge(m.Nodes); err != nil {
		return rosterMessage{}, err
	}
	return rosterMessage{r.now.Load().Nodes}, nil
}
