package coordinator

import "mtm"

// accept takes a value at a ballot, durably before anybody hears of it.
func (n *Node) accept(t *txn, b mtm.Ballot, commit bool) {
	t.promised, t.accepted, t.acceptVal = b, b, commit
	n.persist(mtm.RecAccept{GID: t.gid, Ballot: b, Commit: commit, Acceptors: t.acceptors})
}

func (n *Node) onAccept(from mtm.NodeID, a mtm.Accept) {
	if from != a.Ballot.Node {
		return
	}
	t := n.acceptorTxn(from, a.GID, a.Acceptors)
	if t == nil {
		return
	}
	t.seenN = max(t.seenN, a.Ballot.N)
	if a.Ballot.Less(t.promised) && !n.cfg.Plant.StaleBallot {
		n.send(from, mtm.Rejected{GID: a.GID, Ballot: a.Ballot, Promised: t.promised})
		return
	}
	if t.accepted != a.Ballot {
		n.accept(t, a.Ballot, a.Commit)
	}
	n.send(from, mtm.Accepted{GID: a.GID, Ballot: a.Ballot, Commit: a.Commit})
	// The proposer persists its own acceptance before it asks, so two are certain by now.
	if mtm.Nodes(from, n.cfg.ID).IsMajorityOf(t.acceptors) {
		n.setOutcome(t, a.Commit)
		return
	}
	n.mindResolver(t, a.Ballot)
}

// mindResolver: somebody has begun to resolve the transaction, or this was the last word of an origin that was lost before. Should
// nothing more be heard of it, this node goes on, for the origin may wait for the resolver, and the resolver may be lost.
func (n *Node) mindResolver(t *txn, b mtm.Ballot) {
	_, up := n.peers[t.gid.Origin]
	lost := !up && t.coord == nil
	if (b.N > 0 || lost) && !t.orphan {
		n.makeOrphan(t)
		t.retryAt += 4 * n.cfg.ResolveAfter
	}
}

func (n *Node) onAccepted(from mtm.NodeID, a mtm.Accepted) {
	t := n.txns[a.GID]
	if t == nil || t.outcome != undecided {
		return
	}
	if t.coord != nil && a.Ballot == (mtm.Ballot{Node: n.cfg.ID}) {
		t.coord.accepts = t.coord.accepts.With(from)
		n.countPrecommit(t)
		return
	}
	if at := t.attempt; at != nil && at.phase2 && at.ballot == a.Ballot {
		at.accepts = at.accepts.With(from)
		n.countAttempt(t)
	}
}

func (n *Node) onCollect(from mtm.NodeID, c mtm.Collect) {
	t := n.acceptorTxn(from, c.GID, c.Acceptors)
	if t == nil {
		return
	}
	t.seenN = max(t.seenN, c.Ballot.N)
	if c.Ballot.Less(t.promised) {
		n.send(from, mtm.Rejected{GID: c.GID, Ballot: c.Ballot, Promised: t.promised})
		return
	}
	if t.coord != nil && t.accepted.IsZero() {
		// Nobody has accepted ballot 0, and now nobody will: the origin ends it at once.
		n.abort(t, mtm.Conflict("Another node has begun to resolve the transaction."))
		n.send(from, mtm.Decided{GID: c.GID, Commit: false})
		return
	}
	if t.promised != c.Ballot {
		t.promised = c.Ballot
		n.persist(mtm.RecPromise{GID: c.GID, Ballot: c.Ballot, Acceptors: t.acceptors})
	}
	n.mindResolver(t, c.Ballot)
	n.send(from, mtm.Promised{GID: c.GID, Ballot: c.Ballot, Accepted: t.accepted, AcceptedCommit: t.acceptVal})
}

// acceptorTxn finds, or makes, the state in which this node accepts; nil when the outcome is known, after telling it.
func (n *Node) acceptorTxn(from mtm.NodeID, gid mtm.GID, acceptors mtm.NodeSet) *txn {
	if n.inBase(gid) {
		return nil
	}
	if n.isForgotten(gid) {
		n.tellForgotten(from, gid)
		return nil
	}
	if commit, ok := n.known(gid); ok {
		n.send(from, mtm.Decided{GID: gid, Commit: commit})
		return nil
	}
	if t := n.txns[gid]; t != nil {
		return t
	}
	if gid.Origin == n.cfg.ID {
		// Never journaled here, so never precommitted, and it never will be.
		n.outcomes[gid] = false
		n.persist(mtm.RecDecide{GID: gid})
		n.send(from, mtm.Decided{GID: gid})
		return nil
	}
	t := n.newTxn(gid)
	t.acceptedBy(acceptors)
	return t
}
