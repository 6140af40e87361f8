package journal

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"mtm"
)

// Retention is how much of the log that a restart no longer needs is kept, for nodes that have to recover. The oldest
// segment is given up as soon as any of the bounds is passed; only Checkpoint looks.
type Retention struct {
	Size int64         // bytes of log and of spill files that it names; 0: 16 GiB; negative: nothing is kept
	Age  time.Duration // since the segment was written last; 0: 24 hours; negative: no bound
	Free int64         // bytes that must be free on the file system; 0: 2 GiB; negative: no bound
}

func (r Retention) withDefaults() Retention {
	if r.Size == 0 {
		r.Size = 16 << 30
	}
	if r.Age == 0 {
		r.Age = 24 * time.Hour
	}
	if r.Free == 0 {
		r.Free = 2 << 30
	}
	return r
}

// gone is what is known of the records that were given up.
type gone struct {
	Commits spanSets              // transactions that they said to be committed, and a few that they did not (see goneSpans)
	Highest map[mtm.NodeID]uint64 // of those that they were about
	Marks   map[mtm.NodeID]uint64 // as in summary
}

// goneSpans bounds the gaps that are remembered, per origin. They are numbers of transactions that aborted; who is asked
// whether it has those too will say yes, unless they are recent.
const goneSpans = 2000

func (j *Journal) loadGone() (g gone, err error) {
	err = j.state.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bucketOwn).Get([]byte(keyGone)); v != nil {
			return gob.NewDecoder(bytes.NewReader(v)).Decode(&g)
		}
		return nil
	})
	if err != nil {
		return gone{}, fmt.Errorf("journal: get %q: %w", keyGone, err)
	}
	if g.Commits == nil {
		g.Commits = spanSets{}
	}
	if g.Highest == nil {
		g.Highest = map[mtm.NodeID]uint64{}
	}
	if g.Marks == nil {
		g.Marks = map[mtm.NodeID]uint64{}
	}
	return g, nil
}

// with is g and what s says.
func (g gone) with(s *summary) gone {
	next := gone{Commits: spanSets{}, Highest: map[mtm.NodeID]uint64{}, Marks: map[mtm.NodeID]uint64{}}
	for _, marks := range []map[mtm.NodeID]uint64{g.Marks, s.Marks} {
		for id, num := range marks {
			next.Marks[id] = max(next.Marks[id], num)
		}
	}
	next.Commits.addAll(g.Commits)
	next.Commits.addAll(s.Commits)
	for origin, list := range next.Commits {
		next.Commits[origin] = list.cut(goneSpans)
	}
	for origin, n := range g.Highest {
		next.Highest[origin] = n
	}
	for origin, list := range s.Touched {
		if len(list) > 0 {
			next.Highest[origin] = max(next.Highest[origin], list[len(list)-1].Last)
		}
	}
	return next
}

// ReplayFrom is where a restart begins to read: the last checkpoint that Checkpoint was told of.
func (j *Journal) ReplayFrom() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(j.first, j.replay)
}

// Checkpoint says that the record at index begins a checkpoint whose end is durable: Replay(0) starts there from now on.
// What precedes it is kept as Options.Retention says, by whole segments, and with it the spill files that it names.
func (j *Journal) Checkpoint(index uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	if index <= j.replay {
		return nil
	}
	if index >= j.next {
		return fmt.Errorf("journal: checkpoint at %d: the last record is %d", index, j.next-1)
	}
	if err := j.syncLocked(); err != nil { // state.db may not know of records that the log lacks
		return err
	}
	if err := j.putState(keyReplay, encodeIndex(index)); err != nil {
		return err
	}
	j.replay = index
	before, err := j.retained()
	if err != nil {
		return err
	}
	return j.truncate(before)
}

// retained is the index of the first record to keep.
func (j *Journal) retained() (uint64, error) {
	total := int64(len(j.segments)) * j.size
	for _, s := range j.named {
		total += s.Size
	}
	free := int64(1) << 62
	if j.retain.Free > 0 {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(j.dir, &fs); err != nil {
			return 0, fmt.Errorf("journal: %w", err)
		}
		free = int64(fs.Bavail) * fs.Bsize
	}
	first := j.first
	for i := 0; i+1 < len(j.segments) && j.segments[i+1].base <= j.replay; i++ {
		old, err := j.tooOld(j.segments[i])
		if err != nil {
			return 0, err
		}
		if !old && total <= j.retain.Size && free >= j.retain.Free {
			break
		}
		first = j.segments[i+1].base
		size := j.size
		for _, s := range j.named {
			if j.segments[i].base <= s.Index && s.Index < first {
				size += s.Size
			}
		}
		total, free = total-size, free+size
	}
	return first, nil
}

