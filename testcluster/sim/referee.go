package main

import (
	"mtm"
	"mtm/coordinator"
	"mtm/generations"
)

// referee is the third, data-less machine of a two-node cluster. Questions and answers are lost, late, repeated and out
// of order, but for this: one that was sent to an earlier life of the referee does not reach a later one.
type referee struct {
	w     *world
	alive bool
	life  uint64
	rules *generations.Arbiter
	disk  mtm.RefereeState // durable
	saved uint64           // when what it has decided by now is durable
	cut   [mtm.MaxNodes + 1]bool
}

func (r *referee) start() {
	if r.alive {
		return
	}
	r.alive, r.saved = true, 0
	r.life++
	r.rules = generations.NewArbiter(r.disk)
	r.w.tracef("referee START %+v", r.disk)
}

// crash ends it; what it was about to answer is never said.
func (r *referee) crash() {
	if !r.alive {
		return
	}
	r.w.tracef("referee CRASH")
	r.alive = false
	if r.w.plant == plantGrantLost {
		r.disk.Holder, r.disk.Gen = 0, 0
	}
	if !r.w.calm {
		r.w.after(r.w.between(10*ms, 1500*ms), r.start)
	}
}

// ask is the driver of coordinator.AskReferee on node n.
func (n *node) ask(q mtm.RefereeRequest) {
	w, r := n.w, &n.w.referee
	if !r.alive {
		return
	}
	nodeLife, life := n.life, r.life
	times := 1
	if !w.calm && w.chance(w.dup) {
		times = 2
	}
	for range times {
		w.carry(n, func() {
			if r.alive && r.life == life {
				r.asked(q, func(a mtm.RefereeAnswer) {
					w.carry(n, func() { n.post(0, nodeLife, coordinator.RefereeSaid{Answer: a}) })
				})
			}
		})
	}
}

// carry takes a question or an answer between the referee and n.
func (w *world) carry(n *node, do func()) {
	if w.referee.cut[n.id] || !w.calm && w.chance(w.loss) {
		return
	}
	d := w.between(100, w.delay)
	if !w.calm && w.chance(w.spike) {
		d = w.between(w.delay, w.spikeMax)
	}
	w.after(d, func() {
		if !w.referee.cut[n.id] {
			do()
		}
	})
}

// asked decides, persists and answers, one request after the other; a crash may come in between. What is answered
// without a change waits for the disk, too: it tells of changes that may not be durable yet.
func (r *referee) asked(q mtm.RefereeRequest, answer func(mtm.RefereeAnswer)) {
	w, life := r.w, r.life
	if w.plant == plantTwoGrants && q.Kind != mtm.RefereeClear {
		st := r.rules.State()
		st.Holder, st.Gen = 0, 0
		r.rules = generations.NewArbiter(st)
	}
	a, changed := r.rules.Ask(q)
	w.tracef("referee %v: %+v", q, a)
	if !changed && r.saved <= w.now {
		answer(a)
		return
	}
	st := r.rules.State()
	r.saved = max(r.saved, w.now)
	if changed {
		r.saved += w.between(50, w.fsync)
	}
	w.after(r.saved-w.now, func() {
		if r.life == life {
			if !r.alive && w.chance(0.5) {
				return // the crash came before the disk had it
			}
			r.disk = st
			if r.alive {
				answer(a)
			}
		}
	})
}

// refereeFault ends the referee, or cuts it off from one node or from both.
func (w *world) refereeFault() {
	r := &w.referee
	if w.chance(0.3) {
		r.crash()
		return
	}
	one := mtm.NodeID(1 + w.rng.IntN(len(w.nodes)))
	d := w.between(10*ms, 1500*ms)
	for _, id := range w.all.IDs() {
		if id == one || w.chance(0.3) {
			r.cut[id] = true
			w.tracef("LINK %d-referee cut", id)
			w.after(d, func() { r.cut[id] = false })
		}
	}
}

// clearTooEarly is a planted fault: the referee is told that both are online when only one of them is.
func (n *node) clearTooEarly() {
	st := n.brain.Status()
	if st.Generation.Members == n.w.all && st.Online.Has(n.id) {
		n.ask(mtm.RefereeRequest{Kind: mtm.RefereeClear, Node: n.id, Gen: st.Generation.Num, Configured: n.w.all})
	}
}

// calmReferee: the referee is back at the end, or is not needed any more, when both nodes are.
func (w *world) calmReferee() {
	r := &w.referee
	r.cut = [mtm.MaxNodes + 1]bool{}
	switch {
	case !w.hasReferee:
	case w.chance(w.refereeGone):
		w.tracef("referee stays away")
		w.awayChance = 0
		r.crash()
	default:
		w.after(w.between(1*ms, 100*ms), r.start)
	}
}

// unrestAlone says what keeps one node from going on without the other, if it may: the loser of the two never does.
func (w *world) unrestAlone(away *node) string {
	r := &w.referee
	if !r.alive {
		return "the referee is down"
	}
	if st := r.rules.State(); st.Pair == 0 || st.Holder == away.id {
		return ""
	}
	return w.unrestWithout(away)
}
