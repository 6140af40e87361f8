package devcluster

import (
	"context"
	"fmt"
	"time"
)

// Info is what "mtmctl devcluster info --output json" prints.
type Info struct {
	Nodes    []NodeInfo `json:"nodes"`
	Referee  *NodeInfo  `json:"referee"`
	Database string     `json:"database"`
	Proxy    string     `json:"proxy,omitempty"` // control address of the fault proxy
	CertDir  string     `json:"cert_dir,omitempty"`
}

// NodeInfo is one node, or the referee, whose ID is 0 and which has no PostgreSQL. A process id of 0 means that it does not run.
type NodeInfo struct {
	ID          int    `json:"id"`
	Status      string `json:"status"` // mtmd's own word; "down": no mtmd; "unreachable": it does not answer
	URL         string `json:"url"`    // through the gateway
	PgURL       string `json:"pg_url"` // straight to PostgreSQL
	HTTP        string `json:"http"`
	Peer        string `json:"peer"`
	MtmdPid     int    `json:"mtmd_pid"`
	PostgresPid int    `json:"postgres_pid"`
	PgData      string `json:"pg_data"`
	PgBin       string `json:"pg_bin"`
	PgVersion   string `json:"pg_version"`
	MtmdConf    string `json:"mtmd_config"`
	MtmdLog     string `json:"mtmd_log"`
	PgLog       string `json:"pg_log"`
}

// Info looks at every node now.
func (c *Cluster) Info(ctx context.Context) Info {
	info := Info{Nodes: make([]NodeInfo, len(c.st.Nodes)), Database: c.st.Database}
	if c.st.Proxy != nil {
		info.Proxy = c.st.Proxy.Control
	}
	if !c.st.PostgresOnly {
		info.CertDir = c.certDir()
	}
	if r := c.st.Referee; r != nil {
		i := c.nodeInfo(ctx, r)
		i.URL, i.PgURL, i.PgLog = "", "", ""
		info.Referee = &i
	}
	c.forEach(func(n *node) error { //nolint:errcheck // gives none
		info.Nodes[n.ID-1] = c.nodeInfo(ctx, n)
		return nil
	})
	return info
}

func (c *Cluster) nodeInfo(ctx context.Context, n *node) NodeInfo {
	i := NodeInfo{
		ID: n.ID, Status: "down", URL: c.url(n), PgURL: n.pgURL(c.st.Database), HTTP: n.httpURL(), Peer: addr(n.PeerPort),
		PgData: n.PgData, PgBin: n.PgBin, PgVersion: n.PgVersion, MtmdConf: n.MtmdConf, MtmdLog: n.MtmdLog, PgLog: n.PgLog,
	}
	if n.Postgres.Alive() {
		i.PostgresPid = n.Postgres.Pid
	}
	if n.Mtmd.Alive() {
		i.MtmdPid, i.Status = n.Mtmd.Pid, "unreachable"
		if st, err := n.status(ctx); err == nil {
			i.Status = st.Status
		}
	}
	return i
}

// Status asks mtmd of node id for its status.
func (c *Cluster) Status(ctx context.Context, id int) (Status, error) {
	n, err := c.node(id)
	if err != nil {
		return Status{}, err
	}
	return n.status(ctx)
}

// WaitStatus waits until mtmd of every given node says want, for at most two minutes or as long as ctx.
func (c *Cluster) WaitStatus(ctx context.Context, want string, ids ...int) error {
	return c.WaitFor(ctx, fmt.Sprintf("status %q", want), func(s Status) bool { return s.Status == want }, ids...)
}

// WaitFor waits until ok is true of the status of every given node, for at most two minutes or as long as ctx.
func (c *Cluster) WaitFor(ctx context.Context, what string, ok func(Status) bool, ids ...int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, onlineWait, fmt.Errorf("after %v", onlineWait*time.Nanosecond))
	defer cancel()
	for _, id := range ids {
		n, err := c.node(id)
		if err != nil {
			return err
		}
		var dead error
		err = poll(ctx, fmt.Sprintf("%s of node %d", what, id), func(ctx context.Context) error {
			st, err := n.status(ctx)
			switch {
			case err != nil && !n.Mtmd.Alive():
				dead = fmt.Errorf("mtmd of node %d ended", id)
				return nil
			case err != nil:
				return err
			case !ok(st):
				return fmt.Errorf("it says %s", st.Raw)
			}
			return nil
		})
		if err == nil {
			err = dead
		}
		if err != nil {
			return n.explain(err)
		}
	}
	return nil
}
