package coordinator

import (
	"fmt"

	"mtm"
)

// This file is about links, conflicts and time.

func (n *Node) peerUp(id mtm.NodeID, incarnation uint64) {
	if id == n.cfg.ID || n.m == nil && !n.gen.Configured.Has(id) {
		return
	}
	if _, up := n.peers[id]; up {
		n.peerDown(id)
	}
	n.peers[id] = incarnation
	if n.m != nil {
		n.m.PeerUp(id)
	}
	if upto := n.forgotten[n.cfg.ID]; upto > 0 && n.started {
		n.sendForget(mtm.Nodes(id), upto)
	}
	for _, t := range sorted(n.txns) {
		n.repeat(t) // what was said meanwhile was lost
	}
	n.checkGate()
}

// peerDown aborts what waits for a vote of the lost node, and hands what it coordinates to the resolver.
func (n *Node) peerDown(id mtm.NodeID) {
	if _, up := n.peers[id]; !up {
		return
	}
	delete(n.peers, id)
	if n.m != nil {
		n.m.PeerDown(id)
	}
	for _, t := range sorted(n.txns) {
		if t.coord != nil && t.journaled && t.coord.members.Has(id) && !t.coord.votes.Has(id) {
			n.abort(t, mtm.Conflict(fmt.Sprintf("Node %d was lost before it voted.", id)))
		}
	}
	n.orphanAll(id)
	n.checkGate()
}

// blocked settles a conflict: the older transaction wins, unless the younger cannot lose any more.
func (n *Node) blocked(ev Blocked) {
	w, h := n.txns[ev.Waiter], n.txns[ev.Holder]
	if w == nil || h == nil || h.outcome != undecided || !h.accepted.IsZero() || !older(w, h) && !w.returns() {
		return
	}
	if h.coord != nil {
		n.onWound(mtm.Wound{GID: h.gid, For: w.gid})
		return
	}
	n.send(h.gid.Origin, mtm.Wound{GID: h.gid, For: w.gid})
}

func (n *Node) onWound(w mtm.Wound) {
	if t := n.txns[w.GID]; t != nil {
		n.abort(t, mtm.Conflict(fmt.Sprintf("Transaction %s of node %d is older and changes the same rows.", w.For, w.For.Origin)))
	}
}

func (n *Node) tick(now uint64) {
	n.now = now
	if !n.started {
		return
	}
	if n.m != nil {
		n.m.Tick(now)
		n.answerWithoutExcluded()
	}
	for _, t := range sortedIf(n.txns, func(t *txn) bool { return now >= t.retryAt }) {
		if t.open && t.local == localLost && t.outcome == undecided {
			n.prepareAgain(t)
		}
		if t.orphan && t.outcome == undecided {
			n.startAttempt(t)
			continue
		}
		t.backoff = min(2*t.backoff, 16*n.cfg.Retransmit)
		t.retryAt = now + t.backoff
		n.repeat(t)
	}
	if now >= n.forgetAt {
		n.forgetAt = now + n.cfg.ForgetEvery
		n.tellForget()
	}
}

// repeat says again what this node waits for an answer to.
func (n *Node) repeat(t *txn) {
	c := t.coord
	switch {
	case c == nil:
		if t.outcome == undecided {
			n.vote(t)
		}
	case t.payload.Has(mtm.PayloadEmpty):
	case t.outcome == committed:
		n.sendAll(n.concerned(t).Minus(c.done), mtm.Decided{GID: t.gid, Commit: true})
	case t.outcome == aborted:
		n.sendAll(c.sent.Minus(c.done), mtm.Decided{GID: t.gid})
	case !t.accepted.IsZero():
		if b := (mtm.Ballot{Node: n.cfg.ID}); t.accepted == b {
			n.sendAll(t.acceptors.Minus(c.accepts), mtm.Accept{GID: t.gid, Ballot: b, Commit: true, Acceptors: t.acceptors})
		}
	case t.journaled && t.payload.Spill == "":
		n.forwardPrepare(t)
	case t.journaled:
		// A spilled payload is not sent twice over a link that held. Our own ballot promises nothing new: it asks
		// whether the others have ended the transaction.
		n.sendAll(c.members.Minus(c.votes), mtm.Collect{GID: t.gid, Ballot: mtm.Ballot{Node: n.cfg.ID}, Acceptors: t.acceptors})
	}
}

