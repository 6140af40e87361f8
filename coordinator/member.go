package coordinator

import (
	"fmt"

	"mtm"
)

// This file is a member's side of a commit: applying, voting, and what both sides do once the outcome is known.

func (n *Node) onPrepare(from mtm.NodeID, p mtm.Prepare) {
	if from != p.GID.Origin || n.isForgotten(p.GID) || n.inBase(p.GID) {
		n.drop(p.Payload)
		return
	}
	if commit, ok := n.known(p.GID); ok {
		// The resolver ended it, and its origin has not heard.
		n.drop(p.Payload)
		n.send(from, mtm.Decided{GID: p.GID, Commit: commit})
		return
	}
	t := n.txns[p.GID]
	if t != nil && t.journaled {
		n.drop(p.Payload)
		n.vote(t)
		return
	}
	if n.keep(p) {
		return
	}
	if p.GID.Gen != n.gen.Num || !n.gen.Members.Has(n.cfg.ID) || !n.online() {
		n.drop(p.Payload)
		n.send(from, mtm.Vote{GID: p.GID, Err: mtm.Conflict(fmt.Sprintf("Node %d is in %v.", n.cfg.ID, n.gen))})
		return
	}
	if t == nil {
		t = n.newTxn(p.GID)
	}
	t.age, t.deps, t.payload = p.Age, p.Deps, p.Payload
	t.acceptedBy(p.Acceptors)
	n.learnDeps(p.GID.Origin, p.Deps)
	n.journal(t)
	if _, up := n.peers[from]; !up && !t.orphan {
		n.makeOrphan(t) // its last word before it was lost
	}
	t.local = localWaiting
	n.waiting[t.gid] = t
	t.waitsFor = n.unfinishedOf(t)
	n.startIfFree(t)
}

// startIfFree applies a transaction that waits for nothing any more, or that may be tried before.
//
// Rows may be tried early: whatever the transaction saw is prepared here, so it holds its locks, and a change that needs
// it waits for a lock or fails visibly; then the transaction is applied again in its turn. The text of a statement
// might do something else without failing (DROP TABLE IF EXISTS), so DDL is never early, nor early after DDL.
func (n *Node) startIfFree(t *txn) {
	if len(t.waitsFor) == 0 {
		delete(n.waiting, t.gid)
	}
	if t.local == localPrepared && t.outcome != undecided {
		n.finish(t)
	}
	if t.local != localWaiting {
		return
	}
	if n.stale(t) {
		n.giveUp(t)
		return
	}
	t.early = len(t.waitsFor) > 0
	if t.early && (t.tried || !n.mayBeEarly(t)) {
		return
	}
	t.tried = true
	t.local = localApplying
	n.ready.Start = append(n.ready.Start, Apply{GID: t.gid, Age: t.age, Payload: t.payload})
	if !t.early {
		t.payload.Data = nil // the applier and the journal have it
	}
}

func (n *Node) mayBeEarly(t *txn) bool {
	if t.payload.Has(mtm.PayloadDDL) {
		return false
	}
	for gid := range t.waitsFor {
		if n.txns[gid].payload.Has(mtm.PayloadDDL) {
			return false
		}
	}
	return true
}

func (n *Node) applied(ev Applied) {
	t := n.txns[ev.GID]
	if t == nil || t.local != localApplying {
		return
	}
	switch {
	case t.open:
		n.preparedAgain(t, ev.Err)
		return
	case ev.Err == nil:
		t.local = localPrepared
		t.payload.Data = nil
	case t.recovered:
		n.notPrepared(t)
		return
	case t.early && t.outcome == undecided:
		t.local = localRetrying
		n.do(Finish{GID: t.gid}) // should PostgreSQL have it prepared all the same, it would stand in its own way
		return
	default:
		t.local = localFailed
		t.failure = ev.Err
	}
	if t.outcome != undecided {
		n.finish(t)
		return
	}
	if t.learned && t.local == localPrepared {
		n.setOutcome(t, true)
		return
	}
	n.vote(t)
}

