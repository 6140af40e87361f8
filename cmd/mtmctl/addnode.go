package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"mtm"
	"mtm/cmd/mtmctl/admin"
)

// addResult is what add-node prints.
type addResult struct {
	Added  int                `json:"added"` // 0: none
	DryRun bool               `json:"dry_run"`
	Nodes  []admin.NodeChecks `json:"nodes"`
}

func newAddNode() *cobra.Command {
	t := target{}
	var o admin.AddOptions
	var dryRun bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "add-node ID=HOST:PORT", Short: "Add a node to a cluster that goes on meanwhile",
		Long: `add-node makes the PostgreSQL of a running mtmd that waits, whose database must be empty, a further node of the cluster of the
nodes that are given by --node: all of these, or at least one that is online; those that are away hear of it when they are back.
It checks every prerequisite first, and changes nothing if one is not met. Then the new node copies another one, whose clients go
on, takes over what is committed meanwhile, and becomes a member. Roles that it lacks are copied, too; tablespaces are not.
A change of the schema on the copied node during the copy begins it anew, three times at most. If the copy fails, or add-node is
interrupted, nothing is left behind. The new node may be of another PostgreSQL version.
With --dev the node is one of the dev cluster (devcluster add-node makes it and does all this), and its number is enough.`,
		Example: "  mtmctl add-node 4=db4:7001 --cert-dir /etc/mtm/certs --node 1=db1:7001 --node 2=db2:7001 --node 3=db3:7001",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("which node? Give it as id=host:port")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			fresh, nodes, err := t.openFor(args[0])
			if err != nil {
				return err
			}
			defer t.close()
			r := addResult{DryRun: dryRun}
			var checks error
			if r.Nodes, checks = admin.PrecheckAdd(cmd.Context(), o.Cluster, fresh, nodes); checks == nil && !dryRun {
				ctx, cancel := context.WithTimeoutCause(cmd.Context(), wait, fmt.Errorf("--wait %v is over", wait))
				defer cancel()
				o.Progress = addProgress(cmd)
				if err = admin.Add(ctx, fresh, nodes, o); err == nil {
					r.Added = fresh.ID
				}
			}
			if e := show(cmd, r, r.text); e != nil {
				return e
			}
			if checks != nil {
				return checks
			}
			return err
		},
	}
	t.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Cluster, "cluster", "", "name of the cluster; empty: that of the new node's configuration")
	f.BoolVar(&dryRun, "dry-run", false, "check, print the list, and change nothing")
	f.IntVar(&o.Donor, "donor", 0, "number of the node to copy; 0: any that is online")
	f.IntVar(&o.Jobs, "jobs", 4, "tables, or parts of large ones, that are copied at once, at most 32")
	f.DurationVar(&wait, "wait", 24*time.Hour, "give up after this time")
	return cmd
}

// openFor is open, for a command about a node that is not one of the others.
func (t *target) openFor(word string) (fresh admin.Node, others []admin.Node, err error) {
	if t.dev == "" {
		if fresh, err = admin.ParseNode(word, true); err != nil {
			return fresh, nil, usageError{fmt.Errorf("node %q: %w", word, err)}
		}
		t.nodes = append(t.nodes, word)
	} else if fresh.ID, err = strconv.Atoi(word); err != nil || !mtm.NodeID(fresh.ID).Valid() {
		return fresh, nil, usageError{fmt.Errorf("node %q: must be a number from 1 to %d", word, mtm.MaxNodes)}
	}
	all, err := t.open()
	if err != nil {
		return fresh, nil, err
	}
	found := false
	for _, n := range all {
		if n.ID == fresh.ID {
			fresh, found = n, true
			continue
		}
		others = append(others, n)
	}
	switch {
	case !found:
		err = usageError{fmt.Errorf("there is no node %d in %s (devcluster add-node makes one)", fresh.ID, t.dev)}
	case len(others) == 0:
		err = usageError{errors.New("which cluster? Give its nodes by --node")}
	}
	if err != nil {
		t.close()
	}
	return fresh, others, err
}

// addProgress prints a line when there is something new, at most one each second.
func addProgress(cmd *cobra.Command) func(admin.AddProgress) {
	var last admin.AddProgress
	var said time.Time
	return func(p admin.AddProgress) {
		if p == last || p.Phase == last.Phase && p.Note == "" && time.Since(said) < time.Second {
			return
		}
		last, said = p, time.Now()
		fmt.Fprintln(cmd.ErrOrStderr(), admin.ProgressLine(p))
	}
}

func (r addResult) text(w io.Writer) {
	initResult{Nodes: r.Nodes, DryRun: r.DryRun}.text(w)
	if r.Added != 0 {
		fmt.Fprintf(w, "node %d is added\n", r.Added)
	}
}
