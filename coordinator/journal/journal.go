package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"go.etcd.io/bbolt"
)

// Options of Open. The zero value is good.
type Options struct {
	SegmentSize int64        // bytes; 0: 64 MiB; at least 4 MiB, room for the largest record
	Retention   Retention    // how much of what precedes the last checkpoint is kept
	Logger      *slog.Logger // nil: slog.Default()

	// For tests of a whole daemon; nil: nothing. Before is called before each step of that name (create, write, sync, put), and its error
	// is the step's. Synced is told what is durable: the log's last segment, up to an offset.
	Before func(point string) error
	Synced func(path string, offset int64)
}

const (
	defaultSegment = 64 << 20
	minSegment     = 4 << 20
)

// hook is a named fail point; tests replace it. The points: create, write, sync, put.
var hook = func(point string) error { return nil }

// before is the fail points', of this package's tests and of a daemon's.
func (j *Journal) before(point string) error {
	err := hook(point)
	if err == nil && j.opts.Before != nil {
		err = j.opts.Before(point)
	}
	return err
}

func (j *Journal) tellSynced() {
	if j.opts.Synced != nil {
		j.opts.Synced(j.segments[len(j.segments)-1].path, j.offset) // the file had another name when it was made
	}
}

// CorruptError is damage to what the journal promised to keep.
type CorruptError struct {
	Path   string
	Offset int64  // bytes from the start of the file
	Index  uint64 // the first record that is lost
	What   string
}

// Error says where, and what to do.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal: %s, offset %d, record %d: %s; this node's journal cannot be trusted any more: "+
		"check the disk, and replace the node: \"mtmctl drop-node\", then \"mtmctl add-node\" with an empty database and data_dir", e.Path, e.Offset, e.Index, e.What)
}

// ErrTruncated: the record asked for was given up by Truncate.
var ErrTruncated = errors.New("journal: the record is no longer kept")

// ErrClosed: the journal was closed.
var ErrClosed = errors.New("journal: closed")

// Journal is an open journal. Its methods may be called from any goroutine; one that appends waits for another.
type Journal struct {
	dir    string
	log    *slog.Logger
	lock   *os.File
	opts   Options
	state  *bbolt.DB
	id     string
	spills *Spills
	size   int64 // of a segment
	retain Retention

	rewritten int64 // bytes that Open wrote again; see writeAgain

	mu       sync.Mutex
	failed   error // sticky
	segments []*segment
	tail     *os.File // the last segment, open
	offset   int64    // in tail, where the next write goes
	pending  []byte   // frames not written yet
	ends     []int    // in pending, where each frame ends
	facts    []fact   // of each frame in pending
	sum      *summary // of the last segment
	gone     gone     // what was given up
	named    map[string]spillRef
	held     map[string]int  // spill files that are being sent
	unwanted map[string]bool // of those, the ones to remove then
	replay   uint64          // index of the first record that a restart needs
	watchers map[chan struct{}]struct{}
	first    uint64 // index of the first record that is kept
	next     uint64 // index of the next record
	durable  uint64 // everything up to it is synced
}

// Open opens the journal in dir, and makes one if dir is empty or not there. A journal that another process has open,
// and a damaged one (*CorruptError), is an error.
func Open(dir string, opts Options) (*Journal, error) {
	if opts.SegmentSize == 0 {
		opts.SegmentSize = defaultSegment
	}
	if opts.SegmentSize < minSegment {
		return nil, fmt.Errorf("journal: segment size %d: at least %d bytes", opts.SegmentSize, minSegment)
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	for _, d := range []string{dir, filepath.Join(dir, "log"), filepath.Join(dir, "spill"), filepath.Join(dir, "sum")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		dir: dir, log: opts.Logger, lock: lock, opts: opts, size: opts.SegmentSize, retain: opts.Retention.withDefaults(),
		sum: newSummary(), named: map[string]spillRef{}, held: map[string]int{}, unwanted: map[string]bool{},
		watchers: map[chan struct{}]struct{}{},
	}
	if err := j.open(); err != nil {
		return nil, errors.Join(err, j.release())
	}
	return j, nil
}

func (j *Journal) open() (err error) {
	fresh, err := j.openState()
	if err != nil {
		return err
	}
	if j.spills, err = openSpills(filepath.Join(j.dir, "spill")); err != nil {
		return err
	}
	if j.segments, err = listSegments(j.logDir()); err != nil {
		return err
	}
	if len(j.segments) == 0 {
		return j.begin(fresh)
	}
	if err := j.recover(); err != nil {
		return err
	}
	return j.findSpills()
}

// begin starts the log of a new journal.
func (j *Journal) begin(fresh bool) error {
	if !fresh {
		return &CorruptError{Path: j.logDir(), Index: j.first, What: "the log's files are gone"}
	}
	s, f, err := j.newSegment(1)
	if err == nil { // the directories themselves, and state.db
		err = errors.Join(syncDir(j.dir), syncDir(filepath.Dir(j.dir)))
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.segments, j.tail, j.offset = []*segment{s}, f, segHeader
	j.first, j.next, j.durable = 1, 1, 0
	return j.putState(keyBegun, []byte{1})
}

// lockDir takes the lock of dir; it is free again when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "LOCK")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		f.Close()
		return nil, fmt.Errorf("journal: %s is in use by another process (pid %s): %w",
			dir, strings.TrimSpace(string(holder[:n])), err)
	}
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		f.Close()
		return nil, fmt.Errorf("journal: %w", err)
	}
	return f, nil
}

func writePID(f *os.File) error {
	_, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

func (j *Journal) logDir() string { return filepath.Join(j.dir, "log") }

// ID names this journal and no other, 32 hex digits; PostgreSQL's side of the pair keeps it too.
func (j *Journal) ID() string { return j.id }

// First is the index of the oldest record that is kept; it is Last()+1 when there is none.
func (j *Journal) First() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first
}

// Last is the index of the newest record, synced or not; 0 when there never was one.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next - 1
}

// Spills are the journal's files for large payloads.
func (j *Journal) Spills() *Spills { return j.spills }

// Close syncs and closes. The error of a journal that had failed before is nil: it was told.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if errors.Is(j.failed, ErrClosed) {
		return nil
	}
	var err error
	if j.failed == nil {
		if err = j.syncLocked(); err == nil {
			err = j.putState(keyLast, encodeIndex(j.durable))
		}
	}
	j.failed = ErrClosed
	j.wakeWatchers()
	return errors.Join(err, j.release())
}

// release gives back what the operating system lent.
func (j *Journal) release() error {
	var all []error
	if j.tail != nil {
		all = append(all, j.tail.Close())
	}
	if j.state != nil {
		all = append(all, j.state.Close())
	}
	return errors.Join(append(all, j.lock.Close())...)
}
