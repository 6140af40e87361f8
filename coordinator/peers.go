package coordinator

import (
	"fmt"

	"mtm"
)

// This file is about links, conflicts and time.

func (n *Node) peerUp(id mtm.NodeID, incarnation uint64) {
	if !n.gen.Configured.Has(id) || id == n.cfg.ID {
		return
	}
	if _, up := n.peers[id]; up {
		n.peerDown(id)
	}
	n.peers[id] = incarnation
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
	if w == nil || h == nil || h.outcome != undecided || !h.accepted.IsZero() || !older(w, h) {
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
	for _, t := range sorted(n.txns) {
		if now < t.retryAt {
			continue
		}
		if t.orphan && t.outcome == undecided {
			t.retryAt = now + n.cfg.ResolveAfter*(1+n.rank())
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
		n.sendAll(n.gen.Configured.Minus(c.done), mtm.Decided{GID: t.gid, Commit: true})
	case t.outcome == aborted:
		n.sendAll(c.sent.Minus(c.done), mtm.Decided{GID: t.gid})
	case !t.accepted.IsZero():
		if b := (mtm.Ballot{Node: n.cfg.ID}); t.accepted == b {
			n.sendAll(n.gen.Configured.Minus(c.accepts), mtm.Accept{GID: t.gid, Ballot: b, Commit: true})
		}
	case t.journaled && t.payload.Spill == "":
		n.forwardPrepare(t)
	}
}

// tellForget lets the others drop the outcomes that everybody has.
func (n *Node) tellForget() {
	upto := n.next - 1
	for gid := range n.txns {
		if gid.Origin == n.cfg.ID {
			upto = min(upto, gid.Seq-1)
		}
	}
	if upto > n.forgotten[n.cfg.ID] {
		n.forget(n.cfg.ID, upto)
	}
	if upto > n.forgetSent || n.forgetSent == 0 && upto > 0 {
		n.forgetSent = upto
		n.sendAll(n.gen.Configured, mtm.Forget{Upto: upto})
	}
}

func (n *Node) onForget(from mtm.NodeID, f mtm.Forget) {
	if f.Upto > n.forgotten[from] {
		n.forget(from, f.Upto)
	}
}

func (n *Node) forget(origin mtm.NodeID, upto uint64) {
	n.forgotten[origin] = upto
	for gid := range n.outcomes {
		if gid.Origin == origin && gid.Seq <= upto {
			delete(n.outcomes, gid)
		}
	}
	n.persist(mtm.RecForget{Origin: origin, Upto: upto})
}
