package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mtm"
	"mtm/sql/schema"
)

// Watcher calls a method of a node that answers in parts.
type Watcher interface {
	Caller
	Watch(ctx context.Context, method string, in any, each func([]byte) error) error
}

// AddProgress is how far the copy for a new node is.
type AddProgress struct {
	Phase string `json:"phase"` // schema, rows, indexes, joining, catching up, or retry
	Donor int    `json:"donor"` // the node that is copied
	Bytes int64  `json:"bytes"` // of rows, copied; while catching up: still to come
	Total int64  `json:"total"` // about, on the donor's disk
	Parts int    `json:"parts"` // of tables, copied
	All   int    `json:"all"`
	Note  string `json:"note,omitempty"`
}

// AddOptions say how a node is added.
type AddOptions struct {
	Cluster  string
	Donor    int // the node to copy; 0: any that is online
	Jobs     int // tables, or parts of large ones, that are copied at once; 0: the node's own default
	Progress func(AddProgress)
}

// memberStatus is what matters of a node's status.
type memberStatus struct {
	NodeID     int    `json:"node_id"`
	Status     string `json:"status"`
	GenNum     uint64 `json:"gen_num"`
	Members    []int  `json:"gen_members"`
	Configured []int  `json:"gen_configured"`
	Donor      int    `json:"donor"`
	Behind     int64  `json:"bytes_behind"`
	Joining    bool   `json:"joining"`
}

// hasCopy: the copy was made by an earlier Add, which was cut off.
func hasCopy(ctx context.Context, fresh Node) bool {
	var st memberStatus
	err := fresh.Admin.Call(ctx, "status", nil, &st)
	return err == nil && st.Joining
}

const (
	introduceWait = 15 * time.Second
	joinPoll      = 200 * time.Millisecond
)

// PrecheckAdd finds out whether fresh may be added to the cluster of nodes. It changes nothing. The error is nil, ErrNotReachable or
// ErrPrecheck, and the answers are complete with each.
func PrecheckAdd(ctx context.Context, cluster string, fresh Node, nodes []Node) ([]NodeChecks, error) {
	ctx, cancel := context.WithTimeout(ctx, precheckWait)
	defer cancel()
	own := NodeChecks{NodeID: fresh.ID, Peer: fresh.Peer}
	if hasCopy(ctx, fresh) {
		own.Checks = []Check{{Name: "copy", OK: true, Detail: "the node has its copy already"}}
		st, _ := findOnline(ctx, nodes)
		all := []NodeChecks{own, {Peer: "the cluster", Checks: mayAdd(st, fresh.ID)}}
		if !all[1].OK() {
			return all, ErrPrecheck
		}
		return all, nil
	}
	err := fresh.Admin.Call(ctx, "precheck", request{cluster, fresh.ID, append(slices.Clone(nodes), fresh)}, &own)
	own.NodeID, own.Peer = fresh.ID, fresh.Peer
	if err != nil {
		own.Err = err.Error()
	}
	all := []NodeChecks{own}
	unreachable := errors.Is(err, ErrNotReachable)
	together := NodeChecks{Peer: "the cluster"}
	st, donor := findOnline(ctx, nodes)
	together.Checks = append(together.Checks, mayAdd(st, fresh.ID)...)
	if donor == nil {
		all = append(all, together)
		if len(nodes) > 0 {
			return all, ErrNotReachable
		}
		return all, ErrPrecheck
	}
	var theirs NodeChecks
	if err := donor.Admin.Call(ctx, "precheck", request{cluster, donor.ID, nodes}, &theirs); err != nil {
		together.Err = err.Error()
	}
	if theirs.Facts != nil && own.Facts != nil {
		facts := map[mtm.NodeID]schema.Facts{mtm.NodeID(st.NodeID): *theirs.Facts, mtm.NodeID(fresh.ID): *own.Facts}
		for _, c := range schema.Compare(facts) {
			if c.Name == "same_roles" { // they are copied
				continue
			}
			together.Checks = append(together.Checks, Check{Name: c.Name, OK: c.OK, Severity: string(c.Severity), Detail: c.Detail, Fix: c.Fix})
		}
	}
	all[0].Facts = nil
	all = append(all, together)
	if unreachable {
		return all, ErrNotReachable
	}
	for _, one := range all {
		if !one.OK() {
			return all, ErrPrecheck
		}
	}
	return all, nil
}

// findOnline gives a node that is online, and its status.
func findOnline(ctx context.Context, nodes []Node) (memberStatus, *Node) {
	for i, n := range nodes {
		var st memberStatus
		if err := n.Admin.Call(ctx, "status", nil, &st); err == nil && st.Status == string(mtm.StatusOnline) {
			return st, &nodes[i]
		}
	}
	return memberStatus{}, nil
}

// mayAdd is what the cluster itself has to fulfil.
func mayAdd(st memberStatus, id int) []Check {
	if st.Status == "" {
		return []Check{{Name: "online", Detail: "none of the nodes that were given is online", Fix: "give those that are, or wait until they are"}}
	}
	checks := []Check{{Name: "online", OK: true, Detail: fmt.Sprintf("node %d is online in generation %d", st.NodeID, st.GenNum)}}
	free := Check{Name: "number", OK: !slices.Contains(st.Configured, id), Detail: fmt.Sprintf("the cluster has nodes %v, the new one is %d", st.Configured, id)}
	if !free.OK {
		free.Fix = "give the new node a number that no other has, in its mtmd.toml and certificate"
	}
	room := Check{Name: "room", OK: len(st.Configured) < mtm.MaxNodes, Detail: fmt.Sprintf("%d of %d nodes", len(st.Configured), mtm.MaxNodes)}
	if !room.OK {
		room.Fix = "drop a node first"
	}
	return append(checks, free, room)
}

