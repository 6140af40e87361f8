package coordinator

import "mtm"

// Status is what the node says of itself to operators.
type Status struct {
	ID         mtm.NodeID
	Status     mtm.Status
	Connected  mtm.NodeSet // itself counted
	Generation mtm.Generation
	Online     mtm.NodeSet // members known to be online
	LeaseEnd   uint64      // until when reads may be answered, by Tick.Now; 0: no lease, or no elections
	Donor      mtm.NodeID  // whom it recovers from; 0: nobody
	Behind     uint64      // while it recovers: bytes of the donor's journal that are still to come
	InFlight   int         // own transactions that are not finished everywhere
	Undecided  int         // transactions of any origin without an outcome
	InDoubt    []Doubt     // undecided ones whose origin is lost, ascending
	CountsOn   mtm.NodeSet // the nodes that decide what is undecided: one that is dropped must not go away yet
	Dropped    bool        // it is configured no more, and never will be again
	Held       bool        // elections are on hold here
	Joining    bool        // it is not configured yet
}

// Doubt is a transaction that the resolver has to decide.
type Doubt struct {
	GID      mtm.GID
	Age      uint64      // when it began, in microseconds since 1970; 0: not known here
	Prepared bool        // in this node's PostgreSQL: it holds locks
	Votes    mtm.NodeSet // who has answered this node's present attempt to decide it; none: it makes none now
	WaitsFor mtm.NodeSet // who has not, of the nodes of which a majority decides it
}

func doubtOf(t *txn) Doubt {
	d := Doubt{GID: t.gid, Age: t.age, Prepared: t.local == localPrepared}
	if at := t.attempt; at != nil {
		d.Votes = at.promises
		if at.phase2 {
			d.Votes = at.accepts
		}
	}
	d.WaitsFor = t.acceptors.Minus(d.Votes)
	return d
}

// LeaseEnd is Status().LeaseEnd, for who asks often.
func (n *Node) LeaseEnd() uint64 { return n.lease() }

// Status describes the node now.
func (n *Node) Status() Status {
	s := Status{ID: n.cfg.ID, Connected: n.up(), Generation: n.gen}
	s.Online = n.gen.Members.Intersect(s.Connected)
	if n.m != nil {
		s.Online, s.LeaseEnd = n.m.OnlinePeers().Intersect(s.Connected), n.lease()
		s.Donor, s.Behind = n.rec.donor, n.rec.behind
		s.Dropped, s.Joining, s.Held = n.m.Dropped(), n.m.Joining(), n.m.Held()
	}
	switch {
	case n.m != nil:
		s.Status = n.statusOf()
	case !n.started:
		s.Status = mtm.StatusDisabled
	case s.Connected.Contains(n.gen.Members):
		s.Status = mtm.StatusOnline
	default:
		s.Status = mtm.StatusIsolated
	}
	doubtful := func(t *txn) bool {
		if t.coord != nil {
			s.InFlight++
		}
		if t.outcome == undecided {
			s.Undecided++
			s.CountsOn = s.CountsOn.Union(t.acceptors)
		}
		return t.outcome == undecided && t.orphan
	}
	for _, t := range sortedIf(n.txns, doubtful) {
		s.InDoubt = append(s.InDoubt, doubtOf(t))
	}
	return s
}

// InJournal reports whether all nodes have finished the transaction, this one too, and it has forgotten how: the journal may tell.
func (n *Node) InJournal(gid mtm.GID) bool { return !n.inBase(gid) && n.isForgotten(gid) }

// What Outcome tells.
const (
	OutcomeCommitted  = "committed"
	OutcomeAborted    = "aborted"
	OutcomeInProgress = "in progress"
)

// Outcome tells what became of a transaction, as far as this node knows or remembers: "committed", "aborted",
// "in progress", or "" when it does not know it. It holds once what the node has to persist is durable.
func (n *Node) Outcome(gid mtm.GID) string {
	if n.inBase(gid) {
		return ""
	}
	if commit, ok := n.known(gid); ok {
		if commit {
			return OutcomeCommitted
		}
		return OutcomeAborted
	}
	if n.txns[gid] != nil {
		return OutcomeInProgress
	}
	return ""
}
