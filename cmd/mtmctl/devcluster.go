package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mtm/testcluster/devcluster"
)

func newDevcluster() *cobra.Command {
	cmd := group("devcluster", "Run a whole cluster on this machine",
		`devcluster runs N PostgreSQL and N mtmd on free loopback ports, with a fault proxy on every link between two mtmd,
in one directory. For trying mtm out, for its own tests, and for yours. As root it runs PostgreSQL as the user postgres.`,
		newDevStart(), newDevInfo(), newDevURL(), newDevStop(), newDevStartNode(), newDevAddNode(),
		newDevAct("kill", "End processes of a node by SIGKILL", "PostgreSQL is killed with all its children, as in a power cut.", (*devcluster.Cluster).Kill),
		newDevAct("freeze", "Stop processes of a node by SIGSTOP", "They keep their connections and say nothing.", (*devcluster.Cluster).Freeze),
		newDevAct("thaw", "Let frozen processes of a node go on", "", (*devcluster.Cluster).Thaw),
		newDevPartition(), newDevSlow(), newDevHeal(), newDevCompare(), newDevDestroy(), newDevProxy())
	cmd.PersistentFlags().String("dir", "", "directory of the cluster (required)")
	cmd.MarkPersistentFlagRequired("dir") //nolint:errcheck // the flag is there
	return cmd
}

func dirOf(cmd *cobra.Command) string {
	dir, _ := cmd.Flags().GetString("dir")
	return dir
}

func progress(cmd *cobra.Command) func(string, ...any) {
	return func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) }
}

func newDevStart() *cobra.Command {
	var o devcluster.Options
	cmd := &cobra.Command{
		Use: "start", Short: "Make a cluster, start it, and leave it running", Args: noArgs,
		Long: `start initialises N PostgreSQL and N mtmd in --dir, which must be empty or absent, waits until all are online,
prints where they are, and leaves them running. On a cluster that was stopped ("stop --all") it starts it again.`,
		Example: "  mtmctl devcluster start --dir /tmp/dc --nodes 3 --set shared_buffers=64MB\n" +
			"  psql \"$(mtmctl devcluster url --dir /tmp/dc --node 1)\"",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Referee && o.Nodes != 2 {
				return usageError{fmt.Errorf("--referee: a referee is for two nodes, and --nodes is %d", o.Nodes)}
			}
			o.Progress = progress(cmd)
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o.ProxyCommand = []string{self, "devcluster", "proxy"}
			c, err := startOrResume(cmd, o)
			if err != nil {
				return err
			}
			return showInfo(cmd, c)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Nodes, "nodes", 3, "number of nodes, 1 to 16")
	f.BoolVar(&o.Referee, "referee", false, "add a referee; with --nodes 2")
	f.StringArrayVar(&o.PgBins, "pg-bin", nil, "directory of PostgreSQL's programs; repeated: one per node, the last for the rest")
	f.StringVar(&o.Database, "database", "postgres", "the replicated database; created if need be")
	f.StringVar(&o.Locale, "locale", "C", "locale of the databases")
	f.StringArrayVar(&o.Settings, "set", nil, "key=value for postgresql.conf")
	f.StringVar(&o.Mtmd, "mtmd", "", "path of mtmd (default: $MTM_MTMD, beside mtmctl, in PATH, or built from source)")
	f.StringArrayVar(&o.MtmdSettings, "mtmd-set", nil, "key=value for mtmd.toml")
	f.StringArrayVar(&o.HBA, "hba", nil, "line for the top of pg_hba.conf (what is not matched is trusted, on loopback)")
	f.BoolVar(&o.PostgresOnly, "postgres-only", false, "start PostgreSQL only")
	f.BoolVar(&o.NoInit, "no-init", false, "start mtmd, but do not make a cluster of them")
	f.BoolVar(&o.Socket, "socket", false, "let mtmd reach PostgreSQL by a Unix socket in the node's directory")
	f.BoolVar(&o.NoProxy, "no-proxy", false, "let peers dial each other directly, for measurements; faults of the network are refused")
	return cmd
}

// startOrResume makes a cluster, or starts one again that is there and was stopped.
func startOrResume(cmd *cobra.Command, o devcluster.Options) (*devcluster.Cluster, error) {
	c, err := devcluster.Open(dirOf(cmd))
	if err != nil {
		return devcluster.Start(cmd.Context(), dirOf(cmd), o)
	}
	for _, n := range c.Info(cmd.Context()).Nodes {
		if n.MtmdPid != 0 || n.PostgresPid != 0 {
			return nil, fmt.Errorf("the dev cluster in %s is running; stop or destroy it first", c.Dir())
		}
	}
	o.Progress("starting the cluster that is in %s again", c.Dir())
	return c, c.StartAll(cmd.Context())
}

