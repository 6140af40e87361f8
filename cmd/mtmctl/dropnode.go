package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mtm"
	"mtm/cmd/mtmctl/admin"
)

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
			r, err := admin.Drop(cmd.Context(), nodes, id)
			if errors.Is(err, admin.ErrDropsItself) {
				return usageError{err}
			}
			if err != nil {
				return err
			}
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
