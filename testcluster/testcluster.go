package testcluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"mtm/testcluster/devcluster"
)

// Options are devcluster's.
type Options = devcluster.Options

// Status is devcluster's.
type Status = devcluster.Status

// callWait bounds what has no deadline of its own.
const callWait = 3 * time.Minute

// Cluster is a running cluster of a test.
type Cluster struct {
	t       testing.TB
	c       *devcluster.Cluster
	excused *[]string
}

// Node is one of its nodes.
type Node struct {
	c  *Cluster
	ID int
}

// mtmd is built once per process.
var mtmd = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("MTM_MTMD"); path != "" {
		return path, nil
	}
	return devcluster.BuildMtmd(context.Background())
})

// Start makes a cluster, waits until all its nodes are online, and arranges its end with that of the test. Without
// PostgreSQL on the machine the test is skipped, but in CI (CI set in the environment) it fails.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if text := os.Getenv("MTM_PG_BINS"); text != "" && len(o.PgBins) == 0 {
		o.PgBins = strings.Split(text, ":") // one per node: mixed versions
	}
	if _, err := devcluster.FindPgBin(); err != nil && len(o.PgBins) == 0 {
		if os.Getenv("CI") == "" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	if !o.PostgresOnly && o.Mtmd == "" {
		path, err := mtmd()
		if err != nil {
			t.Fatal(err)
		}
		o.Mtmd = path
	}
	o.DieWithParent = true
	// Not t.TempDir: the user postgres must be able to enter it, and a path of a socket must stay short.
	dir, err := os.MkdirTemp("", "mtm-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callWait)
	defer cancel()
	c, err := devcluster.Start(ctx, dir, o)
	if err != nil {
		keepOrRemove(t, dir, true)
		t.Fatal(err)
	}
	cluster := &Cluster{t: t, c: c, excused: new([]string)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), callWait)
		defer cancel()
		if err := c.KillAll(ctx); err != nil {
			t.Error(err)
		}
		for _, line := range cluster.incidents() {
			t.Errorf("a write went past the cluster: %s", line)
		}
		keepOrRemove(t, dir, t.Failed())
	})
	return cluster
}

// keepOrRemove leaves the directory of a failed test for inspection, if that is asked for.
func keepOrRemove(t testing.TB, dir string, failed bool) {
	if failed && os.Getenv("MTM_KEEP") != "" {
		t.Logf("kept: %s", dir)
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// ExcuseIncidents: an incident whose text has this in it is what the test is about. Any other fails the test that started the cluster.
func (c *Cluster) ExcuseIncidents(about string) { *c.excused = append(*c.excused, about) }

// incidents are those that the nodes logged, of all lives of theirs, but for excused ones: each is what mtm_incidents_total counts.
func (c *Cluster) incidents() (lines []string) {
	for _, n := range c.Nodes() {
		text, err := os.ReadFile(n.Info().MtmdLog)
		if err != nil {
			continue // it was never started
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "incident: a write went past the cluster") && !slices.ContainsFunc(*c.excused, func(about string) bool { return strings.Contains(line, about) }) {
				lines = append(lines, fmt.Sprintf("node %d: %s", n.ID, strings.TrimSpace(line)))
			}
		}
	}
	return lines
}

// Dev is the cluster below, for what has no method here.
func (c *Cluster) Dev() *devcluster.Cluster { return c.c }

// For is the same cluster for a test within the one that started it: failures are that test's, and sessions end with it.
func (c *Cluster) For(t testing.TB) *Cluster { return &Cluster{t: t, c: c.c, excused: c.excused} }

// Node is node id.
func (c *Cluster) Node(id int) *Node { return &Node{c: c, ID: id} }

// Nodes are all nodes.
func (c *Cluster) Nodes() []*Node {
	var all []*Node
	for _, id := range c.c.IDs() {
		all = append(all, c.Node(id))
	}
	return all
}

// do runs f with a deadline and ends the test if it fails.
func (c *Cluster) do(f func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callWait)
	defer cancel()
	if err := f(ctx); err != nil {
		c.t.Fatal(err)
	}
}

// WaitOnline waits until all nodes are online.
func (c *Cluster) WaitOnline() {
	c.t.Helper()
	c.do(func(ctx context.Context) error { return c.c.WaitStatus(ctx, "online", c.c.IDs()...) })
}

