package main

import (
	"context"
	"log/slog"

	"mtm"
	"mtm/coordinator"
)

// renewer carries out coordinator.Recapture.
type renewer struct {
	renew func(context.Context) ([]mtm.GID, error)
	post  func(coordinator.Event)
	log   *slog.Logger
	wants chan struct{}
}

func newRenewer(renew func(context.Context) ([]mtm.GID, error), post func(coordinator.Event), log *slog.Logger) *renewer {
	return &renewer{renew: renew, post: post, log: log, wants: make(chan struct{}, 1)}
}

func (r *renewer) want() {
	select {
	case r.wants <- struct{}{}:
	default:
	}
}

// run works until ctx ends. A slot that cannot be replaced keeps nobody out for long: the node is slow for a while.
func (r *renewer) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wants:
		}
		prepared, err := r.renew(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.log.Warn("what this node commits may wait for what it has caught up with to be decoded", keyError, err)
		}
		r.post(coordinator.Recaptured{Prepared: prepared})
	}
}
