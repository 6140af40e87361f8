package coordinator

import "mtm"

// This file is about transactions that PostgreSQL cannot prepare (temporary objects, NOTIFY and the like): the streamed
// commit. At its origin a session holds such a transaction open, its locks with it, from its capture to its COMMIT;
// everywhere else it is prepared as any other. Three rules make up for the PREPARE that it lacks.
//
//   - It is accepted only after its session has given a sign of life that was asked for when all members had prepared it:
//     so its locks at home were held until its locks on the others were.
//   - Nobody decides to commit it before its origin has committed it, or is no member of the generation any more. So it
//     stays prepared, and locked, on all other members until then: nothing that meets it can be prepared everywhere, and
//     nobody has seen it. That stands in for its locks at home, should the session be lost.
//   - If the session is lost, or the node was restarted, after it was accepted here, it may be committed: it is prepared
//     again, from the journal, under its own name, and is an ordinary transaction from then on. What took its rows here
//     meanwhile gives way: nothing is accepted here before that is done.
//
// PostgreSQL knows by the transaction id whether its COMMIT ran, so a restart finds out.

// OpenTxn is a transaction that a session of an earlier life may have committed.
type OpenTxn struct {
	GID mtm.GID
	XID uint64 // pg_current_xact_id() in it
}

// Open lists, between Replay and Start, what PostgreSQL must be asked about: did it commit them? No session of them may
// still run when it answers.
func (n *Node) Open() (list []OpenTxn) {
	for _, t := range sorted(n.txns) {
		if t.open && t.outcome == undecided {
			list = append(list, OpenTxn{GID: t.gid, XID: uint64(t.lsn)})
		}
	}
	return list
}

// startOpen: what was prepared again before the restart is ordinary, and what was committed is decided.
func (n *Node) startOpen(held map[mtm.GID]bool, committed []mtm.GID) {
	for _, t := range sorted(n.txns) {
		if t.open && (held[t.gid] || t.outcome != undecided) {
			if t.outcome == undecided {
				n.recordAgain(t) // nobody heard that it was prepared again
			}
			t.open, t.payload.Data = false, nil
		}
	}
	for _, gid := range committed {
		if t := n.txns[gid]; t != nil && t.open {
			t.coord = &coord{members: n.gen.Members, sent: n.gen.Configured, prepared: true, replied: true}
			n.committedOpen(t)
		}
	}
}

// capturedOpen: the slot has delivered all of a transaction that its session holds open.
func (n *Node) capturedOpen(t *txn, ev Captured) {
	if t == nil || t.coord == nil || t.journaled || t.outcome != undecided {
		if t == nil || t.payload.Spill != ev.Payload.Spill {
			n.drop(ev.Payload)
		}
		return
	}
	t.open = true
	n.distribute(t, ev)
}

// confirm makes sure that the session still holds the transaction, now that all members have prepared it: until here its
// locks at home were needed, for somebody who took them could have been prepared everywhere first.
func (n *Node) confirm(t *txn) bool {
	if !t.coord.asked {
		t.coord.asked = true
		n.do(Confirm{GID: t.gid})
	}
	return t.coord.confirmed || n.cfg.Plant.NoConfirm
}

// notYet reports whether a commit that was chosen is not to be known yet. It has the origin's session commit. A node
// without the payload cannot tell, and leaves it to others.
func (n *Node) notYet(t *txn) bool {
	switch {
	case t.coord != nil:
		if t.open {
			n.commitOpen(t)
		}
		return t.open
	case t.told || n.cfg.Plant.EarlyDecide || !n.gen.Members.Has(t.gid.Origin):
		return false
	}
	return t.payload.Has(mtm.PayloadStreamed) || n.m != nil && !t.journaled
}

// commitOpen has the session commit, if it is there.
func (n *Node) commitOpen(t *txn) {
	t.chosen = true
	if t.local == localPrepared {
		t.local = localFinishing
		n.committing[t.gid] = true
		n.seenOf(t.gid.Origin).decided(t.gid.Seq) // from now on it may be seen
		n.do(Finish{GID: t.gid, Commit: true, Open: true})
	}
}

// committedOpen: it is committed at home, so that everybody may know.
func (n *Node) committedOpen(t *txn) {
	t.open, t.payload.Data = false, nil
	t.local = localFinished
	n.decide(t, true)
	n.settled(t)
	n.endCommitting(t)
}

// endCommitting lets those go on that may have seen what has just been committed.
func (n *Node) endCommitting(t *txn) {
	if !n.committing[t.gid] {
		return
	}
	if delete(n.committing, t.gid); len(n.committing) > 0 {
		return
	}
	for _, t := range sorted(n.txns) {
		n.tryPrecommit(t)
	}
}

var errSessionLost = &mtm.Error{Code: "08006", Msg: "the connection to PostgreSQL was lost before the transaction was prepared"}

// lost: its session is gone without a COMMIT.
func (n *Node) lost(gid mtm.GID) {
	t := n.txns[gid]
	if t == nil || !t.open || t.local != localPrepared && t.local != localFinishing {
		return
	}
	switch {
	case t.outcome != undecided:
		t.open, t.failure = false, errSessionLost // what a member found wrong may be due to the loss of its locks here
		n.settled(t)
		return
	case t.accepted.IsZero():
		t.local, t.open = localNone, false
		n.abort(t, errSessionLost)
		return
	}
	n.prepareAgain(t)
}

// prepareAgain brings a transaction back that was accepted, and that its session has lost.
func (n *Node) prepareAgain(t *txn) {
	t.local = localApplying
	n.committing[t.gid] = true
	n.ready.Start = append(n.ready.Start, Apply{GID: t.gid, Age: t.age, Payload: t.payload})
}

// returns reports whether a transaction that was accepted here is being prepared again.
func (t *txn) returns() bool {
	return t.open && !t.accepted.IsZero() && (t.local == localLost || t.local == localApplying)
}

// recordAgain makes durable that a transaction is an ordinary one now. Its payload may go from here on.
func (n *Node) recordAgain(t *txn) {
	t.recovered = true
	n.persist(mtm.RecPrepare{GID: t.gid, Age: t.age, Deps: t.deps, Payload: t.payload, Recovered: true, Acceptors: t.acceptors})
}

func (n *Node) preparedAgain(t *txn, err *mtm.Error) {
	switch {
	case err == nil:
		t.open, t.local = false, localPrepared
		n.recordAgain(t)
		t.payload.Data = nil
		if t.outcome != undecided {
			n.finish(t)
		} else if t.chosen {
			n.decide(t, true)
		}
		n.endCommitting(t)
	case t.outcome != undecided:
		t.open, t.local = false, localFailed
		n.finish(t)
		n.endCommitting(t)
	default:
		t.local = localLost
		t.retryAt = min(t.retryAt, n.now+n.cfg.ResolveAfter)
	}
}
