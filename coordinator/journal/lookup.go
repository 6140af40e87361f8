package journal

import (
	"errors"

	"mtm"
)

// Outcome is what the journal knows of a transaction.
type Outcome int

// The outcomes.
const (
	Unknown   Outcome = iota // the journal does not reach back far enough to tell
	Committed                // it says so
	NoCommit                 // it reaches back to it, and knows of no commit
)

// Lookup tells what the journal knows of transactions. It may read one small file per segment.
func (j *Journal) Lookup(gids ...mtm.GID) (map[mtm.GID]Outcome, error) {
	found := map[mtm.GID]Outcome{}
	if len(gids) == 0 {
		return found, nil
	}
	err := j.summaries(func(_ uint64, s *summary) bool {
		for _, gid := range gids {
			if s.Commits.has(gid) {
				found[gid] = Committed
			}
		}
		return len(found) < len(gids)
	})
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, gid := range gids {
		if found[gid] == Unknown && gid.Seq > j.gone.Highest[gid.Origin] {
			found[gid] = NoCommit
		}
	}
	return found, nil
}

// Fate tells what became of a transaction that this node has finished, as coordinator.Node.InJournal says. It is Unknown also of one of
// which the journal has nothing: it may have changed nothing that is replicated, and have been committed on its origin alone.
func (j *Journal) Fate(gid mtm.GID) (Outcome, error) {
	touched := false
	err := j.summaries(func(_ uint64, s *summary) bool {
		touched = touched || s.Touched.has(gid)
		return !touched
	})
	if err != nil || !touched {
		return Unknown, err
	}
	found, err := j.Lookup(gid)
	return found[gid], err
}

// summaries calls fn for the summary of each segment, oldest first, with the index after its last record, until fn says
// false. It may not keep the summary. Segments that are given up meanwhile are passed over.
func (j *Journal) summaries(fn func(next uint64, s *summary) bool) error {
	for from := uint64(0); ; {
		s, next, err := j.summaryAt(from, fn)
		if err != nil || s == nil {
			return err
		}
		sum, err := j.summaryOf(*s, next-1)
		switch {
		case errors.Is(err, ErrTruncated):
		case err != nil:
			return err
		case !fn(next, sum):
			return nil
		}
		from = next
	}
}

// summaryAt gives the segment that holds from and where it ends. For the last one it calls fn itself, and gives nil.
func (j *Journal) summaryAt(from uint64, fn func(next uint64, s *summary) bool) (*segment, uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return nil, 0, j.failed
	}
	for i, s := range j.segments[:len(j.segments)-1] {
		if next := j.segments[i+1].base; next > from {
			sealed := *s
			return &sealed, next, nil
		}
	}
	fn(j.next, j.sum)
	return nil, 0, nil
}
