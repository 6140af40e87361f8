package coordinator

import (
	"slices"

	"mtm"
)

// seen is what this node knows of one origin's numbers: all up to upto are decided, but for those that are open.
//
// A number that was not heard of is open too: had it been taken for decided, a transaction could be made to wait for one
// that waits for it, and neither would ever end.
type seen struct {
	upto uint64
	open []uint64 // ascending
}

// maxGap bounds what one number can make a node remember: Deps of 16 origins must stay below proto.MaxExcept, or the
// journal refuses the record and the daemon ends.
const maxGap = 1 << 12

func (n *Node) seenOf(origin mtm.NodeID) *seen {
	s := n.seen[origin]
	if s == nil {
		s = &seen{upto: n.forgotten[origin]}
		n.seen[origin] = s
	}
	return s
}

// hear of a number: those between are open as well.
func (s *seen) hear(seq uint64) {
	if seq > maxGap && seq-maxGap > s.upto {
		s.upto = seq - maxGap
	}
	for s.upto < seq {
		s.upto++
		s.open = append(s.open, s.upto)
	}
}

// learn what the origin itself says of its numbers. It leaves no number between unused ones and a restart in doubt.
func (s *seen) learn(d mtm.OriginDeps) {
	s.keep(func(seq uint64) bool {
		_, open := slices.BinarySearch(d.Except, seq)
		return seq > d.Upto || open
	})
	for _, seq := range d.Except {
		if seq > s.upto && seq <= d.Upto {
			s.open = append(s.open, seq)
		}
	}
	s.upto = max(s.upto, d.Upto)
}

// keep forgets the open numbers that f does not want.
func (s *seen) keep(f func(uint64) bool) {
	s.open = slices.DeleteFunc(s.open, func(seq uint64) bool { return !f(seq) })
	if len(s.open) == 0 && cap(s.open) > 1024 {
		s.open = nil
	}
}

// reopen makes one number open that was taken for decided.
func (s *seen) reopen(seq uint64) {
	if i, found := slices.BinarySearch(s.open, seq); !found {
		s.open = slices.Insert(s.open, i, seq)
	}
}

// decided: seq is open no more.
func (s *seen) decided(seq uint64) {
	if i, found := slices.BinarySearch(s.open, seq); found {
		s.open = slices.Delete(s.open, i, i+1)
	}
}

// allDecided: nothing up to upto is open.
func (s *seen) allDecided(upto uint64) {
	s.keep(func(seq uint64) bool { return seq > upto })
	s.upto = max(s.upto, upto)
}

// learnDeps takes in what a transaction of origin says of its own origin.
func (n *Node) learnDeps(origin mtm.NodeID, deps mtm.Deps) {
	for _, d := range deps {
		if d.Origin == origin && origin != n.cfg.ID {
			n.seenOf(origin).learn(d)
		}
	}
}

// depsNow is all that a transaction captured now may have seen: whatever was decided here.
func (n *Node) depsNow() mtm.Deps {
	var deps mtm.Deps
	for _, id := range allOrigins {
		s := n.seen[id]
		if s == nil || s.upto == 0 {
			continue
		}
		deps = append(deps, mtm.OriginDeps{Origin: id, Upto: s.upto, Except: slices.Clone(s.open)})
	}
	return deps
}

// unfinishedOf lists what t may have seen at its origin and is not finished here. Everything that was decided in this
// generation was prepared here before, so what is not known here is not missed.
func (n *Node) unfinishedOf(t *txn) map[mtm.GID]bool {
	wait := map[mtm.GID]bool{}
	if n.cfg.Plant.NoDeps {
		return wait
	}
	for gid, u := range n.txns {
		if u != t && u.holdsOrWill() && t.deps.Covers(gid) {
			wait[gid] = true
		}
	}
	return wait
}
