package main

import (
	"mtm"
	"mtm/coordinator"
)

// pointSynced is the moment after an fsync, for traps.
type pointSynced struct{}

type trapAction int

const (
	trapCrash trapAction = iota // mtmd ends before the effect
	trapPower                   // mtmd and PostgreSQL end
	trapPostgres
	trapCut   // the link breaks, one way
	trapApart // the link breaks, both ways
	trapLose  // this message is lost
	trapStorm // the node is cut off, and short faults hit everybody for a while
)

// trap waits for an effect of a kind on a node, lets some of them pass, and then does harm.
type trap struct {
	node  mtm.NodeID // 0: any
	kind  string
	after int
	do    trapAction
	late  uint64 // harm comes so long after the effect
}

// trapKinds are the effects around which the interesting interleavings are; often named ones are hit more often.
var trapKinds = []string{
	"RecPrepare", "RecAccept", "RecAccept", "RecPromise", "RecPromise", "RecDecide", "Vote", "Accept", "Accept", "Accept",
	"Accepted", "Accepted", "Collect", "Collect", "Promised", "Promised", "Decided", "Decided", "Finished", "Finish",
	"Finish", "Apply", "Prepare", "Synced", "Reply", "AckCapture", "Forget", "RecReserve", "RecForget",
}

func (w *world) setTraps() {
	for range w.plan.traps {
		t := &trap{kind: pick(w.rng, trapKinds...), after: w.rng.IntN(8)}
		if w.mode == modeAmnesia {
			w.traps = append(w.traps, &trap{kind: pick(w.rng, "Promised", "Promised", "Accepted", "Collect"), after: w.rng.IntN(3), do: trapCrash, late: w.between(1, 2*ms)})
			continue
		}
		if w.rng.IntN(3) == 0 {
			t.late = w.between(1, 3*ms)
		}
		t.do = trapAction(w.rng.IntN(int(trapLose) + 1))
		if w.rng.IntN(2) == 0 {
			t.node = mtm.NodeID(1 + w.rng.IntN(w.plan.nodes))
		}
		w.traps = append(w.traps, t)
	}
}

// setStorms lets storms begin while a precommit is on its way; each must have calm weather before it, else nothing
// would get that far.
func (w *world) setStorms() {
	for i := range w.plan.storms {
		t := &trap{kind: pick(w.rng, "Accept", "Accept", "RecAccept", "Synced", "Vote"), after: w.rng.IntN(4), do: trapStorm}
		w.at(uint64(i)*700*ms, func() { w.traps = append(w.traps, t) })
	}
}

func (w *world) storm(n *node) {
	for _, o := range w.nodes {
		if o != n && w.chance(0.8) {
			w.cutFor(n.id, o.id, w.chance(0.7), w.between(5*ms, 200*ms))
		}
	}
	for range w.rng.IntN(14) {
		w.after(w.between(1*ms, 250*ms), func() {
			a, b := w.nodes[w.rng.IntN(len(w.nodes))], w.nodes[w.rng.IntN(len(w.nodes))]
			switch {
			case w.calm:
			case w.chance(0.3):
				a.crash()
			case a != b:
				w.cutFor(a.id, b.id, w.chance(0.5), w.between(2*ms, 100*ms))
			}
		})
	}
}

// kindOf names an effect.
func kindOf(effect any) string {
	switch effect.(type) {
	case mtm.RecPrepare:
		return "RecPrepare"
	case mtm.RecAccept:
		return "RecAccept"
	case mtm.RecPromise:
		return "RecPromise"
	case mtm.RecDecide:
		return "RecDecide"
	case mtm.RecReserve:
		return "RecReserve"
	case mtm.RecForget:
		return "RecForget"
	case mtm.Prepare:
		return "Prepare"
	case mtm.Vote:
		return "Vote"
	case mtm.Accept:
		return "Accept"
	case mtm.Accepted:
		return "Accepted"
	case mtm.Collect:
		return "Collect"
	case mtm.Promised:
		return "Promised"
	case mtm.Decided:
		return "Decided"
	case mtm.Finished:
		return "Finished"
	case mtm.Forget:
		return "Forget"
	case coordinator.Apply:
		return "Apply"
	case coordinator.Finish:
		return "Finish"
	case coordinator.AckCapture:
		return "AckCapture"
	case coordinator.Reply:
		return "Reply"
	case pointSynced:
		return "Synced"
	}
	return ""
}