func (j *Journal) tooOld(s *segment) (bool, error) {
	if j.retain.Age < 0 {
		return false, nil
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return false, fmt.Errorf("journal: %w", err)
	}
	return time.Since(info.ModTime()) > j.retain.Age, nil
}

// Truncate gives up the records before the given index. Their space comes back by whole segments.
func (j *Journal) Truncate(before uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	if before > j.next {
		return fmt.Errorf("journal: truncate before %d: the last record is %d", before, j.next-1)
	}
	if err := j.syncLocked(); err != nil { // state.db may not know of records that the log lacks
		return err
	}
	return j.truncate(before)
}

// truncate first notes what will be gone, then removes it. A crash between leaves files that the next one removes.
func (j *Journal) truncate(before uint64) error {
	if before <= j.first {
		return nil
	}
	next := j.gone
	for i, s := range j.segments[:len(j.segments)-1] {
		if s.base >= before {
			break
		}
		sum, err := j.summaryOf(*s, j.segments[i+1].base-1)
		if err != nil {
			return err
		}
		next = next.with(sum)
	}
	if tail := j.segments[len(j.segments)-1]; tail.base < before {
		next = next.with(j.sum)
	}
	var body bytes.Buffer
	if err := gob.NewEncoder(&body).Encode(next); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := j.putState(keyGone, body.Bytes()); err != nil {
		return err
	}
	if err := j.putState(keyFirst, encodeIndex(before)); err != nil {
		return err
	}
	j.gone, j.first = next, before
	for len(j.segments) > 1 && j.segments[1].base <= before {
		for _, path := range []string{j.segments[0].path, j.sumPath(j.segments[0].base)} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("journal: %w", err) // the next Truncate tries again
			}
		}
		j.segments = j.segments[1:]
	}
	return j.dropNamed(j.segments[0].base)
}

// dropNamed removes the spill files that no record from index before on names.
func (j *Journal) dropNamed(before uint64) error {
	for name, s := range j.named {
		if s.Index >= before {
			continue
		}
		delete(j.named, name)
		if err := j.removeSpill(name); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) removeSpill(name string) error {
	if j.held[name] > 0 {
		j.unwanted[name] = true
		return nil
	}
	return j.spills.Remove(name)
}

// holdSpill keeps a spill file from being removed until releaseSpill.
func (j *Journal) holdSpill(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.held[name]++
}

func (j *Journal) releaseSpill(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.held[name]--; j.held[name] > 0 {
		return
	}
	delete(j.held, name)
	if j.unwanted[name] {
		delete(j.unwanted, name)
		if err := j.spills.Remove(name); err != nil {
			j.log.Warn("journal: cannot remove a spill file", "name", name, "error", err)
		}
	}
}

// DropSpill says that its owner needs a spill file no more. If the log names it, for nodes that have to recover, it is
// removed with the last segment that does.
func (j *Journal) DropSpill(name string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.named[name]; ok {
		return nil
	}
	return j.removeSpill(name)
}

// SweepSpills removes the spill files that neither the owner needs nor the log names: what a crash left behind. It is for
// the start, when none is being written.
func (j *Journal) SweepSpills(needed map[string]bool) error {
	names, err := j.spills.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !needed[name] {
			if err := j.DropSpill(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// findSpills learns which spill files the log names, when the journal is opened, and removes summaries of what is gone.
func (j *Journal) findSpills() error {
	for i, s := range j.segments {
		sum := j.sum
		if i+1 < len(j.segments) {
			var err error
			if sum, err = j.summaryOf(*s, j.segments[i+1].base-1); err != nil {
				return err
			}
		}
		for name, at := range sum.Spills {
			j.named[name] = at
		}
	}
	left, err := filepath.Glob(filepath.Join(j.dir, "sum", "*"))
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for _, path := range left {
		if name := filepath.Base(path); name < fmt.Sprintf("%020d", j.segments[0].base) || strings.HasSuffix(name, tmpSuffix) {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("journal: %w", err)
			}
		}
	}
	return nil
}
