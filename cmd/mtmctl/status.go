package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"context"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"mtm/cmd/mtmctl/admin"
)

const askWait = 10 * time.Second

// nodeStatus is what a node says of itself, all of it, or why it says nothing.
type nodeStatus struct {
	Peer string
	Err  error
	Raw  json.RawMessage
}

// MarshalJSON is the node's own object; a node that did not answer gives {"peer", "status":"unreachable", "error"}.
func (n nodeStatus) MarshalJSON() ([]byte, error) {
	if n.Err == nil {
		return n.Raw, nil
	}
	return json.Marshal(map[string]string{"peer": n.Peer, "status": "unreachable", "error": n.Err.Error()})
}

func newStatus() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use: "status", Short: "Ask nodes how they are", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			nodes, err := t.open()
			if err != nil {
				return err
			}
			defer t.close()
			all, err := askAll(cmd.Context(), nodes)
			if e := show(cmd, map[string]any{"nodes": all}, func(w io.Writer) { statusText(w, all) }); e != nil {
				return e
			}
			return err
		},
	}
	t.addFlags(cmd)
	return cmd
}

// askAll asks all nodes at once. The error is the first failure; the answers are complete.
func askAll(ctx context.Context, nodes []admin.Node) ([]nodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	all := make([]nodeStatus, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() error {
			all[i].Peer = n.Peer
			all[i].Err = n.Admin.Call(ctx, "status", nil, &all[i].Raw)
			return all[i].Err
		})
	}
	return all, g.Wait()
}

func statusText(w io.Writer, all []nodeStatus) {
	var doubts []string
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tSTATUS\tGENERATION\tMEMBERS\tONLINE\tCONNECTED\tBEHIND")
	for _, n := range all {
		var s struct {
			ID        int     `json:"node_id"`
			Status    string  `json:"status"`
			Gen       uint64  `json:"gen_num"`
			Members   []int   `json:"gen_members"`
			Online    []int   `json:"gen_members_online"`
			Connected []int   `json:"connected"`
			Donor     int     `json:"donor"`
			Paused    bool    `json:"paused"`
			Behind    uint64  `json:"bytes_behind"`
			Doubts    []doubt `json:"in_doubt_list"`
		}
		if n.Err == nil {
			n.Err = json.Unmarshal(n.Raw, &s)
		}
		if n.Err != nil {
			fmt.Fprintf(t, "%s\tunreachable\t-\t-\t-\t-\t-\n", n.Peer)
			continue
		}
		behind := "-"
		if s.Donor != 0 {
			behind = fmt.Sprintf("%d bytes (from node %d)", s.Behind, s.Donor)
		}
		if s.Paused {
			s.Status += " (paused)"
		}
		for _, d := range s.Doubts {
			doubts = append(doubts, d.text(s.ID))
		}
		fmt.Fprintf(t, "%d\t%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Status, s.Gen, ids(s.Members), ids(s.Online), ids(s.Connected), behind)
	}
	t.Flush()
	if len(doubts) > 0 {
		fmt.Fprintf(w, "\nin doubt, their origin being lost:\n%s", strings.Join(doubts, ""))
	}
}

// doubt is a transaction in doubt, as a node tells it.
type doubt struct {
	GID      string  `json:"gid"`
	Age      float64 `json:"age_seconds"`
	Prepared bool    `json:"prepared"`
	Votes    []int   `json:"votes"`
	WaitsFor []int   `json:"waits_for"`
}

func (d doubt) text(node int) string {
	holds := ""
	if d.Prepared {
		holds = ", and holds its locks there"
	}
	age := ""
	if d.Age > 0 {
		age = fmt.Sprintf(", %.0f s old", d.Age)
	}
	return fmt.Sprintf("  node %d: %s%s, waits for nodes %s (a majority decides)%s\n", node, d.GID, age, ids(d.WaitsFor), holds)
}

func ids(list []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ","), "[]")
}

func newNodes() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use: "nodes", Short: "List the nodes of the cluster, as one of them knows it", Args: noArgs,
		Long: "nodes asks the nodes that are given, in turn, until one answers.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			nodes, err := t.open()
			if err != nil {
				return err
			}
			defer t.close()
			var raw json.RawMessage
			var failed error
			for _, n := range nodes {
				ctx, cancel := context.WithTimeout(cmd.Context(), askWait)
				err := n.Admin.Call(ctx, "nodes", nil, &raw)
				cancel()
				if err == nil {
					return show(cmd, raw, func(w io.Writer) { tableText(w, raw) })
				}
				failed = errors.Join(failed, err)
			}
			return failed
		},
	}
	t.addFlags(cmd)
	return cmd
}

// tableText prints a list of objects, bare or as the member "nodes", as a table of the columns of mtm.nodes().
func tableText(w io.Writer, raw json.RawMessage) {
	var rows []map[string]any
	if json.Unmarshal(raw, &rows) != nil {
		var wrapped struct {
			Nodes []map[string]any `json:"nodes"`
		}
		if json.Unmarshal(raw, &wrapped) != nil {
			fmt.Fprintln(w, string(raw))
			return
		}
		rows = wrapped.Nodes
	}
	columns := []string{"id", "conninfo", "is_self", "enabled", "connected", "n_workers", "receiver_mode"}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(columns, "\t")))
	for _, row := range rows {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = "-"
			if v := row[c]; v != nil {
				cells[i] = fmt.Sprint(v)
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	t.Flush()
}