// Add makes fresh, whose prerequisites must have been checked, a node of the cluster of nodes, which serve meanwhile. It returns
// when all members serve with it. If that fails before the copy is complete, or ctx ends, nothing is left behind.
func Add(ctx context.Context, fresh Node, nodes []Node, o AddOptions) error {
	if o.Progress == nil {
		o.Progress = func(AddProgress) {}
	}
	watcher, ok := fresh.Admin.(Watcher)
	if !ok {
		return errors.New("the new node cannot be watched")
	}
	donors, err := introduce(ctx, fresh, nodes)
	if err == nil && hasCopy(ctx, fresh) {
		return waitMember(ctx, fresh, nodes, o.Progress)
	}
	if err == nil {
		if o.Donor != 0 {
			donors = slices.DeleteFunc(donors, func(n Node) bool { return n.ID != o.Donor })
		}
		if len(donors) == 0 {
			err = errors.New("no node that could be copied is online")
		}
	}
	if err == nil {
		in := map[string]any{"cluster": o.Cluster, "node_id": fresh.ID, "conninfo": fresh.Conninfo, "donors": donors, "jobs": o.Jobs}
		err = watcher.Watch(ctx, "add", in, func(part []byte) error {
			var p AddProgress
			if err := json.Unmarshal(part, &p); err != nil {
				return err
			}
			o.Progress(p)
			return nil
		})
	}
	if errors.Is(err, ErrNotReachable) && len(donors) > 0 && ctx.Err() == nil {
		return fmt.Errorf("node %d (%s): %w: start its mtmd, which undoes or completes what it began, and run add-node again", fresh.ID, fresh.Peer, err)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("node %d (%s) was not added: %w", fresh.ID, fresh.Peer, err), withdraw(ctx, fresh, nodes))
	}
	if err := fresh.Admin.Call(ctx, "start", nil, nil); err != nil && !errors.Is(err, ErrNotReachable) {
		return fmt.Errorf("node %d (%s) has its copy but did not start to serve: %w (restart its mtmd)", fresh.ID, fresh.Peer, err)
	}
	return waitMember(ctx, fresh, nodes, o.Progress)
}

// introduce tells the nodes of the new one, and gives those that are online. Who is out of reach hears of it later, from the others.
func introduce(ctx context.Context, fresh Node, nodes []Node) (donors []Node, err error) {
	ctx, cancel := context.WithTimeout(ctx, introduceWait)
	defer cancel()
	for _, n := range nodes {
		var st memberStatus
		failed := n.Admin.Call(ctx, "status", nil, &st)
		if failed == nil && !slices.Contains(st.Configured, st.NodeID) {
			continue // was dropped, or belongs to no cluster
		}
		if failed == nil {
			failed = n.Admin.Call(ctx, "introduce", map[string]any{"id": fresh.ID, "peer": fresh.Peer, "conninfo": fresh.Conninfo}, nil)
		}
		switch {
		case errors.Is(failed, ErrNotReachable):
			continue
		case failed != nil:
			return nil, fmt.Errorf("node %d (%s): %w", st.NodeID, n.Peer, failed)
		}
		if st.Status == string(mtm.StatusOnline) {
			donors = append(donors, Node{ID: st.NodeID, Peer: n.Peer})
		}
	}
	if len(donors) == 0 {
		return nil, ErrNotReachable
	}
	return donors, nil
}

// withdraw undoes introduce.
func withdraw(ctx context.Context, fresh Node, nodes []Node) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), introduceWait)
	defer cancel()
	var left []string
	for _, n := range nodes {
		if err := n.Admin.Call(ctx, "forget", map[string]any{"id": fresh.ID}, nil); err != nil && !errors.Is(err, ErrNotReachable) {
			left = append(left, fmt.Sprintf("%s: %v", n.Peer, err))
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("some nodes still know of it (run add-node again, or leave it so): %s", strings.Join(left, "; "))
	}
	return nil
}

// waitMember waits until the new node serves, and the others that are in reach with it.
func waitMember(ctx context.Context, fresh Node, nodes []Node, progress func(AddProgress)) error {
	tick := time.NewTicker(joinPoll)
	defer tick.Stop()
	for {
		var st memberStatus
		err := fresh.Admin.Call(ctx, "status", nil, &st)
		if err == nil && st.Status == string(mtm.StatusOnline) && slices.Contains(st.Configured, fresh.ID) && serveWith(ctx, st, nodes) {
			return nil
		}
		if err == nil && st.Status != string(mtm.StatusOnline) {
			progress(AddProgress{Phase: "catching up", Donor: st.Donor, Bytes: st.Behind})
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %d (%s) has its copy but is no member yet: it says %q (%w); it goes on trying: see its log, and mtmctl status",
				fresh.ID, fresh.Peer, st.Status, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// serveWith: the members that can be asked are online in the generation of st.
func serveWith(ctx context.Context, st memberStatus, nodes []Node) bool {
	for _, n := range nodes {
		var other memberStatus
		if err := n.Admin.Call(ctx, "status", nil, &other); err != nil || !slices.Contains(st.Members, other.NodeID) {
			continue
		}
		if other.GenNum < st.GenNum || other.Status != string(mtm.StatusOnline) {
			return false
		}
	}
	return true
}
