package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	pgPing     = time.Second           // between two questions to an idle PostgreSQL
	pgPatience = 3 * time.Second       // for an answer; long, since a busy machine is no dead one
	pgRetry    = 20 * time.Millisecond // between two attempts to reach one that is away
)

// pgWatch takes this node out of the cluster while its PostgreSQL is away: without it, it can neither vote nor read, and
// as long as it looks alive the others wait for its votes. A session of ours breaks the moment PostgreSQL dies.
type pgWatch struct {
	connect func(context.Context) (*pgx.Conn, error)
	suspend func(error)
	resume  func()
	ping    func(context.Context, *pgx.Conn) error // asks PostgreSQL something, once per pgPing
	log     *slog.Logger
}

// Run watches until ctx ends.
func (w *pgWatch) Run(ctx context.Context) error {
	away := false
	for {
		conn, err := w.open(ctx)
		if back := (*goneBackError)(nil); errors.As(err, &back) {
			return err
		}
		if err == nil && away {
			w.log.Info("PostgreSQL is back")
			w.resume()
			away = false
		}
		if err == nil {
			err = w.watch(ctx, conn)
			closeNow(conn)
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("no answer for %v", pgPatience)
			} else if ctx.Err() == nil {
				continue // this session may have ended alone
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !away {
			w.log.Error("PostgreSQL is away: this node leaves the cluster until it is back", keyError, err)
			w.suspend(fmt.Errorf("PostgreSQL is away: %w", err))
			away = true
		}
		select {
		case <-time.After(pgRetry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *pgWatch) open(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, pgPatience)
	defer cancel()
	return w.connect(ctx)
}

// watch returns when the session breaks or PostgreSQL gives no answer.
func (w *pgWatch) watch(ctx context.Context, conn *pgx.Conn) error {
	for {
		idle, cancel := context.WithTimeout(ctx, pgPing)
		_, err := conn.WaitForNotification(idle) // there is none: it ends by the time, or with the session
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		answer, cancel := context.WithTimeout(ctx, pgPatience)
		err = w.ping(answer, conn)
		cancel()
		if err != nil {
			return err
		}
	}
}

// closeNow does not wait for a PostgreSQL that may not answer.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ctx)
}
