package journal

import (
	"errors"
	"fmt"
	"os"
	"sort"

	"mtm"
	"mtm/proto"
)

// recover reads the last segment, finds the end of the log, and makes what is beyond it zero.
func (j *Journal) recover() error {
	if j.first < j.segments[0].base {
		return &CorruptError{Path: j.logDir(), Index: j.first, What: "the file with this record is gone"}
	}
	for _, s := range j.segments[:len(j.segments)-1] {
		if err := j.checkSealed(s); err != nil {
			return err
		}
	}
	last := j.segments[len(j.segments)-1]
	f, err := os.OpenFile(last.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.tail = f
	if err := checkSegHeader(f, last, j.id); err != nil {
		return err
	}
	s := newScanner(f, segHeader, last.base)
	synced, unsynced := last.base-1, int64(segHeader) // the last record that a later one knows to be synced, and where those after it begin
	var starts []int64                                // of those
	for {
		at := s.offset
		fr, ok, err := s.scan()
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if !ok {
			break
		}
		j.note(at)
		if err := j.sum.read(fr); err != nil {
			return &CorruptError{Path: last.path, Offset: at, Index: fr.index, What: err.Error()}
		}
		starts = append(starts, at)
		if n := fr.durable - synced; fr.durable > synced && n < uint64(len(starts)) {
			synced, unsynced, starts = fr.durable, starts[n], starts[n:]
		}
	}
	j.offset, j.next = s.offset, s.next
	if err := j.cutTail(last); err != nil {
		return err
	}
	if err := j.checkEnd(last); err != nil {
		return err
	}
	if err := j.writeAgain(unsynced); err != nil {
		return err
	}
	return j.syncTail(j.next - 1) // what a killed process had written but not synced
}

// writeAgain writes what is in the last segment from offset on, up to its last record, once more: if a fdatasync of it has failed, it may
// be in the kernel's cache only, and taken for clean there, so that another fdatasync would not write it.
func (j *Journal) writeAgain(offset int64) error {
	buf := make([]byte, j.offset-offset)
	_, err := j.tail.ReadAt(buf, offset)
	if err == nil {
		_, err = j.tail.WriteAt(buf, offset)
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.rewritten = int64(len(buf))
	return nil
}

func (j *Journal) checkSealed(s *segment) error {
	f, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	return checkSegHeader(f, s, j.id)
}

// checkEnd compares the log with what state.db knows of it.
func (j *Journal) checkEnd(last *segment) error {
	known, err := j.getIndex(keyLast)
	if err != nil {
		return err
	}
	if known = max(known, j.first-1); known >= j.next {
		return &CorruptError{Path: last.path, Offset: j.offset, Index: j.next,
			What: fmt.Sprintf("records up to %d had been synced", known)}
	}
	return nil
}

// cutTail zeroes what follows the last good frame: a later, shorter log must not find old frames behind its end. A
// frame there that knows a record before it to have been synced convicts the log of damage.
func (j *Journal) cutTail(last *segment) error {
	info, err := j.tail.Stat()
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	rest := make([]byte, max(0, info.Size()-j.offset))
	if _, err := j.tail.ReadAt(rest, j.offset); err != nil && ignoreEOF(err) != nil {
		return fmt.Errorf("journal: %w", err)
	}
	end := len(rest)
	for end > 0 && rest[end-1] == 0 {
		end--
	}
	if end == 0 {
		return nil
	}
	for at := 0; at < end; at += frameAlign {
		if f, ok := parseFrame(rest[at:]); ok && f.index > j.next && f.durable >= j.next {
			return &CorruptError{Path: last.path, Offset: j.offset, Index: j.next,
				What: fmt.Sprintf("the record is damaged, though record %d, written after it was synced, is not", f.index)}
		}
	}
	j.log.Warn("journal: dropped what a crash left half written", "path", last.path, "offset", j.offset, "bytes", end,
		"next", j.next)
	if _, err := j.tail.WriteAt(make([]byte, end), j.offset); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// span is what Replay and Read take from the journal under its lock.
type span struct {
	segments []segment
	last     uint64
}

// readable flushes, and gives the segments that hold from and everything after it.
func (j *Journal) readable(from uint64) (span, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return span{}, j.failed
	}
	if from < j.first {
		return span{}, fmt.Errorf("%w: record %d, the first is %d", ErrTruncated, from, j.first)
	}
	if err := j.flushLocked(); err != nil {
		return span{}, err
	}
	i := sort.Search(len(j.segments), func(i int) bool { return j.segments[i].base > from }) - 1
	out := span{last: j.next - 1}
	for _, s := range j.segments[i:] {
		out.segments = append(out.segments, *s)
	}
	return out, nil
}

// Replay calls fn for each record from index from (0: the last checkpoint) to the one that was last when it began,
// synced or not. It ends at the first error, fn's too. The journal may be appended to and truncated meanwhile;
// truncating what is still to come gives ErrTruncated.
func (j *Journal) Replay(from uint64, fn func(index uint64, r mtm.Record) error) error {
	if from == 0 {
		from = j.ReplayFrom()
	}
	span, err := j.readable(from)
	if err != nil {
		return err
	}
	for i, s := range span.segments {
		upto := span.last
		if i+1 < len(span.segments) {
			upto = span.segments[i+1].base - 1
		}
		if err := replaySegment(s, from, upto, fn); err != nil {
			return err
		}
	}
	return nil
}

// replaySegment reads the records from to upto of s, as far as s has them.
func replaySegment(s segment, from, upto uint64, fn func(uint64, mtm.Record) error) error {
	if from > upto {
		return nil
	}
	f, err := os.Open(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: it was truncated meanwhile", ErrTruncated)
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	offset, index := s.near(max(from, s.base))
	for sc := newScanner(f, offset, index); sc.next <= upto; {
		at, index := sc.offset, sc.next
		fr, ok, err := sc.scan()
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if !ok {
			return &CorruptError{Path: s.path, Offset: at, Index: index, What: "the record is damaged"}
		}
		if index < from {
			continue
		}
		rec, err := proto.ParseRecord(fr.data)
		if err != nil {
			return &CorruptError{Path: s.path, Offset: at, Index: index, What: err.Error()}
		}
		if err := fn(index, rec); err != nil {
			return err
		}
	}
	return nil
}

// near gives the nearest known place at or before index.
func (s *segment) near(index uint64) (offset int64, at uint64) {
	if s.count == 0 {
		return segHeader, s.base
	}
	i := min((index-s.base)/segSparse, uint64(len(s.sparse)-1))
	return s.sparse[i], s.base + i*segSparse
}

// Read gives one record. It is cheap for those written since the journal was opened; for an older one it may read
// a whole segment.
func (j *Journal) Read(index uint64) (r mtm.Record, err error) {
	span, err := j.readable(index)
	if err != nil {
		return nil, err
	}
	if index > span.last {
		return nil, fmt.Errorf("journal: record %d: the last is %d", index, span.last)
	}
	err = replaySegment(span.segments[0], index, index, func(_ uint64, rec mtm.Record) error {
		r = rec
		return nil
	})
	return r, err
}
