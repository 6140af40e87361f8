package journal

import (
	"fmt"
	"syscall"

	"mtm"
	"mtm/proto"
)

// flushAt is how many bytes may wait in memory for the next sync.
const flushAt = 1 << 20

// Append adds recs in order and gives the index of the first; the others follow. With sync, everything up to the
// last of them is on disk when it returns; without, it will be with the next that syncs, and a crash before may lose
// it. An error after which the journal can go on (a record outside the bounds of package proto) leaves no trace of
// recs; any other is final: see the package.
func (j *Journal) Append(recs []mtm.Record, sync bool) (first uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return 0, j.failed
	}
	first = j.next
	if err := j.encode(recs); err != nil {
		return 0, err
	}
	switch {
	case sync:
		err = j.syncLocked()
	case len(j.pending) >= flushAt:
		err = j.flushLocked()
	}
	if err != nil {
		return 0, err
	}
	return first, nil
}

// encode adds recs to what is pending: all of them or none.
func (j *Journal) encode(recs []mtm.Record) error {
	start, frames, next := len(j.pending), len(j.ends), j.next
	facts := j.facts
	for _, r := range recs {
		if err := proto.CheckRecord(r); err != nil {
			j.pending, j.ends, j.next, j.facts = j.pending[:start], j.ends[:frames], next, facts
			return fmt.Errorf("journal: %w", err)
		}
		at := len(j.pending)
		j.pending = proto.AppendRecord(beginFrame(j.pending), r)
		j.pending = endFrame(j.pending, at, j.next, j.durable)
		j.ends = append(j.ends, len(j.pending))
		j.facts = append(j.facts, factOf(r))
		j.next++
	}
	for i, f := range j.facts[len(facts):] {
		if f.spill != "" {
			j.named[f.spill] = spillRef{Index: next + uint64(i), Size: f.size}
		}
	}
	return nil
}

// Flush hands what is pending to the operating system; it then outlives the process, but not the machine.
func (j *Journal) Flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	return j.flushLocked()
}

// Sync puts everything that was appended on disk.
func (j *Journal) Sync() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	return j.syncLocked()
}

func (j *Journal) syncLocked() error {
	if err := j.flushLocked(); err != nil {
		return err
	}
	if j.durable == j.next-1 {
		return nil
	}
	return j.syncTail(j.next - 1)
}

// syncTail makes the last segment durable, and with it every record up to upto.
func (j *Journal) syncTail(upto uint64) error {
	err := j.before("sync")
	if err == nil {
		err = syscall.Fdatasync(int(j.tail.Fd()))
	}
	if err != nil {
		return j.fail("fdatasync", err)
	}
	j.durable = upto
	j.tellSynced()
	j.wakeWatchers()
	return nil
}

// flushLocked writes what is pending, one write per segment that it falls into.
func (j *Journal) flushLocked() error {
	done, frames := 0, 0 // of pending and ends, written
	for frames < len(j.ends) {
		n := frames
		for n < len(j.ends) && j.offset+int64(j.ends[n]-done) <= j.size {
			j.note(j.offset + int64(j.start(n)-done))
			j.sum.note(j.next-uint64(len(j.ends)-n), j.facts[n])
			n++
		}
		if n > frames {
			if err := j.write(j.pending[done:j.ends[n-1]]); err != nil {
				return err
			}
			done, frames = j.ends[n-1], n
		}
		if frames < len(j.ends) {
			if err := j.roll(j.next - uint64(len(j.ends)-frames)); err != nil {
				return err
			}
		}
	}
	j.pending, j.ends, j.facts = j.pending[:0], j.ends[:0], j.facts[:0]
	if cap(j.pending) > 4*flushAt {
		j.pending = nil // a rare large batch keeps no memory
	}
	return nil
}

// start is where frame n of pending begins.
func (j *Journal) start(n int) int {
	if n == 0 {
		return 0
	}
	return j.ends[n-1]
}

func (j *Journal) write(b []byte) error {
	err := j.before("write")
	if err == nil {
		_, err = j.tail.WriteAt(b, j.offset)
	}
	if err != nil {
		return j.fail("write", err)
	}
	j.offset += int64(len(b))
	return nil
}

// roll seals the last segment and begins another, whose first record is base. What is sealed is synced: the log on
// disk has no holes.
func (j *Journal) roll(base uint64) error {
	if err := j.syncTail(base - 1); err != nil {
		return err
	}
	s, f, err := j.newSegment(base)
	if err != nil {
		return j.fail("new segment", err)
	}
	old := j.tail
	j.saveSummary(j.segments[len(j.segments)-1].base, j.sum)
	j.sum = newSummary()
	j.segments, j.tail, j.offset = append(j.segments, s), f, segHeader
	j.tellSynced()
	if err := old.Close(); err != nil {
		return j.fail("close", err)
	}
	return nil
}

// note keeps the offset of every segSparse-th record of the last segment.
func (j *Journal) note(offset int64) {
	s := j.segments[len(j.segments)-1]
	if s.count%segSparse == 0 {
		s.sparse = append(s.sparse, offset)
	}
	s.count++
}

// fail makes err the journal's last word.
func (j *Journal) fail(what string, err error) error {
	j.failed = fmt.Errorf("journal: %s in %s: %w; the journal takes nothing more until the process is started anew",
		what, j.dir, err)
	j.wakeWatchers()
	return j.failed
}
