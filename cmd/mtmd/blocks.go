package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// How often sequences of mode block are looked at.
const (
	blocksIdle = time.Second            // while nobody counts by one
	blocksBusy = 100 * time.Millisecond // for blocksCalm after numbers were drawn
	blocksCalm = 10 * time.Second

	blocksShare = 20                     // one part in so many of the time is spent on many sequences, unless they must be looked at
	blocksWait  = 3 * time.Second        // how long a session waits for numbers
	blocksRetry = 200 * time.Millisecond // at most, after a conflict with a node that drew at the same time
)

// blocks draws numbers for the sequences of mode block ahead of those who count (package schema's blocks.sql). It implements
// gateway.Numbers.
type blocks struct {
	d      *daemon
	wanted chan chan struct{} // closed when a round that began later is over
	ends   chan blockEnd
	orders chan reservation
}

// reservation asks for n numbers of a sequence, at once.
type reservation struct {
	seq  uint32
	n    int64
	done chan *mtm.Error // has room for one
}

// blockEnd asks whether a message of PostgreSQL's is about the end of a range.
type blockEnd struct {
	message string
	is      chan bool // has room for one
}

func newBlocks(d *daemon) *blocks {
	return &blocks{d: d, wanted: make(chan chan struct{}), ends: make(chan blockEnd), orders: make(chan reservation)}
}

// Short implements gateway.Numbers.
func (b *blocks) Short(ctx context.Context, message string) bool {
	q := blockEnd{message: message, is: make(chan bool, 1)}
	is, _ := askBlocks(ctx, b.ends, q, q.is)
	return is
}

// Refill implements gateway.Numbers.
func (b *blocks) Refill(ctx context.Context) {
	done := make(chan struct{})
	askBlocks(ctx, b.wanted, done, done)
}

// reserve draws numbers for a session that asks for them.
func (b *blocks) reserve(ctx context.Context, r reservation) *mtm.Error {
	r.done = make(chan *mtm.Error, 1)
	if e, ok := askBlocks(ctx, b.orders, r, r.done); ok {
		return e
	}
	return &mtm.Error{Code: mtm.CodeSerialization, Msg: "the numbers have not been drawn yet"}
}

// askBlocks asks q, and waits for its answer, for blocksWait in all. ok: it has come.
func askBlocks[Q, A any](ctx context.Context, asked chan<- Q, q Q, answered <-chan A) (a A, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, blocksWait)
	defer cancel()
	select {
	case asked <- q:
	case <-ctx.Done():
		return a, false
	}
	select {
	case a = <-answered:
		return a, true
	case <-ctx.Done():
		return a, false
	}
}

// Run draws until ctx ends; a PostgreSQL that is away is tried again.
func (b *blocks) Run(ctx context.Context) error {
	for {
		err := b.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b.d.log.Debug("numbers are not drawn", keyError, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startupRetry):
		}
	}
}

func (b *blocks) session(ctx context.Context) error {
	conn, err := b.d.connect(ctx, "mtm_numbers")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var busy time.Time // when numbers were drawn
	var waiting []chan struct{}
	defer func() { release(waiting) }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case q := <-b.ends:
			var is bool
			err := conn.QueryRow(ctx, `SELECT mtm.is_block_end($1)`, q.message).Scan(&is)
			if q.is <- is; err != nil {
				return err
			}
			if !is {
				continue
			}
			asked = true
		case r := <-b.orders:
			failure, err := b.fill(ctx, conn, r)
			if r.done <- failure; err != nil {
				return err
			}
			continue
		case done := <-b.wanted:
			waiting = append(waiting, done)
		case <-timer.C:
		}
		began := time.Now()
		again, drawn, err := b.round(ctx, conn, asked || len(waiting) > 0)
		if err != nil {
			return err
		}
		if drawn {
			busy = time.Now()
		}
		switch {
		case again:
			timer.Reset(rand.N(blocksRetry))
			if !drawn { // who waits goes on waiting
				continue
			}
		case time.Since(busy) < blocksCalm:
			timer.Reset(max(blocksBusy, min(2*blocksIdle, blocksShare*time.Since(began))))
		default:
			timer.Reset(max(blocksIdle, min(2*blocksIdle, blocksShare*time.Since(began))))
		}
		release(waiting)
		waiting = waiting[:0]
	}
}

