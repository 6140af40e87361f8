package devcluster

import (
	"context"
	"errors"
	"path/filepath"
)

func (c *Cluster) certDir() string { return filepath.Join(c.dir, "certs") }

// makeCerts makes an authority for this cluster, a certificate for each node, and one for mtmctl.
func (c *Cluster) makeCerts() error { return errors.New("this build has no package cert yet") }

// Init makes one cluster of the nodes: what "mtmctl init-cluster" does.
func (c *Cluster) Init(ctx context.Context) error {
	return errors.New("this build has no admin client yet")
}
