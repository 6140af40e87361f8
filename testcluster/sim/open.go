package main

import (
	"mtm"
	"mtm/coordinator"
)

// This file is about transactions that PostgreSQL cannot prepare. Their session holds them open, so they are lost with it,
// or with PostgreSQL; they are captured while they are open. A transaction id tells whether one was committed.

// holdOpen ends what a client does, but for its COMMIT. The slot delivers it when WAL is flushed.
func (pg *postgres) holdOpen(c *client, fails *mtm.Error) {
	w, n, x, gid := pg.w, c.n, c.x, c.gid
	x.state = xactPreparing // the deferred constraints are checked
	w.after(w.between(50, 4*ms), func() {
		switch {
		case x.state != xactPreparing:
			return
		case n.life != c.life: // its process is gone, so the session ends
			pg.drop(x)
			return
		case fails != nil:
			pg.kill(x, fails)
			return
		}
		x.state, x.life = xactOpen, c.life
		pg.open[gid] = x
		w.check.prepared(n, gid)
		x.ended(end{})
		x.ended = func(end) {}
		if w.chance(0.9) { // else a reconnect of the slot passes over it
			w.after(w.between(30, 6*ms), func() { pg.stream(x) })
		}
		if !w.calm && w.chance(0.15) {
			w.after(w.between(0, 30*ms), func() { pg.breakOpen(x) })
		}
		w.after(w.between(100*ms, 400*ms), func() { // what is not decided by then is given up, if that is possible
			if n.alive && n.life == x.life && x.state == xactOpen {
				n.push(coordinator.Cancelled{GID: gid})
			}
		})
	})
}

// stream delivers it: all of it, for it does nothing more. It may come twice, and after its end.
func (pg *postgres) stream(x *xact) {
	w, n := pg.w, pg.n
	if !n.alive || !pg.up || n.life != x.life {
		return
	}
	rec := w.check.txns[x.gid]
	n.push(coordinator.Captured{GID: x.gid, LSN: mtm.LSN(1000 + x.gid.Seq), Payload: n.payload(rec.images, rec.waitLocal, mtm.PayloadStreamed)})
	if w.chance(0.1) {
		w.after(w.between(1*ms, 100*ms), func() { pg.stream(x) })
	}
}

// finishOpen is COMMIT or ROLLBACK in the session, tried once. COMMIT may fail all the same.
func (pg *postgres) finishOpen(x *xact, commit bool) {
	w, n := pg.w, pg.n
	if x.state != xactOpen {
		return // what is lost is told
	}
	x.state = xactCommitting
	x.commit = commit
	w.after(w.between(50, 3*ms), func() {
		switch {
		case x.state != xactCommitting:
		case commit && !w.calm && w.chance(0.05):
			pg.breakOpen(x)
		default:
			pg.endOpen(x, commit)
			n.post(w.between(20, 3*ms), x.life, coordinator.Finished{GID: x.gid})
		}
	})
}

func (pg *postgres) endOpen(x *xact, commit bool) {
	x.state = xactDead
	pg.forgetLive(x)
	delete(pg.open, x.gid)
	if commit {
		pg.w.tracef("n%d pg committed open %s", pg.n.id, x.gid)
		pg.done[x.gid] = true
		pg.w.check.commit(pg.n, x)
		pg.publish(x)
	} else {
		pg.w.tracef("n%d pg rolled back open %s", pg.n.id, x.gid)
		pg.w.check.rolledBack(pg.n, x.gid, false)
	}
	pg.release(x)
}

// breakOpen ends the session. A COMMIT that was under way may have reached the disk; the process hears the truth, late.
func (pg *postgres) breakOpen(x *xact) {
	w := pg.w
	if x.state != xactOpen && x.state != xactCommitting {
		return
	}
	if x.state == xactCommitting && w.chance(0.5) {
		pg.endOpen(x, x.commit)
		pg.n.post(w.between(20, 30*ms), x.life, coordinator.Finished{GID: x.gid})
		return
	}
	w.tracef("n%d open %s is lost", pg.n.id, x.gid)
	delete(pg.open, x.gid)
	pg.drop(x)
	pg.n.post(w.between(4*ms, 30*ms), x.life, coordinator.Lost{GID: x.gid}) // after Prepared
}

// fateOf asks which were committed. No session of them runs any more.
func (pg *postgres) fateOf(list []coordinator.OpenTxn) (committed []mtm.GID) {
	for _, o := range list {
		if o.XID != 1000+o.GID.Seq {
			pg.w.fail("n%d asks for transaction id %d of %s", pg.n.id, o.XID, o.GID)
		}
		if pg.done[o.GID] && pg.w.plant != plantFateless {
			committed = append(committed, o.GID)
		}
	}
	return committed
}

// confirmOpen asks the session for a sign of life.
func (n *node) confirmOpen(gid mtm.GID) {
	w, life := n.w, n.life
	w.after(w.between(20, 2*ms), func() {
		if x := n.pg.open[gid]; x != nil && x.life == life && x.state == xactOpen && n.alive {
			n.post(w.between(20, 2*ms), life, coordinator.Confirmed{GID: gid})
		}
	})
}
