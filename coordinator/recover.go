package coordinator

import (
	"maps"
	"slices"

	"mtm"
)

// This file is about recovery: a node that missed commits gets them from the journal of one that is online, in the
// order in which they were decided there, and becomes online at the donor's mark.

// recovery is one stream from a donor.
type recovery struct {
	donor    mtm.NodeID // 0: none
	stream   uint64
	life     uint64 // of the donor, from its first message on
	next     uint64 // number of the message that is due
	acked    uint64 // the donor was told that what is numbered up to here is done
	heard    uint64
	behind   uint64              // bytes of the donor's journal that it had yet to read
	caughtUp bool                // the end of the donor's journal was reached
	queue    []mtm.Body          // received, not taken up
	early    map[uint64]mtm.Body // received before its turn, by number: what lies in a spill file is overtaken
	mark     uint64              // all that precedes the mark of this generation is here
}

// pendingTxn is an ApplyRecovered that is under way.
type pendingTxn struct {
	gid     mtm.GID
	at      uint64
	seq     uint64      // in the stream
	payload mtm.Payload // without its data
}

// driveRecovery keeps a stream going, and does what came.
func (n *Node) driveRecovery() {
	r := &n.rec
	if r.donor != 0 && (!n.donors().Has(r.donor) || n.now > r.heard+n.cfg.RecoverAfter) {
		n.stopRecovery()
	}
	if r.donor == 0 && n.idle() && r.mark != n.gen.Num {
		n.askDonor()
	}
	for len(r.queue) > 0 && n.takeUp(r.queue[0]) {
		if len(r.queue) > 0 { // else the stream was given up
			r.queue = r.queue[1:]
		}
	}
	n.ackStream()
	if n.donors() != 0 {
		n.donorAt = n.now
	}
	// With nobody online in reach there is nobody to catch up with first: the election finds who is ahead.
	alone := n.now > n.donorAt+n.cfg.RecoverAfter
	ready := r.caughtUp && (r.mark == n.gen.Num || n.recapture())
	if n.m.Joining() { // nobody waits for it, so it waits until it has nearly everything
		n.m.SetCaughtUp(ready)
		return
	}
	n.m.SetCaughtUp(ready || n.m.IsDonor() || !n.m.Behind() || alone)
}

// captureState is whether the slot still has to deliver what this node did before it was online last, or caught up with.
type captureState int

const (
	captureOld   captureState = iota // it may have to
	captureAsked                     // Recapture is under way
	captureNew
)

// recapture reports whether capture delivers at once what would be prepared now, and asks for it.
func (n *Node) recapture() bool {
	if n.capture == captureOld {
		n.capture = captureAsked
		n.do(Recapture{})
	}
	return n.capture == captureNew
}

// recaptured: capture goes on behind what is prepared here.
func (n *Node) recaptured(prepared []mtm.GID) {
	for _, gid := range prepared {
		switch t := n.txns[gid]; {
		case gid.Origin != n.cfg.ID:
		case t == nil:
			if !n.outcomes[gid] { // prepared before a crash and never journaled, or rolled back too early
				n.do(Finish{GID: gid})
			}
		case t.journaled:
		case t.coord != nil && t.outcome == undecided:
			n.abort(t, mtm.Conflict("The node came back meanwhile."))
		case t.outcome != committed && (t.local == localFinished || t.local == localFinishing || t.local == localNone):
			n.do(Finish{GID: gid})
		}
	}
	if n.capture == captureAsked {
		n.capture = captureNew
	}
}

// ackStream tells the donor how far this node is: it sends only so much ahead.
func (n *Node) ackStream() {
	r := &n.rec
	if r.stream == 0 {
		return
	}
	done := r.next - 1
	if len(r.queue) > 0 {
		done -= uint64(len(r.queue))
	}
	if len(n.pending) > 0 {
		done = min(done, n.pending[0].seq-1)
	}
	if done > r.acked {
		r.acked = done
		n.send(r.donor, mtm.RecoverAck{Stream: r.stream, Seq: done})
	}
}

// stopRecovery forgets what was received and not begun.
func (n *Node) stopRecovery() {
	for _, b := range n.rec.queue {
		n.dropItem(b)
	}
	for _, seq := range slices.Sorted(maps.Keys(n.rec.early)) {
		n.dropItem(n.rec.early[seq])
	}
	n.rec = recovery{}
}

func (n *Node) dropItem(b mtm.Body) {
	if t, ok := b.(mtm.RecoverTxn); ok {
		n.drop(t.Payload)
	}
}

