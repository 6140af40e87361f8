package main

import (
	"maps"
	"slices"

	"mtm"
	"mtm/coordinator"
)

// This file is about transactions that users prepare and end later, from any node. The brain knows nothing of them: each is
// announced by an ordinary transaction, which inserts a row for its name, and ended by another, the order, which deletes that row.
// PostgreSQL holds the user's transaction with its locks in between. logrep's user.go is what is modelled here: in what order
// the two are prepared and ended, and what a restart makes of what it finds.
//
// To the checker an order to commit is the transaction that does what the user's did.

// names is how many rows there are for names, behind those that clients change.
const names = 2

// userTxn is what a user prepared, by the name of its announcement.
type userTxn struct {
	gid    mtm.GID
	images []image
	name   int // row
}

// userOrder is what a transaction orders.
type userOrder struct {
	of     *userTxn
	commit bool
}

// users is what is known of them.
type users struct {
	byGID  map[mtm.GID]*userTxn
	byVal  map[int64]*userTxn // by what is in the row of the name
	orders map[mtm.GID]userOrder
}

func newUsers() users {
	return users{byGID: map[mtm.GID]*userTxn{}, byVal: map[int64]*userTxn{}, orders: map[mtm.GID]userOrder{}}
}

// rowsInAll are those of clients, and those of names.
func (w *world) rowsInAll() int {
	if w.user == 0 {
		return w.keys
	}
	return w.keys + names
}

// announced: the announcement is committed here, and no order is.
func (pg *postgres) announced(u *userTxn) bool {
	r := &pg.rows[u.name]
	return r.exists && r.last == u.gid
}

// permittedUser prepares what a client did for its user, and announces it.
func (c *client) permittedUser(gid mtm.GID) {
	w, n, x := c.w, c.n, c.x
	val := int64(gid.Origin)<<32 | int64(gid.Seq)
	u := &userTxn{gid: gid, images: slices.Clone(x.images), name: w.keys + w.rng.IntN(names)}
	w.users.byGID[gid], w.users.byVal[val] = u, u
	w.check.begin(gid, nil, c.local)
	x.life = n.life
	w.tracef("n%d client %d prepares %v for a user, by %s", n.id, c.id, x.images, gid)
	n.push(coordinator.Permitted{GID: gid, Age: c.age})
	n.pg.prepareUser(x, u, stmt{op: opInsert, key: u.name, val: val, absolute: true}, c.ended)
}

// prepareUser prepares x as the user's transaction, then announces it by inserting its name.
func (pg *postgres) prepareUser(x *xact, u *userTxn, name stmt, ended func(end)) {
	w, life := pg.w, pg.n.life
	// What failed is undone before anybody hears of it. Of a session that is lost meanwhile nobody knows.
	failed := func(e end) {
		if x.session {
			e.unknown = e.unknown || !pg.up
			if !e.unknown {
				pg.dropUser(u)
			}
			ended(e)
			return
		}
		pg.undoUser(u, life, ended, e)
	}
	x.user = u
	x.gid = u.gid
	x.ended = func(e end) {
		if e.err != nil {
			failed(e)
			return
		}
		y := pg.begin(x.session)
		y.gid, y.atMark, y.items = u.gid, x.atMark, x.items
		y.stmts = []stmt{name}
		y.ended = func(e end) {
			if e.err == nil {
				ended(e)
				return
			}
			if e.err.Code == "23505" {
				e.err = &mtm.Error{Code: "42710", Msg: "the name is in use"}
			}
			failed(e)
		}
		y.finished = func() {
			if len(y.items) > 0 {
				pg.commit(y)
				return
			}
			if y.session {
				w.check.txns[u.gid].images = slices.Clone(y.images)
			}
			pg.prepare(y, nil)
		}
		w.after(w.between(20, 1*ms), func() { y.next(0) })
		if y.session { // lock_timeout of mtm.announce_prepared
			w.after(1*second, func() {
				if y.state == xactActive {
					pg.kill(y, &mtm.Error{Code: "55P03", Msg: "canceling statement due to lock timeout"})
				}
			})
		}
	}
	pg.prepare(x, nil)
}

// userPrepared: PostgreSQL holds it, whoever is there to hear.
func (pg *postgres) userPrepared(x *xact) {
	w, n := pg.w, pg.n
	x.state = xactPrepared
	pg.forgetLive(x)
	pg.user[x.user.gid] = x
	w.tracef("n%d pg prepared what %s announces", n.id, x.gid)
	life := x.life
	if !x.session || life == n.life && n.alive {
		return
	}
	// It landed after its session was gone, so the slot delivers what nobody announces.
	w.after(w.between(1*ms, 20*ms), func() {
		if n.alive && pg.up && pg.user[x.user.gid] == x {
			n.push(coordinator.Captured{GID: x.gid, Payload: mtm.Payload{Flags: mtm.PayloadEmpty}})
		}
	})
}

