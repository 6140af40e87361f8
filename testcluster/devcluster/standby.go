package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// AddStandby adds a physical streaming standby of node 1 to a cluster of PostgreSQL only, with which mtm is compared. It
// returns when the standby streams. The standby's application_name is "standbyN".
func (c *Cluster) AddStandby(ctx context.Context) error {
	unlock, err := c.locked(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if !c.st.PostgresOnly {
		return errors.New("a standby can be added to a cluster of PostgreSQL only")
	}
	primary := c.st.Nodes[0]
	id := len(c.st.Nodes) + 1
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.dir, fmt.Sprintf("node%d", id))
	n := &node{
		ID: id, PgBin: primary.PgBin, PgVersion: primary.PgVersion, PgMajor: primary.PgMajor, PgPort: ports[0],
		PgData: filepath.Join(dir, "pg"), PgLog: filepath.Join(dir, "postgres.log"),
	}
	if err := c.baseBackup(ctx, primary, n, fmt.Sprintf("standby%d", id)); err != nil {
		return err
	}
	c.st.Nodes = append(c.st.Nodes, n)
	err = n.startPostgres(ctx, c.cred, c.opts.DieWithParent)
	return errors.Join(err, c.st.save(c.dir))
}

// baseBackup copies a running primary to n's directory, made to stream from it, as name, when n starts.
func (c *Cluster) baseBackup(ctx context.Context, primary, n *node, name string) error {
	dir := filepath.Dir(n.PgData)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if c.cred != nil {
		if err := os.Chown(dir, int(c.cred.Uid), int(c.cred.Gid)); err != nil {
			return err
		}
	}
	err := command{path: filepath.Join(n.PgBin, "pg_basebackup"), cred: c.cred, args: []string{
		"-D", n.PgData, "-R", "-X", "stream", "-c", "fast", "--no-sync",
		"-d", fmt.Sprintf("%s?application_name=%s", primary.pgURL(""), name),
	}}.run(ctx)
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("\nport = %d\ncluster_name = '%s'\nprimary_conninfo = 'host=127.0.0.1 port=%d user=%s application_name=%s'\n",
		n.PgPort, name, primary.PgPort, superuser, name)
	// After -R's line in postgresql.auto.conf, so that ours counts.
	return appendFile(filepath.Join(n.PgData, "postgresql.auto.conf"), conf)
}

// Spare is a physical copy of a node's PostgreSQL, which may take its place.
type Spare struct {
	c    *Cluster
	of   int
	node node
}

// Spare copies the PostgreSQL of node id, which runs, to a directory beside it.
func (c *Cluster) Spare(ctx context.Context, id int) (*Spare, error) {
	n, err := c.node(id)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	s := &Spare{c: c, of: id, node: *n}
	dir := filepath.Join(filepath.Dir(n.PgData), fmt.Sprintf("spare%d", ports[0]))
	s.node.PgPort, s.node.PgData, s.node.PgLog, s.node.Postgres = ports[0], filepath.Join(dir, "pg"), filepath.Join(dir, "postgres.log"), Proc{}
	return s, c.baseBackup(ctx, n, &s.node, fmt.Sprintf("spare%d", ports[0]))
}

// Start runs it as a streaming standby.
func (s *Spare) Start(ctx context.Context) error {
	return s.node.startPostgres(ctx, s.c.cred, s.c.opts.DieWithParent)
}

// Stop stops it.
func (s *Spare) Stop(ctx context.Context) error { return s.node.stopPostgres(ctx) }

// Promote makes it a primary.
func (s *Spare) Promote(ctx context.Context) error {
	return command{path: filepath.Join(s.node.PgBin, "pg_ctl"), cred: s.c.cred, args: []string{"-D", s.node.PgData, "-w", "promote"}}.run(ctx)
}

// Swap puts it into the place of the node's PostgreSQL, and that into its own. Neither may run. What was no primary becomes one when it is
// started, as from a backup.
func (s *Spare) Swap(ctx context.Context) error {
	return s.c.change(ctx, s.of, Postgres, func(n *node) error {
		if n.Postgres.Alive() || s.node.Postgres.Alive() {
			return fmt.Errorf("node %d: PostgreSQL or its spare runs", n.ID)
		}
		aside := n.PgData + ".aside"
		if err := errors.Join(os.Rename(n.PgData, aside), os.Rename(s.node.PgData, n.PgData), os.Rename(aside, s.node.PgData)); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(n.PgData, "standby.signal")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return appendFile(filepath.Join(n.PgData, "postgresql.auto.conf"), fmt.Sprintf("\nport = %d\n", n.PgPort))
	})
}
