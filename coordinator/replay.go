package coordinator

import (
	"slices"

	"mtm"
)

// This file is about restarts: reading the journal again, meeting PostgreSQL, and keeping the journal short.

// Replay takes in the records of the journal, oldest first, before Start.
func (n *Node) Replay(r mtm.Record) {
	switch r.(type) {
	case mtm.RecCheckpoint:
		n.shadow = New(n.cfg)
		return
	case mtm.RecCheckpointEnd:
		if s := n.shadow; s != nil {
			n.txns, n.outcomes, n.forgotten, n.seen = s.txns, s.outcomes, s.forgotten, s.seen
			n.next, n.reserved = s.next, s.reserved
			n.base, n.baseGen, n.have, n.saved, n.pending, n.recoverAt = s.base, s.baseGen, s.have, s.saved, s.pending, max(n.recoverAt, s.recoverAt)
			n.shadow = nil
		}
		return
	}
	if n.shadow != nil {
		n.shadow.replayOne(r)
	}
	n.replayOne(r) // a checkpoint without its end only repeats what is known
}

func (n *Node) replayOne(r mtm.Record) {
	switch r := r.(type) {
	case mtm.RecPrepare:
		if t := n.replayPrepared(r.GID); t != nil {
			t.age, t.deps, t.lsn, t.payload = r.Age, r.Deps, r.LSN, r.Payload
			t.journaled, t.recovered = true, r.Recovered
			if t.open = r.GID.Origin == n.cfg.ID && r.Payload.Has(mtm.PayloadStreamed) && !r.Recovered; !t.open {
				t.payload.Data = nil
			}
			t.acceptedBy(r.Acceptors)
			n.learnDeps(r.GID.Origin, r.Deps)
		}
	case mtm.RecPromise:
		if t := n.replayTxn(r.GID); t != nil {
			t.promised = r.Ballot
			t.acceptedBy(r.Acceptors)
			t.seenN = max(t.seenN, r.Ballot.N)
		}
	case mtm.RecAccept:
		if t := n.replayTxn(r.GID); t != nil {
			t.promised, t.accepted, t.acceptVal = r.Ballot, r.Ballot, r.Commit
			t.acceptedBy(r.Acceptors)
			t.seenN = max(t.seenN, r.Ballot.N)
		}
	case mtm.RecDecide:
		if t := n.replayTxn(r.GID); t != nil {
			t.outcome = outcomeOf(r.Commit)
			n.seenOf(r.GID.Origin).decided(r.GID.Seq)
		}
	case mtm.RecReserve:
		n.reserved = max(n.reserved, r.Upto)
	case mtm.RecForget:
		n.forgotten[r.Origin] = max(n.forgotten[r.Origin], r.Upto)
		n.seenOf(r.Origin).allDecided(r.Upto)
		n.have[r.Origin] = n.have[r.Origin].above(n.forgotten[r.Origin])
		for gid := range n.txns {
			if t := n.txns[gid]; gid.Seq <= n.forgotten[gid.Origin] && (!n.cfg.Elections || !t.journaled || t.outcome != undecided) {
				delete(n.txns, gid)
			}
		}
	default:
		n.replayRecovery(r)
	}
}

// replayPrepared: with elections others may have forgotten what this node still has to end.
func (n *Node) replayPrepared(gid mtm.GID) *txn {
	if n.cfg.Elections && n.txns[gid] == nil {
		return n.newTxn(gid)
	}
	return n.replayTxn(gid)
}

func (n *Node) replayTxn(gid mtm.GID) *txn {
	if n.isForgotten(gid) || n.have[gid.Origin].has(gid.Seq) {
		return nil
	}
	if t := n.txns[gid]; t != nil {
		return t
	}
	return n.newTxn(gid)
}

