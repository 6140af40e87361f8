package main

import (
	"fmt"
	"strconv"

	"mtm"
	"mtm/coordinator"
)

// act does what the drivers do.
func (n *node) act(a coordinator.Action) {
	switch a := a.(type) {
	case coordinator.Apply:
		n.apply(a)
	case coordinator.CancelApply:
		n.cancelApply(a.GID)
	case coordinator.Finish:
		n.finish(a, n.life)
	case coordinator.Confirm:
		n.confirmOpen(a.GID)
	case coordinator.AckCapture:
		n.pg.slot.ack(a.LSN)
	case coordinator.OpenGate:
		n.gate.open(a)
	case coordinator.CloseGate:
		n.gate.close(a.Seq)
	case coordinator.Release:
		n.gate.finished()
	case coordinator.StreamJournal:
		n.stream(a)
	case coordinator.StreamAcked:
		n.streamAcked(a)
	case coordinator.ApplyRecovered:
		n.applyRecovered(a)
	case coordinator.Recapture:
		n.recapture()
	case coordinator.Gone:
		n.left()
	case coordinator.TellOutcome:
		n.tellOutcome(a)
	case outcomeAnswer:
		n.w.check.told(n, a.gid, a.commit)
	case coordinator.AskReferee:
		n.ask(a.Request)
	case coordinator.DropPayload:
		if _, ok := n.spills[a.Spill]; !ok && !n.crashed {
			n.w.fail("n%d drops spill file %s, which is not there", n.id, a.Spill)
		}
		delete(n.spills, a.Spill)
	}
}

// apply runs a payload in a transaction of its own, and prepares it.
func (n *node) apply(a coordinator.Apply) {
	w, life := n.w, n.life
	images, ok := n.content(a.Payload)
	if !ok {
		w.fail("n%d applies %s, whose payload is gone: %+v", n.id, a.GID, a.Payload)
		return
	}
	if !n.pg.up {
		n.post(w.between(100, 5*ms), life, coordinator.Applied{GID: a.GID, Err: errShutdown})
		return
	}
	if x := n.pg.prepared[a.GID]; x != nil { // PostgreSQL crashed before it answered, and the driver looks
		n.post(w.between(50, 3*ms), life, coordinator.Applied{GID: a.GID})
		return
	}
	x := n.pg.begin(false)
	x.gid = a.GID
	x.atMark = w.elections && n.brain != nil && a.GID.Gen < n.brain.Status().Generation.Num
	x.stmts = n.statements(a.GID, images)
	x.finished = func() { n.pg.prepare(x, nil) }
	x.ended = func(e end) {
		if e.err != nil && e.err.Code == "02000" && w.users.orders[a.GID].of != nil {
			e.err = mtm.Conflict("Another order was first.")
		}
		n.post(w.between(50, 3*ms), life, coordinator.Applied{GID: a.GID, Err: e.err})
	}
	if u := w.users.byGID[a.GID]; u != nil {
		ended := x.ended
		x.finished = func() { n.pg.prepareUser(x, u, absolute(images)[0], ended) }
	}
	w.after(w.between(50, 1*ms), func() { x.next(0) })
	w.after(20, func() {
		if n.alive && n.life == life {
			n.rumour(a.GID)
		}
	})
}

func absolute(images []image) (list []stmt) {
	for _, im := range images {
		list = append(list, stmt{op: im.op, key: im.key, val: im.val, absolute: true})
	}
	return list
}

// statements are those that apply gid: of an announcement what it announces, of an order its own alone.
func (n *node) statements(gid mtm.GID, images []image) []stmt {
	switch {
	case n.w.users.byGID[gid] != nil:
		images = n.w.users.byGID[gid].images
	case n.w.users.orders[gid].of != nil:
		images = images[:1]
	}
	return absolute(images)
}

// rumour tells the brain that gid and others in flight are in each other's way, as logrep does before they wait when they change
// the same row; here also when they do not: it is a hint, and a wrong one must do no harm.
func (n *node) rumour(gid mtm.GID) {
	if (7*gid.Seq+3*uint64(gid.Origin)+uint64(n.id))%4 != 0 {
		return
	}
	for _, x := range n.pg.live {
		if !x.gid.IsZero() && x.gid.Origin != gid.Origin {
			n.push(coordinator.Blocked{Waiter: gid, Holder: x.gid})
			n.push(coordinator.Blocked{Waiter: x.gid, Holder: gid})
		}
	}
}

