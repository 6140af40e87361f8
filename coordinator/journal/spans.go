package journal

import (
	"slices"

	"mtm"
)

// spans is a set of numbers: ascending, disjoint, not adjacent.
type spans []mtm.Span

// find is the index of the first span that ends at seq or later.
func (s spans) find(seq uint64) int {
	i, _ := slices.BinarySearchFunc(s, seq, func(p mtm.Span, seq uint64) int {
		if p.Last < seq {
			return -1
		}
		return 1
	})
	return i
}

func (s spans) has(seq uint64) bool {
	i := s.find(seq)
	return i < len(s) && s[i].First <= seq
}

// covers reports whether every number of p is in s.
func (s spans) covers(p mtm.Span) bool {
	i := s.find(p.First)
	return i < len(s) && s[i].First <= p.First && p.Last <= s[i].Last
}

// add puts p in, whatever of it is there already.
func (s spans) add(p mtm.Span) spans {
	from := s.find(max(p.First, 1) - 1) // the first that p touches
	upto := from
	for upto < len(s) && (s[upto].First <= p.Last || s[upto].First-1 == p.Last) {
		p.First, p.Last = min(p.First, s[upto].First), max(p.Last, s[upto].Last)
		upto++
	}
	if upto == from+1 {
		s[from] = p
		return s
	}
	return slices.Replace(s, from, upto, p)
}

// cut makes s shorter than limit by closing its lowest gaps: it then holds more numbers than it did.
func (s spans) cut(limit int) spans {
	if n := len(s) - limit; n > 0 {
		s[n].First = s[0].First
		return slices.Delete(s, 0, n)
	}
	return s
}

// spanSets are the numbers of transactions, per origin.
type spanSets map[mtm.NodeID]spans

func (s spanSets) has(gid mtm.GID) bool { return s[gid.Origin].has(gid.Seq) }

func (s spanSets) add(gid mtm.GID) {
	s[gid.Origin] = s[gid.Origin].add(mtm.Span{First: gid.Seq, Last: gid.Seq})
}

func (s spanSets) addAll(more spanSets) {
	for origin, list := range more {
		for _, p := range list {
			s[origin] = s[origin].add(p)
		}
	}
}

// covers reports whether everything of other is in s.
func (s spanSets) covers(other spanSets) bool {
	for origin, list := range other {
		for _, p := range list {
			if !s[origin].covers(p) {
				return false
			}
		}
	}
	return true
}

// haveSets is what a request says that its sender has.
func haveSets(have []mtm.OriginHave) spanSets {
	s := spanSets{}
	for _, h := range have {
		list := spans{{First: 0, Last: h.Upto}}
		for _, p := range h.Above {
			list = list.add(p)
		}
		s[h.Origin] = list
	}
	return s
}
