package coordinator

import (
	"fmt"

	"mtm"
)

// This file is the origin's side of a commit: from the permit to the precommit.

func (n *Node) permitted(ev Permitted) {
	t := n.newTxn(ev.GID)
	t.age, t.acceptors = ev.Age, n.gen.Configured
	t.local = localSession
	t.coord = &coord{members: n.gen.Members, permitted: true}
	n.next = max(n.next, ev.GID.Seq+1)
	if n.stale(t) || !n.online() {
		n.abort(t, mtm.Conflict(fmt.Sprintf("The cluster moved on to %v.", n.gen)))
	}
	n.extendReserve()
}

// extendReserve keeps the gate supplied with sequences that are durable as "may have been used".
func (n *Node) extendReserve() {
	if n.next+n.cfg.Reserve/2 < n.reserved {
		return
	}
	n.reserved = n.next + n.cfg.Reserve
	n.persist(mtm.RecReserve{Upto: n.reserved})
	if n.gateOpen {
		n.openGate()
	}
}

func (n *Node) openGate() {
	n.gateOpen, n.gateClosed = true, false
	n.do(OpenGate{Gen: n.gen.Num, First: n.next, Below: n.reserved, Limit: n.limit()})
}

// limit is how many transactions of this origin may be unfinished: every node must have room for those of all.
func (n *Node) limit() int {
	if n.cfg.MaxPrepared > 0 {
		return max(1, n.cfg.MaxPrepared/max(1, n.gen.Configured.Len()))
	}
	return n.cfg.MaxInFlight
}

// checkGate opens the gate when every member is in reach, and closes it when one is not.
func (n *Node) checkGate() {
	missing := n.gen.Members.Minus(n.up())
	may := n.started && missing == 0 && n.online() && !n.leaving && n.leavers == 0
	switch {
	case may && !n.gateOpen:
		n.openGate()
	case !may && n.gateOpen:
		n.gateOpen = false
		n.closes++
		why := fmt.Sprintf("Nodes %v are out of reach.", missing)
		if missing == 0 {
			why = fmt.Sprintf("Nodes %v are being stopped.", n.leavers)
		}
		if n.leaving {
			why = "This node is being stopped."
		}
		if !n.online() {
			why = fmt.Sprintf("The cluster moved on to %v.", n.gen)
		}
		if n.dropped() {
			why = "This node was dropped from the cluster."
		}
		n.do(CloseGate{Reason: mtm.NotOnline(n.Status().Status, why), Seq: n.closes})
	}
}

func (n *Node) prepared(ev Prepared) {
	t := n.txns[ev.GID]
	if t == nil || t.coord == nil || t.coord.prepared {
		return
	}
	if ev.Err == nil && !ev.Unknown {
		t.coord.prepared = true
		t.local = localPrepared
		t.open = t.open || ev.Open
		if t.outcome != undecided {
			n.finish(t) // aborted meanwhile
			return
		}
		n.tryPrecommit(t)
		return
	}
	t.coord.replied = true // the session has its answer, or is gone
	if t.outcome == undecided {
		n.decide(t, false)
	}
	if ev.Unknown {
		// It may be prepared, or be so in a moment: then capture delivers it, and it is rolled back again.
		t.coord.unknown = true
		t.local = localPrepared
		n.finish(t)
		return
	}
	t.local = localNone
	n.settled(t)
}

func (n *Node) captured(ev Captured) {
	t := n.txns[ev.GID]
	switch {
	case ev.Payload.Has(mtm.PayloadStreamed):
		n.capturedOpen(t, ev)
		return
	case t == nil || t.coord == nil && !t.journaled:
		// Prepared before a crash and never journaled, or rolled back already: nobody may wait for it.
		if !n.outcomes[ev.GID] {
			n.do(Finish{GID: ev.GID, Commit: false})
		}
		n.drop(ev.Payload)
		n.do(AckCapture{LSN: ev.LSN})
		return
	case t.journaled || t.outcome != undecided || ev.Payload.Has(mtm.PayloadEmpty):
		if t.outcome == aborted && (t.coord == nil || !t.coord.permitted || t.coord.unknown) && (t.local == localFinished || t.local == localFinishing) {
			// The rollback may have come too early and found nothing: nobody of this life was told that it is prepared.
			n.do(Finish{GID: ev.GID, Commit: false})
		}
		n.do(AckCapture{LSN: ev.LSN})
		if !t.journaled && t.outcome == undecided {
			t.payload = ev.Payload
			t.coord.members = mtm.Nodes(n.cfg.ID)
			n.tryPrecommit(t)
		} else if t.payload.Spill != ev.Payload.Spill {
			n.drop(ev.Payload)
		}
		return
	}
	n.do(AckCapture{LSN: ev.LSN})
	n.distribute(t, ev)
}