// vote says again what this node thinks of the transaction, if it knows. The payload was handed to the journal in an
// earlier Ready or in this one, so it is durable when the vote leaves.
func (n *Node) vote(t *txn) {
	switch t.local {
	case localPrepared:
		n.send(t.gid.Origin, mtm.Vote{GID: t.gid})
	case localFailed, localLost:
		why := t.failure
		if why == nil {
			why = mtm.Conflict(fmt.Sprintf("Node %d was restarted.", n.cfg.ID))
		}
		n.send(t.gid.Origin, mtm.Vote{GID: t.gid, Err: why})
	}
}

// decide fixes the outcome at the node that found it, and tells the others.
func (n *Node) decide(t *txn, commit bool) {
	if commit && n.notYet(t) {
		return
	}
	n.setOutcome(t, commit)
	to := n.concerned(t)
	switch {
	case t.coord == nil:
	case commit:
		to = to.Minus(n.findOut(t))
	default:
		to = t.coord.sent // nobody else has heard of it
	}
	if !t.payload.Has(mtm.PayloadEmpty) {
		n.sendAll(to, mtm.Decided{GID: t.gid, Commit: commit})
	}
}

// findOut are the nodes that decide an own, precommitted transaction by themselves: each was sent Accept at ballot 0, and where
// two are a majority it knows of enough when it accepts. Should the link be lost meanwhile, repeat tells it. What is not
// journaled there, or held open here, waits to be told (notYet), and so may one that has seen a higher ballot.
func (n *Node) findOut(t *txn) mtm.NodeSet {
	if t.accepted != (mtm.Ballot{Node: n.cfg.ID}) || t.payload.Has(mtm.PayloadStreamed) || t.acceptors.Len() > 3 || !t.acceptors.Has(n.cfg.ID) || t.seenN > 0 {
		return 0
	}
	return t.acceptors.Intersect(t.coord.votes)
}

func (n *Node) onDecided(from mtm.NodeID, d mtm.Decided) {
	if n.finished(d.GID) || n.isForgotten(d.GID) {
		n.send(d.GID.Origin, mtm.Finished{GID: d.GID})
		return
	}
	t := n.txns[d.GID]
	if t == nil {
		t = n.newTxn(d.GID)
	}
	if t.outcome == undecided {
		t.told = true
		n.setOutcome(t, d.Commit)
	}
}

// setOutcome records a decision and carries it out here. The record precedes COMMIT PREPARED in the journal, so that
// the order of decisions respects every row lock.
func (n *Node) setOutcome(t *txn, commit bool) {
	if commit && (n.notYet(t) || n.misses(t)) {
		return
	}
	t.outcome = outcomeOf(commit)
	n.seenOf(t.gid.Origin).decided(t.gid.Seq)
	t.attempt = nil
	t.retryAt, t.backoff = n.now+n.cfg.Retransmit, n.cfg.Retransmit
	if !t.payload.Has(mtm.PayloadEmpty) {
		// What is open and accepted would be prepared again after a crash, from a payload that is dropped when it is aborted.
		firm := commit && n.m != nil || t.open && !t.accepted.IsZero()
		if n.m != nil && t.tellsItself(n.cfg.ID) {
			firm = !commit && !n.cfg.Plant.SoftAbort
		}
		n.persist(mtm.RecDecide{GID: t.gid, Commit: commit, Firm: firm})
	}
	n.finish(t)
}

// tellsItself reports whether a restart finds out that an own transaction was committed here, without RecDecide: its acceptance
// at ballot 0 is durable, PostgreSQL had it prepared then, and has it no more. So that this means "committed", an abort is durable before it
// is rolled back. In the journal the decision still precedes whatever saw it: that is written later, and a crash loses a tail.
func (t *txn) tellsItself(self mtm.NodeID) bool {
	return t.gid.Origin == self && t.accepted == mtm.Ballot{Node: self} && t.acceptVal && t.journaled && !t.recovered &&
		!t.payload.Has(mtm.PayloadStreamed)
}

