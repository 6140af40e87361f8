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
// mtm.recovered. So each is applied once, whatever crashes.
type Recoverer struct {
	cfg  Config
	sink RecoverSink
	more chan struct{} // the queue is not empty

	mu    sync.Mutex
	queue []recoverJob
	told  uint64 // what Recovered said last
	busy  busyGroup
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
	return &Recoverer{cfg: cfg.withDefaults(), sink: sink, more: make(chan struct{}, 1)}
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
		n := len(r.queue)
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

// session works over one connection until it breaks.
func (r *Recoverer) session(ctx context.Context) error {
	s, at, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	defer interruptible(ctx, s.conn)()
	r.reached(at)
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
			r.reached(group[len(group)-1].at)
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
	for n < len(r.queue) && n < limit {
		job := r.queue[n]
		bytes += job.bytes()
		if n > 0 && (job.alone() || bytes > groupBytes) {
			break
		}
		n++
		if job.alone() {
			break
		}
	}
	group := r.queue[:n:n]
	if n > 0 {
		r.busy = busyGroup{gid: group[0].gid, since: time.Now(), pid: r.busy.pid}
	}
	return group
}

// reached: PostgreSQL has everything up to at.
func (r *Recoverer) reached(at uint64) {
	r.mu.Lock()
	n := 0
	for n < len(r.queue) && r.queue[n].at <= at {
		n++
	}
	clear(r.queue[:n])
	r.queue = r.queue[n:]
	if len(r.queue) == 0 {
		r.queue = nil
	}
	news := n > 0 || at > r.told
	r.told = max(r.told, at)
	r.mu.Unlock()
	if news && at > 0 {
		r.sink.Recovered(at)
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

// position reads what is durable. It is a row, and not PostgreSQL's position of a replication origin: since version 16 a transaction that is
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
	return at, nil
}