func release(waiting []chan struct{}) {
	for _, done := range waiting {
		close(done)
	}
}

// round puts to use what was drawn, and draws what there is to be drawn. again: somebody else, perhaps another node, came first.
func (b *blocks) round(ctx context.Context, conn *pgx.Conn, asked bool) (again, drawn bool, err error) {
	if b.d.gate.Refused() != nil {
		return false, false, nil
	}
	seqs, wants, err := tend(ctx, conn, asked)
	if err != nil || len(seqs) == 0 {
		return false, false, err
	}
	failure, err := b.draw(ctx, conn, `SELECT mtm.draw_blocks($1, $2) > 0`, seqs, wants)
	if err != nil {
		return false, false, err
	}
	if failure != nil {
		b.d.log.Debug("numbers are not drawn", keyError, failure)
		return mtm.SafeToRetry(failure), false, nil
	}
	seqs, _, err = tend(ctx, conn, false)
	return len(seqs) > 0, true, err
}

// tend returns for which sequences how many numbers are wanted.
func tend(ctx context.Context, conn *pgx.Conn, asked bool) (seqs []uint32, wants []int64, err error) {
	err = pgx.BeginTxFunc(ctx, conn, drawing, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT seq, want FROM mtm.tend_blocks($1)`, asked)
		if err != nil {
			return err
		}
		var seq uint32
		var want int64
		_, err = pgx.ForEachRow(rows, []any{&seq, &want}, func() error {
			seqs, wants = append(seqs, seq), append(wants, want)
			return nil
		})
		return err
	})
	return seqs, wants, err
}

var drawing = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}

// fill carries out a reservation.
func (b *blocks) fill(ctx context.Context, conn *pgx.Conn, r reservation) (failure *mtm.Error, err error) {
	if failure := b.d.gate.Refused(); failure != nil {
		return failure, nil
	}
	for try := 0; try < 5; try++ {
		failure, err = b.draw(ctx, conn, `SELECT mtm.draw_block($1, $2)`, r.seq, r.n)
		if err != nil || failure == nil || !mtm.SafeToRetry(failure) {
			break
		}
	}
	if err != nil || failure != nil {
		return failure, err
	}
	err = pgx.BeginTxFunc(ctx, conn, drawing, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT mtm.use_block($1, true)`, r.seq)
		return err
	})
	return nil, err
}

// draw is one transaction of the whole cluster, in which the query draws, and says whether it did. failure: it was not committed, or nobody
// knows; err: the session is of no use.
func (b *blocks) draw(ctx context.Context, conn *pgx.Conn, query string, args ...any) (failure *mtm.Error, err error) {
	tx, err := conn.BeginTx(ctx, drawing)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it has ended, or the session is broken
	var drawn bool
	if err := tx.QueryRow(ctx, query, args...).Scan(&drawn); err != nil {
		return refusedDraw(err)
	}
	if !drawn {
		return nil, nil
	}
	gid, err := b.d.gate.Permit(ctx, 0)
	if err != nil {
		var e *mtm.Error
		if errors.As(err, &e) {
			return e, nil
		}
		return nil, err
	}
	_, err = conn.PgConn().Exec(ctx, `SELECT pg_catalog.pg_logical_emit_message(true, 'mtm', 'wait='); `+gid.SQL("PREPARE TRANSACTION")).ReadAll()
	if err != nil {
		failure, err := refusedDraw(err)
		b.d.gate.Prepared(gid, failure, err != nil)
		return failure, err
	}
	b.d.gate.Prepared(gid, nil, false)
	failPoint("numbers-prepared")
	return b.d.gate.Wait(ctx, gid), nil
}

// refusedDraw tells an error of PostgreSQL's from the end of the session.
func refusedDraw(err error) (*mtm.Error, error) {
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Severity == "FATAL" {
		return nil, fmt.Errorf("draw numbers: %w", err)
	}
	code := e.Code
	if code == "55P03" || code == "57014" || code == "40P01" { // somebody else has the row
		code = mtm.CodeSerialization
	}
	return &mtm.Error{Code: code, Msg: e.Message, Detail: e.Detail, Hint: e.Hint, Err: err}, nil
}
