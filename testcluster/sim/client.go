package main

import (
	"slices"

	"mtm"
	"mtm/coordinator"
)

// client runs one transaction after the other, each on a node of its choice.
type client struct {
	w      *world
	id     int
	left   int
	n      *node
	life   uint64 // of n's mtmd
	x      *xact
	gid    mtm.GID
	waits  bool // for a Reply
	empty  bool // wrote only what is not replicated
	local  bool // mtm.wait_peer_commits = off
	open   bool // PostgreSQL cannot prepare it
	user   bool // it is prepared for its user, who ends it later
	orders bool // it ends what a user prepared
	age    uint64
	serial
}

// serial tells one transaction of a client from the next, for what is scheduled.
type serial struct{ turn int }

func newClient(w *world, id int) {
	c := &client{w: w, id: id, left: w.plan.txns}
	w.clients = append(w.clients, c)
	w.after(w.between(0, 50*ms), c.begin)
}

func (c *client) idle() bool { return c.left == 0 && c.n == nil }

// begin starts a transaction on a node that is there, or tries again later.
func (c *client) begin() {
	w := c.w
	if c.left == 0 {
		return
	}
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if !n.alive || !n.pg.up || w.elections && !n.readable() {
		w.after(w.between(5*ms, 60*ms), c.begin)
		return
	}
	c.left--
	c.turn++
	c.n, c.life, c.gid, c.waits = n, n.life, mtm.GID{}, false
	c.empty, c.local = w.chance(w.plan.empty), w.chance(w.waitLoc)
	c.open = !c.empty && w.chance(w.plan.streamed)
	c.user = !c.empty && !c.open && w.chance(w.user)
	c.age = w.now + w.between(0, 20*ms)
	n.sessions = append(n.sessions, c)
	c.x = n.pg.begin(true)
	c.x.stmts = c.statements()
	c.x.finished = c.commit
	c.x.ended = c.ended
	c.x.next(0)
}

func (c *client) statements() []stmt {
	w := c.w
	key := func() int { return w.rng.IntN(w.keys) }
	if c.empty {
		return []stmt{{op: opRead, key: key()}}
	}
	var list []stmt
	for range 1 + w.rng.IntN(2) {
		switch w.rng.IntN(7) {
		case 0:
			list = append(list, stmt{op: opRead, key: key()})
		case 1:
			list = append(list, stmt{op: opInsert, key: key(), val: int64(w.rng.IntN(1000))})
		case 2:
			list = append(list, stmt{op: opDelete, key: key()})
		case 3, 4:
			list = append(list, stmt{op: opUpdate, key: key(), val: 1 + int64(w.rng.IntN(9))})
		default: // a transfer
			d := 1 + int64(w.rng.IntN(9))
			list = append(list, stmt{op: opUpdate, key: key(), val: -d}, stmt{op: opUpdate, key: key(), val: d})
		}
	}
	return list
}

// commit asks for a permit, if there is something to replicate.
func (c *client) commit() {
	if len(c.x.images) == 0 && !c.empty {
		c.n.pg.drop(c.x)
		c.over()
		return
	}
	turn := c.turn
	c.w.after(c.w.between(300*ms, 1*second), func() {
		if c.turn == turn && c.n != nil && c.gid.IsZero() {
			c.n.gate.withdraw(c)
			c.n.pg.kill(c.x, mtm.NotOnline("isolated", ""))
		}
	})
	c.n.gate.request(c)
}

// permitted: the gate has given a number; PREPARE leaves at once.
func (c *client) permitted(gid mtm.GID) {
	w := c.w
	c.gid, c.x.gid = gid, gid
	if c.orders {
		c.permittedOrder(gid)
		return
	}
	if c.user {
		c.permittedUser(gid)
		return
	}
	w.check.begin(gid, c.x.images, c.local)
	w.tracef("n%d client %d asks to commit as %s %v", c.n.id, c.id, gid, c.x.images)
	c.n.push(coordinator.Permitted{GID: gid, Age: c.age})
	var fails *mtm.Error
	if w.chance(0.02) {
		fails = &mtm.Error{Code: "23503", Msg: "deferred constraint"}
	}
	if c.open {
		c.n.pg.holdOpen(c, fails)
		return
	}
	if !w.calm && w.chance(0.02) {
		w.after(w.between(0, 3*ms), func() { c.disconnect(gid) })
	}
	c.n.pg.prepare(c.x, fails)
}

// disconnect: the gateway loses its connection to PostgreSQL while PREPARE runs; PREPARE goes on.
func (c *client) disconnect(gid mtm.GID) {
	if c.gid != gid || c.x.state != xactPreparing || c.x.pg.n.life != c.life || !c.x.pg.n.alive {
		return
	}
	c.w.tracef("n%d client %d is disconnected while PREPARE runs", c.n.id, c.id)
	c.ended(end{err: errShutdown, unknown: true})
	c.x.ended = func(end) {}
}

// ended: the backend has answered PREPARE, or ended the transaction before.
func (c *client) ended(e end) {
	if c.gid.IsZero() {
		c.n.gate.withdraw(c)
		c.over()
		return
	}
	w, n, gid := c.w, c.n, c.gid
	c.waits = e.err == nil
	n.w.after(w.between(10, 3*ms), func() {
		if !n.alive || n.life != c.life || c.gid != gid {
			return
		}
		n.push(coordinator.Prepared{GID: gid, Err: e.err, Unknown: e.unknown, Open: c.open})
		n.gate.prepared()
		if e.err == nil {
			return
		}
		if !e.unknown {
			w.check.failed(n, gid, e.err)
		}
		c.over()
	})
	if e.err == nil && w.chance(w.cancel) {
		n.post(w.between(0, 20*ms), c.life, coordinator.Cancelled{GID: gid})
	}
}

func (c *client) replied(err *mtm.Error) {
	if err == nil {
		c.w.check.acknowledged(c.n, c.gid)
	} else {
		c.w.check.failed(c.n, c.gid, err)
	}
	c.over()
}

// lost: the connection broke, since mtmd is gone.
func (c *client) lost() {
	c.n = nil
	c.again()
}

func (c *client) over() {
	if i := slices.Index(c.n.sessions, c); i >= 0 {
		c.n.sessions = slices.Delete(c.n.sessions, i, i+1)
	}
	c.n = nil
	c.again()
}

func (c *client) again() {
	c.waits, c.gid = false, mtm.GID{}
	c.turn++
	if c.orders {
		c.w.clients = slices.DeleteFunc(c.w.clients, func(other *client) bool { return other == c })
		return
	}
	c.w.after(c.w.between(1*ms, 120*ms), c.begin)
}