// dropUser rolls it back, unless it is announced.
func (pg *postgres) dropUser(u *userTxn) {
	x := pg.user[u.gid]
	if x == nil || pg.announced(u) || pg.hasOrder(u) {
		return
	}
	pg.w.tracef("n%d pg rolled back what %s announces", pg.n.id, u.gid)
	delete(pg.user, u.gid)
	x.state = xactDead
	pg.release(x)
}

// undoUser does so as soon as PostgreSQL is there, if its announcement is not prepared after all: the driver looks. A process
// that has ended does nothing.
func (pg *postgres) undoUser(u *userTxn, life uint64, ended func(end), e end) {
	n := pg.n
	switch {
	case n.life != life || !n.alive:
	case !pg.up:
		pg.w.after(3*ms, func() { pg.undoUser(u, life, ended, e) })
	case pg.prepared[u.gid] != nil:
		ended(end{})
	default:
		pg.dropUser(u)
		ended(e)
	}
}

// hasOrder: an order is committed here and not carried out yet.
func (pg *postgres) hasOrder(u *userTxn) bool {
	for gid := range pg.ordered {
		if pg.w.users.orders[gid].of == u {
			return true
		}
	}
	return false
}

// carryOut ends what an order that is committed here wants ended.
func (pg *postgres) carryOut(gid mtm.GID) {
	x := pg.ordered[gid]
	if x == nil {
		return
	}
	o := pg.w.users.orders[gid]
	delete(pg.ordered, gid)
	h := pg.user[o.of.gid]
	if h == nil {
		pg.w.fail("S8 n%d has nothing prepared for %s, which %s ends", pg.n.id, o.of.gid, gid)
		return
	}
	delete(pg.user, o.of.gid)
	h.state = xactDead
	pg.w.tracef("n%d pg carries out %s, commit %v, of %s", pg.n.id, gid, o.commit, o.of.gid)
	if o.commit {
		x.held = append(x.held, h.held...)
		h.held = nil
		x.images = append(x.images, o.of.images...)
	} else {
		pg.release(h)
	}
	if len(x.items) == 0 {
		pg.w.check.commit(pg.n, x)
		pg.publish(x)
	} else {
		pg.publishRecovered(x)
	}
	pg.release(x)
}

// carryOutAll does so for whatever was left.
func (pg *postgres) carryOutAll() {
	for _, gid := range slices.SortedFunc(maps.Keys(pg.ordered), compareGID) {
		pg.carryOut(gid)
	}
}

// startUsers is what a new mtmd does before it lists what is prepared.
func (pg *postgres) startUsers() {
	if pg.w.plant != plantOrderLost {
		pg.carryOutAll()
	}
	for _, gid := range slices.SortedFunc(maps.Keys(pg.user), compareGID) {
		if pg.prepared[gid] == nil || pg.w.plant == plantUserDropped {
			pg.dropUser(pg.w.users.byGID[gid])
		}
	}
}

func compareGID(a, b mtm.GID) int {
	switch {
	case a == b:
		return 0
	case a.Less(b):
		return -1
	}
	return 1
}

// ender ends what users have prepared, by its name, from any node; several of them compete.
func (w *world) ender() {
	w.after(w.between(10*ms, 150*ms), w.ender)
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	name := w.keys + w.rng.IntN(names)
	if !n.alive || !n.pg.up || !n.readable() || !n.pg.rows[name].exists {
		return
	}
	c := &client{w: w, id: 100 + name, n: n, life: n.life, age: w.now, orders: true}
	w.clients = append(w.clients, c)
	n.sessions = append(n.sessions, c)
	c.x = n.pg.begin(true)
	c.x.stmts = []stmt{{op: opDelete, key: name}}
	c.x.finished, c.x.ended = c.commit, c.ended
	c.x.next(0)
}

// permittedOrder: what the name stands for is known, now that its row is locked.
func (c *client) permittedOrder(gid mtm.GID) {
	w, n, x := c.w, c.n, c.x
	u := w.users.byVal[n.pg.rows[x.images[0].key].val]
	o := userOrder{of: u, commit: w.chance(0.5)}
	w.users.orders[gid] = o
	images := slices.Clone(x.images)
	if o.commit {
		images = append(images, u.images...)
	}
	w.check.begin(gid, images, false)
	w.tracef("n%d orders by %s, commit %v, the end of %s", n.id, gid, o.commit, u.gid)
	n.push(coordinator.Permitted{GID: gid, Age: c.age})
	if n.pg.user[u.gid] == nil {
		w.fail("S8 n%d does not hold what %s announced", n.id, u.gid)
		return
	}
	n.pg.prepare(x, nil)
}

// unrestOfUsers says what is left of what users prepared.
func (n *node) unrestOfUsers() bool { return len(n.pg.user)+len(n.pg.ordered) > 0 }

// carryOut is what the driver does when an order is committed; only then it is finished.
func (n *node) carryOut(f coordinator.Finish, life uint64) {
	switch {
	case n.life != life || !n.alive && n.w.chance(0.5):
	case !n.pg.up:
		n.finish(f, life)
	default:
		n.pg.carryOut(f.GID)
		n.post(n.w.between(20, 3*ms), life, coordinator.Finished{GID: f.GID})
	}
}