// point is called before each effect of a Ready, to a peer if to is set; false: mtmd is no more.
func (n *node) point(effect any, to mtm.NodeID) bool {
	w := n.w
	if len(w.traps) == 0 {
		return n.alive
	}
	kind := kindOf(effect)
	for i, t := range w.traps {
		if t.kind != kind || t.node != 0 && t.node != n.id {
			continue
		}
		if t.after--; t.after >= 0 {
			continue
		}
		w.traps = append(w.traps[:i:i], w.traps[i+1:]...)
		w.tracef("TRAP n%d before %s: %d", n.id, kind, t.do)
		if t.late == 0 {
			n.harm(t.do, to)
			break
		}
		life := n.life
		w.after(t.late, func() {
			if n.life == life && !w.calm {
				n.harm(t.do, to)
			}
		})
		break
	}
	return n.alive
}

func (n *node) harm(do trapAction, to mtm.NodeID) {
	w := n.w
	switch {
	case do == trapPostgres:
		n.pg.crash()
	case do == trapPower:
		n.pg.crash()
		n.crash()
	case do == trapStorm:
		w.storm(n)
	case do == trapCrash || to == 0:
		n.crash()
	case do == trapLose:
		w.net.lose(to)
	default:
		w.cutFor(n.id, to, do == trapApart, w.between(5*ms, 600*ms))
	}
}

func (w *world) cutFor(a, b mtm.NodeID, both bool, d uint64) {
	w.net.setCut(a, b, true)
	if both {
		w.net.setCut(b, a, true)
	}
	w.after(d, func() {
		w.net.setCut(a, b, false)
		w.net.setCut(b, a, false)
	})
}

// scheduleFaults starts the faults that come by the clock.
func (w *world) scheduleFaults() {
	w.repeatFault(w.linkEvery, w.linkFault)
	w.repeatFault(w.crashEvery, w.crashFault)
	w.repeatFault(w.refereeEvery, w.refereeFault)
	w.repeatFault(w.leaveEvery, w.leaveFault)
	w.repeatFault(w.freezeEvery, func() {
		if n := w.nodes[w.rng.IntN(len(w.nodes))]; n.alive {
			n.freeze(w.between(50*ms, 1500*ms))
		}
	})
}

func (w *world) repeatFault(every uint64, do func()) {
	if every == 0 {
		return
	}
	w.after(w.between(1*ms, 2*every), func() {
		if w.calm {
			return
		}
		do()
		w.repeatFault(every, do)
	})
}

func (w *world) linkFault() {
	a := w.nodes[w.rng.IntN(len(w.nodes))].id
	d := w.between(1*ms, 600*ms)
	if w.rng.IntN(3) == 0 { // alone
		for _, n := range w.nodes {
			if n.id != a {
				w.cutFor(a, n.id, true, d)
			}
		}
		return
	}
	b := w.nodes[w.rng.IntN(len(w.nodes))].id
	if a != b {
		w.cutFor(a, b, w.rng.IntN(2) == 0, d)
	}
}

func (w *world) crashFault() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	switch w.rng.IntN(8) {
	case 0, 1, 2:
		n.crash()
	case 3, 4:
		n.pg.crash()
	case 5, 6:
		n.pg.crash()
		n.crash()
	case 7: // the power goes off in the whole house
		for _, n := range w.nodes {
			n.pg.crash()
			n.crash()
		}
	}
}

// leaveFault stops a node in an orderly way: its process ends when its brain says so. At times the network fails just then.
func (w *world) leaveFault() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if !n.alive {
		return
	}
	w.tracef("n%d LEAVES", n.id)
	n.push(coordinator.Leave{})
	if w.chance(0.4) {
		w.after(w.between(0, 200*ms), func() {
			for _, o := range w.nodes {
				if o != n && !w.calm {
					w.cutFor(n.id, o.id, true, w.between(100*ms, 500*ms))
				}
			}
		})
	}
}

// left: its process ends, in a while; an operator starts it again.
func (n *node) left() {
	life := n.life
	n.w.after(n.w.between(0, 30*ms), func() {
		if n.alive && n.life == life {
			n.crash()
			if n.w.calm {
				n.w.after(20*ms, n.start)
			}
		}
	})
}
