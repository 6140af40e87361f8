package logrep

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"mtm"
)

// Capture delivers what was prepared here. Make it with NewCapture, run it with Run; Ack and Expect may be called at
// any time, from any goroutine.
type Capture struct {
	cfg      Config
	sink     CaptureSink
	kick     chan struct{} // a status update is wanted now
	push     chan struct{} // WAL is to be flushed now
	renewed  chan struct{} // the slot is another one
	renewLag int64         // see Renew

	walsender atomic.Uint32   // its process, or 0
	blockers  map[blocker]int // whom Unblock found last, and how often in a row

	slots sync.Mutex // held while one slot is being replaced by another, or chosen; before mu

	mu        sync.Mutex
	acked     mtm.LSN                  // what Ack said
	delivered mtm.LSN                  // end of the last transaction that the sink got
	idle      mtm.LSN                  // all WAL up to here was seen, and was not between a begin and its end
	asked     bool                     // the walsender wants a status update
	expected  map[mtm.GID]*expectation // prepared, not decoded yet
	recent    map[mtm.GID]struct{}     // decoded lately: Expect may come after the fact
	order     []mtm.GID                // of recent, a ring
	next      int                      // in order
	slot      string                   // the one to read, see Renew
	from      mtm.LSN                  // where a new one begins; 0: it is not new
	quiet     time.Time                // no incident is told before
	began     mtm.LSN                  // where WAL ended as this life began; only the reader touches it
	muted     int                      // how many were not

	user map[mtm.GID]*capturedTxn // what users prepared and is not announced yet; only the reader touches it
}

// expectation is a prepared transaction that the walsender should be sending.
type expectation struct {
	due, since time.Time
	wait       time.Duration
}

const (
	recentGIDs     = 8192
	expectFirst    = 3 * time.Millisecond
	expectMax      = time.Second
	expectGiveUp   = time.Minute
	incidentPeriod = time.Second
)

// NewCapture makes a Capture; nothing happens before Run.
func NewCapture(cfg Config, sink CaptureSink) *Capture {
	cfg = cfg.withDefaults()
	return &Capture{
		cfg: cfg, sink: sink, slot: cfg.Slot, renewLag: renewLag, kick: make(chan struct{}, 1), push: make(chan struct{}, 1), renewed: make(chan struct{}, 1),
		expected: map[mtm.GID]*expectation{}, recent: map[mtm.GID]struct{}{}, user: map[mtm.GID]*capturedTxn{},
	}
}

// Run reads the slot until ctx ends, connecting again whenever PostgreSQL goes away. It returns ctx's error.
func (c *Capture) Run(ctx context.Context) error {
	for n := 1; ; n++ {
		start := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errRenewed) {
			n = 0
			continue
		}
		if time.Since(start) > 10*time.Second {
			n = 1
		}
		c.cfg.Log.Warn("capture lost its replication stream; connecting again", keyError, err)
		if err := backoff(ctx, n); err != nil {
			return err
		}
	}
}

// session is one connection: a reader and a writer of status updates.
func (c *Capture) session(ctx context.Context) error {
	conn, err := c.cfg.connect(ctx, "mtm_capture", map[string]string{
		"replication": "database", "logical_decoding_work_mem": c.cfg.DecodingMem,
	})
	if err != nil {
		return err
	}
	defer func() {
		c.cfg.Ending()
		closeConn(conn)
	}()
	if c.began == 0 {
		end, err := conn.Exec(ctx, "SELECT (pg_current_wal_flush_lsn() - '0/0')::text").ReadAll()
		if err != nil {
			return err
		}
		lsn, err := strconv.ParseUint(string(end[0].Rows[0][0]), 10, 64)
		if err != nil {
			return err
		}
		c.began = mtm.LSN(lsn)
	}
	slot, err := c.choose(ctx, conn)
	if err != nil {
		return err
	}
	if err := c.evict(ctx, conn, slot); err != nil {
		return err
	}
	if err := startReplication(conn, slot, c.cfg.Publication); err != nil {
		return err
	}
	c.walsender.Store(conn.PID())
	defer c.walsender.Store(0)
	g, ctx := errgroup.WithContext(ctx)
	defer interruptible(ctx, conn)()
	s := &captureStream{Capture: c, conn: conn, rels: map[uint32]*relation{}, streams: map[uint32]*capturedTxn{}}
	defer s.drop()
	closeLists, err := s.openLists(ctx)
	if closeLists != nil {
		defer closeLists()
	}
	if err != nil {
		return err
	}
	g.Go(func() error { return s.read(ctx) })
	g.Go(func() error { return c.status(ctx, conn) })
	g.Go(func() error { return c.flush(ctx) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.renewed:
			return errRenewed
		}
	})
	return g.Wait()
}

// evict ends a reader of the slot that an earlier process left behind: only one may read it.
func (c *Capture) evict(ctx context.Context, conn *pgconn.PgConn, slot string) error {
	// A replication connection takes simple queries only; the slot's name is made of [a-z0-9_].
	return run(ctx, conn, fmt.Sprintf("SELECT pg_terminate_backend(active_pid, 2000) FROM pg_replication_slots "+
		"WHERE slot_name = '%s' AND active_pid IS NOT NULL", slotName(slot)))
}

// slotName drops what PostgreSQL allows in no slot's name.
func slotName(s string) string {
	out := make([]byte, 0, len(s))
	for _, b := range []byte(s) {
		if b == '_' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' {
			out = append(out, b)
		}
	}
	return string(out)
}

// Ack says that everything delivered up to lsn is safe here: the slot may forget it.
func (c *Capture) Ack(lsn mtm.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = max(c.acked, lsn)
}

// Expect says that PostgreSQL has prepared gid, so that it should be decoded any moment. A walsender can miss that
// (PostgreSQL 16 and later); if it does, Capture wakes it.
func (c *Capture) Expect(gid mtm.GID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, done := c.recent[gid]; done {
		return
	}
	now := time.Now()
	c.expected[gid] = &expectation{due: now.Add(expectFirst), since: now, wait: expectFirst}
	if len(c.expected) == 1 {
		c.wake()
	}
}

// decoded notes that gid has come out of the slot.
func (c *Capture) decoded(gid mtm.GID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.expected, gid)
	if _, again := c.recent[gid]; again {
		return
	}
	if len(c.order) < recentGIDs {
		c.order = append(c.order, gid)
	} else {
		delete(c.recent, c.order[c.next])
		c.order[c.next] = gid
	}
	c.next = (c.next + 1) % recentGIDs
	c.recent[gid] = struct{}{}
}

func (c *Capture) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// incident tells the sink of a write that bypassed us, unless it has just been told of another.
func (c *Capture) incident(text string) {
	c.mu.Lock()
	now := time.Now()
	if now.Before(c.quiet) {
		c.muted++
		c.mu.Unlock()
		return
	}
	if c.muted > 0 {
		text = fmt.Sprintf("%s (and %d more like it before)", text, c.muted)
	}
	c.quiet, c.muted = now.Add(incidentPeriod), 0
	c.mu.Unlock()
	c.sink.Incident(text)
}

var errStreamEnded = errors.New("PostgreSQL ended the replication stream")