// donors are the nodes that may be asked: online in the generation that this node knows of, so that they hold
// whatever was committed before it.
func (n *Node) donors() mtm.NodeSet {
	if n.cfg.Plant.AnyDonor {
		return n.up().Without(n.cfg.ID)
	}
	return n.m.OnlinePeers().Intersect(n.up()).Without(n.cfg.ID)
}

func (n *Node) askDonor() {
	ids := n.donors().IDs()
	if len(ids) == 0 {
		return
	}
	n.asked++
	r := mtm.Recover{
		Stream: n.cfg.Incarnation<<20 + n.asked, Gen: n.gen.Num, LastOnline: n.m.State().LastOnline, Have: n.haveVector(),
	}
	for _, t := range sorted(n.txns) {
		if t.outcome == undecided && (t.local == localPrepared || t.local == localLost || t.local == localFailed) {
			r.Undecided = append(r.Undecided, t.gid)
		}
	}
	n.rec = recovery{donor: ids[int(n.asked)%len(ids)], stream: r.Stream, next: 1, heard: n.now}
	n.send(n.rec.donor, r)
}

// haveVector is what is finished here, per origin.
func (n *Node) haveVector() []mtm.OriginHave {
	above := map[mtm.NodeID]spans{}
	for origin, s := range n.have {
		above[origin] = slices.Clone(s)
	}
	for gid := range n.outcomes {
		above[gid.Origin] = above[gid.Origin].add(gid.Seq)
	}
	for _, t := range n.txns { // own ones that others have yet to finish
		if t.local == localFinished {
			above[t.gid.Origin] = above[t.gid.Origin].add(t.gid.Seq)
		}
	}
	var v []mtm.OriginHave
	for _, id := range allOrigins {
		if n.forgotten[id] > 0 || len(above[id]) > 0 {
			v = append(v, mtm.OriginHave{Origin: id, Upto: n.forgotten[id], Above: above[id].above(n.forgotten[id])})
		}
	}
	return v
}

// onRecover is the donor's side: its driver reads the journal, and this node says what the journal need not be asked.
func (n *Node) onRecover(from mtm.NodeID, r mtm.Recover) {
	if n.m == nil || (!n.m.Online() || r.Gen != n.gen.Num) && !n.cfg.Plant.AnyDonor {
		return
	}
	if r.Stream <= n.served[from] {
		return // repeated
	}
	if !n.reachesBack(r) {
		return // in a while it asks another
	}
	n.served[from] = r.Stream
	a := StreamJournal{To: from, Request: r, Life: n.cfg.Incarnation}
	for _, gid := range r.Undecided {
		commit, known := n.known(gid)
		switch {
		case n.txns[gid] != nil && !known: // not decided here either
		case known && !commit:
			a.Aborted = append(a.Aborted, gid)
		case known: // it comes in its place
		case n.isForgotten(gid):
			a.LookUp = append(a.LookUp, gid)
		case gid.Gen < n.m.State().LastOnline:
			a.Aborted = append(a.Aborted, gid) // never prepared here, and it never will be
		}
	}
	n.do(a)
}

// onRecoverItem takes in the next message of the stream. What comes before its turn is kept: a large payload takes a way of its
// own, and is overtaken. One that was lost ends the stream, when nothing more comes in its turn.
func (n *Node) onRecoverItem(from mtm.NodeID, stream, life, seq uint64, b mtm.Body) {
	r := &n.rec
	if n.m == nil || n.m.Online() || from != r.donor || stream != r.stream {
		return
	}
	if d, ok := b.(mtm.RecoverDone); ok && seq == 0 {
		// A donor that waits for an acknowledgement, and a node that waits for what was lost, would wait for ever.
		if d.Large || len(r.queue) > 0 || len(n.pending) > 0 || d.Behind < r.behind || r.behind == 0 {
			r.heard = n.now
		}
		r.behind = d.Behind
		return
	}
	if seq < r.next || r.early[seq] != nil {
		return
	}
	if r.next == 1 && len(r.early) == 0 {
		r.life = life
	}
	if life != r.life || len(r.early) >= maxEarly {
		n.dropItem(b)
		n.stopRecovery()
		return
	}
	if seq > r.next {
		if r.early == nil {
			r.early = map[uint64]mtm.Body{}
		}
		r.early[seq] = b
		return
	}
	r.heard = n.now
	for b != nil {
		r.queue = append(r.queue, b)
		r.next++
		b = r.early[r.next]
		delete(r.early, r.next)
	}
}

// maxEarly bounds what is kept before its turn; a donor sends only so many bytes ahead.
const maxEarly = 1 << 17

