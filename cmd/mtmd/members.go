package main

import (
	"context"
	"fmt"
	"time"

	"mtm"
	"mtm/coordinator"
	"mtm/sql/schema"
)

// This file is about changes of the configured nodes.

// dropRequest is what drop_node is told.
type dropRequest struct {
	Drop mtm.NodeID `json:"drop"`
}

// dropAnswer is what drop_node answers.
type dropAnswer struct {
	Dropped    int    `json:"dropped"`
	GenNum     uint64 `json:"gen_num"`
	Configured []int  `json:"gen_configured"`
}

// dropWait is how long a drop may take: an election, and that all that remain are online in it.
const dropWait = 30 * time.Second

// dropNode has another node, dead or alive, configured no more. It returns when the nodes that remain serve without it.
func (d *daemon) dropNode(ctx context.Context, id mtm.NodeID) (dropAnswer, error) {
	l := d.current.Load()
	if l == nil || l.status.Load() == nil {
		return dropAnswer{}, fmt.Errorf("node %d is not part of a cluster that serves", d.cfg.NodeID)
	}
	if s := l.status.Load(); !s.Generation.Configured.Has(id) && l.roster.now.Load().awaits(id) {
		return dropAnswer{Dropped: int(id), GenNum: s.Generation.Num, Configured: ints(s.Generation.Configured)}, l.roster.forget(id)
	}
	if err := mayDrop(*l.status.Load(), id); err != nil {
		return dropAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, dropWait)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	d.log.Info("dropping a node", keyNode, id)
	d.mail.post(coordinator.DropNode{Node: id})
	for {
		s := *l.status.Load()
		if !s.Generation.Configured.Has(id) && s.Status == mtm.StatusOnline && s.Online == s.Generation.Members {
			return dropAnswer{Dropped: int(id), GenNum: s.Generation.Num, Configured: ints(s.Generation.Configured)}, nil
		}
		select {
		case <-ctx.Done():
			d.mail.post(coordinator.DropNode{})
			return dropAnswer{}, fmt.Errorf("node %d was not dropped within %v: node %d is %s in %v, online are %v; try again when all other nodes are online",
				id, dropWait, d.cfg.NodeID, s.Status, s.Generation, s.Online)
		case <-again.C:
		}
	}
}

// mayDrop says why a drop cannot even be tried.
func mayDrop(s coordinator.Status, id mtm.NodeID) error {
	rest := s.Generation.Configured.Without(id)
	switch {
	case !s.Generation.Configured.Has(id):
		return fmt.Errorf("there is no node %d: the cluster has nodes %v", id, s.Generation.Configured)
	case id == s.ID:
		return fmt.Errorf("node %d does not drop itself: ask another node", id)
	case s.Status != mtm.StatusOnline && s.Status != mtm.StatusIsolated:
		return fmt.Errorf("node %d is %s: ask one that is online", s.ID, s.Status)
	case !s.Online.Without(id).IsMajorityOf(rest):
		return fmt.Errorf("only nodes %v are online: no majority of %v, which would remain", s.Online.Without(id), rest)
	}
	return nil
}

// awaits: the node was to be added, and was never a member of what this list knows.
func (c *clusterState) awaits(id mtm.NodeID) bool {
	for _, n := range c.Nodes {
		if n.ID == id {
			return !n.gone() && n.Since > 0
		}
	}
	return false
}

// configuredNodes are those nodes of the cluster that are configured now.
func (c *clusterState) configuredNodes(gen mtm.Generation) (nodes []schema.Node) {
	for _, n := range c.Nodes {
		if gen.Configured.Has(n.ID) {
			nodes = append(nodes, schema.Node{ID: n.ID, ConnInfo: n.Conninfo})
		}
	}
	return nodes
}

// droppedError is what clients of a dropped node are told.
func droppedError() *mtm.Error {
	err := mtm.NotOnline(mtm.StatusDisabled, droppedDetail)
	err.Hint = "Connect to another node."
	return err
}

const droppedDetail = "This node was dropped from the cluster."
