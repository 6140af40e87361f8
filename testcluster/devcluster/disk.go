package devcluster

import (
	"context"
	"errors"
	"path/filepath"

	"mtm/testcluster/faultdisk"
)

var errGoodDisks = errors.New("the disks of this cluster cannot be made bad (Options.FaultDisks)")

// planDisks gives every node a disk that can be made bad.
func (c *Cluster) planDisks(ctx context.Context) (err error) {
	if c.st.FaultDisk, err = faultdisk.Build(ctx, c.dir); err != nil {
		return err
	}
	for _, n := range c.st.Nodes {
		n.Disk, n.Preload = filepath.Join(c.dir, "disk"+filepath.Base(filepath.Dir(n.PgData))), c.st.FaultDisk
		if err := faultdisk.Make(n.Disk); err != nil {
			return err
		}
	}
	return nil
}

// diskEnv is for a process on the node's disk.
func (n *node) diskEnv(preload string) (env []string) {
	if n.Disk == "" {
		return nil
	}
	if preload != "" {
		env = append(env, "LD_PRELOAD="+preload)
	}
	return append(env, "MTM_FAULT_DISK="+n.Disk)
}

// FaultDisks reports whether disks can be made bad.
func (c *Cluster) FaultDisks() bool { return c.st.FaultDisk != "" }

// SetDisk says what is wrong with the disk of node id from now on; see faultdisk.Set.
func (c *Cluster) SetDisk(id int, fault string) error {
	n, err := c.node(id)
	if err != nil {
		return err
	}
	if n.Disk == "" {
		return errGoodDisks
	}
	return faultdisk.Set(n.Disk, fault)
}

// PowerLoss ends nodes at one moment, as a power cut does: what they had written and not synced is lost. It gives how many bytes of
// PostgreSQL's and of the journals' were.
func (c *Cluster) PowerLoss(ctx context.Context, ids ...int) (pg, journal int64, err error) {
	if !c.FaultDisks() {
		return 0, 0, errGoodDisks
	}
	if err := c.KillMany(ctx, Both, ids...); err != nil {
		return 0, 0, err
	}
	for _, id := range ids {
		n, err := c.node(id)
		if err != nil {
			return 0, 0, err
		}
		a, b, err := faultdisk.PowerLoss(n.Disk, n.PgData)
		if err != nil {
			return 0, 0, err
		}
		pg, journal = pg+a, journal+b
	}
	return pg, journal, nil
}
