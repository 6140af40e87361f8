package coordinator

import (
	"fmt"

	"mtm"
	"mtm/generations"
)

// This file joins the brain with generations.Machine: leaving a generation, and becoming online in the next. Without
// Config.Elections there is no machine, one generation, and every node is online in it.

// startMachine begins elections with what the journal remembers of generations.
func (n *Node) startMachine() {
	if !n.cfg.Elections {
		return
	}
	cfg := generations.Config{
		ID: n.cfg.ID, Initial: n.cfg.Generation, Heartbeat: n.cfg.Heartbeat, Lease: n.cfg.Lease, Silence: n.cfg.Silence,
		Referee: n.cfg.Referee, Life: n.cfg.Incarnation, AnyBase: n.cfg.Plant.AnyBase, ServeOn: n.cfg.Plant.ServeOn,
	}
	first := n.saved.Gen.Num == 0
	n.m = generations.New(cfg, n.saved, n.now)
	n.gen = n.m.State().Gen
	n.gateClosed = true
	if first {
		n.persist(n.m.State())
		n.mark()
	}
}

// online reports whether this node may commit.
func (n *Node) online() bool { return n.m == nil || n.m.Online() }

// Electing reports whether ticks should come more often for a while.
func (n *Node) Electing() bool { return n.m != nil && n.m.Electing() }

// turn follows what the machine says, until it says nothing more.
func (n *Node) turn() {
	if n.m == nil {
		return
	}
	for again := true; again; {
		again = n.takeMachine()
		if !n.m.Online() {
			again = n.advance() || again
		}
	}
}

func (n *Node) takeMachine() (switched bool) {
	r := n.m.Ready()
	for _, rec := range r.Persist {
		n.persist(rec)
	}
	for _, m := range r.Send {
		n.send(m.To, m.Body)
	}
	for _, q := range r.Ask {
		n.do(AskReferee{Request: q})
	}
	if r.Switch {
		n.leave()
	}
	return r.Switch
}

// leave ends what this node did in its old generation: own transactions that were not precommitted abort, what is
// not prepared yet is refused. What is prepared stays; the resolver ends what an excluded origin leaves behind.
func (n *Node) leave() {
	n.gen = n.m.State().Gen
	n.stopRecovery()
	why := mtm.Conflict(fmt.Sprintf("The cluster moved on to %v.", n.gen))
	n.checkGate()
	for _, t := range sorted(n.txns) {
		switch {
		case t.coord != nil && t.outcome == undecided:
			n.abort(t, why)
		case t.coord != nil:
			n.settleOwn(t)
		case t.outcome == undecided && n.stale(t):
			n.giveUp(t)
		}
		if t.outcome == undecided && !t.orphan && !n.gen.Members.Has(t.gid.Origin) {
			n.makeOrphan(t)
		}
	}
	kept := n.kept
	n.kept = nil
	for _, p := range kept {
		n.onPrepare(p.GID.Origin, p) // kept again, or refused
	}
}

// stale: t belongs to a generation that this node has left, so it must not be prepared here any more.
func (n *Node) stale(t *txn) bool { return n.m != nil && t.gid.Gen < n.gen.Num && !t.recovered }

// giveUp refuses what is not prepared yet.
func (n *Node) giveUp(t *txn) {
	switch t.local {
	case localWaiting:
		delete(n.waiting, t.gid)
		t.local = localFailed
		t.failure = mtm.Conflict(fmt.Sprintf("Node %d moved on to %v.", n.cfg.ID, n.gen))
		n.vote(t)
	case localApplying:
		n.do(CancelApply{GID: t.gid})
	}
}

// idle: nothing of an older generation is under way here any more.
func (n *Node) idle() bool {
	if !n.gateClosed || len(n.pending) > 0 || len(n.strays) > 0 {
		return false
	}
	for _, t := range n.txns {
		if t.returns() {
			return false // whether it may be committed is not known yet, and nobody would hear of it at the mark
		}
		if t.coord == nil && (t.local == localApplying || t.local == localRetrying || t.local == localWaiting) {
			return false
		}
	}
	return true
}

// advance brings a node that is not online nearer to it; it reports whether it became online.
func (n *Node) advance() bool {
	if !n.started || n.dropped() || n.leaving {
		return false
	}
	if !n.complete() {
		n.driveRecovery()
	}
	if !n.complete() {
		return false
	}
	n.becomeOnline()
	return true
}

// complete: the node may become online, and has what it needs for it.
func (n *Node) complete() bool {
	return n.m.MayBecomeOnline() && n.capture != captureAsked && n.idle() && (n.m.IsDonor() || n.rec.mark == n.gen.Num)
}

