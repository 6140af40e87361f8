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
	unlock, err := lock(ctx, c.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if c.st, err = loadState(c.dir); err != nil {
		return err
	}
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
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if c.cred != nil {
		if err := os.Chown(dir, int(c.cred.Uid), int(c.cred.Gid)); err != nil {
			return err
		}
	}
	err = command{path: filepath.Join(n.PgBin, "pg_basebackup"), cred: c.cred, args: []string{
		"-D", n.PgData, "-R", "-X", "stream", "-c", "fast", "--no-sync",
		"-d", fmt.Sprintf("%s?application_name=standby%d", primary.pgURL(""), id),
	}}.run(ctx)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("standby%d", id)
	conf := fmt.Sprintf("\nport = %d\ncluster_name = '%s'\nprimary_conninfo = 'host=127.0.0.1 port=%d user=%s application_name=%s'\n",
		n.PgPort, name, primary.PgPort, superuser, name)
	// After -R's line in postgresql.auto.conf, so that ours counts.
	if err := appendFile(filepath.Join(n.PgData, "postgresql.auto.conf"), conf); err != nil {
		return err
	}
	c.st.Nodes = append(c.st.Nodes, n)
	err = n.startPostgres(ctx, c.cred, c.opts.DieWithParent)
	return errors.Join(err, c.st.save(c.dir))
}