// takeUp does one message of the stream; false: it has to wait.
func (n *Node) takeUp(b mtm.Body) bool {
	switch b := b.(type) {
	case mtm.RecoverDone:
		return n.takeMark(b)
	case mtm.RecoverTxn:
		t := n.txns[b.GID]
		switch {
		case t == nil && (n.isForgotten(b.GID) || n.finished(b.GID)):
			n.drop(b.Payload)
			return true
		case b.Fate == mtm.FateCommitted:
			return n.takeCommitted(t, b)
		case b.Fate == mtm.FateAborted:
			n.drop(b.Payload)
			if t != nil && t.outcome == undecided {
				n.setOutcome(t, false)
			}
			return true
		}
		return n.takeUndecided(t, b)
	}
	return true
}

// finished: nothing of it is left to do here.
func (n *Node) finished(gid mtm.GID) bool {
	_, ok := n.outcomes[gid]
	return ok || n.have[gid.Origin].has(gid.Seq)
}

// takeCommitted: what is prepared here is committed where it stands in the order; anything else is applied.
func (n *Node) takeCommitted(t *txn, b mtm.RecoverTxn) bool {
	if t != nil {
		t.told = true
		switch t.local {
		case localLost:
			if t.open {
				n.prepareAgain(t)
				return false
			}
		case localFinished, localRecovering:
			n.drop(b.Payload)
			return true
		case localPrepared, localFinishing, localSession:
			if t.outcome == undecided {
				n.setOutcome(t, true)
			} else {
				n.finish(t)
			}
			if n.txns[b.GID] != nil && t.local != localFinished {
				return false // what follows may need it
			}
			n.drop(b.Payload)
			return true
		case localApplying, localRetrying, localWaiting:
			return false
		}
	}
	if t == nil {
		t = n.newTxn(b.GID)
	}
	n.recoverAt++
	n.drop(t.payload)
	t.payload = mtm.Payload{}
	t.local, t.outcome = localRecovering, committed
	t.journaled, t.recovered = false, true
	n.persist(mtm.RecRecover{GID: b.GID, Age: b.Age, Deps: b.Deps, Payload: b.Payload, At: n.recoverAt})
	n.do(ApplyRecovered{GID: b.GID, At: n.recoverAt, Payload: b.Payload})
	p := pendingTxn{gid: b.GID, at: n.recoverAt, seq: b.Seq, payload: b.Payload}
	p.payload.Data = nil
	n.pending = append(n.pending, p)
	return true
}

// recoveredHere: PostgreSQL has it, with the position, so it will never be applied again.
func (n *Node) recoveredHere(at uint64) {
	before := n.pending
	n.applyUpto(at)
	for _, p := range before[:len(before)-len(n.pending)] {
		if p.gid.Origin != n.cfg.ID {
			n.send(p.gid.Origin, mtm.Finished{GID: p.gid})
		}
	}
}

// takeUndecided prepares what the donor held prepared at its mark: it may yet be committed, without a vote of ours.
func (n *Node) takeUndecided(t *txn, b mtm.RecoverTxn) bool {
	if n.cfg.Plant.SkipMark {
		return true
	}
	if len(n.pending) > 0 || t != nil && t.returns() {
		return false // it may need their rows, or comes back by itself
	}
	if t == nil {
		t = n.newTxn(b.GID)
	}
	switch t.local {
	case localNone, localMissed, localFailed, localLost:
	default:
		n.drop(b.Payload)
		return true
	}
	if t.local == localMissed {
		t.learned, t.outcome = true, undecided
	}
	n.drop(t.payload) // what was refused before came in a file of its own
	t.age, t.deps, t.payload, t.recovered = b.Age, b.Deps, b.Payload, true
	t.acceptedBy(b.Acceptors)
	t.journaled, t.early, t.waitsFor = true, false, nil
	n.learnDeps(b.GID.Origin, b.Deps)
	n.persist(mtm.RecPrepare{GID: t.gid, Age: t.age, Deps: t.deps, Payload: t.payload, Recovered: true, Acceptors: t.acceptors})
	t.local = localApplying
	n.ready.Start = append(n.ready.Start, Apply{GID: t.gid, Age: t.age, Payload: t.payload})
	t.payload.Data = nil
	if !t.orphan {
		n.makeOrphan(t)
	}
	return true
}

