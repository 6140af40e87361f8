package main

import (
	"encoding/json"
	"fmt"
	"strconv"

	"mtm"
)

// version is set at link time.
var version = "0.1.0-dev"

// clusterState is what a node remembers of its cluster, in the journal's small state.
type clusterState struct {
	Name             string      `json:"name"`
	NodeID           mtm.NodeID  `json:"node_id"`
	Nodes            []nodeState `json:"nodes"`
	SystemIdentifier string      `json:"system_identifier"` // of the PostgreSQL that this journal belongs to
	Seed             *seedState  `json:"seed,omitempty"`    // what the journal must begin with
}

// nodeState is one node: configured, or to be added, or dropped.
type nodeState struct {
	ID       mtm.NodeID `json:"id"`
	Peer     string     `json:"peer"`            // host:port of its mtmd, for the other nodes
	Conninfo string     `json:"conninfo"`        // where clients find it
	Since    uint64     `json:"since,omitempty"` // of two descriptions of a node the one with the higher number counts
}

// gone: the node was to be added, and was not.
func (n nodeState) gone() bool { return n.Peer == "" }

const stateKey = "cluster"

func (c *clusterState) members() mtm.NodeSet {
	var s mtm.NodeSet
	for _, n := range c.Nodes {
		if !n.gone() {
			s = s.With(n.ID)
		}
	}
	return s
}

func (c *clusterState) check(cfg config) error {
	switch {
	case c.Name != cfg.Cluster:
		return fmt.Errorf("setting cluster is %q, but the journal in %s belongs to cluster %q", cfg.Cluster, cfg.DataDir, c.Name)
	case c.NodeID != cfg.NodeID:
		return fmt.Errorf("setting node_id is %d, but the journal in %s belongs to node %d", cfg.NodeID, cfg.DataDir, c.NodeID)
	}
	return nil
}

func (d *daemon) loadCluster() (*clusterState, error) {
	text, err := d.journal.Get(stateKey)
	if err != nil || text == nil {
		return nil, err
	}
	c := &clusterState{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("journal in %s: its record of the cluster is damaged: %w", d.cfg.DataDir, err)
	}
	return c, c.check(d.cfg)
}

func (d *daemon) saveCluster(c *clusterState) error {
	if c == nil {
		return d.journal.Put(stateKey, nil)
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return d.journal.Put(stateKey, text)
}

const incarnationKey = "incarnation"

// nextIncarnation numbers the lives of this process with its journal. It is on disk before it is used.
func (d *daemon) nextIncarnation() (uint64, error) {
	text, err := d.journal.Get(incarnationKey)
	if err != nil {
		return 0, err
	}
	last := uint64(0)
	if text != nil {
		if last, err = strconv.ParseUint(string(text), 10, 64); err != nil {
			return 0, fmt.Errorf("journal in %s: its number of starts is damaged: %w", d.cfg.DataDir, err)
		}
	}
	return last + 1, d.journal.Put(incarnationKey, strconv.AppendUint(nil, last+1, 10))
}