// distribute journals what was captured, and hands it to the members.
func (n *Node) distribute(t *txn, ev Captured) {
	t.payload, t.lsn = ev.Payload, ev.LSN
	t.deps = n.depsNow()
	n.journal(t)
	if missing := t.coord.members.Minus(n.up()); missing != 0 {
		n.abort(t, mtm.Conflict(fmt.Sprintf("Nodes %v are out of reach.", missing)))
		return
	}
	n.forwardPrepare(t)
	n.tryPrecommit(t)
}

func (n *Node) journal(t *txn) {
	t.journaled = true
	n.persist(mtm.RecPrepare{GID: t.gid, Age: t.age, Deps: t.deps, Payload: t.payload, LSN: t.lsn, Acceptors: t.acceptors})
}

// forwardPrepare hands the payload to the members that have not voted.
func (n *Node) forwardPrepare(t *txn) {
	for _, id := range t.coord.members.Minus(t.coord.votes).Without(n.cfg.ID).IDs() {
		if _, up := n.peers[id]; !up {
			continue
		}
		t.coord.sent = t.coord.sent.With(id)
		body := mtm.Prepare{GID: t.gid, Age: t.age, Deps: t.deps, Payload: t.payload, Acceptors: t.acceptors}
		n.ready.Forward = append(n.ready.Forward, mtm.Message{From: n.cfg.ID, To: id, Body: body})
	}
}

func (n *Node) onVote(from mtm.NodeID, v mtm.Vote) {
	if v.GID.Origin != n.cfg.ID || n.inBase(v.GID) {
		return
	}
	if n.isForgotten(v.GID) {
		n.tellForgotten(from, v.GID)
		return
	}
	if commit, ok := n.known(v.GID); ok {
		n.send(from, mtm.Decided{GID: v.GID, Commit: commit})
		return
	}
	t := n.txns[v.GID]
	switch {
	case t == nil:
		// Never journaled here, so never precommitted, and it never will be.
		n.send(from, mtm.Decided{GID: v.GID, Commit: false})
	case t.coord == nil || !t.accepted.IsZero():
		// Precommitted: an acceptance, or the resolver, answers.
	case v.Err != nil:
		n.abort(t, v.Err)
	default:
		t.coord.votes = t.coord.votes.With(from)
		n.tryPrecommit(t)
	}
}

// tryPrecommit persists the origin's own acceptance at ballot 0 once every member has prepared (S5).
func (n *Node) tryPrecommit(t *txn) {
	c := t.coord
	if c == nil || !c.prepared || t.outcome != undecided || !t.accepted.IsZero() {
		return
	}
	if t.payload.Has(mtm.PayloadEmpty) {
		n.decide(t, true) // nothing of it concerns anybody else
		return
	}
	if !t.journaled || !n.allVoted(c) || len(n.committing) > 0 {
		return // what commits here now may have been seen, and what is lost here comes first
	}
	if t.open && !n.confirm(t) {
		return
	}
	ballot := mtm.Ballot{Node: n.cfg.ID}
	if ballot.Less(t.promised) {
		n.abort(t, mtm.Conflict("Another node has begun to resolve the transaction."))
		return
	}
	if !t.open {
		t.payload.Data = nil // nobody needs it from here any more: all have it
	}
	n.accept(t, ballot, true)
	c.accepts = mtm.Nodes(n.cfg.ID)
	n.sendAll(t.acceptors, mtm.Accept{GID: t.gid, Ballot: ballot, Commit: true, Acceptors: t.acceptors})
	n.countPrecommit(t)
}

func (n *Node) allVoted(c *coord) bool {
	votes := c.votes.With(n.cfg.ID)
	if n.cfg.Plant.MajorityPrepare {
		return votes.IsMajorityOf(c.members)
	}
	return votes.Contains(c.members)
}

func (n *Node) countPrecommit(t *txn) {
	if t.outcome == undecided && n.quorum(t, t.coord.accepts) {
		n.decide(t, true)
	}
}

// abort gives up an own transaction that was not precommitted.
func (n *Node) abort(t *txn, why *mtm.Error) {
	if t.coord == nil || t.outcome != undecided || !t.accepted.IsZero() {
		return
	}
	t.failure = why
	n.decide(t, false)
}

func (n *Node) cancelled(ev Cancelled) {
	t, why := n.txns[ev.GID], ev.Err
	if why == nil {
		why = &mtm.Error{Code: mtm.CodeQueryCanceled, Msg: "canceling statement due to user request"}
	}
	if t != nil {
		n.abort(t, why)
	}
}

func (n *Node) drop(p mtm.Payload) {
	if p.Spill != "" {
		n.do(DropPayload{Spill: p.Spill})
	}
}
