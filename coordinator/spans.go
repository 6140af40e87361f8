package coordinator

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

func (s spans) add(seq uint64) spans {
	i := s.find(seq)
	if i < len(s) && s[i].First <= seq {
		return s
	}
	left := i > 0 && s[i-1].Last+1 == seq
	right := i < len(s) && s[i].First == seq+1
	switch {
	case left && right:
		s[i-1].Last = s[i].Last
		return slices.Delete(s, i, i+1)
	case left:
		s[i-1].Last = seq
	case right:
		s[i].First = seq
	default:
		return slices.Insert(s, i, mtm.Span{First: seq, Last: seq})
	}
	return s
}

// above drops everything up to upto.
func (s spans) above(upto uint64) spans {
	s = slices.Delete(s, 0, s.find(upto+1))
	if len(s) > 0 && s[0].First <= upto {
		s[0].First = upto + 1
	}
	return s
}
