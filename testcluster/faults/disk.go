package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mtm/testcluster/devcluster"
)

func disks(in *Injector) bool { return in.Dev.FaultDisks() }

// powerLoss cuts the power of one node: what it had not synced is gone.
func powerLoss(ctx context.Context, in *Injector) (string, error) {
	return in.powerLoss(ctx, in.node())
}

func powerLossOfAll(ctx context.Context, in *Injector) (string, error) {
	return in.powerLoss(ctx, in.ids...)
}

func (in *Injector) powerLoss(ctx context.Context, ids ...int) (string, error) {
	pg, journal, err := in.Dev.PowerLoss(ctx, ids...)
	for _, id := range ids {
		in.killed(id, devcluster.Both)
		err = errors.Join(err, in.Dev.SetDisk(id, ""))
	}
	what := fmt.Sprintf("nodes %v lost %d bytes of PostgreSQL, %d of the journal", ids, pg, journal)
	for _, id := range ids {
		if err == nil && in.chance(0.5) {
			err = in.start(ctx, id)
		}
	}
	return what, err
}

// slowDisk makes each sync of a node up to 20 ms longer, for a while or until Mend.
func slowDisk(ctx context.Context, in *Injector) (string, error) {
	id, us, ends := in.node(), 1000*(1+in.rng.IntN(20)), in.chance(0.5)
	if err := in.Dev.SetDisk(id, fmt.Sprintf("slow %d", us)); err != nil {
		return "", err
	}
	if ends {
		in.pause(ctx, 3*time.Second)
		if err := in.Dev.SetDisk(id, ""); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("node %d, %d ms, until it is mended: %v", id, us/1000, !ends), nil
}

// badDisk makes writes or syncs of a node fail for a moment: PostgreSQL panics, mtmd ends.
func badDisk(fault string) func(context.Context, *Injector) (string, error) {
	return func(ctx context.Context, in *Injector) (string, error) {
		id := in.node()
		what := fmt.Sprintf("node %d, for a moment", id)
		if err := in.Dev.SetDisk(id, fault); err != nil {
			return what, err
		}
		in.pause(ctx, 1500*time.Millisecond)
		return what, in.Dev.SetDisk(id, "")
	}
}

// clockJump sets the wall clock of a node's PostgreSQL an hour or so ahead or back, until Mend. (mtmd counts by CLOCK_BOOTTIME, which
// nobody can set; of the wall clock it only takes the age of a transaction, to choose who wins a conflict.)
func clockJump(_ context.Context, in *Injector) (string, error) {
	id, seconds := in.node(), in.rng.IntN(8000)-4000
	return fmt.Sprintf("node %d, %d s", id, seconds), in.Dev.SetDisk(id, fmt.Sprintf("clock %d", seconds))
}

func (in *Injector) goodDisks() (err error) {
	if !in.Dev.FaultDisks() {
		return nil
	}
	for _, id := range in.ids {
		err = errors.Join(err, in.Dev.SetDisk(id, ""))
	}
	return err
}
