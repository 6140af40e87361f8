package coordinator

import "mtm"

// The resolver ends transactions whose origin is lost, or restarted: one Paxos instance each, abort unless somebody
// may have accepted commit.

// orphanAll hands every undecided transaction of a lost origin to the resolver; nodes start one after the other, so
// that they seldom compete.
func (n *Node) orphanAll(origin mtm.NodeID) {
	for _, t := range sorted(n.txns) {
		if t.gid.Origin == origin && t.outcome == undecided && !t.orphan {
			n.makeOrphan(t)
		}
	}
}

func (n *Node) makeOrphan(t *txn) {
	t.orphan = true
	t.retryAt = n.now + n.cfg.ResolveAfter*n.rank()
}

// rank spaces the nodes' attempts: 1 for the first configured node.
func (n *Node) rank() uint64 {
	rank := uint64(1)
	for _, id := range n.gen.Configured.IDs() {
		if id < n.cfg.ID {
			rank++
		}
	}
	return rank
}

// nextAttempt is how long a node leaves the field to others after its own attempt: longer with each, for two that
// compete in short periods could outbid each other for ever.
func (n *Node) nextAttempt(t *txn) uint64 {
	return n.cfg.ResolveAfter * (1 + n.rank()) << min(t.attempts, 5)
}

func (n *Node) startAttempt(t *txn) {
	t.retryAt = n.now + n.nextAttempt(t)
	t.attempts++
	t.seenN = max(t.seenN, t.promised.N) + 1
	at := &attempt{ballot: mtm.Ballot{N: t.seenN, Node: n.cfg.ID}, promises: mtm.Nodes(n.cfg.ID)}
	at.best, at.commit = t.accepted, t.acceptVal
	t.attempt = at
	t.promised = at.ballot
	n.persist(mtm.RecPromise{GID: t.gid, Ballot: at.ballot, Acceptors: t.acceptors})
	n.sendAll(t.acceptors, mtm.Collect{GID: t.gid, Ballot: at.ballot, Acceptors: t.acceptors})
	n.countAttempt(t)
}

func (n *Node) onPromised(from mtm.NodeID, p mtm.Promised) {
	t := n.txns[p.GID]
	if t == nil || t.outcome != undecided || t.attempt == nil || t.attempt.ballot != p.Ballot || t.attempt.phase2 {
		return
	}
	at := t.attempt
	at.promises = at.promises.With(from)
	if !p.Accepted.IsZero() && (at.best.IsZero() || at.best.Less(p.Accepted)) {
		at.best, at.commit = p.Accepted, p.AcceptedCommit
	}
	n.countAttempt(t)
}

// countAttempt moves an attempt on when a quorum has answered.
func (n *Node) countAttempt(t *txn) {
	at := t.attempt
	if !at.phase2 && n.quorum(t, at.promises) {
		if t.promised != at.ballot {
			t.attempt = nil // somebody else is ahead
			return
		}
		at.phase2 = true
		if at.best.IsZero() {
			at.commit = false
		}
		n.accept(t, at.ballot, at.commit)
		at.accepts = mtm.Nodes(n.cfg.ID)
		n.sendAll(t.acceptors, mtm.Accept{GID: t.gid, Ballot: at.ballot, Commit: at.commit, Acceptors: t.acceptors})
	}
	if at.phase2 && n.quorum(t, at.accepts) {
		n.decide(t, at.commit)
	}
}

func (n *Node) onRejected(from mtm.NodeID, r mtm.Rejected) {
	t := n.txns[r.GID]
	if t == nil {
		return
	}
	if t.outcome != undecided {
		n.send(from, mtm.Decided{GID: t.gid, Commit: t.outcome == committed})
		return
	}
	t.seenN = max(t.seenN, r.Promised.N)
	if t.attempt != nil && t.attempt.ballot == r.Ballot {
		t.attempt = nil
		t.retryAt = n.now + n.nextAttempt(t)
	}
	if t.coord != nil && r.Ballot == (mtm.Ballot{Node: n.cfg.ID}) && !t.orphan {
		n.makeOrphan(t)
	}
}
