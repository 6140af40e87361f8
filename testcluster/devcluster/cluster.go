package devcluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"mtm/cert"
	"mtm/testcluster/faultproxy"
)

// Cluster is a dev cluster in a directory. Its methods may be called from one goroutine at a time.
type Cluster struct {
	dir  string
	opts Options // of Start; zero for one that was opened
	st   *state
	cred *syscall.Credential // whom PostgreSQL runs as

	stopProxy func() // of a proxy in this process
}

// Start makes a cluster in dir, which must be empty or absent, and returns when all its nodes are online. If anything
// fails, what was started is stopped, and the files are left for inspection.
func Start(ctx context.Context, dir string, opts Options) (*Cluster, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, opts: opts}
	if c.cred, err = postgresUser(); err != nil {
		return nil, err
	}
	if err := c.makeDir(ctx); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := c.plan(ctx); err != nil {
		return nil, err
	}
	if err := c.startAll(ctx); err != nil {
		return nil, errors.Join(err, c.killAll(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// Open finds the cluster that was started in dir.
func Open(dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	st, err := loadState(dir)
	if err != nil {
		return nil, err
	}
	cred, err := postgresUser()
	if err != nil {
		return nil, err
	}
	opts, err := Options{}.withDefaults()
	return &Cluster{dir: dir, opts: opts, st: st, cred: cred}, err
}

// Dir is the cluster's directory.
func (c *Cluster) Dir() string { return c.dir }

// IDs lists the nodes.
func (c *Cluster) IDs() []int {
	ids := make([]int, 0, len(c.st.Nodes))
	for _, n := range c.st.Nodes {
		ids = append(ids, n.ID)
	}
	return ids
}

// makeDir makes the directory, and checks that it is ours to fill.
func (c *Cluster) makeDir(ctx context.Context) error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "cluster.json" {
			return fmt.Errorf("there is a dev cluster in %s already (mtmctl devcluster destroy --dir %s)", c.dir, c.dir)
		}
		if e.Name() != "cluster.lock" {
			return fmt.Errorf("%s is not empty (it holds %s)", c.dir, e.Name())
		}
	}
	return mayEnter(ctx, c.dir, c.cred)
}

// plan decides paths and ports, and saves them.
func (c *Cluster) plan(ctx context.Context) error {
	if len(c.opts.PgBins) == 0 {
		bin, err := FindPgBin()
		if err != nil {
			return err
		}
		c.opts.PgBins = []string{bin}
	}
	c.st = &state{Version: 1, Name: "dev", Database: c.opts.Database, MtmdEnv: c.opts.MtmdEnv, PostgresOnly: c.opts.PostgresOnly}
	c.st.Template = template{
		PgBin: c.opts.pgBin(c.opts.Nodes), Locale: c.opts.Locale, Encoding: c.opts.Encoding, Settings: c.opts.Settings, HBA: c.opts.HBA,
		MtmdSettings: c.opts.MtmdSettings,
	}
	links := c.opts.Nodes * (c.opts.Nodes - 1)
	ports, err := freePorts(4*c.opts.Nodes + links + 1 + 4)
	if err != nil {
		return err
	}
	take := func() int {
		port := ports[0]
		ports = ports[1:]
		return port
	}
	for id := 1; id <= c.opts.Nodes; id++ {
		n, err := c.planNode(ctx, id, take)
		if err != nil {
			return err
		}
		c.st.Nodes = append(c.st.Nodes, n)
	}
	if c.opts.FaultDisks {
		if err := c.planDisks(ctx); err != nil {
			return err
		}
	}
	if !c.opts.PostgresOnly {
		if err := c.planMtmd(ctx); err != nil {
			return err
		}
		if c.opts.Referee {
			c.planReferee(take)
		}
		if !c.opts.NoProxy {
			c.planProxy(take)
		}
	}
	return c.st.save(c.dir)
}

func (c *Cluster) planNode(ctx context.Context, id int, take func() int) (*node, error) {
	bin, err := filepath.Abs(c.opts.pgBin(id))
	if err != nil {
		return nil, err
	}
	version, major, err := pgVersion(ctx, bin, c.cred)
	if err != nil {
		return nil, err
	}
	if major < MinPgMajor || major > MaxPgMajor {
		return nil, fmt.Errorf("PostgreSQL %s in %s: versions %d to %d are supported", version, bin, MinPgMajor, MaxPgMajor)
	}
	dir := filepath.Join(c.dir, fmt.Sprintf("node%d", id))
	socket := ""
	if c.opts.Socket {
		socket = dir
	}
	return &node{
		PgSocket: socket,
		ID:       id, PgBin: bin, PgVersion: version, PgMajor: major,
		PgData: filepath.Join(dir, "pg"), PgLog: filepath.Join(dir, "postgres.log"), PgPort: take(),
		MtmdConf: filepath.Join(dir, "mtmd.toml"), MtmdData: filepath.Join(dir, "mtmd"), MtmdLog: filepath.Join(dir, "mtmd.log"),
		Port: take(), PeerPort: take(), HTTPPort: take(),
	}, nil
}

func (c *Cluster) planMtmd(ctx context.Context) (err error) {
	c.st.Mtmd = c.opts.Mtmd
	if c.st.Mtmd == "" {
		if c.st.Mtmd, err = FindMtmd(ctx); err != nil {
			return err
		}
	}
	if c.st.Mtmd, err = filepath.Abs(c.st.Mtmd); err != nil {
		return err
	}
	if _, err := os.Stat(c.st.Mtmd); err != nil {
		return fmt.Errorf("no mtmd: %w", err)
	}
	return nil
}

func (c *Cluster) planProxy(take func() int) {
	c.st.Proxy = &proxyState{Control: addr(take()), Links: map[string]string{}}
	for _, from := range c.IDs() {
		for _, to := range c.IDs() {
			if from != to {
				c.st.Proxy.Links[linkName(from, to)] = addr(take())
			}
		}
		if c.st.Referee != nil {
			c.st.Proxy.Links[linkName(from, refereeID)] = addr(take())
		}
	}
}

func linkName(from, to int) string { return fmt.Sprintf("%d-%d", from, to) }

// startAll brings up what plan decided.
func (c *Cluster) startAll(ctx context.Context) error {
	o := c.opts
	o.Progress("starting %d PostgreSQL (%s) in %s", len(c.st.Nodes), c.versions(), c.dir)
	err := c.forEach(func(n *node) error {
		if err := n.initdb(ctx, o, c.cred); err != nil {
			return err
		}
		if err := n.startPostgres(ctx, c.cred, o.DieWithParent); err != nil {
			return err
		}
		return n.createDatabase(ctx, o.Database)
	})
	if err = errors.Join(err, c.st.save(c.dir)); err != nil || o.PostgresOnly {
		return err
	}
	if err := c.makeCerts(); err != nil {
		return err
	}
	if err := c.startProxy(ctx); err != nil {
		return err
	}
	if err := errors.Join(c.startReferee(ctx), c.st.save(c.dir)); err != nil {
		return err
	}
	o.Progress("starting %d mtmd (%s)", len(c.st.Nodes), c.st.Mtmd)
	err = c.forEach(func(n *node) error {
		if err := n.writeMtmdConf(c.st, cert.In(c.certDir(), cert.NodeName(n.ID)), c.dialled(n.ID), append(c.refereeSetting(n.ID), o.MtmdSettings...)); err != nil {
			return err
		}
		return n.startMtmd(ctx, c.st.Mtmd, c.st.MtmdEnv, o.DieWithParent)
	})
	if err = errors.Join(err, c.st.save(c.dir)); err != nil || o.NoInit {
		return err
	}
	o.Progress("making a cluster of them")
	if err := c.Init(ctx); err != nil {
		return err
	}
	return c.WaitStatus(ctx, "online", c.IDs()...)
}

// forEach does f for all nodes at once.
func (c *Cluster) forEach(f func(*node) error) error {
	var g errgroup.Group
	for _, n := range c.st.Nodes {
		g.Go(func() error { return f(n) })
	}
	return g.Wait()
}

func (c *Cluster) versions() string {
	var all []string
	for _, n := range c.st.Nodes {
		if !slices.Contains(all, n.PgVersion) {
			all = append(all, n.PgVersion)
		}
	}
	return strings.Join(all, ", ")
}

// dialled is where node id reaches each other: the proxy's address of that link.
func (c *Cluster) dialled(id int) map[int]string {
	to := map[int]string{}
	for _, other := range c.st.Nodes {
		switch {
		case other.ID == id:
		case c.st.Proxy == nil:
			to[other.ID] = addr(other.PeerPort)
		default:
			to[other.ID] = c.st.Proxy.Links[linkName(id, other.ID)]
		}
	}
	return to
}

// links are the proxy's.
func (c *Cluster) links() []faultproxy.Link {
	var all []faultproxy.Link
	for _, from := range c.st.Nodes {
		for _, to := range c.st.Nodes {
			if from != to {
				all = append(all, faultproxy.Link{
					Direction: faultproxy.Direction{From: from.ID, To: to.ID},
					Listen:    c.st.Proxy.Links[linkName(from.ID, to.ID)], Upstream: addr(to.PeerPort),
				})
			}
		}
	}
	return append(all, c.refereeLinks()...)
}

// node finds one by number.
func (c *Cluster) node(id int) (*node, error) {
	for _, n := range c.st.Nodes {
		if n.ID == id {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %d in %s (it has %v)", id, c.dir, c.IDs())
}

func pgURLEscape(database string) string { return url.PathEscape(database) }

func (c *Cluster) url(n *node) string {
	return fmt.Sprintf("postgres://%s@%s/%s", superuser, addr(n.Port), pgURLEscape(c.st.Database))
}
