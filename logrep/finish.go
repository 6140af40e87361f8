package logrep

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/errgroup"

	"mtm"
)

// Finisher ends prepared transactions. Make it with NewFinisher, run it with Run; Finish may be called at any time,
// from any goroutine, and does not block.
type Finisher struct {
	cfg  Config
	sink FinishSink

	mu    sync.Mutex
	wake  *sync.Cond // the queue is not empty, or done
	done  bool
	queue []finishJob
}

type finishJob struct {
	gid    mtm.GID
	commit bool
	tries  int
}

func (j finishJob) sql() string {
	if j.commit {
		return j.gid.SQL("COMMIT PREPARED")
	}
	return j.gid.SQL("ROLLBACK PREPARED")
}

// finishBatch is how many go out in one write: enough to share it, few enough that all connections have work.
const finishBatch = 32

// NewFinisher makes a Finisher; nothing happens before Run.
func NewFinisher(cfg Config, sink FinishSink) *Finisher {
	f := &Finisher{cfg: cfg.withDefaults(), sink: sink}
	f.wake = sync.NewCond(&f.mu)
	return f
}

// Finish commits or rolls back what is prepared under gid, however long it takes; Finished tells when it is done. A gid
// that PostgreSQL does not know counts as done.
func (f *Finisher) Finish(gid mtm.GID, commit bool) { f.put(finishJob{gid: gid, commit: commit}) }

func (f *Finisher) put(jobs ...finishJob) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(f.queue, jobs...)
	f.wake.Signal()
}

// Run works until ctx ends and returns its error.
func (f *Finisher) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.done = true
		f.wake.Broadcast()
	})()
	g, ctx := errgroup.WithContext(ctx)
	for n := range f.cfg.FinishConns {
		w := &finishWorker{Finisher: f, id: n + 1}
		g.Go(func() error { return w.run(ctx) })
	}
	return g.Wait()
}

// take is the next batch; nil when Run ends.
func (f *Finisher) take() []finishJob {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) == 0 && !f.done {
		f.wake.Wait()
	}
	if f.done {
		return nil
	}
	n := min(len(f.queue), max(1, min(finishBatch, len(f.queue)/f.cfg.FinishConns)))
	batch := append([]finishJob(nil), f.queue[:n]...)
	f.queue = f.queue[n:]
	if len(f.queue) > 0 {
		f.wake.Signal()
	}
	return batch
}

// finishWorker is one connection of a Finisher.
type finishWorker struct {
	*Finisher
	id   int
	s    *applySession
	late sync.WaitGroup // retries that wait
}

func (w *finishWorker) run(ctx context.Context) error {
	defer func() {
		if w.s != nil {
			w.s.close()
		}
		w.late.Wait()
	}()
	failures := 0
	for batch := w.take(); batch != nil; batch = w.take() {
		err := w.finish(ctx, batch)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			failures = 0
			continue
		}
		failures++
		w.cfg.Log.Warn("cannot finish prepared transactions yet", keyError, err)
		if w.s != nil {
			w.s.close()
			w.s = nil
		}
		if err := backoff(ctx, failures); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// finish sends a batch in one write and reads what became of each. If the connection is lost, those without an answer
// go back to the queue.
func (w *finishWorker) finish(ctx context.Context, batch []finishJob) error {
	if w.s == nil {
		s, err := w.cfg.openSession(ctx, w.id, appFinish)
		if err != nil {
			w.put(batch...)
			return err
		}
		w.s = s
	}
	defer interruptible(ctx, w.s.conn)()
	for _, job := range batch {
		w.s.fe.SendQuery(&pgproto3.Query{String: job.sql()})
	}
	if err := w.s.flush(); err != nil {
		w.put(batch...)
		return err
	}
	var after []finishJob
	for i, job := range batch {
		err := w.s.simpleAnswer()
		if _, broken := err.(*brokenError); broken {
			w.put(append(batch[i:], after...)...)
			return err
		}
		switch {
		case err != nil && (sqlState(err) != "42704" || w.landing(job)):
			w.again(ctx, job, err)
		case w.cfg.Catalog.announces(job.gid):
			after = append(after, job)
		default:
			w.done(job)
		}
	}
	for i, job := range after {
		if err := w.afterEnd(ctx, job); err != nil && w.s.conn.IsClosed() {
			w.put(after[i:]...)
			return err
		} else if err != nil {
			w.again(ctx, job, err)
			continue
		}
		w.done(job)
	}
	return nil
}

func (w *finishWorker) done(job finishJob) {
	w.cfg.Catalog.finished(job.gid)
	w.sink.Finished(job.gid)
}

// again tries job later: it is busy in another session, or PostgreSQL lacks something for now.
func (w *finishWorker) again(ctx context.Context, job finishJob, err error) {
	job.tries++
	if job.tries == 5 {
		w.cfg.Log.Warn("a prepared transaction does not finish", keyGID, job.gid.String(), keyError, err)
	}
	w.late.Go(func() {
		if sleep(ctx, min(time.Second, 5*time.Millisecond<<min(job.tries, 8))) == nil {
			w.put(job)
		}
	})
}