// Partition holds everything between nodes on different sides, "1,2/3".
func (c *Cluster) Partition(sides string) {
	c.t.Helper()
	c.do(func(ctx context.Context) error { return c.c.Partition(ctx, sides, false) })
}

// PartitionOneWay holds what the first side sends to the second, "1/2,3".
func (c *Cluster) PartitionOneWay(sides string) {
	c.t.Helper()
	c.do(func(ctx context.Context) error { return c.c.Partition(ctx, sides, true) })
}

// Slow delays what two nodes, "1-2", send each other; loss is a share, 0 to 0.9.
func (c *Cluster) Slow(link string, delay time.Duration, loss float64) {
	c.t.Helper()
	c.do(func(ctx context.Context) error { return c.c.Slow(ctx, link, delay, loss) })
}

// Heal makes the network good.
func (c *Cluster) Heal() {
	c.t.Helper()
	c.do(c.c.Heal)
}

// CompareTables gives nil if all nodes hold the same rows of the same tables, and no prepared transaction of mtm.
func (c *Cluster) CompareTables() error {
	ctx, cancel := context.WithTimeout(context.Background(), callWait)
	defer cancel()
	return c.c.CompareTables(ctx, c.c.IDs()...)
}

// RequireEqual waits until CompareTables gives nil, for at most half a minute.
func (c *Cluster) RequireEqual() {
	c.t.Helper()
	c.do(func(ctx context.Context) error { return c.c.WaitEqual(ctx, 30*time.Second, c.c.IDs()...) })
}

// Info tells where node n is.
func (n *Node) Info() devcluster.NodeInfo {
	ctx, cancel := context.WithTimeout(context.Background(), callWait)
	defer cancel()
	return n.c.c.Info(ctx).Nodes[n.ID-1]
}

// URL is the way through the gateway.
func (n *Node) URL() string { return n.Info().URL }

// PgURL is the way straight to PostgreSQL.
func (n *Node) PgURL() string { return n.Info().PgURL }

// HTTP is the base of mtmd's HTTP addresses.
func (n *Node) HTTP() string { return n.Info().HTTP }

// Connect opens a session through the gateway, which ends with the test.
func (n *Node) Connect() *pgx.Conn {
	n.c.t.Helper()
	return n.connect(n.URL())
}

// ConnectPg opens a session straight to PostgreSQL, which ends with the test.
func (n *Node) ConnectPg() *pgx.Conn {
	n.c.t.Helper()
	return n.connect(n.PgURL())
}

// ConnectPgErr is ConnectPg for a connection that may fail; the caller closes it.
func (n *Node) ConnectPgErr(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, n.PgURL())
}

// ConnectErr is Connect for a connection that may fail; the caller closes it.
func (n *Node) ConnectErr(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, n.URL()) }

func (n *Node) connect(url string) *pgx.Conn {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		n.c.t.Fatalf("node %d: %v", n.ID, err)
	}
	n.c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn.Close(ctx) //nolint:errcheck // the node may be gone
	})
	return conn
}

// Status is what mtmd says of itself now.
func (n *Node) Status() (st Status) {
	n.c.t.Helper()
	n.c.do(func(ctx context.Context) (err error) {
		st, err = n.c.c.Status(ctx, n.ID)
		return err
	})
	return st
}

// WaitStatus waits until mtmd says that it is want.
func (n *Node) WaitStatus(want string) {
	n.c.t.Helper()
	n.c.do(func(ctx context.Context) error { return n.c.c.WaitStatus(ctx, want, n.ID) })
}

// WaitFor waits until ok is true of mtmd's status; what is for the message.
func (n *Node) WaitFor(what string, ok func(Status) bool) {
	n.c.t.Helper()
	n.c.do(func(ctx context.Context) error { return n.c.c.WaitFor(ctx, what, ok, n.ID) })
}

// WaitMtmdGone waits until mtmd has ended by itself (a fail point, say).
func (n *Node) WaitMtmdGone() {
	n.c.t.Helper()
	n.c.do(func(ctx context.Context) error { return n.c.c.WaitMtmdGone(ctx, n.ID) })
}

// act does one thing to processes of n.
func (n *Node) act(f func(context.Context, int, devcluster.What) error, w devcluster.What) {
	n.c.t.Helper()
	n.c.do(func(ctx context.Context) error { return f(ctx, n.ID, w) })
}

// KillMtmd ends mtmd by SIGKILL.
func (n *Node) KillMtmd() { n.c.t.Helper(); n.act(n.c.c.Kill, devcluster.Mtmd) }

