package main

import (
	"context"
	"fmt"
	"time"

	"mtm/coordinator"
)

// This file keeps elections on hold while the operator wants it: mtmctl pause and resume.

const holdKey = "hold"

// holds reports whether elections are on hold here: a restart does not end it.
func (d *daemon) holds() (bool, error) {
	text, err := d.journal.Get(holdKey)
	return len(text) > 0, err
}

// hold begins or ends it. It is durable, and in force, when hold returns.
func (d *daemon) hold(ctx context.Context, on bool) error {
	l := d.current.Load()
	if l == nil || l.status.Load() == nil {
		return fmt.Errorf("node %d is not part of a cluster that serves", d.cfg.NodeID)
	}
	var text []byte
	if on {
		text = []byte("on")
	}
	if err := d.journal.Put(holdKey, text); err != nil {
		return err
	}
	d.log.Warn("elections are on hold", "hold", on)
	d.mail.post(coordinator.Hold{On: on})
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for l.status.Load().Held != on {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
	return nil
}
