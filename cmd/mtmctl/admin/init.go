package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mtm"
	"mtm/sql/schema"
)

// Caller calls one method of a node's admin service: in and out are what JSON carries; either may be nil.
type Caller interface {
	Call(ctx context.Context, method string, in, out any) error
}

// Node is one node to be joined.
type Node struct {
	ID       int    `json:"id"`
	Peer     string `json:"peer"`               // host:port where other nodes and mtmctl reach its mtmd
	Conninfo string `json:"conninfo,omitempty"` // how clients are told to reach it; empty: the node says
	Admin    Caller `json:"-"`
}

// Check is one prerequisite of one node.
type Check struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Severity string `json:"severity,omitempty"` // "warning": the cluster can be made all the same
	Detail   string `json:"detail"`
	Fix      string `json:"fix,omitempty"` // what to do about it, when not OK
}

// Fatal reports whether the check forbids the cluster.
func (c Check) Fatal() bool { return !c.OK && c.Severity != "warning" }

// NodeChecks is what one node's mtmd found, or Err when it could not be asked.
type NodeChecks struct {
	NodeID int     `json:"node_id"`
	Peer   string  `json:"peer"`
	Checks []Check `json:"checks"`
	Err    string  `json:"error,omitempty"`

	Facts *schema.Facts `json:"facts,omitempty"` // what is compared between nodes
}

// OK reports whether the node may be joined.
func (n NodeChecks) OK() bool {
	for _, c := range n.Checks {
		if c.Fatal() {
			return false
		}
	}
	return n.Err == ""
}

// Errors by which the caller chooses an exit code.
var (
	ErrNotReachable = errors.New("a node cannot be reached")
	ErrPrecheck     = errors.New("a prerequisite is not met; nothing was changed")
)

// request is what a node is told of the cluster to be.
type request struct {
	Cluster string `json:"cluster"`
	NodeID  int    `json:"node_id"`
	Nodes   []Node `json:"nodes"`
}

const (
	precheckWait = 60 * time.Second
	initWait     = 120 * time.Second
)

// Precheck asks every node for its prerequisites, all at once. The error is nil, ErrNotReachable or ErrPrecheck, and
// the answers are complete with each.
func Precheck(ctx context.Context, cluster string, nodes []Node) ([]NodeChecks, error) {
	ctx, cancel := context.WithTimeout(ctx, precheckWait)
	defer cancel()
	all := make([]NodeChecks, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() error {
			all[i] = NodeChecks{NodeID: n.ID, Peer: n.Peer}
			err := n.Admin.Call(ctx, "precheck", request{cluster, n.ID, nodes}, &all[i])
			all[i].NodeID, all[i].Peer = n.ID, n.Peer
			if err != nil {
				all[i].Err = err.Error()
			}
			return err
		})
	}
	if err := g.Wait(); errors.Is(err, ErrNotReachable) {
		return all, ErrNotReachable
	}
	all = compare(all)
	for _, one := range all {
		if !one.OK() {
			return all, ErrPrecheck
		}
	}
	return all, nil
}

// compare adds what must be equal on all nodes, as the checks of node 0.
func compare(all []NodeChecks) []NodeChecks {
	facts := map[mtm.NodeID]schema.Facts{}
	for i := range all {
		if f := all[i].Facts; f != nil {
			facts[mtm.NodeID(all[i].NodeID)] = *f
		}
		all[i].Facts = nil
	}
	if len(facts) < 2 {
		return all
	}
	together := NodeChecks{Peer: "all nodes"}
	for _, c := range schema.Compare(facts) {
		together.Checks = append(together.Checks, Check{Name: c.Name, OK: c.OK, Severity: string(c.Severity), Detail: c.Detail, Fix: c.Fix})
	}
	return append(all, together)
}

// Init joins nodes into a cluster and returns when all serve. Prerequisites must have been checked. If any node cannot
// be joined, those done and the one that failed are rolled back, and the error says what failed, and whether anything
// could not be undone. Once all are joined there is a cluster, and nothing is undone any more.
func Init(ctx context.Context, cluster string, nodes []Node) error {
	ctx, cancel := context.WithTimeout(ctx, initWait)
	defer cancel()
	for i, n := range nodes {
		err := n.Admin.Call(ctx, "init", request{cluster, n.ID, nodes}, nil)
		if err == nil {
			continue
		}
		err = fmt.Errorf("node %d (%s) could not be made part of the cluster: %w", n.ID, n.Peer, err)
		if left := rollback(ctx, cluster, nodes, nodes[:i+1]); left != nil {
			return fmt.Errorf("%w\nand it could not be undone everywhere:\n%w", err, left)
		}
		return fmt.Errorf("%w\nAll nodes are as they were", err)
	}
	return serve(ctx, nodes)
}

// serve ends the nodes' wait for a cluster, and waits until they are online.
func serve(ctx context.Context, nodes []Node) error {
	var g errgroup.Group
	for _, n := range nodes {
		g.Go(func() error {
			// The daemon changes over to another listener, which may cut the answer off.
			if err := n.Admin.Call(ctx, "start", nil, nil); err != nil && !errors.Is(err, ErrNotReachable) {
				return fmt.Errorf("node %d (%s) is part of the cluster but did not start to serve: %w (restart its mtmd)", n.ID, n.Peer, err)
			}
			return waitOnline(ctx, n)
		})
	}
	return g.Wait()
}

// waitOnline asks a node until it says that it is online.
func waitOnline(ctx context.Context, n Node) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var st struct {
			Status string `json:"status"`
		}
		err := n.Admin.Call(ctx, "status", nil, &st)
		if err == nil && st.Status == "online" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %d (%s) is part of the cluster but not online yet: it says %q (%w): see its log", n.ID, n.Peer, st.Status, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// rollback undoes init on those nodes, also when the caller has given up meanwhile.
func rollback(ctx context.Context, cluster string, nodes, done []Node) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), precheckWait)
	defer cancel()
	var all error
	for _, n := range done {
		if err := n.Admin.Call(ctx, "rollback_init", request{cluster, n.ID, nodes}, nil); err != nil {
			all = errors.Join(all, fmt.Errorf("  node %d (%s): %w (restart its mtmd and run init-cluster again)", n.ID, n.Peer, err))
		}
	}
	return all
}

// Failed is what is wrong, one line per check, for an error message.
func Failed(all []NodeChecks) string {
	var b strings.Builder
	for _, n := range all {
		if n.Err != "" {
			fmt.Fprintf(&b, "node %d (%s): %s\n", n.NodeID, n.Peer, n.Err)
		}
		for _, c := range n.Checks {
			if c.Fatal() {
				fmt.Fprintf(&b, "node %d (%s): %s: %s; %s\n", n.NodeID, n.Peer, c.Name, c.Detail, c.Fix)
			}
		}
	}
	return strings.TrimRight(b.String(), "\n")
}
