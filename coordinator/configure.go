package coordinator

import (
	"slices"

	"mtm"
)

// This file is about changes of the configured nodes (Config.Elections; docs/design-generations.md).
//
// Each transaction is decided by the nodes that were configured when it was permitted: its acceptors, which travel and
// are journaled with it. So a ballot counts the same nodes whoever runs it, however far the configuration has moved on.

// allOrigins are all nodes that may ever have been configured: what they committed stays.
var allOrigins = func() (ids []mtm.NodeID) {
	for id := mtm.NodeID(1); id <= mtm.MaxNodes; id++ {
		ids = append(ids, id)
	}
	return ids
}()

// acceptedBy notes who decides t. A predecessor's messages and records do not say; then it is who is configured.
func (t *txn) acceptedBy(nodes mtm.NodeSet) {
	if nodes != 0 {
		t.acceptors = nodes
	}
}

// concerned is who wants to hear of t's outcome: those that accepted it, and those that took it over.
func (n *Node) concerned(t *txn) mtm.NodeSet { return t.acceptors.Union(n.gen.Configured) }

// listensTo: a node that is not configured may recover from this one, ask to be added, or end what it began before it was
// dropped. The link says who it is.
func (n *Node) listensTo(id mtm.NodeID) bool {
	_, up := n.peers[id]
	return n.gen.Configured.Has(id) || n.m != nil && up
}

// dropped: this node is configured no more. It serves nobody, and takes no part.
func (n *Node) dropped() bool { return n.m != nil && n.m.Dropped() }

// Have is what is finished in this node's PostgreSQL, per origin: exactly, if no Finish and no ApplyRecovered is under
// way. A copy of the data made at that moment is continued by recovery from there (Seed).
func (n *Node) Have() []mtm.OriginHave { return n.haveVector() }

// Behind reports whether a transaction that a node in generation gen had finished, as have says, may not be finished here. A node that is
// online in gen or later had all that was committed prepared before, so what it does not know it does not miss.
func (n *Node) Behind(gen uint64, have []mtm.OriginHave) bool {
	if n.gen.Num < gen || n.m != nil && !n.m.Online() {
		return true
	}
	for gid, t := range n.txns {
		if t.holdsOrWill() && covers(have, gid.Origin, gid.Seq, gid.Seq) {
			return true
		}
	}
	return false
}

// Seed is the journal with which a node begins that is to be added: its PostgreSQL has what have says, as a member of gen had it.
// The node recovers the rest, then asks to be configured (generations.Machine).
func Seed(id mtm.NodeID, gen mtm.Generation, have []mtm.OriginHave) []mtm.Record {
	recs := []mtm.Record{mtm.RecGeneration{Gen: gen, Vote: gen}, mtm.RecBase{Have: have, Gen: gen.Num}}
	for _, h := range have {
		last := h.Upto
		if h.Upto > 0 {
			recs = append(recs, mtm.RecForget{Origin: h.Origin, Upto: h.Upto})
		}
		if k := len(h.Above); k > 0 {
			last = h.Above[k-1].Last
			recs = append(recs, mtm.RecHave{Origin: h.Origin, Spans: slices.Clone(h.Above)})
		}
		if h.Origin == id { // a predecessor of that number, dropped since: its numbers are used
			recs = append(recs, mtm.RecReserve{Upto: last + seedGap})
		}
	}
	return recs
}

// inBase reports whether a transaction was finished before this node began as a copy. It does not know how, and leaves the
// answer to others; none of them is in want of it, since it is not an acceptor.
func (n *Node) inBase(gid mtm.GID) bool { return covers(n.base, gid.Origin, gid.Seq, gid.Seq) }

// reachesBack reports whether the journal has all that r lacks: a node that began as a copy is no donor for who lacks
// any of what the copy had. Who was online in a later generation lacks none of it, though numbers may be missing of which only their
// origin knew: of transactions that changed nothing, or were given up before anybody was told. That origin may be gone for ever.
func (n *Node) reachesBack(r mtm.Recover) bool {
	if n.cfg.Plant.CopyDonor {
		return true
	}
	for _, gid := range r.Undecided {
		if n.inBase(gid) {
			return false
		}
	}
	if n.baseGen > 0 && r.LastOnline > n.baseGen {
		return true
	}
	for _, h := range n.base {
		if h.Upto > 0 && !covers(r.Have, h.Origin, 1, h.Upto) {
			return false
		}
		for _, p := range h.Above {
			if !covers(r.Have, h.Origin, p.First, p.Last) {
				return false
			}
		}
	}
	return true
}

// covers reports whether have has all numbers from first to last of origin.
func covers(have []mtm.OriginHave, origin mtm.NodeID, first, last uint64) bool {
	for _, h := range have {
		if h.Origin != origin {
			continue
		}
		first = max(first, h.Upto+1)
		for _, p := range h.Above {
			if p.First <= first && first <= p.Last {
				first = p.Last + 1
			}
		}
		return first > last
	}
	return false
}

// seedGap is more than a node has in flight.
const seedGap = 1 << 16
