package mtm

import "fmt"

// Ballot orders the attempts to decide one transaction (Lamport, Paxos Made Simple, 2001). Ballot {0, origin} is the
// coordinator's own and carries only commit; resolvers use N > 0.
type Ballot struct {
	N    uint64
	Node NodeID
}

// Less orders ballots by number, then node.
func (b Ballot) Less(c Ballot) bool {
	if b.N != c.N {
		return b.N < c.N
	}
	return b.Node < c.Node
}

// IsZero reports whether b is no ballot at all: no node has id 0.
func (b Ballot) IsZero() bool { return b == Ballot{} }

// String is "{n,node}".
func (b Ballot) String() string { return fmt.Sprintf("{%d,%d}", b.N, b.Node) }
