package coordinator

import "mtm"

// This file is about a node of two that goes on alone, by the referee's grant (generations.Arbiter). The argument is in
// docs/design-generations.md.

// AskReferee hands a request to the referee. → RefereeSaid, or nothing: what is not answered is asked again. A request
// or an answer that is repeated, late or lost does no harm.
type AskReferee struct {
	Request mtm.RefereeRequest
}

// RefereeSaid: the referee has answered.
type RefereeSaid struct {
	Answer mtm.RefereeAnswer
}

func (AskReferee) action() {}
func (RefereeSaid) event() {}

func (n *Node) refereeSaid(a mtm.RefereeAnswer) {
	if n.m != nil && n.started {
		n.m.RefereeSaid(a)
	}
}

// sole reports whether this node goes on alone.
func (n *Node) sole() bool { return n.m != nil && n.m.Sole() }

// quorum reports whether s may accept, or promise, for all: a majority of the acceptors, or a node that goes on alone.
// Of two configured nodes a majority is both, so whatever was decided before was accepted by this one, and whatever
// its peer may yet decide needs this one. What was begun with other configured nodes is theirs to decide.
func (n *Node) quorum(t *txn, s mtm.NodeSet) bool {
	if n.cfg.Plant.AcceptorsNow {
		return s.IsMajorityOf(n.gen.Configured)
	}
	return s.IsMajorityOf(t.acceptors) || n.sole() && s.Has(n.cfg.ID) && t.acceptors == n.gen.Configured
}

// resolveAlone ends what is in doubt when this node begins to go on alone: nobody else is asked.
func (n *Node) resolveAlone() {
	if !n.sole() {
		return
	}
	for _, t := range sorted(n.txns) {
		if t.outcome != undecided || t.gid.Gen == n.gen.Num {
			continue
		}
		if !t.orphan {
			n.makeOrphan(t)
		}
		n.startAttempt(t)
	}
}
