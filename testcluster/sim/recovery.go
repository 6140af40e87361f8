package main

import (
	"cmp"
	"slices"

	"mtm"
	"mtm/coordinator"
)

// This file does what the drivers do for recovery: reading a journal for a node that is behind, and committing what
// comes.

// stream reads the journal of a donor from its beginning for one node.
type stream struct {
	n        *node
	to       mtm.NodeID
	req      mtm.Recover
	pos      int
	seq      uint64
	named    map[mtm.GID]bool
	sent     map[mtm.GID]bool
	payloads map[mtm.GID]mtm.RecPrepare
	held     mtm.RecPrepare // by a planted fault
	told     uint64         // when something was told of the end of the journal last
	acked    uint64         // what is done there
}

func (n *node) stream(a coordinator.StreamJournal) {
	s := &stream{
		n: n, to: a.To, req: a.Request, named: map[mtm.GID]bool{}, sent: map[mtm.GID]bool{}, payloads: map[mtm.GID]mtm.RecPrepare{},
	}
	n.streams[a.To] = s
	for _, gid := range a.Request.Undecided {
		s.named[gid] = true
	}
	for _, gid := range a.Aborted {
		s.abort(gid)
	}
	for _, gid := range a.LookUp {
		if !n.journalCommits(gid) {
			s.abort(gid)
		}
	}
	s.later()
}

func (s *stream) abort(gid mtm.GID) {
	s.sent[gid] = true
	s.tell(gid, mtm.RecPrepare{GID: gid}, mtm.FateAborted)
}

// journalCommits: what a node has forgotten and its journal does not know to be committed is aborted.
func (n *node) journalCommits(gid mtm.GID) bool {
	for _, rec := range n.disk.records[:n.disk.durable] {
		switch rec := rec.(type) {
		case mtm.RecDecide:
			if rec.GID == gid && rec.Commit {
				return true
			}
		case mtm.RecRecover:
			if rec.GID == gid {
				return true
			}
		}
	}
	return false
}

func (n *node) tellOutcome(a coordinator.TellOutcome) {
	commit := n.journalCommits(a.GID)
	n.w.check.told(n, a.GID, commit)
	n.w.net.send(mtm.Message{From: n.id, To: a.To, Body: mtm.Decided{GID: a.GID, Commit: commit}})
}

// outcomeAnswer is what a client is told who asks for an outcome: after all that the brain had to persist when it said so.
type outcomeAnswer struct {
	coordinator.Action
	gid    mtm.GID
	commit bool
}

// askOutcome is a client who asks what became of one of the last transactions. It draws from a source of its own, so that no seed
// gives another run for it.
func (n *node) askOutcome() []coordinator.Action {
	w := n.w
	if !w.elections || len(w.check.gids) == 0 || w.curious.IntN(4) != 0 {
		return nil
	}
	gid := w.check.gids[len(w.check.gids)-1-w.curious.IntN(min(8, len(w.check.gids)))]
	switch n.brain.Outcome(gid) {
	case coordinator.OutcomeCommitted:
		return []coordinator.Action{outcomeAnswer{gid: gid, commit: true}}
	case coordinator.OutcomeAborted:
		return []coordinator.Action{outcomeAnswer{gid: gid}}
	}
	return nil
}

func (s *stream) later() {
	n, life := s.n, s.n.life
	n.w.after(n.w.between(1*ms, 8*ms), n.unlessFrozen(func() {
		if n.alive && n.life == life && n.streams[s.to] == s {
			s.read()
		}
	}))
}

// read sends a few records more: only what is durable counts.
func (s *stream) read() {
	n := s.n
	for first := s.seq; s.seq < first+6 && s.seq < s.acked+streamWindow && s.pos < n.disk.durable; {
		rec := n.disk.records[s.pos]
		s.pos++
		if s.take(rec) {
			delete(n.streams, s.to)
			return
		}
	}
	if s.pos == n.disk.durable && n.w.now > s.told+50*ms {
		s.told = n.w.now
		s.release()
		s.send(mtm.RecoverDone{Stream: s.req.Stream, Life: s.n.life, Seq: s.next()})
	}
	if s.pos < n.disk.durable && n.w.now > s.told+50*ms {
		s.told = n.w.now
		s.send(mtm.RecoverDone{Stream: s.req.Stream, Life: s.n.life, Behind: uint64(n.disk.durable - s.pos)})
	}
	s.later()
}