// notPrepared: PREPARE of what came at a mark failed. Nobody was told anything of it, so it is tried again with
// another stream.
func (n *Node) notPrepared(t *txn) {
	t.local, t.journaled, t.recovered = localNone, false, false
	n.drop(t.payload)
	t.payload = mtm.Payload{}
	if t.learned {
		t.local, t.outcome = localMissed, committed
	}
	if t.outcome == aborted {
		t.local = localFailed
		n.finish(t)
		return
	}
	n.strays[t.gid] = true
	n.do(Finish{GID: t.gid}) // should PostgreSQL have it prepared all the same, it would stand in its own way
	n.stopRecovery()
}

// takeMark: everything before it is here.
func (n *Node) takeMark(d mtm.RecoverDone) bool {
	if d.Gen == 0 && d.Behind > 0 {
		n.rec.behind = d.Behind
		return true
	}
	if len(n.pending) > 0 || !n.idle() {
		return false
	}
	if d.Gen == 0 {
		n.rec.behind, n.rec.caughtUp = 0, true
		return true
	}
	if d.Gen != n.gen.Num && !n.cfg.Plant.AnyDonor {
		n.stopRecovery()
		return true
	}
	for _, f := range d.Forgotten {
		if f.Upto > n.forgotten[f.Origin] {
			n.forgetOf(f.Origin, f.Upto)
		}
	}
	donor := n.rec.donor
	n.stopRecovery()
	n.rec.donor, n.rec.heard, n.rec.mark, n.rec.caughtUp = donor, n.now, n.gen.Num, true
	return true
}

// misses: commit was decided without this node, which does not hold the transaction. Recovery brings it.
func (n *Node) misses(t *txn) bool {
	if n.m == nil || t.coord != nil {
		return false
	}
	switch t.local {
	case localApplying, localRetrying, localWaiting:
		t.learned = true
		return true
	case localNone, localFailed, localLost:
		t.local, t.outcome, t.attempt = localMissed, committed, nil
		return true
	case localMissed, localRecovering:
		return true
	}
	return false
}

// haveRecords is the part of a checkpoint that is about recovery.
func (n *Node) haveRecords() (recs []mtm.Record) {
	for _, id := range allOrigins {
		if s := n.have[id]; len(s) > 0 {
			recs = append(recs, mtm.RecHave{Origin: id, Spans: slices.Clone(s)})
		}
	}
	for _, p := range n.pending {
		recs = append(recs, mtm.RecRecover{GID: p.gid, At: p.at, Payload: p.payload}) // which the journal must keep
	}
	return recs
}

// replayRecovery takes in the records of recovery.
func (n *Node) replayRecovery(r mtm.Record) {
	switch r := r.(type) {
	case mtm.RecGeneration:
		n.saved = r
	case mtm.RecBase:
		n.base, n.baseGen = r.Have, r.Gen
	case mtm.RecHave:
		seen := n.seenOf(r.Origin)
		for _, p := range r.Spans {
			seen.hear(p.Last)
			seen.keep(func(seq uint64) bool { return seq < p.First || p.Last < seq })
		}
		if len(n.have[r.Origin]) == 0 {
			n.have[r.Origin] = slices.Clone(r.Spans)
			return
		}
		for _, p := range r.Spans { // a checkpoint without its end may follow what it repeats
			for seq := p.First; seq <= p.Last; seq++ {
				n.have[r.Origin] = n.have[r.Origin].add(seq)
			}
		}
	case mtm.RecRecover:
		n.recoverAt = max(n.recoverAt, r.At)
		n.pending = append(n.pending, pendingTxn{gid: r.GID, at: r.At})
	case mtm.RecVoid:
		n.applyUpto(r.Above)
		n.pending = nil
	}
}

// applyUpto: PostgreSQL has what was numbered up to at.
func (n *Node) applyUpto(at uint64) {
	for len(n.pending) > 0 && n.pending[0].at <= at {
		gid := n.pending[0].gid
		n.pending = n.pending[1:]
		if gid.Seq > n.forgotten[gid.Origin] {
			n.have[gid.Origin] = n.have[gid.Origin].add(gid.Seq)
		}
		n.seenOf(gid.Origin).hear(gid.Seq)
		n.seenOf(gid.Origin).decided(gid.Seq)
		delete(n.txns, gid)
	}
}

// endReplay: what PostgreSQL's position does not cover was not applied, and will be asked for again.
func (n *Node) endReplay() {
	n.applyUpto(n.cfg.Recovered)
	if len(n.pending) > 0 {
		n.pending = nil
		n.persist(mtm.RecVoid{Above: n.cfg.Recovered})
	}
	n.recoverAt = max(n.recoverAt, n.cfg.Recovered)
}
