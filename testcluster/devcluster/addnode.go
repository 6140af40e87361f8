package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"mtm/cert"
	"mtm/cmd/mtmctl/admin"
	"mtm/testcluster/faultproxy"
)

// AddOptions say what node to add. The zero value is one like the others.
type AddOptions struct {
	PgBin    string // directory of PostgreSQL's programs; empty: that of the others
	NoJoin   bool   // start PostgreSQL and mtmd, and leave the rest to the caller (Join)
	Donor    int    // see admin.AddOptions
	Progress func(admin.AddProgress)
}

// AddNode makes one more PostgreSQL and mtmd, gives the highest number and one more, and adds it to the cluster, which goes on. It
// returns the number when the node is a member. A node that could not be added is left for inspection.
func (c *Cluster) AddNode(ctx context.Context, o AddOptions) (id int, err error) {
	n, err := c.makeNode(ctx, o)
	if err != nil || o.NoJoin {
		return n, err
	}
	return n, c.Join(ctx, n, o)
}

// Join is "mtmctl add-node" for a node that runs.
func (c *Cluster) Join(ctx context.Context, id int, o AddOptions) error {
	all, done, err := c.AdminNodes()
	if err != nil {
		return err
	}
	defer done()
	var fresh admin.Node
	var nodes []admin.Node
	for _, n := range all {
		if n.ID == id {
			fresh = n
		} else {
			nodes = append(nodes, n)
		}
	}
	if checks, err := admin.PrecheckAdd(ctx, c.st.Name, fresh, nodes); err != nil {
		return fmt.Errorf("%w:\n%s", err, admin.Failed(checks))
	}
	err = admin.Add(ctx, fresh, nodes, admin.AddOptions{Cluster: c.st.Name, Donor: o.Donor, Progress: o.Progress})
	if n, e := c.node(id); err != nil && e == nil {
		return n.explain(err)
	}
	return err
}

func (c *Cluster) makeNode(ctx context.Context, o AddOptions) (id int, err error) {
	unlock, err := c.locked(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if c.st.PostgresOnly {
		return 0, errors.New("this cluster is of PostgreSQL only")
	}
	id = len(c.st.Nodes) + 1
	n, links, err := c.planOne(ctx, id, o)
	if err != nil {
		return 0, err
	}
	t := c.st.Template
	opts := Options{Locale: t.Locale, Encoding: t.Encoding, Settings: t.Settings, HBA: t.HBA, Database: c.st.Database, Progress: c.opts.Progress}
	steps := []func() error{
		func() error { return n.initdb(ctx, opts, c.cred) },
		func() error { return n.startPostgres(ctx, c.cred, c.opts.DieWithParent) },
		func() error { return c.st.save(c.dir) },
		func() error { return n.createDatabase(ctx, c.st.Database) },
		func() error { return cert.Issue(c.certDir(), cert.NodeName(id), "127.0.0.1", "localhost") },
		func() error {
			if c.st.Proxy == nil {
				return nil
			}
			return c.faults().Add(ctx, links)
		},
		func() error { return c.tellOthers(n) },
		func() error {
			return n.writeMtmdConf(c.st, cert.In(c.certDir(), cert.NodeName(id)), c.dialled(id), append(c.refereeSetting(id), t.MtmdSettings...))
		},
		func() error { return n.startMtmd(ctx, c.st.Mtmd, c.st.MtmdEnv, c.opts.DieWithParent) },
		func() error { return c.st.save(c.dir) },
		func() error { return c.waitAdmin(ctx) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return id, err
		}
	}
	return id, nil
}

// planOne decides the paths and ports of one more node.
func (c *Cluster) planOne(ctx context.Context, id int, o AddOptions) (*node, []faultproxy.Link, error) {
	bin := o.PgBin
	if bin == "" {
		bin = c.st.Template.PgBin
	}
	if bin == "" {
		bin = c.st.Nodes[0].PgBin // of a cluster made by a predecessor
	}
	c.opts.PgBins = []string{bin}
	ports, err := freePorts(4 + 2*len(c.st.Nodes) + 1)
	if err != nil {
		return nil, nil, err
	}
	take := func() int {
		port := ports[0]
		ports = ports[1:]
		return port
	}
	n, err := c.planNode(ctx, id, take)
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(filepath.Dir(n.PgData)); err == nil {
		return nil, nil, fmt.Errorf("%s is there already: a node that could not be made; remove it", filepath.Dir(n.PgData))
	}
	others := c.st.Nodes
	c.st.Nodes = append(others[:len(others):len(others)], n)
	if c.st.Proxy == nil {
		return n, nil, nil
	}
	for _, other := range others {
		c.st.Proxy.Links[linkName(id, other.ID)] = addr(take())
		c.st.Proxy.Links[linkName(other.ID, id)] = addr(take())
	}
	if c.st.Referee != nil {
		c.st.Proxy.Links[linkName(id, refereeID)] = addr(take())
	}
	var links []faultproxy.Link
	for _, l := range c.links() {
		if l.From == id || l.To == id {
			links = append(links, l)
		}
	}
	return n, links, nil
}

// tellOthers writes into the configuration of the other nodes where they reach n.
func (c *Cluster) tellOthers(n *node) error {
	for _, other := range c.st.Nodes {
		if other == n {
			continue
		}
		text, err := os.ReadFile(other.MtmdConf)
		if err != nil {
			return err
		}
		add := fmt.Sprintf("%d = %s\n", n.ID, strconv.Quote(c.dialled(other.ID)[n.ID]))
		if !strings.Contains(string(text), "\n[peers]\n") {
			add = "\n[peers]\n" + add
		}
		if err := appendFile(other.MtmdConf, add); err != nil {
			return err
		}
		if other.Mtmd.Alive() {
			if err := other.Mtmd.Signal(syscall.SIGHUP); err != nil {
				return err
			}
		}
	}
	return nil
}