// streamWindow is how many messages may be under way to a node, or not done there.
const streamWindow = 8

func (n *node) streamAcked(a coordinator.StreamAcked) {
	if s := n.streams[a.To]; s != nil && s.req.Stream == a.Stream {
		s.acked = max(s.acked, a.Seq)
	}
}

// take sends what one record means to the node; true: it was the mark.
func (s *stream) take(rec mtm.Record) bool {
	switch rec := rec.(type) {
	case mtm.RecPrepare:
		if _, ok := s.payloads[rec.GID]; !ok {
			s.payloads[rec.GID] = rec
		}
	case mtm.RecRecover:
		if _, ok := s.payloads[rec.GID]; !ok {
			s.payloads[rec.GID] = mtm.RecPrepare{GID: rec.GID, Age: rec.Age, Deps: rec.Deps, Payload: rec.Payload}
		}
		s.commit(rec.GID)
	case mtm.RecDecide:
		if rec.Commit {
			s.commit(rec.GID)
		} else if s.named[rec.GID] && !s.sent[rec.GID] {
			s.abort(rec.GID)
		}
	case mtm.RecMark:
		if !rec.Gen.Members.Has(s.to) || rec.Gen.Num < s.req.Gen {
			return false
		}
		s.release()
		for _, gid := range rec.Prepared {
			s.tell(gid, s.payloads[gid], mtm.FateUndecided)
		}
		s.send(mtm.RecoverDone{Stream: s.req.Stream, Life: s.n.life, Seq: s.next(), Gen: rec.Gen.Num, Forgotten: rec.Forgotten})
		return true
	}
	return false
}

func (s *stream) commit(gid mtm.GID) {
	p, ok := s.payloads[gid]
	if s.sent[gid] || p.Payload.Has(mtm.PayloadEmpty) || !s.named[gid] && s.has(gid) {
		return
	}
	if !ok {
		s.n.w.fail("n%d has no payload of %s, which n%d lacks", s.n.id, gid, s.to)
		return
	}
	s.sent[gid] = true
	if s.n.w.plant == plantDisorder && s.held.GID.IsZero() {
		s.held = p
		return
	}
	s.tell(gid, p, mtm.FateCommitted)
	s.release()
}

// release sends what a planted fault held back.
func (s *stream) release() {
	if p := s.held; !p.GID.IsZero() {
		s.held = mtm.RecPrepare{}
		s.tell(p.GID, p, mtm.FateCommitted)
	}
}

func (s *stream) has(gid mtm.GID) bool {
	for _, h := range s.req.Have {
		if h.Origin != gid.Origin {
			continue
		}
		if gid.Seq <= h.Upto {
			return true
		}
		for _, p := range h.Above {
			if p.First <= gid.Seq && gid.Seq <= p.Last {
				return true
			}
		}
	}
	return false
}

func (s *stream) tell(gid mtm.GID, p mtm.RecPrepare, fate mtm.Fate) {
	payload := p.Payload
	if fate != mtm.FateAborted {
		payload = s.n.inline(payload)
	}
	s.send(mtm.RecoverTxn{Stream: s.req.Stream, Life: s.n.life, Seq: s.next(), GID: gid, Age: p.Age, Deps: p.Deps, Payload: payload, Fate: fate, Acceptors: p.Acceptors})
}

func (s *stream) next() uint64 { s.seq++; return s.seq }

func (s *stream) send(b mtm.Body) { s.n.w.net.send(mtm.Message{From: s.n.id, To: s.to, Body: b}) }

// recoverItem is one transaction to be committed as a donor sent it.
type recoverItem struct {
	gid    mtm.GID
	at     uint64
	images []image
}

// recapture lets the slot go on behind what is there, most times, and tells what is prepared.
func (n *node) recapture() {
	w, life := n.w, n.life
	w.after(w.between(50, 20*ms), func() {
		if !n.alive || n.life != life {
			return
		}
		if !n.pg.up {
			n.recapture()
			return
		}
		var prepared []mtm.GID
		if n.gate.opened || n.gate.preparing > 0 {
			w.fail("S1 n%d replaces its slot while sessions prepare", n.id)
		}
		if len(n.pg.user) == 0 && w.chance(0.8) {
			n.pg.slot.pass()
			for gid := range n.pg.prepared {
				if gid.Origin == n.id {
					prepared = append(prepared, gid)
				}
			}
			slices.SortFunc(prepared, func(a, b mtm.GID) int { return cmp.Compare(a.Seq, b.Seq) })
		}
		n.post(w.between(20, 5*ms), life, coordinator.Recaptured{Prepared: prepared})
	})
}