func newDevInfo() *cobra.Command {
	return devCommand("info", "Show nodes, addresses, processes and files", "",
		func(cmd *cobra.Command, c *devcluster.Cluster) error { return showInfo(cmd, c) })
}

func newDevURL() *cobra.Command {
	var node int
	var direct bool
	cmd := devCommand("url", "Print the address of a node, for psql and drivers", "",
		func(cmd *cobra.Command, c *devcluster.Cluster) error {
			for _, n := range c.Info(cmd.Context()).Nodes {
				if n.ID != node {
					continue
				}
				url := n.URL
				if direct {
					url = n.PgURL
				}
				return show(cmd, map[string]string{"url": url}, func(w io.Writer) { fmt.Fprintln(w, url) })
			}
			return fmt.Errorf("no node %d in %s", node, c.Dir())
		})
	cmd.Flags().IntVar(&node, "node", 1, "number of the node")
	cmd.Flags().BoolVar(&direct, "direct", false, "straight to PostgreSQL instead of through the gateway")
	return cmd
}

// devCommand is one that acts on a cluster that is there.
func devCommand(use, short, long string, do func(*cobra.Command, *devcluster.Cluster) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := devcluster.Open(dirOf(cmd))
			if err != nil {
				return err
			}
			return do(cmd, c)
		},
	}
}

func showInfo(cmd *cobra.Command, c *devcluster.Cluster) error {
	info := c.Info(cmd.Context())
	return show(cmd, info, func(w io.Writer) {
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "NODE\tSTATUS\tURL\tPOSTGRESQL\tVERSION\tHTTP\tMTMD PID\tPG PID")
		for _, n := range info.Nodes {
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.ID, n.Status, n.URL, n.PgURL, n.PgVersion, n.HTTP, pid(n.MtmdPid), pid(n.PostgresPid))
		}
		if r := info.Referee; r != nil {
			fmt.Fprintf(t, "referee\t%s\t-\t-\t-\t%s\t%s\t-\n", r.Status, r.HTTP, pid(r.MtmdPid))
		}
		t.Flush()
	})
}

func pid(p int) string {
	if p == 0 {
		return "-"
	}
	return strconv.Itoa(p)
}

// nodeFlags are --node and --what.
func nodeFlags(cmd *cobra.Command, node *int, what *string) {
	cmd.Flags().IntVar(node, "node", 0, "number of the node (required, but for the referee)")
	cmd.Flags().StringVar(what, "what", "both", "mtmd, postgres or both; or referee, without --node")
}

func checkWhat(what string) (devcluster.What, error) {
	w := devcluster.What(what)
	if err := w.Check(); err != nil {
		return "", usageError{fmt.Errorf("--what %w", err)}
	}
	return w, nil
}

// newDevAct is a command that does one thing to processes of one node.
func newDevAct(use, short, long string, act func(*devcluster.Cluster, context.Context, int, devcluster.What) error) *cobra.Command {
	var node int
	var what string
	cmd := devCommand(use, short, long, func(cmd *cobra.Command, c *devcluster.Cluster) error {
		w, err := checkWhat(what)
		if err != nil {
			return err
		}
		return act(c, cmd.Context(), node, w)
	})
	nodeFlags(cmd, &node, &what)
	needNode(cmd, &node, &what)
	return cmd
}

// needNode refuses a command that says neither which node nor that the referee is meant.
func needNode(cmd *cobra.Command, node *int, what *string) {
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if all, _ := cmd.Flags().GetBool("all"); !all && *node == 0 && devcluster.What(*what) != devcluster.Referee {
			return usageError{errors.New("which node? Give --node, or --what referee")}
		}
		return nil
	}
}

func newDevStop() *cobra.Command {
	var node int
	var what string
	var all bool
	cmd := devCommand("stop", "Stop processes of a node, or all, in an orderly way", "The data stays; start-node, or start, goes on with it.",
		func(cmd *cobra.Command, c *devcluster.Cluster) error {
			w, err := checkWhat(what)
			if err != nil {
				return err
			}
			if all {
				return c.StopAll(cmd.Context())
			}
			return c.StopNode(cmd.Context(), node, w)
		})
	nodeFlags(cmd, &node, &what)
	needNode(cmd, &node, &what)
	cmd.Flags().BoolVar(&all, "all", false, "everything: all nodes and the fault proxy")
	cmd.MarkFlagsMutuallyExclusive("node", "all")
	return cmd
}

func newDevStartNode() *cobra.Command {
	var wait time.Duration
	var env []string
	cmd := newDevAct("start-node", "Start what does not run of a node", "It returns when they answer, and with --wait when the node is online.",
		func(c *devcluster.Cluster, ctx context.Context, id int, w devcluster.What) error {
			if err := c.StartNode(ctx, id, w, env...); err != nil || wait == 0 || w == devcluster.Referee {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("after %v", wait))
			defer cancel()
			return c.WaitStatus(ctx, "online", id)
		})
	cmd.Flags().StringArrayVar(&env, "env", nil, "NAME=value for mtmd's environment, this time only (MTM_FAIL_AT=vote-persisted)")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for the node to be online")
	return cmd
}

