package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mtm"
	"mtm/cmd/mtmctl/admin"
)

// outcomeResult is what outcome prints.
type outcomeResult struct {
	GID     string `json:"gid"`
	Outcome string `json:"outcome"`
}

func newOutcome() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use: "outcome GID", Short: "Tell what became of a transaction",
		Long: `outcome asks the nodes that are given, in turn, what became of transaction GID (SQLSTATE 08007 names it in its DETAIL,
mtm.last_gid() tells it), until one knows: committed, aborted, in progress, or unknown, if none does. Nodes remember as far back as
their journals reach. It is mtm.outcome() for an operator.`,
		Example: "  mtmctl outcome mtm-1-7-42 --cert-dir /etc/mtm/certs --node 1=db1:7001 --node 2=db2:7001",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("which transaction? Give its name, such as mtm-1-7-42")}
			}
			if _, ok := mtm.ParseGID(args[0]); !ok {
				return usageError{fmt.Errorf("%q is not the name of a transaction: it looks like mtm-1-7-42", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			nodes, err := t.open()
			if err != nil {
				return err
			}
			defer t.close()
			r, err := outcome(cmd.Context(), nodes, args[0])
			if err != nil {
				return err
			}
			return show(cmd, r, func(w io.Writer) { fmt.Fprintln(w, r.Outcome) })
		},
	}
	t.addFlags(cmd)
	return cmd
}

// outcome asks one node after the other. It fails only if none answers.
func outcome(ctx context.Context, nodes []admin.Node, gid string) (outcomeResult, error) {
	r := outcomeResult{GID: gid}
	var failed error
	for _, n := range nodes {
		ctx, cancel := context.WithTimeout(ctx, askWait)
		var a outcomeResult
		err := n.Admin.Call(ctx, "outcome", map[string]string{"gid": gid}, &a)
		cancel()
		switch {
		case err != nil:
			failed = errors.Join(failed, err)
		case a.Outcome == "committed", a.Outcome == "aborted":
			return a, nil
		case a.Outcome != "", r.Outcome == "":
			r.Outcome = a.Outcome
			if a.Outcome == "" {
				r.Outcome = "unknown"
			}
		}
	}
	if r.Outcome == "" {
		return r, failed
	}
	return r, nil
}