func (n *node) applyRecovered(a coordinator.ApplyRecovered) {
	n.recQueue = append(n.recQueue, a)
	if !n.recBusy {
		n.recBusy = true
		n.w.after(n.w.between(50, 2*ms), n.recoverSome)
	}
}

// recoverSome commits a few in one local transaction, together with the position.
func (n *node) recoverSome() {
	w, life := n.w, n.life
	if !n.alive || len(n.recQueue) == 0 {
		n.recBusy = false
		return
	}
	again := func(d uint64) {
		w.after(d, func() {
			if n.alive && n.life == life {
				n.recoverSome()
			}
		})
	}
	for len(n.recQueue) > 0 && n.recQueue[0].At <= n.pg.recovered && n.pg.up {
		n.recQueue = n.recQueue[1:] // the answer was lost
	}
	if !n.pg.up {
		again(5 * ms)
		return
	}
	n.pg.carryOutAll()
	n.post(w.between(20, 1*ms), life, coordinator.Recovered{At: n.pg.recovered})
	if len(n.recQueue) == 0 {
		n.recBusy = false
		return
	}
	x := n.pg.begin(false)
	for i, a := range n.recQueue[:min(len(n.recQueue), 1+w.rng.IntN(4))] {
		alone := w.users.byGID[a.GID] != nil || w.users.orders[a.GID].of != nil
		if i > 0 && alone {
			break
		}
		images, _ := n.content(a.Payload)
		x.items = append(x.items, recoverItem{a.GID, a.At, images})
		x.stmts = append(x.stmts, n.statements(a.GID, images)...)
		if alone {
			break
		}
	}
	x.finished = func() { n.pg.commit(x) }
	x.ended = func(e end) {
		if e.err != nil && (e.err.Code == "02000" || e.err.Code == "23505") {
			w.fail("S3 n%d cannot recover %v: %v", n.id, x.items[0].gid, e.err)
		}
		again(w.between(50, 2*ms))
	}
	if it := x.items[0]; w.users.byGID[it.gid] != nil {
		u, ended := w.users.byGID[it.gid], x.ended
		n.pg.dropUser(u) // of an earlier try
		x.finished = func() { n.pg.prepareUser(x, u, absolute(it.images)[0], ended) }
	}
	w.after(w.between(50, 1*ms), func() { x.next(0) })
}

// commit is a plain COMMIT of recovered transactions.
func (pg *postgres) commit(x *xact) {
	x.state = xactPreparing
	pg.w.after(pg.w.between(50, 3*ms), func() {
		if x.state == xactPreparing {
			pg.nowCommitted(x)
			x.ended(end{})
		}
	})
}

func (pg *postgres) nowCommitted(x *xact) {
	pg.w.tracef("n%d pg commits recovered %v", pg.n.id, x.items)
	x.state = xactDead
	pg.forgetLive(x)
	for _, it := range x.items {
		pg.w.check.recovered(pg.n, it)
		pg.recovered = max(pg.recovered, it.at)
	}
	if gid := x.items[0].gid; pg.w.users.orders[gid].of != nil {
		pg.ordered[gid] = x
		return
	}
	pg.publishRecovered(x)
	pg.release(x)
}

// publishRecovered makes the writes of recovered transactions the committed ones.
func (pg *postgres) publishRecovered(x *xact) {
	for _, it := range x.items {
		for _, k := range keysOf(it.images) {
			pg.w.check.version(pg.n, it.gid, k, it.images)
			pg.rows[k].last = it.gid
			pg.rows[k].version++
		}
	}
	for _, k := range x.held {
		r := &pg.rows[k]
		r.exists, r.val = r.pending.exists, r.pending.val
	}
}

func keysOf(images []image) (keys []int) {
	seen := map[int]bool{}
	for _, im := range images {
		if !seen[im.key] {
			seen[im.key] = true
			keys = append(keys, im.key)
		}
	}
	return keys
}

// inline makes a payload that another node understands.
func (n *node) inline(p mtm.Payload) mtm.Payload {
	p.Data, p.Spill = []byte(itoa(p.Size)), ""
	return p
}