// finish brings the outcome into this node's PostgreSQL, as soon as nothing else is under way for it.
func (n *Node) finish(t *txn) {
	switch t.local {
	case localSession, localFinishing, localRetrying:
		// The session's answer, or the Finish, comes back here.
	case localApplying:
		n.do(CancelApply{GID: t.gid})
	case localPrepared, localLost, localFailed:
		if t.outcome == committed && len(t.waitsFor) > 0 && n.online() {
			return // nobody may see it before what it saw itself
		}
		// A lost one may have been finished before the restart, and a failed one may be prepared all the same, if
		// PostgreSQL crashed before it answered; Finish does not mind.
		if t.open && t.local == localLost { // its session is gone, and it was to be prepared again: nobody would answer
			t.open, t.payload.Data = false, nil
			defer n.endCommitting(t)
		}
		t.local = localFinishing
		n.do(Finish{GID: t.gid, Commit: t.outcome == committed, Open: t.open})
	case localNone, localWaiting:
		n.settled(t)
	}
}

func (n *Node) finishedHere(gid mtm.GID) {
	t := n.txns[gid]
	delete(n.strays, gid)
	switch {
	case t == nil:
	case t.local == localFinishing && t.open && t.outcome == undecided:
		n.committedOpen(t)
	case t.local == localFinishing, t.local == localRetrying && t.outcome != undecided:
		n.settled(t)
	case t.local == localRetrying:
		t.local = localWaiting
		n.startIfFree(t)
	}
}

// settled: the outcome is in this node's PostgreSQL. Others that waited for it may start; the origin, or the client,
// hears of it.
func (n *Node) settled(t *txn) {
	t.local = localFinished
	delete(n.waiting, t.gid)
	for _, w := range sorted(n.waiting) {
		if w.waitsFor[t.gid] {
			delete(w.waitsFor, t.gid)
			n.startIfFree(w)
		}
	}
	if t.coord == nil {
		if t.gid.Seq > n.forgotten[t.gid.Origin] {
			n.outcomes[t.gid] = t.outcome == committed
		}
		delete(n.txns, t.gid)
		n.drop(t.payload)
		n.send(t.gid.Origin, mtm.Finished{GID: t.gid})
		return
	}
	n.doneBy(t, n.cfg.ID)
}

func (n *Node) onFinished(from mtm.NodeID, f mtm.Finished) {
	t := n.txns[f.GID]
	switch {
	case t == nil:
	case f.GID.Origin != n.cfg.ID && n.m != nil: // TellOutcome answers questions
	case f.GID.Origin != n.cfg.ID:
		n.dropForgotten(t) // the answer to a question of ours: the sender has forgotten it
	case t.coord == nil:
	case t.outcome != undecided:
		n.doneBy(t, from)
	case !t.orphan:
		// The resolver ended it without us, and its word was lost: ask at once.
		n.makeOrphan(t)
		t.retryAt = n.now
	}
}

// doneBy counts who has finished an own transaction, answers the client, and lets go of it when all have.
func (n *Node) doneBy(t *txn, id mtm.NodeID) {
	t.coord.done = t.coord.done.With(id)
	n.settleOwn(t)
}

// settleOwn does what may be done for an own transaction that is finished here.
func (n *Node) settleOwn(t *txn) {
	c := t.coord
	if t.local != localFinished {
		return
	}
	if !c.replied && c.done.Contains(n.waitedFor(t)) {
		c.replied = true
		n.ready.Reply = append(n.ready.Reply, Reply{GID: t.gid, Err: n.replyError(t)})
	}
	if c.replied && c.done.Contains(n.holdersOf(t)) {
		n.outcomes[t.gid] = t.outcome == committed
		if n.m != nil && t.payload.Has(mtm.PayloadEmpty) {
			n.empties[t.gid] = true
		}
		delete(n.txns, t.gid)
		n.drop(t.payload)
		if c.permitted {
			n.do(Release{GID: t.gid})
		}
	}
}

func (n *Node) replyError(t *txn) *mtm.Error {
	if t.outcome == committed {
		return nil
	}
	if t.failure != nil {
		return t.failure
	}
	return mtm.Conflict("The cluster decided to abort it.")
}
