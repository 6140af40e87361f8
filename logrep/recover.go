package logrep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"mtm"
)

// Recoverer commits what a donor sent, in its order, in this node's PostgreSQL. Make it with NewRecoverer, run it with
// Run; Apply may be called at any time, from any goroutine, and does not block.
//
// Several transactions go into one local transaction, together with the position of the last, its number At, in
// mtm.recovered. So each is applied once, whatever crashes. PostgreSQL does not wait for the disk as it commits one: another
// session does, while the next is loaded, and Recovered is told then.
type Recoverer struct {
	cfg  Config
	sink RecoverSink
	more chan struct{} // the queue is not empty
	done chan struct{} // something is committed, or much is being loaded

	mu        sync.Mutex
	queue     []recoverJob
	committed int    // of queue: in PostgreSQL, perhaps not on its disk yet
	told      uint64 // what Recovered said last
	busy      busyGroup
}

// RecoverSink receives what became of Recoverer.Apply. Its methods must not block long.
type RecoverSink interface {
	// Recovered: everything up to at is in PostgreSQL, durably. at grows from call to call.
	Recovered(at uint64)
	// Conflict: as that of ApplySink.
	Conflict(waiter mtm.GID, age uint64, pid uint32, cancel func() error) bool
}

type recoverJob struct {
	gid     mtm.GID
	at      uint64
	payload mtm.Payload
}

// alone: the job shares no local transaction with others. DDL may make what is not usable before it is committed (an
// enum's new value), and what is large is not done twice for another's sake.
func (j recoverJob) alone() bool { return j.payload.Has(mtm.PayloadDDL) || j.bytes() > groupBytes }

// bytes of the payload, wherever it lies.
func (j recoverJob) bytes() int64 { return max(j.payload.Size, int64(len(j.payload.Data))) }

const (
	groupTxns  = 4000    // transactions in one local transaction
	groupBytes = 8 << 20 // of their payloads
)

// NewRecoverer makes a Recoverer; nothing happens before Run.
func NewRecoverer(cfg Config, sink RecoverSink) *Recoverer {
	return &Recoverer{cfg: cfg.withDefaults(), sink: sink, more: make(chan struct{}, 1), done: make(chan struct{}, 1)}
}

// Apply commits p as number at, which grows from call to call. What PostgreSQL's own position covers is not applied
// again. It is tried until it succeeds: it is committed elsewhere.
func (r *Recoverer) Apply(gid mtm.GID, at uint64, p mtm.Payload) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, recoverJob{gid: gid, at: at, payload: p})
	signal(r.more)
}

// Run works until ctx ends, connecting again whenever PostgreSQL goes away. It returns ctx's error.
func (r *Recoverer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.clearWay(ctx) })
	g.Go(func() error {
		for n := 1; ; n++ {
			if err := r.wait(ctx); err != nil {
				return err
			}
			began := time.Now()
			err := r.session(ctx)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.cfg.Log.Warn("recovery lost its connection; connecting again", keyError, err)
			if time.Since(began) > 10*time.Second {
				n = 1
			}
			if err := backoff(ctx, n); err != nil {
				return err
			}
		}
	})
	return g.Wait()
}

// wait returns when there is something to do.
func (r *Recoverer) wait(ctx context.Context) error {
	for {
		r.mu.Lock()
		n := len(r.queue) - r.committed
		r.mu.Unlock()
		if n > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.more:
		}
	}
}

// session works over one connection, and one that flushes, until one of them breaks.
func (r *Recoverer) session(ctx context.Context) error {
	s, at, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	flusher, err := r.cfg.connect(ctx, appRecover, map[string]string{"synchronous_commit": "on"})
	if err != nil {
		return err
	}
	defer closeConn(flusher)
	r.reached(at)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.makeDurable(ctx, flusher) })
	g.Go(func() error { return r.work(ctx, s) })
	err = g.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.committed = 0 // what was not on disk yet may be lost
	return err
}

// work commits what is in the queue.
func (r *Recoverer) work(ctx context.Context, s *recoverSession) error {
	defer interruptible(ctx, s.conn)()
	failures, limit := 0, groupTxns
	for {
		if err := r.wait(ctx); err != nil {
			return err
		}
		group := r.next(limit)
		if len(group) == 0 {
			continue
		}
		together := s.gather(group)
		err := s.recoverGroup(ctx, group, together)
		r.setBusy(busyGroup{})
		if err == nil {
			failures, limit = 0, min(2*limit, groupTxns)
			r.mu.Lock()
			r.committed += len(group)
			r.mu.Unlock()
			signal(r.done)
			continue
		}
		tried := 0
		if together == nil {
			failures++
			tried, limit = failures, 1 // whoever it was, the others need not wait for it
		}
		if err := r.again(ctx, s, group, err, tried); err != nil {
			return err
		}
	}
}

