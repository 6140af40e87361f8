package logrep

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"time"

	"mtm"
)

// Config is what the parts of this package need. Zero values of all but DSN, Node and Spills mean the defaults.
type Config struct {
	DSN    string     // keyword/value or URL; a superuser; one database
	Node   mtm.NodeID // this node: capture delivers its gids only
	Spills Spills     // where large payloads lie
	Log    *slog.Logger

	Slot           string        // default "mtm"
	Publication    string        // default "mtm"
	InlineMax      int           // bytes; a larger payload is spilled; default 256 KiB
	DecodingMem    string        // logical_decoding_work_mem: larger transactions are streamed; default and maximum mtm.OpenPad
	StatusInterval time.Duration // how often the slot is told what may be forgotten; default 1 s

	HotWorkers      int           // apply workers that run though none waits; default 16
	MaxWorkers      int           // apply workers in all; default 100
	LockNotice      time.Duration // a worker waits for a lock for this long, then PostgreSQL tells us; default 2 ms
	Grace           time.Duration // how long an apply may run before the lock monitor looks untold; default 50 ms
	DeadlockTimeout time.Duration // deadlock_timeout of the other sessions; default 1 s
	FinishConns     int           // connections that end prepared transactions; default 4
	Catalog         *Catalog      // shared by all parts of a node
	RecoverOrigin   string        // replication origin of recovery; default "mtm_recovered"

	// Genuine tells whether this node's gateway has given out a token, for a message to the other nodes; nil: none is.
	Genuine func(token string) bool

	// Ending is called before a connection is closed, and may wait a little, so that not all end at once; nil: nothing is.
	Ending func()

	onWait func() // PostgreSQL says that the session waits for a lock
}

// Spills is where payloads too large for memory lie; the journal implements it.
type Spills interface {
	Create() (SpillWriter, error)
	Open(name string) (io.ReadSeekCloser, error)
}

// SpillWriter is one spill file being written. Exactly one of Commit and Abort ends it.
type SpillWriter interface {
	io.Writer
	Name() string
	Commit() error // durable, and kept
	Abort() error  // gone
}

// CaptureSink receives what Capture found. Its methods may block: capture waits then.
type CaptureSink interface {
	// Captured: a transaction prepared here under a gid of this node. It may come again after a reconnect. With
	// PayloadStreamed it is one that a session holds open, and lsn is its transaction id.
	Captured(gid mtm.GID, lsn mtm.LSN, p mtm.Payload)
	// Refused comes instead of Captured if the transaction must not be committed, and aborts it; lsn is 0 if a session holds it open.
	Refused(gid mtm.GID, lsn mtm.LSN, err *mtm.Error)
	// Blocked: see ApplySink; one of the two was captured just now.
	Blocked(waiter, holder mtm.GID)
	// Stalled: decoding waits for a lock of a prepared transaction, gid, or of session pid. true: the sink ends it, or leaves it be.
	Stalled(gid mtm.GID, pid uint32) bool
	// Incident: a replicated table was written and committed without us. At most about one a second.
	Incident(text string)
}

// ApplySink receives what became of Apply. Its methods are called from several goroutines and must not block long.
type ApplySink interface {
	// Applied: exactly once per Apply. nil means prepared, durably.
	Applied(gid mtm.GID, err *mtm.Error)
	// Blocked: waiter, applying here, waits for a lock of holder, prepared or applying here, or will: both change the same
	// row. Repeated while it waits.
	Blocked(waiter, holder mtm.GID)
	// Conflict: waiter, of that age, waits for a lock of the client session of the backend pid. True: the session belongs
	// to the gateway, which ends it, and may call cancel before it returns to have PostgreSQL cancel its statement. False:
	// the lock monitor cancels or terminates it. Repeated while it lasts.
	Conflict(waiter mtm.GID, age uint64, pid uint32, cancel func() error) bool
}

// FinishSink receives what became of Finish. Finished must not block long.
type FinishSink interface {
	Finished(gid mtm.GID) // exactly once per Finish
}

// Sink is all three.
type Sink interface {
	CaptureSink
	ApplySink
	FinishSink
}

func (c Config) withDefaults() Config {
	setDefault(&c.Log, slog.Default())
	setDefault(&c.Slot, "mtm")
	setDefault(&c.Publication, "mtm")
	setDefault(&c.InlineMax, 256<<10)
	setDefault(&c.DecodingMem, strconv.Itoa(mtm.OpenPad>>10)+"kB")
	setDefault(&c.StatusInterval, time.Second)
	setDefault(&c.HotWorkers, 16)
	setDefault(&c.MaxWorkers, 100)
	setDefault(&c.LockNotice, 2*time.Millisecond)
	setDefault(&c.Grace, 50*time.Millisecond)
	setDefault(&c.DeadlockTimeout, time.Second)
	setDefault(&c.FinishConns, 4)
	if c.Catalog == nil {
		c.Catalog = NewCatalog()
	}
	setDefault(&c.RecoverOrigin, "mtm_recovered")
	if c.Ending == nil {
		c.Ending = func() {}
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Names of log attributes.
const (
	keyError = "err"
	keyGID   = "gid"
	keyPID   = "pid"
	keyHint  = "hint"
	keyPart  = "part"
)

// backoff waits before attempt n (from 1) of something that PostgreSQL refuses for now: 50 ms doubling to 2 s.
func backoff(ctx context.Context, n int) error {
	d := 50 * time.Millisecond << min(max(n-1, 0), 6)
	return sleep(ctx, min(d, 2*time.Second))
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