// tellForget lets the others drop the outcomes that everybody has.
func (n *Node) tellForget() {
	if !n.online() {
		return
	}
	upto := n.next - 1
	for gid := range n.txns {
		if gid.Origin == n.cfg.ID {
			upto = min(upto, gid.Seq-1)
		}
	}
	if upto > n.forgotten[n.cfg.ID] {
		n.forget(n.cfg.ID, upto)
	}
	n.forgetRepeat--
	if upto > n.forgetSent || n.forgetRepeat <= 0 && upto > 0 {
		n.forgetSent, n.forgetRepeat = upto, forgetRepeat
		n.sendForget(n.gen.Configured, upto)
	}
}

// answerWithoutExcluded tells the clients that wait only for nodes that are excluded by now.
func (n *Node) answerWithoutExcluded() {
	n.established = n.m.Established()
	waits := func(t *txn) bool { return n.established && t.coord != nil && !t.coord.replied && t.gid.Gen < n.gen.Num }
	for _, t := range sortedIf(n.txns, waits) {
		n.settleOwn(t)
	}
	n.established = false
}

// sendForget says for which generation it is true: who is not online in it may lack what others have finished.
func (n *Node) sendForget(to mtm.NodeSet, upto uint64) {
	f := mtm.Forget{Upto: upto}
	if n.m != nil {
		f.Gen = n.gen.Num
	}
	if n.online() {
		n.sendAll(to, f)
	}
}

// forgetRepeat is how many times ForgetEvery pass before Forget is said again without news: it is never answered.
const forgetRepeat = 16

func (n *Node) onForget(from mtm.NodeID, f mtm.Forget) {
	if f.Upto <= n.forgotten[from] || n.m != nil && (!n.m.Online() || f.Gen != n.gen.Num) {
		return
	}
	n.forgetOf(from, f.Upto)
}

// forgetOf ends what is still open of what the others have finished.
func (n *Node) forgetOf(origin mtm.NodeID, upto uint64) {
	n.forget(origin, upto)
	for _, t := range sorted(n.txns) {
		if t.gid.Origin == origin && t.gid.Seq <= upto {
			n.dropForgotten(t)
		}
	}
}

// dropForgotten ends what is finished everywhere, or was never journaled by its origin, and yet has no outcome here.
// If it was committed, it is finished in this PostgreSQL, and only its record was lost; if it is not finished here, it
// was never precommitted.
func (n *Node) dropForgotten(t *txn) {
	if t.outcome != undecided || t.coord != nil {
		return
	}
	if n.m != nil {
		if t.local == localNone && !t.journaled {
			delete(n.txns, t.gid) // all that is committed is here, so this is not
			return
		}
		if !t.orphan {
			n.makeOrphan(t)
		}
		t.retryAt = n.now // it may be committed: ask
		return
	}
	if t.local == localLost {
		t.local = localNone // nothing is prepared here
	}
	t.outcome = aborted
	t.attempt = nil
	n.finish(t)
}

// tellForgotten answers a question about a transaction that this node has forgotten.
func (n *Node) tellForgotten(to mtm.NodeID, gid mtm.GID) {
	if n.inBase(gid) {
		return
	}
	if n.m != nil {
		n.do(TellOutcome{To: to, GID: gid})
		return
	}
	if gid.Origin == n.cfg.ID {
		n.send(to, mtm.Forget{Upto: n.forgotten[n.cfg.ID]})
		return
	}
	n.send(to, mtm.Finished{GID: gid})
}

func (n *Node) forget(origin mtm.NodeID, upto uint64) {
	n.forgotten[origin] = upto
	n.seenOf(origin).allDecided(upto)
	n.have[origin] = n.have[origin].above(upto)
	for gid := range n.outcomes {
		if gid.Origin == origin && gid.Seq <= upto {
			delete(n.outcomes, gid)
			delete(n.empties, gid)
		}
	}
	n.persist(mtm.RecForget{Origin: origin, Upto: upto})
}
