package mtm

import "fmt"

// RefereeKind is what a node of a two-node cluster wants of the referee.
type RefereeKind int

// The kinds.
const (
	RefereeProbe RefereeKind = iota // would a grant be given? Nothing is stored
	RefereeGrant                    // Node asks to go on alone as generation Gen, for which it has voted, durably
	RefereeClear                    // Node and its peer are both online in generation Gen, which has them both
)

// RefereeRequest is a question to the referee, a third vote that holds no data. See generations.Arbiter.
type RefereeRequest struct {
	Kind       RefereeKind
	Node       NodeID
	Gen        uint64
	Configured NodeSet // the two nodes
	Since      uint64  // the first generation with just these configured nodes
}

// RefereeAnswer answers the request of the same Kind and Gen.
type RefereeAnswer struct {
	Kind      RefereeKind
	Gen       uint64
	OK        bool
	Holder    NodeID // who holds the grant now; 0: nobody
	HolderGen uint64
	Floor     uint64 // grants up to here are refused
	Why       string // a refusal, for people
}

// RefereeState is what a referee must remember over a crash. The zero value is blank: it grants nothing before both
// nodes of a cluster have said that they are online together.
type RefereeState struct {
	Pair   NodeSet
	Holder NodeID // 0: nobody
	Gen    uint64 // of the grant
	Floor  uint64 // both nodes were online together in this generation
}

// Sole reports whether g stands for itself: one member of two configured nodes, elected by the referee's grant.
func (g Generation) Sole() bool { return g.Members.Len() == 1 && g.Configured.Len() == 2 }

// String is "grant 5 of node 1".
func (r RefereeRequest) String() string {
	return fmt.Sprintf("%s %d of node %d", r.Kind, r.Gen, r.Node)
}

// String is the word for k.
func (k RefereeKind) String() string {
	switch k {
	case RefereeProbe:
		return "probe"
	case RefereeGrant:
		return "grant"
	case RefereeClear:
		return "clear"
	}
	return "unknown"
}
