package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"mtm"
	"mtm/logrep"
	"mtm/sql/schema"
)

// This file makes a node of this daemon, and undoes it: what mtmctl init-cluster asks for.

var errMember = errors.New("this node belongs to a cluster already (mtmctl status shows it)")

// precheckAnswer is what precheck answers.
type precheckAnswer struct {
	Checks []schema.CheckResult `json:"checks"`
	Facts  *schema.Facts        `json:"facts,omitempty"` // for comparison with the other nodes'
}

// precheck finds out whether this node could be made part of the cluster that req describes. It changes nothing.
func (d *daemon) precheck(ctx context.Context, req joinRequest) (precheckAnswer, error) {
	var ans precheckAnswer
	add := func(name string, err error, good, fix string) {
		c := schema.CheckResult{Name: name, OK: err == nil, Severity: schema.Fatal, Detail: good}
		if err != nil {
			c.Detail, c.Fix = err.Error(), fix
		}
		ans.Checks = append(ans.Checks, c)
	}
	identity, mend := d.checkIdentity(req), "make node_id and cluster in mtmd.toml agree with the command"
	if errors.Is(identity, errMember) {
		mend = "leave this node out, or give its mtmd an empty data_dir and a PostgreSQL that is in no cluster"
	}
	add("node", identity, fmt.Sprintf("node %d of cluster %q", d.cfg.NodeID, d.cfg.Cluster), mend)
	for _, n := range req.Nodes {
		if n.ID != d.cfg.NodeID {
			addr := d.peerAddress(nodeState{ID: n.ID, Peer: n.Peer})
			add(fmt.Sprintf("peer_%d", n.ID), reach(ctx, addr), addr, "start mtmd there, and let its peer port through the firewall")
		}
	}
	if c := d.precheckReferee(ctx, len(req.Nodes)); c != nil {
		ans.Checks = append(ans.Checks, *c)
	}
	conn, err := d.connect(ctx, "mtm_check")
	add("connection", err, "", "set postgres in mtmd.toml to a superuser's connection string; look at PostgreSQL's log")
	if err != nil {
		return ans, nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	facts, err := schema.ReadFacts(ctx, conn)
	if err != nil {
		return ans, err
	}
	ans.Facts = &facts
	ans.Checks = append(ans.Checks, schema.CheckFacts(facts, schema.CheckParams{Nodes: len(req.Nodes), Workers: d.cfg.MaxWorkers, MayHoldData: len(req.Nodes) == 1})...)
	return ans, nil
}

func (d *daemon) checkIdentity(req joinRequest) error {
	state, err := d.loadCluster()
	switch {
	case err != nil:
		return err
	case state != nil:
		return errMember
	case req.Cluster != "" && req.Cluster != d.cfg.Cluster:
		return fmt.Errorf("mtmd serves cluster %q, the command names %q", d.cfg.Cluster, req.Cluster)
	case req.NodeID != 0 && req.NodeID != d.cfg.NodeID:
		return fmt.Errorf("mtmd is node %d, the command calls it %d", d.cfg.NodeID, req.NodeID)
	}
	return nil
}

func reach(ctx context.Context, addr string) error {
	dialer := net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// join makes this a node of the cluster: schema, slot, and the record in the journal, in this order, so that a crash
// half-way leaves a daemon that still waits for init-cluster. It serves after startMember, or after a restart.
func (d *daemon) join(ctx context.Context, req joinRequest) error {
	if err := d.checkIdentity(req); err != nil {
		return err
	}
	state := &clusterState{Name: d.cfg.Cluster, NodeID: d.cfg.NodeID}
	params := schema.Params{NodeID: d.cfg.NodeID, Cluster: d.cfg.Cluster}
	for _, n := range req.Nodes {
		if !n.ID.Valid() || n.Peer == "" {
			return fmt.Errorf("node %d at %q: a node needs a number from 1 to %d and an address", n.ID, n.Peer, mtm.MaxNodes)
		}
		state.Nodes = append(state.Nodes, nodeState{ID: n.ID, Peer: n.Peer, Conninfo: n.Conninfo})
		params.Nodes = append(params.Nodes, schema.Node{ID: n.ID, ConnInfo: n.Conninfo})
	}
	if !state.members().Has(d.cfg.NodeID) {
		return fmt.Errorf("the command does not name node %d", d.cfg.NodeID)
	}
	facts, err := d.pgFacts(ctx)
	if err != nil {
		return err
	}
	state.SystemIdentifier = facts.systemID
	conn, err := d.connect(ctx, "mtm_join")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := schema.Install(ctx, conn, params); err != nil {
		return err // it leaves nothing behind
	}
	_, err = logrep.CreateSlot(ctx, d.logrepConfig())
	if err == nil {
		err = d.journal.Put(pastKey, nil)
	}
	if err == nil {
		err = d.saveCluster(state)
	}
	if err != nil {
		err = errors.Join(err, d.undoJoin(context.WithoutCancel(ctx)))
	}
	return err
}

// startMember ends the wait for a cluster.
func (d *daemon) startMember() error {
	state, err := d.loadCluster()
	if err != nil {
		return err
	}
	if state == nil {
		return errors.New("this node belongs to no cluster yet")
	}
	if d.current.Load() == nil {
		select {
		case d.joined <- struct{}{}:
		default:
		}
	}
	return nil
}

// leave undoes a join that succeeded, on a node that does not serve yet. A node that was not joined is left alone:
// what its PostgreSQL holds is not ours.
func (d *daemon) leave(ctx context.Context) error {
	if d.current.Load() != nil {
		return errMember
	}
	state, err := d.loadCluster()
	if err != nil || state == nil {
		return err
	}
	return d.undoJoin(ctx)
}

func (d *daemon) undoJoin(ctx context.Context) error {
	if err := d.saveCluster(nil); err != nil {
		return err
	}
	if err := logrep.DropSlot(ctx, d.logrepConfig()); err != nil {
		return err
	}
	conn, err := d.connect(ctx, "mtm_leave")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return schema.Uninstall(ctx, conn)
}

// nodeReport is a row of mtmctl nodes.
type nodeReport struct {
	ID        int    `json:"id"`
	Conninfo  string `json:"conninfo"`
	Peer      string `json:"peer"`
	IsSelf    bool   `json:"is_self"`
	Enabled   bool   `json:"enabled"`
	Connected bool   `json:"connected"`
}

func (d *daemon) nodes() []nodeReport {
	rows := []nodeReport{}
	l := d.current.Load()
	if l == nil {
		return rows
	}
	status := l.status.Load()
	for _, n := range l.roster.now.Load().Nodes {
		if status != nil && !status.Generation.Configured.Has(n.ID) {
			continue // dropped
		}
		rows = append(rows, nodeReport{
			ID: int(n.ID), Conninfo: schema.RedactConnInfo(n.Conninfo), Peer: n.Peer, IsSelf: n.ID == d.cfg.NodeID,
			Enabled: status != nil && status.Generation.Members.Has(n.ID), Connected: status != nil && status.Connected.Has(n.ID),
		})
	}
	return rows
}
