package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mtm/cmd/mtmctl/admin"
)

// initResult is what init-cluster prints.
type initResult struct {
	Cluster string             `json:"cluster"`
	Done    bool               `json:"done"`
	DryRun  bool               `json:"dry_run"`
	Nodes   []admin.NodeChecks `json:"nodes"`
}

func newInitCluster() *cobra.Command {
	t := target{needsEachNode: true}
	var r initResult
	cmd := &cobra.Command{
		Use: "init-cluster", Short: "Make one cluster of nodes", Args: noArgs,
		Long: `init-cluster makes one cluster of the nodes whose mtmd are running and wait. It checks every prerequisite on every
node first and changes nothing if one is not met; if joining fails half-way it undoes what was done.
Their databases must be empty. A node that is given alone may hold data: it becomes a cluster of one, to which
add-node adds the others while it serves.`,
		Example: "  mtmctl init-cluster --cluster shop --cert-dir /etc/mtm/certs --node 1=db1:7001 --node 2=db2:7001 --node 3=db3:7001",
		RunE: func(cmd *cobra.Command, _ []string) error {
			nodes, err := t.open()
			if err != nil {
				return err
			}
			defer t.close()
			var checks error
			if r.Nodes, checks = admin.Precheck(cmd.Context(), r.Cluster, nodes); checks == nil && !r.DryRun {
				err = admin.Init(cmd.Context(), r.Cluster, nodes)
				r.Done = err == nil
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
	cmd.Flags().StringVar(&r.Cluster, "cluster", "mtm", "name of the cluster, as in the nodes' configuration")
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "check, print the list, and change nothing")
	return cmd
}

func (r initResult) text(w io.Writer) {
	for _, n := range r.Nodes {
		if n.NodeID == 0 {
			fmt.Fprintln(w, n.Peer)
		} else {
			fmt.Fprintf(w, "node %d (%s)\n", n.NodeID, n.Peer)
		}
		if n.Err != "" {
			fmt.Fprintf(w, "  FAIL  %s\n", n.Err)
		}
		for _, c := range n.Checks {
			mark := "ok  "
			if c.Fatal() {
				mark = "FAIL"
			} else if !c.OK {
				mark = "warn"
			}
			fmt.Fprintf(w, "  %s  %s: %s\n", mark, c.Name, c.Detail)
			if !c.OK && c.Fix != "" {
				fmt.Fprintf(w, "        fix: %s\n", c.Fix)
			}
		}
	}
	if r.Done {
		fmt.Fprintf(w, "cluster %q has %d nodes\n", r.Cluster, r.count())
	} else if r.DryRun {
		fmt.Fprintln(w, "dry run: nothing was changed")
	}
}

// count is how many nodes there are: what is compared between them is told as one more, without a number.
func (r initResult) count() (n int) {
	for _, one := range r.Nodes {
		if one.NodeID != 0 {
			n++
		}
	}
	return n
}
