package logrep

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"mtm"
)

// Applier runs payloads in this node's PostgreSQL. Make it with NewApplier, run it with Run; Apply and Cancel may be
// called at any time, from any goroutine, and do not block.
type Applier struct {
	cfg  Config
	sink ApplySink
	more chan struct{} // another worker is wanted
	look chan struct{} // the monitor has something to do

	mu      sync.Mutex
	open    bool                       // Run knows what was prepared before
	before  map[mtm.GID]bool           // prepared when Run started
	jobs    map[mtm.GID]*applyJob      // queued and running
	queue   []*applyJob                // oldest first
	idle    []*applyWorker             // last in, first out: caches stay warm
	running map[*applyWorker]*applyJob // what each busy worker does
	workers int                        // started, idle or not
	blocked int                        // of those, waiting for locks
	nextID  int
	freeIDs []int // numbers of workers that ended: their replication origins are free
}

// applyJob is one Apply.
type applyJob struct {
	gid       mtm.GID
	age       uint64
	payload   mtm.Payload
	cancelled atomic.Bool
	crowded   atomic.Bool            // cancelled to make room
	preparing bool                   // PREPARE TRANSACTION was sent; only the worker looks
	user      bool                   // … of what a user prepared; only the worker looks
	behind    atomic.Pointer[string] // cancelled because it waits for what a user prepared by this name

	// The rest belongs to Applier.mu.
	started time.Time
	probe   time.Time     // when the monitor looks next
	wait    time.Duration // and how long after that again
	blocked bool
}

func (j *applyJob) isCancelled() bool { return j.cancelled.Load() }

// applyWorker is one goroutine with one connection.
type applyWorker struct {
	id   int
	jobs chan *applyJob // capacity 1; closed: end
	pid  uint32         // of its backend; Applier.mu
}

var errCancelled = errors.New("cancelled")

// NewApplier makes an Applier; nothing happens before Run.
func NewApplier(cfg Config, sink ApplySink) *Applier {
	return &Applier{
		cfg: cfg.withDefaults(), sink: sink, more: make(chan struct{}, 1), look: make(chan struct{}, 1),
		jobs: map[mtm.GID]*applyJob{}, running: map[*applyWorker]*applyJob{},
	}
}

// Apply runs p and prepares it under gid; Applied tells the result. While gid is being applied, another Apply of it is
// ignored.
func (a *Applier) Apply(gid mtm.GID, age uint64, p mtm.Payload) {
	a.mu.Lock()
	if a.jobs[gid] != nil {
		a.mu.Unlock()
		return
	}
	job := &applyJob{gid: gid, age: age, payload: p}
	a.jobs[gid] = job
	others := a.cfg.Catalog.rivals.enter(gid, p)
	a.queue = append(a.queue, job)
	a.dispatch()
	a.mu.Unlock()
	for _, other := range others {
		a.sink.Blocked(gid, other)
		a.sink.Blocked(other, gid)
	}
}

// Cancel gives up the Apply of gid, if it still runs. Applied comes all the same, once; nil if it was too late.
func (a *Applier) Cancel(gid mtm.GID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if job := a.jobs[gid]; job != nil {
		job.cancelled.Store(true)
		job.probe = time.Time{}
		signal(a.look)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dispatch hands queued jobs to idle workers, or asks for more workers. A worker that waits for a lock does not count
// against the hot set. Caller holds mu.
func (a *Applier) dispatch() {
	if !a.open {
		return
	}
	for len(a.queue) > 0 && len(a.idle) > 0 {
		w := a.idle[len(a.idle)-1]
		a.idle = a.idle[:len(a.idle)-1]
		w.jobs <- a.pop(w)
	}
	if len(a.queue) > 0 && a.workers < min(a.cfg.MaxWorkers, a.cfg.HotWorkers+a.blocked) {
		signal(a.more)
	}
}

// pop takes the next job for w: the first that came, or the oldest if there cannot be more workers. Caller holds mu.
func (a *Applier) pop(w *applyWorker) *applyJob {
	first := 0
	if a.workers >= a.cfg.MaxWorkers {
		first = a.oldest()
	}
	job := a.queue[first]
	if first == 0 {
		a.queue = a.queue[1:]
	} else {
		a.queue = slices.Delete(a.queue, first, first+1)
	}
	job.started = time.Now()
	job.probe, job.wait = job.started.Add(a.cfg.Grace), probeFirst
	a.running[w] = job
	if len(a.running) == 1 {
		signal(a.look)
	}
	return job
}

// Run applies until ctx ends; what runs then is rolled back, or found by Prepared later. It returns ctx's error.
func (a *Applier) Run(ctx context.Context) error {
	if err := a.start(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.monitor(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-a.more:
				for w := a.hire(); w != nil; w = a.hire() {
					g.Go(func() error { return a.work(ctx, w) })
				}
			}
		}
	})
	return g.Wait()
}

