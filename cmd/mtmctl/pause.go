package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mtm/cmd/mtmctl/admin"
)

func newPause() *cobra.Command {
	return holdCommand("pause", "Stop elections for planned work, until resume",
		`pause has the nodes that are given stand for no election and vote in none, so that a node that is restarted meanwhile is not
excluded and need not catch up. It outlives restarts, and mtmctl status shows it. Give all nodes.
WARNING: until resume, losing a node stops the commits of all others: they wait for it, and fail after permit_timeout.`,
		"elections are on hold: a node that is lost stops the commits of all until it is back, or until mtmctl resume")
}

func newResume() *cobra.Command {
	return holdCommand("resume", "End a pause", "resume lets the nodes that are given elect again. Give all nodes.", "elections go on")
}

func holdCommand(method, short, long, done string) *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use: method, Short: short, Long: long, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			nodes, err := t.open()
			if err != nil {
				return err
			}
			defer t.close()
			if err := hold(cmd.Context(), nodes, method); err != nil {
				return err
			}
			return show(cmd, map[string]bool{"paused": method == "pause"}, func(w io.Writer) { fmt.Fprintln(w, done) })
		},
	}
	t.addFlags(cmd)
	return cmd
}

// hold tells every node, and what failed.
func hold(ctx context.Context, nodes []admin.Node, method string) error {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	var failed error
	for _, n := range nodes {
		if err := n.Admin.Call(ctx, method, nil, new(struct{})); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", n.Peer, err))
		}
	}
	return failed
}