// KillPostgres ends PostgreSQL and all its children by SIGKILL.
func (n *Node) KillPostgres() { n.c.t.Helper(); n.act(n.c.c.Kill, devcluster.Postgres) }

// Kill ends both by SIGKILL.
func (n *Node) Kill() { n.c.t.Helper(); n.act(n.c.c.Kill, devcluster.Both) }

// StopMtmd ends mtmd in an orderly way.
func (n *Node) StopMtmd() { n.c.t.Helper(); n.act(n.c.c.StopNode, devcluster.Mtmd) }

// StopPostgres ends PostgreSQL in an orderly way.
func (n *Node) StopPostgres() { n.c.t.Helper(); n.act(n.c.c.StopNode, devcluster.Postgres) }

// Stop ends both in an orderly way.
func (n *Node) Stop() { n.c.t.Helper(); n.act(n.c.c.StopNode, devcluster.Both) }

// Freeze stops both by SIGSTOP.
func (n *Node) Freeze() { n.c.t.Helper(); n.act(n.c.c.Freeze, devcluster.Both) }

// FreezeMtmd stops mtmd by SIGSTOP.
func (n *Node) FreezeMtmd() { n.c.t.Helper(); n.act(n.c.c.Freeze, devcluster.Mtmd) }

// FreezePostgres stops PostgreSQL and its children by SIGSTOP.
func (n *Node) FreezePostgres() { n.c.t.Helper(); n.act(n.c.c.Freeze, devcluster.Postgres) }

// Thaw lets both go on.
func (n *Node) Thaw() { n.c.t.Helper(); n.act(n.c.c.Thaw, devcluster.Both) }

// ThawMtmd lets mtmd go on.
func (n *Node) ThawMtmd() { n.c.t.Helper(); n.act(n.c.c.Thaw, devcluster.Mtmd) }

// ThawPostgres lets PostgreSQL go on.
func (n *Node) ThawPostgres() { n.c.t.Helper(); n.act(n.c.c.Thaw, devcluster.Postgres) }

// Start starts what does not run and returns when it answers, which may be before the node is online. Environment
// variables ("NAME=value") are for mtmd, this time only.
func (n *Node) Start(env ...string) { n.c.t.Helper(); n.start(devcluster.Both, env) }

// StartMtmd starts mtmd if it does not run; see Start.
func (n *Node) StartMtmd(env ...string) { n.c.t.Helper(); n.start(devcluster.Mtmd, env) }

// LaunchMtmd starts mtmd and waits for nothing: for one that is expected to die.
func (n *Node) LaunchMtmd(env ...string) {
	n.c.t.Helper()
	n.c.do(func(ctx context.Context) error { return n.c.c.LaunchMtmd(ctx, n.ID, env...) })
}

// StartPostgres starts PostgreSQL if it does not run.
func (n *Node) StartPostgres() { n.c.t.Helper(); n.start(devcluster.Postgres, nil) }

func (n *Node) start(w devcluster.What, env []string) {
	n.c.t.Helper()
	n.c.do(func(ctx context.Context) error { return n.c.c.StartNode(ctx, n.ID, w, env...) })
}

// Psql runs SQL text by psql through the gateway and gives what it prints, unaligned and without headers. An error of
// any statement ends the test.
func (n *Node) Psql(sql string) string {
	n.c.t.Helper()
	out, err := n.psql(sql)
	if err != nil {
		n.c.t.Fatalf("node %d: psql: %v\n%s\n%s", n.ID, err, sql, out)
	}
	return out
}

func (n *Node) psql(sql string) (string, error) {
	i := n.Info()
	ctx, cancel := context.WithTimeout(context.Background(), callWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, Program(i.PgBin, "psql"), "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", i.URL)
	cmd.Stdin = strings.NewReader(sql)
	out, err := cmd.CombinedOutput()
	return strings.TrimRight(string(out), "\n"), err
}

// Program is the path of a client program of PostgreSQL: from bin, or, if that has none, from the version found on
// this machine, or by its name alone.
func Program(bin, name string) string {
	for _, dir := range []string{bin, foundPgBin()} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); dir != "" && err == nil {
			return path
		}
	}
	return name
}

func foundPgBin() string {
	dir, err := devcluster.FindPgBin()
	if err != nil {
		return ""
	}
	return dir
}