// start learns what is prepared already: its own locks would stand in the way of applying it again.
func (a *Applier) start(ctx context.Context) error {
	for n := 1; ; n++ {
		found, err := prepared(ctx, a.cfg, func(*pgconn.PgConn) error { return nil }, appApply) // not the Finisher's: it may run already
		if err == nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.before = map[mtm.GID]bool{}
			for _, x := range found {
				a.before[x.GID] = true
				a.cfg.Catalog.prepared(x.GID) // whatever it is
			}
			a.open = true
			a.dispatch()
			return nil
		}
		a.cfg.Log.Warn("apply cannot start yet", keyError, err)
		if err := backoff(ctx, n); err != nil {
			return err
		}
	}
}

// hire makes another worker if there is work for one.
func (a *Applier) hire() *applyWorker {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 || a.workers >= min(a.cfg.MaxWorkers, a.cfg.HotWorkers+a.blocked) {
		return nil
	}
	w := &applyWorker{jobs: make(chan *applyJob, 1)}
	if n := len(a.freeIDs); n > 0 {
		w.id, a.freeIDs = a.freeIDs[n-1], a.freeIDs[:n-1]
	} else {
		a.nextID++
		w.id = a.nextID
	}
	a.workers++
	w.jobs <- a.pop(w)
	return w
}

// oldest is the place in the queue of its oldest job, which is not empty. Caller holds mu.
func (a *Applier) oldest() int {
	first := 0
	for i, job := range a.queue {
		if job.older(a.queue[first]) {
			first = i
		}
	}
	return first
}

// older is the total order of coordinator, by which conflicts are settled.
func (j *applyJob) older(k *applyJob) bool {
	switch {
	case j.gid.Gen != k.gid.Gen:
		return j.gid.Gen < k.gid.Gen
	case j.age != k.age:
		return j.age < k.age
	}
	return j.gid.Less(k.gid)
}

// makeRoom refuses the youngest job if every worker there may be waits for a lock, while an older one is queued: others may
// wait for that one, and nobody could tell. So the oldest of all always gets on. Caller holds mu.
func (a *Applier) makeRoom() {
	if len(a.queue) == 0 || a.blocked < a.cfg.MaxWorkers {
		return
	}
	youngest := a.queue[a.oldest()]
	for _, job := range a.running {
		if youngest.older(job) {
			youngest = job
		}
	}
	if youngest.blocked && !youngest.isCancelled() {
		youngest.crowded.Store(true)
		youngest.cancelled.Store(true)
		youngest.probe = time.Time{}
		signal(a.look)
	}
}

// waits: PostgreSQL says that w waits for a lock.
func (a *Applier) waits(w *applyWorker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if job := a.running[w]; job != nil {
		job.probe, job.wait = time.Time{}, probeFirst
		if a.cfg.Catalog.rivals.contested(job.gid) {
			job.probe = time.Now().Add(probeRival)
		}
		signal(a.look)
	}
}

// next ends w's job, if any, and is its next one; nil means that w should end.
func (a *Applier) next(ctx context.Context, w *applyWorker) *applyJob {
	a.mu.Lock()
	if len(a.queue) > 0 {
		job := a.pop(w)
		a.mu.Unlock()
		return job
	}
	a.idle = append(a.idle, w)
	a.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil
	case job := <-w.jobs: // nil if closed
		return job
	}
}

// done ends a job. Its result is told outside the lock.
func (a *Applier) done(w *applyWorker, job *applyJob, err *mtm.Error) {
	a.mu.Lock()
	delete(a.running, w)
	delete(a.jobs, job.gid)
	a.unblock(job)
	a.mu.Unlock()
	switch {
	case err != nil:
		a.cfg.Catalog.rivals.leave(job.gid)
	case job.payload.Has(mtm.PayloadDDL):
		a.cfg.Catalog.prepared(job.gid)
	}
	a.sink.Applied(job.gid, err)
}

func (a *Applier) unblock(job *applyJob) {
	if job.blocked {
		job.blocked = false
		a.blocked--
	}
}

// retire lets workers beyond the hot set go that have nothing to do, the longest idle first. Caller holds mu.
func (a *Applier) retire() {
	for a.workers > a.cfg.HotWorkers && len(a.idle) > 0 {
		close(a.idle[0].jobs)
		a.idle = a.idle[1:]
		a.workers--
	}
}
