package journal

import (
	"errors"
	"fmt"
	"os"

	"mtm"
	"mtm/proto"
)

// cursor reads the durable records of a journal in order, and follows it as it grows. One goroutine uses it.
type cursor struct {
	j     *Journal
	index uint64 // of the next record
	upto  uint64 // of the records that may be read without looking at the journal again
	seg   segment
	file  *os.File
	sc    *scanner
}

// place is where a record is.
type place struct {
	seg    segment
	index  uint64
	offset int64
}

func newCursor(j *Journal, from uint64) *cursor { return &cursor{j: j, index: from} }

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close()
		c.file = nil
	}
}

// next gives the next durable record of those that matter to recovery; nil at the end, for the moment.
func (c *cursor) next() (mtm.Record, place, error) {
	for {
		f, at, ok, err := c.frame()
		if err != nil || !ok {
			return nil, place{}, err
		}
		if !proto.AboutRecovery(f.data) {
			continue
		}
		rec, err := proto.ParseRecord(f.data)
		if err != nil {
			return nil, place{}, &CorruptError{Path: at.seg.path, Offset: at.offset, Index: at.index, What: err.Error()}
		}
		return rec, at, nil
	}
}

func (c *cursor) frame() (frame, place, bool, error) {
	if c.index > c.upto {
		if ok, err := c.look(); err != nil || !ok {
			return frame{}, place{}, false, err
		}
	}
	at := place{seg: c.seg, index: c.sc.next, offset: c.sc.offset}
	f, ok, err := c.sc.scan()
	if err != nil {
		return frame{}, place{}, false, fmt.Errorf("journal: %w", err)
	}
	if !ok {
		return frame{}, place{}, false, &CorruptError{Path: c.seg.path, Offset: at.offset, Index: at.index, What: "the record is damaged"}
	}
	if at.index < c.index { // sought from a known place before it
		return c.frame()
	}
	c.index++
	return f, at, true, nil
}

// look asks the journal how far it is durable; false: there is nothing more.
func (c *cursor) look() (bool, error) {
	seg, last, err := c.j.locate(c.index)
	if err != nil || c.index > last {
		return false, err
	}
	if c.file == nil || seg.base != c.seg.base {
		c.close()
		f, err := os.Open(seg.path)
		if errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("%w: record %d was truncated meanwhile", ErrTruncated, c.index)
		}
		if err != nil {
			return false, fmt.Errorf("journal: %w", err)
		}
		c.file, c.seg, c.sc = f, seg, nil
	}
	c.seg = seg
	if c.sc == nil {
		offset, index := seg.near(c.index)
		c.sc = newScanner(c.file, offset, index)
	} else { // what it has buffered may be older than what is there now
		c.sc.reset(c.file)
	}
	c.upto = last
	return true, nil
}

// locate gives the segment that holds the record at index, and the last durable record in it.
func (j *Journal) locate(index uint64) (segment, uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return segment{}, 0, j.failed
	}
	if index < j.segments[0].base {
		return segment{}, 0, fmt.Errorf("%w: record %d, the first is %d", ErrTruncated, index, j.first)
	}
	i := len(j.segments) - 1
	for i > 0 && j.segments[i].base > index {
		i--
	}
	last := j.durable
	if i+1 < len(j.segments) {
		last = j.segments[i+1].base - 1
	}
	return *j.segments[i], last, nil
}

// behind is about how many bytes of durable records follow what the cursor has read; 0 at the end only.
func (c *cursor) behind() uint64 {
	j := c.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if c.index > j.durable {
		return 0
	}
	n := j.offset
	for i := len(j.segments) - 2; i >= 0 && j.segments[i+1].base > c.index; i-- {
		n += j.size
	}
	if c.sc != nil {
		n -= c.sc.offset
	}
	return uint64(max(n, 1))
}

// readAt reads one record again.
func readAt(p place) (r mtm.Record, err error) {
	p.seg.sparse, p.seg.count = nil, 0
	f, err := os.Open(p.seg.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: record %d was truncated meanwhile", ErrTruncated, p.index)
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	header := make([]byte, frameHeader)
	if _, err := f.ReadAt(header, p.offset); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	buf := make([]byte, frameSize(header))
	if _, err := f.ReadAt(buf, p.offset); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	fr, ok := parseFrame(buf)
	if ok && fr.index == p.index {
		if r, err = proto.ParseRecord(fr.data); err == nil {
			return r, nil
		}
	}
	return nil, &CorruptError{Path: p.seg.path, Offset: p.offset, Index: p.index, What: "the record is damaged"}
}

// watch gives a channel that hears when more is durable, or the journal has ended.
func (j *Journal) watch() chan struct{} {
	w := make(chan struct{}, 1)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.watchers[w] = struct{}{}
	return w
}

func (j *Journal) unwatch(w chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.watchers, w)
}

func (j *Journal) wakeWatchers() {
	for w := range j.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}
