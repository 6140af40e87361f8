package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mtm"
	"mtm/cmd/mtmctl/admin"
)

const (
	dropWait     = 45 * time.Second
	unneededWait = 30 * time.Second
)

// dropResult is what drop-node prints.
type dropResult struct {
	Dropped    int      `json:"dropped"`
	GenNum     uint64   `json:"gen_num"`
	Configured []int    `json:"gen_configured"`
	NeededBy   []string `json:"needed_by,omitempty"` // nodes on which transactions in doubt count on it, or that do not say
}

func newDropNode() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use: "drop-node NODE", Short: "Take a node, dead or alive, out of the cluster for ever",
		Long: `drop-node makes the other nodes go on without NODE, a number: it counts for no majority any more. It asks the nodes
that are given, in turn, until one does it. A majority of the nodes must be online.
A node that is dropped while it lives refuses its clients from then on, and says why. To come back it has to be made anew.
drop-node waits until no transaction that was begun with NODE is in doubt on the nodes that are given. If that takes longer than
30 seconds it says so: leave NODE running until then, or, if it is dead, bring back the others that have failed.`,
		Example: "  mtmctl drop-node 3 --cert-dir /etc/mtm/certs --node 1=db1:7001 --node 2=db2:7001",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("which node? Give its number")}
			}
			if id, err := strconv.Atoi(args[0]); err != nil || !mtm.NodeID(id).Valid() {
				return usageError{fmt.Errorf("node %q: must be a number from 1 to %d", args[0], mtm.MaxNodes)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, _ := strconv.Atoi(args[0])
			nodes, err := t.open()
			if err != nil {
				return err
			}
			defer t.close()
			r, err := dropNode(cmd.Context(), nodes, id)
			if err != nil {
				return err
			}
			r.NeededBy = waitUnneeded(cmd.Context(), nodes, id)
			return show(cmd, r, func(w io.Writer) {
				fmt.Fprintf(w, "node %d is dropped; the cluster has nodes %s\n", r.Dropped, ids(r.Configured))
				if len(r.NeededBy) > 0 {
					fmt.Fprintf(w, "but %s may hold transactions in doubt that count on it: leave node %d running until mtmctl status shows none\n",
						strings.Join(r.NeededBy, ", "), r.Dropped)
				}
			})
		},
	}
	t.addFlags(cmd)
	return cmd
}

// dropNode asks one node after the other. The error is that of the last node that answered.
func dropNode(ctx context.Context, nodes []admin.Node, id int) (r dropResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, dropWait)
	defer cancel()
	err = usageError{fmt.Errorf("node %d does not drop itself: give another node", id)}
	for _, n := range nodes {
		if n.ID == id {
			continue
		}
		failed := n.Admin.Call(ctx, "drop_node", map[string]int{"drop": id}, &r)
		if failed == nil {
			return r, nil
		}
		if !errors.Is(failed, admin.ErrNotReachable) || errors.As(err, new(usageError)) {
			err = failed
		}
	}
	return r, err
}

// waitUnneeded waits until no node has a transaction in doubt that counts on a node that was dropped, and returns those that may
// still have one.
func waitUnneeded(ctx context.Context, nodes []admin.Node, id int) []string {
	ctx, cancel := context.WithTimeout(ctx, unneededWait)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	others := slices.DeleteFunc(slices.Clone(nodes), func(n admin.Node) bool { return n.ID == id })
	for {
		all, _ := askAll(ctx, others)
		var need []string
		for _, n := range all {
			var r struct {
				CountsOn []int `json:"counts_on"`
			}
			if n.Err != nil || json.Unmarshal(n.Raw, &r) != nil || slices.Contains(r.CountsOn, id) {
				need = append(need, n.Peer)
			}
		}
		if len(need) == 0 || ctx.Err() != nil {
			return need
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return need
		}
	}
}
