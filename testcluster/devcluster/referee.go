package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"mtm/cert"
	"mtm/testcluster/faultproxy"
)

// Referee is the value of What for the referee, which is no node: whatever the number.
const Referee What = "referee"

// refereeID is the referee's number on the fault proxy, where nodes have theirs.
const refereeID = 0

var errNoReferee = errors.New("this cluster has no referee (start one with: mtmctl devcluster start --nodes 2 --referee)")

// target is the node, or the referee, that an action is for.
func (c *Cluster) target(id int, w What) (*node, error) {
	if w != Referee {
		return c.node(id)
	}
	if c.st.Referee == nil {
		return nil, errNoReferee
	}
	return c.st.Referee, nil
}

// planReferee decides the referee's paths and ports.
func (c *Cluster) planReferee(take func() int) {
	dir := filepath.Join(c.dir, "referee")
	c.st.Referee = &node{
		ID: refereeID, MtmdConf: filepath.Join(dir, "mtmd.toml"), MtmdData: filepath.Join(dir, "mtmd"),
		MtmdLog: filepath.Join(dir, "mtmd.log"), PgLog: os.DevNull, PeerPort: take(), HTTPPort: take(),
	}
}

// startReferee writes the referee's configuration, and runs it.
func (c *Cluster) startReferee(ctx context.Context) error {
	r := c.st.Referee
	if r == nil {
		return nil
	}
	if err := os.MkdirAll(r.MtmdData, 0o700); err != nil {
		return err
	}
	files, q := cert.In(c.certDir(), string(Referee)), strconv.Quote
	lines := []string{
		"# written by mtmctl devcluster",
		"referee = true",
		"cluster = " + q(c.st.Name),
		"data_dir = " + q(r.MtmdData),
		"peer_listen = " + q(addr(r.PeerPort)),
		"http_listen = " + q(addr(r.HTTPPort)),
		"tls_ca = " + q(files.CA),
		"tls_cert = " + q(files.Cert),
		"tls_key = " + q(files.Key),
	}
	if err := os.WriteFile(r.MtmdConf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	c.opts.Progress("starting the referee")
	return r.startMtmd(ctx, c.st.Mtmd, c.st.MtmdEnv, c.opts.DieWithParent)
}

// refereeSetting is the line for mtmd.toml of node id.
func (c *Cluster) refereeSetting(id int) []string {
	if c.st.Referee == nil {
		return nil
	}
	to := addr(c.st.Referee.PeerPort)
	if c.st.Proxy != nil {
		to = c.st.Proxy.Links[linkName(id, refereeID)]
	}
	return []string{"referee=" + strconv.Quote(to)}
}

// refereeLinks are the proxy's between the nodes and the referee.
func (c *Cluster) refereeLinks() (all []faultproxy.Link) {
	if c.st.Referee == nil {
		return nil
	}
	for _, n := range c.st.Nodes {
		all = append(all, faultproxy.Link{
			Direction: faultproxy.Direction{From: n.ID, To: refereeID},
			Listen:    c.st.Proxy.Links[linkName(n.ID, refereeID)], Upstream: addr(c.st.Referee.PeerPort),
		})
	}
	return all
}

// withReferee does f to the referee, if there is one.
func (c *Cluster) withReferee(f func(*node) error) error {
	if c.st.Referee == nil {
		return nil
	}
	return f(c.st.Referee)
}

// side reads one word of a partition: a node's number, or "referee".
func (c *Cluster) side(word string) (int, error) {
	if word == string(Referee) {
		if c.st.Referee == nil {
			return 0, errNoReferee
		}
		return refereeID, nil
	}
	id, err := strconv.Atoi(word)
	if err != nil {
		return 0, fmt.Errorf("%q is no node", word)
	}
	_, err = c.node(id)
	return id, err
}

// RefereeStatus asks the referee for its row, as it tells it: "new", "idle" or "granted", and to whom.
func (c *Cluster) RefereeStatus(ctx context.Context) (Status, error) {
	r, err := c.target(0, Referee)
	if err != nil {
		return Status{}, err
	}
	return r.status(ctx)
}