func newDevAddNode() *cobra.Command {
	var o devcluster.AddOptions
	cmd := devCommand("add-node", "Make one more PostgreSQL and mtmd, and add them to the cluster, which goes on",
		"It returns when the new node is a member. With --no-join, \"mtmctl add-node N --dev DIR\" does the rest.",
		func(cmd *cobra.Command, c *devcluster.Cluster) error {
			o.Progress = addProgress(cmd)
			if _, err := c.AddNode(cmd.Context(), o); err != nil {
				return err
			}
			return showInfo(cmd, c)
		})
	f := cmd.Flags()
	f.StringVar(&o.PgBin, "pg-bin", "", "directory of PostgreSQL's programs (default: that of the last node of the start)")
	f.IntVar(&o.Donor, "donor", 0, "number of the node to copy; 0: any that is online")
	f.BoolVar(&o.NoJoin, "no-join", false, "start it, and do not add it to the cluster")
	return cmd
}

func newDevPartition() *cobra.Command {
	var sides string
	var oneWay bool
	cmd := devCommand("partition", "Cut the network between nodes",
		`Nodes on different sides do not hear each other: bytes are held silently, also the end of connections, and arrive
after "heal", as TCP would deliver them. Clients are not cut off. A second partition adds to the first.`,
		func(cmd *cobra.Command, c *devcluster.Cluster) error {
			return c.Partition(cmd.Context(), sides, oneWay)
		})
	cmd.Flags().StringVar(&sides, "sides", "", "the sides, like 1,2/3, or 1,referee/2 (required)")
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "only what the first side sends to the second is held")
	cmd.MarkFlagRequired("sides") //nolint:errcheck // the flag is there
	return cmd
}

func newDevSlow() *cobra.Command {
	var link, loss string
	var delay time.Duration
	cmd := devCommand("slow", "Make the link between two nodes slow or lossy",
		`Each direction takes --delay longer, so a round trip takes twice that. Links are TCP, which hides loss: a lost segment
(1448 bytes), and all behind it, arrives later by a retransmission timeout, 200 ms, and twice as much for each
further loss. A later "slow" of the same link replaces this one.`,
		func(cmd *cobra.Command, c *devcluster.Cluster) error {
			share, err := parsePercent(loss)
			if err != nil {
				return usageError{fmt.Errorf("--loss: %w", err)}
			}
			return c.Slow(cmd.Context(), link, delay, share)
		})
	cmd.Flags().StringVar(&link, "link", "", "the two nodes, like 1-2 (required)")
	cmd.Flags().DurationVar(&delay, "delay", 0, "one way, like 50ms")
	cmd.Flags().StringVar(&loss, "loss", "0%", "share of segments that are lost, like 5%")
	cmd.MarkFlagRequired("link") //nolint:errcheck // the flag is there
	return cmd
}

// parsePercent reads "5%" or "0.05".
func parsePercent(text string) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, fmt.Errorf("%q: must be a share, like 5%%", text)
	}
	if percent {
		v /= 100
	}
	if !(v >= 0 && v <= 0.9) {
		return 0, fmt.Errorf("%q: must be 0%% to 90%%", text)
	}
	return v, nil
}

func newDevHeal() *cobra.Command {
	return devCommand("heal", "Make the network good: end partitions, delay and loss", "",
		func(cmd *cobra.Command, c *devcluster.Cluster) error { return c.Heal(cmd.Context()) })
}

func newDevCompare() *cobra.Command {
	var wait time.Duration
	cmd := devCommand("compare", "Check that all nodes hold the same rows, and no prepared transaction of mtm is left",
		"It reads every user table on every node, straight from PostgreSQL. Load should have ended.",
		func(cmd *cobra.Command, c *devcluster.Cluster) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), max(wait, time.Minute))
			defer cancel()
			if err := c.WaitEqual(ctx, wait, c.IDs()...); err != nil {
				return err
			}
			return show(cmd, map[string]any{"equal": true, "nodes": c.IDs()}, func(w io.Writer) {
				fmt.Fprintf(w, "nodes %v hold the same rows\n", c.IDs())
			})
		})
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Second, "how long the nodes may take to become equal")
	return cmd
}

func newDevDestroy() *cobra.Command {
	return devCommand("destroy", "Kill everything and remove the directory", "",
		func(cmd *cobra.Command, c *devcluster.Cluster) error { return c.Destroy(cmd.Context()) })
}

func newDevProxy() *cobra.Command {
	return &cobra.Command{
		Use: "proxy", Short: "Run the fault proxy in the foreground", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return devcluster.ServeProxy(cmd.Context(), dirOf(cmd)) },
	}
}