// makeDurable flushes what work has committed, and while it loads much, what there is: PostgreSQL's session would else write WAL
// by itself, whenever its buffers are full, and load nothing meanwhile.
func (r *Recoverer) makeDurable(ctx context.Context, conn *pgconn.PgConn) error {
	defer interruptible(ctx, conn)()
	var soon <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.done:
		case <-soon:
		}
		r.mu.Lock()
		at, loading := uint64(0), r.busy.bytes > flushBytes
		if r.committed > 0 {
			at = r.queue[r.committed-1].at
		}
		r.mu.Unlock()
		if at == 0 && !loading {
			soon = nil
			continue
		}
		if err := run(ctx, conn, flushWAL); err != nil {
			return err
		}
		r.reached(at)
		soon = time.After(flushEvery)
	}
}

const (
	flushEvery = 20 * time.Millisecond
	flushBytes = 1 << 20 // of payloads: less fits into PostgreSQL's buffers
)

// again prepares for another try of group. failures is how often its changes have failed one by one; 0: they were gathered.
func (r *Recoverer) again(ctx context.Context, s *recoverSession, group []recoverJob, err error, failures int) error {
	var broken *brokenError
	if errors.As(err, &broken) {
		return err
	}
	if err := cmp.Or(s.rollback(), s.cleanse()); err != nil {
		return err
	}
	at, posErr := position(ctx, s.conn)
	if posErr != nil {
		return posErr
	}
	r.reached(at)
	if s.learned(err) {
		return nil
	}
	if failures == 0 {
		r.cfg.Log.Info("recovery sends changes one by one for a while", keyGID, group[0].gid.String(), "transactions", len(group), keyError, err)
		s.singly()
		return nil
	}
	log := r.cfg.Log.Warn
	if len(group) == 1 && failures > 3 {
		log = r.cfg.Log.Error
	}
	log("a transaction that is committed elsewhere cannot be recovered yet", keyGID, group[0].gid.String(),
		"transactions", len(group), keyError, applyError(r.cfg.Node, err), "detail", err.Error())
	if len(group) > 1 {
		return nil
	}
	return backoff(ctx, failures)
}

// next is the next group. It stays in the queue until reached.
func (r *Recoverer) next(limit int) []recoverJob {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, bytes := 0, int64(0)
	queue := r.queue[r.committed:]
	for n < len(queue) && n < limit {
		job := queue[n]
		bytes += job.bytes()
		if n > 0 && (job.alone() || bytes > groupBytes) {
			break
		}
		n++
		if job.alone() {
			break
		}
	}
	group := queue[:n:n]
	if n > 0 {
		r.busy = busyGroup{gid: group[0].gid, since: time.Now(), bytes: bytes, pid: r.busy.pid}
		signal(r.done)
	}
	return group
}

// reached: PostgreSQL has everything up to at, durably.
func (r *Recoverer) reached(at uint64) {
	r.mu.Lock()
	defer r.mu.Unlock() // in the order of at
	n := 0
	for n < len(r.queue) && r.queue[n].at <= at {
		n++
	}
	clear(r.queue[:n])
	r.queue, r.committed = r.queue[n:], max(0, r.committed-n)
	if len(r.queue) == 0 {
		r.queue = nil
	}
	if (n > 0 || at > r.told) && at > 0 {
		r.told = max(r.told, at)
		r.sink.Recovered(r.told)
	}
}

// RecoveredPosition is how far PostgreSQL has what was recovered: the highest At that it holds, 0 if there never was
// one. It first ends the sessions that an earlier process left behind, which could still commit something, and waits
// for them. So call it before Recoverer runs.
func RecoveredPosition(ctx context.Context, cfg Config) (uint64, error) {
	cfg = cfg.withDefaults()
	conn, err := cfg.connect(ctx, appMonitor, nil)
	if err != nil {
		return 0, err
	}
	defer closeConn(conn)
	if err := endSessions(ctx, conn, "application_name = $1", appRecover); err != nil {
		return 0, err
	}
	// The origin is taken for a moment, so that it has its place in PostgreSQL's memory before the workers take theirs.
	if err := setOrigin(ctx, conn, cfg.RecoverOrigin); err != nil {
		return 0, err
	}
	return position(ctx, conn)
}

// position reads how far recovery is, and makes that durable. It is a row, and not PostgreSQL's position of a replication origin: since version 16 a transaction that is
// aborted moves that, too, so that one whose COMMIT fails would be taken for done.
func position(ctx context.Context, conn *pgconn.PgConn) (uint64, error) {
	rows, err := query(ctx, conn, "SELECT at::text FROM mtm.recovered")
	if err != nil {
		return 0, fmt.Errorf("read the position of recovery: %w", err)
	}
	if len(rows) == 0 || rows[0][0] == nil {
		return 0, nil
	}
	at, err := strconv.ParseUint(string(rows[0][0]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the position of recovery: %w", err)
	}
	if _, err := query(ctx, conn, "SELECT set_config('synchronous_commit', 'on', true), "+emitFlush); err != nil {
		return 0, fmt.Errorf("flush what was recovered: %w", err)
	}
	return at, nil
}

// flushWAL makes durable what was committed before. A commit waits for the disk if it has written something itself.
const (
	flushWAL  = "SELECT " + emitFlush
	emitFlush = "pg_logical_emit_message(true, 'mtm.flush', '')"
)