// cancelApply is asked again while the apply lasts, as logrep's monitor does: between what a user prepares and what announces it
// there is nothing to cancel, and afterwards there is.
func (n *node) cancelApply(gid mtm.GID) {
	life := n.life
	n.w.after(n.w.between(20, 1*ms), func() {
		for _, x := range n.pg.live {
			switch {
			case n.life != life:
			case x.session || x.gid != gid:
			case x.state == xactActive:
				n.pg.kill(x, &mtm.Error{Code: mtm.CodeQueryCanceled, Msg: "cancelled"})
				return
			case x.user != nil:
				n.w.after(20*ms, func() { n.cancelApply(gid) })
				return
			}
		}
	})
}

// finish runs COMMIT or ROLLBACK PREPARED. After a crash of mtmd one that was sent may still run,
// until the next mtmd starts.
func (n *node) finish(f coordinator.Finish, life uint64) {
	w := n.w
	if f.Open {
		if x := n.pg.open[f.GID]; x != nil && x.life == life {
			n.pg.finishOpen(x, f.Commit)
		}
		return
	}
	w.after(w.between(50, 3*ms), func() {
		gone := !n.alive || n.life != life
		switch {
		case gone && (n.alive || w.chance(0.5)):
		case !n.pg.up && !gone:
			w.after(w.between(1*ms, 20*ms), func() { n.finish(f, life) })
		case n.pg.up:
			n.pg.finish(f.GID, f.Commit)
			if n.pg.ordered[f.GID] != nil {
				w.after(w.between(20, 2*ms), func() { n.carryOut(f, life) })
				return
			}
			n.post(w.between(20, 3*ms), life, coordinator.Finished{GID: f.GID})
		}
	})
}

// payload makes what capture hands over.
func (n *node) payload(images []image, waitLocal bool, flags ...mtm.PayloadFlags) mtm.Payload {
	w := n.w
	w.payloads = append(w.payloads, images)
	id := len(w.payloads) - 1
	p := mtm.Payload{Size: int64(id)}
	for _, f := range flags {
		p.Flags |= f
	}
	if waitLocal {
		p.Flags |= mtm.PayloadWaitLocal
	}
	switch {
	case len(images) == 0:
		p.Flags |= mtm.PayloadEmpty
	case w.chance(w.spill):
		p.Spill = n.newSpill(id)
		return p
	}
	p.Data = strconv.AppendInt(nil, int64(id), 10)
	return p
}

func (n *node) content(p mtm.Payload) ([]image, bool) {
	if p.Spill != "" {
		id, ok := n.spills[p.Spill]
		return n.w.payloads[id], ok
	}
	id, err := strconv.Atoi(string(p.Data))
	if err != nil {
		return nil, false
	}
	return n.w.payloads[id], true
}

func (n *node) newSpill(id int) string {
	name := fmt.Sprintf("n%d-%d-%d", n.id, id, n.w.queue.seq)
	n.spills[name] = id
	return name
}

// cleanSpills removes, at start, the files that no transaction needs.
func (n *node) cleanSpills() {
	needed := n.brain.Spills()
	for name := range n.spills {
		if !needed[name] {
			delete(n.spills, name)
		}
	}
}

// gate gives permits to prepare, as the gateway's does.
type gate struct {
	n           *node
	opened      bool
	seq         uint64 // of the last CloseGate
	closing     bool
	gen         uint64
	next, below uint64
	limit       int
	preparing   int // permits whose Prepared is not out
	unfinished  int // permits whose transaction is not finished everywhere
	queue       []*client
}

func (g *gate) open(a coordinator.OpenGate) {
	g.opened, g.closing, g.gen, g.limit = true, false, a.Gen, a.Limit
	g.next, g.below = max(g.next, a.First), a.Below
	g.grant()
}

func (g *gate) close(seq uint64) {
	g.seq = seq
	g.opened, g.closing = false, true
	g.checkClosed()
}

func (g *gate) checkClosed() {
	if g.closing && g.preparing == 0 {
		g.closing = false
		g.n.push(coordinator.GateClosed{Next: g.next, Seq: g.seq})
	}
}

func (g *gate) request(c *client) {
	g.queue = append(g.queue, c)
	g.grant()
}

// withdraw takes a client out that waits no more.
func (g *gate) withdraw(c *client) {
	for i, q := range g.queue {
		if q == c {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			return
		}
	}
}

func (g *gate) grant() {
	for g.opened && g.next < g.below && g.unfinished < g.limit && len(g.queue) > 0 {
		c := g.queue[0]
		g.queue = g.queue[1:]
		gid := mtm.GID{Origin: g.n.id, Gen: g.gen, Seq: g.next}
		g.next++
		g.preparing++
		g.unfinished++
		c.permitted(gid)
	}
}

func (g *gate) prepared() {
	g.preparing--
	g.checkClosed()
}

func (g *gate) finished() {
	g.unfinished--
	g.grant()
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