// becomeOnline: all that was committed in older generations is here, prepared at least. The record of it comes before
// anything else that is said or done in the new generation. The mark precedes it: were the mark lost in a crash, and not
// the record, nobody could ever recover from this node.
func (n *Node) becomeOnline() {
	// If a generation may have been elected between, without this node, others may have acknowledged what is in doubt here.
	if !n.m.IsDonor() || n.gen.Num > n.m.State().LastOnline+1 {
		for _, t := range n.txns {
			t.veils = t.veils || t.local == localPrepared || t.local == localFinishing
			n.veiled = n.veiled || t.veils
		}
	}
	n.stopRecovery()
	n.capture = captureOld
	n.mark()
	n.m.BecomeOnline()
	n.takeMachine()
	n.resolveAlone()
	n.checkGate()
	kept := n.kept
	n.kept = nil
	for _, p := range kept {
		n.onPrepare(p.GID.Origin, p)
	}
}

func (n *Node) mark() {
	m := mtm.RecMark{Gen: n.gen, Forgotten: n.forgottenVector()}
	for _, t := range sorted(n.txns) {
		if t.outcome == undecided && t.journaled && (t.local == localPrepared || t.open && t.local == localFinishing) {
			m.Prepared = append(m.Prepared, t.gid)
		}
	}
	n.persist(m)
}

func (n *Node) forgottenVector() (v mtm.Deps) {
	for _, id := range allOrigins {
		if upto := n.forgotten[id]; upto > 0 {
			v = append(v, mtm.OriginDeps{Origin: id, Upto: upto})
		}
	}
	return v
}

// keep holds a Prepare of a generation in which this node is not online yet; false: it is refused.
func (n *Node) keep(p mtm.Prepare) bool {
	if n.m == nil || p.GID.Gen < n.gen.Num || len(n.kept) >= maxKept {
		return false
	}
	if p.GID.Gen == n.gen.Num && (n.m.Online() || !n.gen.Members.Has(n.cfg.ID)) {
		return false
	}
	for i := range n.kept {
		if n.kept[i].GID == p.GID {
			n.drop(n.kept[i].Payload)
			n.kept[i] = p
			return true
		}
	}
	n.kept = append(n.kept, p)
	return true
}

// maxKept bounds the Prepares that wait; the gates of the origins allow fewer.
const maxKept = 4096

// lease is until when this node may answer reads, by Tick's clock. What it took over undecided when it came back hides
// rows that others may have shown already, so there is no lease before that is finished here.
func (n *Node) lease() uint64 {
	if n.m == nil {
		return 0
	}
	end := n.m.LeaseEnd()
	if end == 0 || !n.veiled {
		return end
	}
	for _, t := range n.txns {
		if t.veils && t.local != localFinished {
			return 0
		}
	}
	n.veiled = false
	return end
}

// statusOf is the word for a node with elections.
func (n *Node) statusOf() mtm.Status {
	switch {
	case !n.started:
		return mtm.StatusDisabled
	case n.m.Online() && n.m.Agreed():
		return mtm.StatusOnline
	case n.m.Online():
		return mtm.StatusIsolated
	case n.m.Recovering():
		return mtm.StatusRecovery
	case n.rec.donor != 0:
		return mtm.StatusCatchup
	}
	return mtm.StatusDisabled
}

// holdersOf is who has to finish an own transaction before it is let go: with elections the members of the current
// generation only, since an excluded node recovers.
func (n *Node) holdersOf(t *txn) mtm.NodeSet {
	self := mtm.Nodes(n.cfg.ID)
	switch {
	case t.outcome == aborted && n.m != nil:
		return t.coord.sent.Intersect(n.gen.Members).Union(self)
	case t.outcome == aborted:
		return t.coord.sent.Union(self)
	case t.payload.Has(mtm.PayloadEmpty):
		return self
	case n.m != nil:
		return n.gen.Members.Union(self)
	}
	return n.gen.Configured
}

// waitedFor is who must have an own committed transaction before its client is told: the members of its generation, but
// for those that are excluded since, and whose leases have run out for certain.
func (n *Node) waitedFor(t *txn) mtm.NodeSet {
	self := mtm.Nodes(n.cfg.ID)
	if t.outcome != committed || t.payload.Has(mtm.PayloadWaitLocal) {
		return self
	}
	if n.m != nil && t.gid.Gen < n.gen.Num && n.established {
		return t.coord.members.Intersect(n.gen.Members).Union(self)
	}
	return t.coord.members
}