// Start ends the replay. prepared lists what PostgreSQL holds prepared under our names. What the journal does not
// know was never voted for, so it is rolled back; what it knows is finished, aborted or handed to the resolver.
//
// Nothing of an earlier life of this node may still be about to apply or to finish when the list is made: a
// transaction that is committed here behind our back could be seen by one whose Deps leave it out. A client's PREPARE
// may land later: the slot delivers it, and it is rolled back.
// committed lists what PostgreSQL has committed of Open.
func (n *Node) Start(prepared []mtm.GID, committed ...mtm.GID) {
	n.shadow = nil
	n.started = true
	n.endReplay()
	n.startMachine()
	slices.SortFunc(prepared, func(a, b mtm.GID) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	held := map[mtm.GID]bool{}
	for _, gid := range prepared {
		held[gid] = true
		if t := n.txns[gid]; t == nil || !t.journaled && t.outcome == undecided {
			n.rollBackStray(gid)
		}
	}
	n.startOpen(held, committed)
	for _, t := range sorted(n.txns) {
		if t.local == localNone {
			n.startTxn(t, held[t.gid])
		}
	}
	n.next = max(n.next, n.reserved)
	n.ownNumbers()
	n.extendReserve()
	n.checkGate()
	n.turn()
}

// ownNumbers: of all numbers that an earlier life may have used only the undecided ones are open.
func (n *Node) ownNumbers() {
	s := n.seenOf(n.cfg.ID)
	s.allDecided(n.next - 1)
	for gid, t := range n.txns {
		if gid.Origin == n.cfg.ID && t.outcome == undecided && t.local != localLost {
			s.reopen(gid.Seq)
		}
	}
}

// rollBackStray ends a transaction that is prepared here and that this node never spoke of.
func (n *Node) rollBackStray(gid mtm.GID) {
	if n.isForgotten(gid) {
		n.do(Finish{GID: gid}) // its PREPARE landed after its rollback: everybody knows that it is aborted
		return
	}
	if n.m != nil && gid.Origin != n.cfg.ID && gid.Gen > n.m.State().LastOnline {
		// It came at a mark, and was not journaled: others may commit it without this node, and recovery brings it.
		n.strays[gid] = true
		n.do(Finish{GID: gid})
		return
	}
	t := n.txns[gid]
	if t == nil {
		t = n.newTxn(gid)
	}
	t.local = localPrepared
	if gid.Origin == n.cfg.ID {
		t.coord = &coord{members: n.gen.Members, sent: n.gen.Configured, prepared: true, replied: true}
		n.decide(t, false)
		return
	}
	// It never voted, so it cannot be committed; and it must never vote again, whatever arrives late.
	t.outcome = aborted
	n.seenOf(gid.Origin).decided(gid.Seq)
	n.persist(mtm.RecDecide{GID: gid, Firm: true})
	n.finish(t)
}

func (n *Node) startTxn(t *txn, held bool) {
	held = held && !n.strays[t.gid]
	if n.m != nil && (t.recovered || !t.journaled) && !held && t.outcome == undecided && t.gid.Origin != n.cfg.ID {
		t.journaled, t.recovered = false, false // never prepared here, and nobody was told that it is
		n.makeOrphan(t)
		return
	}
	t.veils = n.m != nil && t.gid.Gen < n.gen.Num // it may be one that this node came back with
	n.veiled = n.veiled || t.veils
	t.local = localLost
	if held {
		t.local = localPrepared
	} else {
		n.seenOf(t.gid.Origin).decided(t.gid.Seq) // it may be committed here, and seen by what comes
	}
	if t.gid.Origin == n.cfg.ID {
		t.coord = &coord{members: n.gen.Members, sent: n.gen.Configured, prepared: true, replied: true}
	}
	switch {
	case t.outcome != undecided && held:
		n.finish(t)
	case t.outcome != undecided:
		n.settled(t)
	case t.coord != nil && t.accepted.IsZero():
		t.open = false
		n.decide(t, false)
	case n.m != nil && !held && t.tellsItself(n.cfg.ID) && !n.cfg.Plant.OwnForgotten:
		// It was finished in an earlier life, whose last record is lost. Here it comes before all that this life journals.
		t.outcome = committed
		n.persist(mtm.RecDecide{GID: t.gid, Commit: true, Firm: true})
		n.settled(t)
	default:
		n.makeOrphan(t)
		if t.open {
			n.prepareAgain(t)
		}
		if t.coord == nil {
			t.retryAt += 4 * n.cfg.ResolveAfter // its origin may well be there: the vote asks it first
		}
	}
}

// Checkpoint lists what must be remembered, so that the journal before it is needed no more. The caller appends it in
// one piece, in the order of what Ready held before. Payloads are left out, but for the names of spill files: after a
// restart nothing is applied again.
func (n *Node) Checkpoint() []mtm.Record {
	recs := []mtm.Record{mtm.RecCheckpoint{Generation: n.gen}, mtm.RecReserve{Upto: n.reserved}}
	if n.m != nil {
		recs = append(recs, n.m.State())
	}
	for _, id := range allOrigins {
		if n.forgotten[id] > 0 {
			recs = append(recs, mtm.RecForget{Origin: id, Upto: n.forgotten[id]})
		}
	}
	if len(n.base) > 0 {
		recs = append(recs, mtm.RecBase{Have: n.base, Gen: n.baseGen})
	}
	recs = append(recs, n.haveRecords()...)
	for _, t := range sorted(n.txns) {
		if n.m == nil || !t.payload.Has(mtm.PayloadEmpty) {
			recs = append(recs, t.records(!n.cfg.Plant.NoPromises)...)
		}
	}
	gids := make([]mtm.GID, 0, len(n.outcomes))
	for gid := range n.outcomes {
		if !n.empties[gid] {
			gids = append(gids, gid)
		}
	}
	slices.SortFunc(gids, func(a, b mtm.GID) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	for _, gid := range gids {
		recs = append(recs, mtm.RecDecide{GID: gid, Commit: n.outcomes[gid]})
	}
	return append(recs, mtm.RecCheckpointEnd{})
}

func (t *txn) records(promises bool) []mtm.Record {
	var recs []mtm.Record
	if t.journaled {
		p := t.payload
		if !t.open {
			p.Data = nil
		}
		recs = append(recs, mtm.RecPrepare{GID: t.gid, Age: t.age, Deps: t.deps, Payload: p, LSN: t.lsn, Recovered: t.recovered, Acceptors: t.acceptors})
	}
	if !t.accepted.IsZero() {
		recs = append(recs, mtm.RecAccept{GID: t.gid, Ballot: t.accepted, Commit: t.acceptVal, Acceptors: t.acceptors})
	}
	if promises && t.accepted.Less(t.promised) {
		recs = append(recs, mtm.RecPromise{GID: t.gid, Ballot: t.promised, Acceptors: t.acceptors})
	}
	if t.outcome != undecided && t.local != localMissed && t.local != localRecovering {
		recs = append(recs, mtm.RecDecide{GID: t.gid, Commit: t.outcome == committed})
	}
	return recs
}

// Spills names the spill files that transactions still need.
func (n *Node) Spills() map[string]bool {
	needed := map[string]bool{}
	for _, t := range n.txns {
		if t.payload.Spill != "" {
			needed[t.payload.Spill] = true
		}
	}
	return needed
}
