package mtm

import (
	"math/bits"
	"strconv"
	"strings"
)

// NodeID names a node of one cluster: 1 to MaxNodes. Zero is nobody.
type NodeID int

// MaxNodes is the largest NodeID. It is also the fixed number of sequence slots (docs/sql.md, sequences).
const MaxNodes = 16

// Valid reports whether id may name a node.
func (id NodeID) Valid() bool { return id >= 1 && id <= MaxNodes }

// NodeSet is a set of nodes. The zero value is empty.
type NodeSet uint64

// Nodes makes a set of the given nodes.
func Nodes(ids ...NodeID) NodeSet {
	var s NodeSet
	for _, id := range ids {
		s = s.With(id)
	}
	return s
}

// Has reports whether id is in s.
func (s NodeSet) Has(id NodeID) bool { return id.Valid() && s&(1<<uint(id)) != 0 }

// With returns s and id.
func (s NodeSet) With(id NodeID) NodeSet { return s | 1<<uint(id) }

// Without returns s less id.
func (s NodeSet) Without(id NodeID) NodeSet { return s &^ (1 << uint(id)) }

// Union returns what is in s or t.
func (s NodeSet) Union(t NodeSet) NodeSet { return s | t }

// Intersect returns what is in s and t.
func (s NodeSet) Intersect(t NodeSet) NodeSet { return s & t }

// Minus returns what is in s and not in t.
func (s NodeSet) Minus(t NodeSet) NodeSet { return s &^ t }

// Contains reports whether all of t is in s.
func (s NodeSet) Contains(t NodeSet) bool { return s&t == t }

// Len is how many nodes s has.
func (s NodeSet) Len() int { return bits.OnesCount64(uint64(s)) }

// IDs lists s in ascending order.
func (s NodeSet) IDs() []NodeID {
	ids := make([]NodeID, 0, s.Len())
	for id := NodeID(1); id <= MaxNodes; id++ {
		if s.Has(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// IsMajorityOf reports whether s holds more than half of all.
func (s NodeSet) IsMajorityOf(all NodeSet) bool {
	return 2*s.Intersect(all).Len() > all.Len()
}

// String is "{1,2,3}", as PostgreSQL writes an integer array.
func (s NodeSet) String() string {
	parts := make([]string, 0, s.Len())
	for _, id := range s.IDs() {
		parts = append(parts, strconv.Itoa(int(id)))
	}
	return "{" + strings.Join(parts, ",") + "}"
}
