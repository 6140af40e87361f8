package main

import (
	"slices"

	"mtm"
)

type opKind int

const (
	opRead opKind = iota
	opInsert
	opUpdate
	opDelete
)

// stmt is one statement on one row. A session's update adds to what it finds; an applied one sets (absolute).
type stmt struct {
	op       opKind
	key      int
	val      int64
	absolute bool
}

// image is a row change as pgoutput carries it; prev is the version that the origin changed.
type image struct {
	op   opKind
	key  int
	val  int64
	prev mtm.GID
}

// row is one row: what is committed, and who has it locked with what it will become.
type row struct {
	exists  bool
	val     int64
	last    mtm.GID // who wrote the committed version
	version int     // committed changes so far
	holder  *xact
	pending struct {
		exists bool
		val    int64
	}
	queue []*xact
}

// postgres is a node's database: committed rows, row locks, prepared transactions that survive crashes, one slot.
type postgres struct {
	w         *world
	n         *node
	up        bool
	rows      []row
	live      []*xact // sessions' and applies' transactions, not prepared
	prepared  map[mtm.GID]*xact
	open      map[mtm.GID]*xact // held by sessions; kept when they are gone until the process knows
	done      map[mtm.GID]bool  // those of open that were committed: what the transaction id tells
	user      map[mtm.GID]*xact // prepared by users, by their announcements
	ordered   map[mtm.GID]*xact // orders that are committed and not carried out yet
	slot      slot
	recovered uint64 // ApplyRecovered.At, kept with the data
}

func newPostgres(w *world, n *node) *postgres {
	pg := &postgres{w: w, n: n, up: true, rows: make([]row, w.rowsInAll()), prepared: map[mtm.GID]*xact{},
		user: map[mtm.GID]*xact{}, ordered: map[mtm.GID]*xact{},
		open: map[mtm.GID]*xact{}, done: map[mtm.GID]bool{}}
	for k := range pg.rows {
		pg.rows[k].exists, pg.rows[k].val = k%2 == 0 && k < w.keys, 100
	}
	pg.slot.pg = pg
	return pg
}

type result int

const (
	resDone result = iota
	resBlocked
	resNotFound
	resDuplicate
)

// exec tries a statement. What another transaction has written and not committed is not visible: a row that exists
// and is locked makes the statement wait; one that is only being inserted is not there, but blocks an insert.
func (pg *postgres) exec(x *xact, s stmt) result {
	r := &pg.rows[s.key]
	mine := r.holder == x
	if s.op == opRead {
		pg.w.check.read(pg.n, s.key)
		return resDone
	}
	exists, val := r.exists, r.val
	if mine {
		exists, val = r.pending.exists, r.pending.val
	}
	if !mine && r.holder != nil {
		if s.op == opInsert || exists {
			return resBlocked
		}
		return resNotFound
	}
	if s.op == opInsert && exists {
		return resDuplicate
	}
	if s.op != opInsert && !exists {
		return resNotFound
	}
	if !mine {
		r.holder = x
		x.held = append(x.held, s.key)
	}
	switch {
	case s.absolute || s.op == opInsert:
		val = s.val
	case s.op == opUpdate:
		val += s.val
	}
	r.pending.exists, r.pending.val = s.op != opDelete, val
	x.images = append(x.images, image{s.op, s.key, val, r.last})
	return resDone
}

// prepare makes x prepared after a while. fails is what it ends with instead, if set.
func (pg *postgres) prepare(x *xact, fails *mtm.Error) {
	x.state = xactPreparing
	pg.w.after(pg.w.between(50, 4*ms), func() {
		switch {
		case x.state != xactPreparing: // PostgreSQL crashed
		case fails != nil:
			pg.kill(x, fails)
		default:
			pg.nowPrepared(x)
			x.ended(end{})
		}
	})
}

func (pg *postgres) nowPrepared(x *xact) {
	if x.user != nil {
		pg.userPrepared(x)
		return
	}
	x.state = xactPrepared
	pg.forgetLive(x)
	pg.prepared[x.gid] = x
	pg.w.check.prepared(pg.n, x.gid)
	pg.w.tracef("n%d pg prepared %s", pg.n.id, x.gid)
	if x.session {
		pg.slot.add(x.gid)
	}
}

// finish is COMMIT PREPARED or ROLLBACK PREPARED; an unknown gid is done already.
func (pg *postgres) finish(gid mtm.GID, commit bool) {
	x := pg.prepared[gid]
	delete(pg.prepared, gid)
	if u := pg.w.users.byGID[gid]; u != nil && !commit {
		pg.dropUser(u)
	}
	if x == nil {
		return
	}
	if pg.w.users.orders[gid].of != nil && commit {
		pg.w.tracef("n%d pg committed order %s", pg.n.id, gid)
		pg.ordered[gid] = x
		return
	}
	x.state = xactDead
	if commit {
		pg.w.tracef("n%d pg committed %s", pg.n.id, gid)
		pg.w.check.commit(pg.n, x)
		pg.publish(x)
	} else {
		pg.w.tracef("n%d pg rolled back %s", pg.n.id, gid)
		pg.w.check.rolledBack(pg.n, gid, x.atMark)
	}
	pg.release(x)
}

// publish makes the writes of x the committed ones.
func (pg *postgres) publish(x *xact) {
	for _, k := range x.held {
		r := &pg.rows[k]
		r.exists, r.val, r.last = r.pending.exists, r.pending.val, x.gid
		r.version++
	}
}

// release gives the locks of x to whoever waits.
func (pg *postgres) release(x *xact) {
	for _, k := range x.held {
		pg.rows[k].holder = nil
		if len(pg.rows[k].queue) > 0 {
			pg.w.after(pg.w.between(1, 50), func() { pg.wakeWaiters(k) })
		}
	}
	x.held = nil
}

func (pg *postgres) wakeWaiters(k int) {
	r := &pg.rows[k]
	for r.holder == nil && len(r.queue) > 0 {
		x := r.queue[0]
		r.queue = r.queue[1:]
		x.waitsOn = -1
		x.next(x.at)
	}
}

// kill ends a transaction that is not prepared.
func (pg *postgres) kill(x *xact, err *mtm.Error) {
	pg.drop(x)
	x.ended(end{err: err})
}

func (pg *postgres) drop(x *xact) {
	x.state = xactDead
	pg.forgetLive(x)
	if x.waitsOn >= 0 {
		r := &pg.rows[x.waitsOn]
		if i := slices.Index(r.queue, x); i >= 0 {
			r.queue = slices.Delete(r.queue, i, i+1)
		}
		x.waitsOn = -1
	}
	pg.release(x)
}

func (pg *postgres) forgetLive(x *xact) {
	if i := slices.Index(pg.live, x); i >= 0 {
		pg.live = slices.Delete(pg.live, i, i+1)
	}
}

func (pg *postgres) preparedGIDs() []mtm.GID {
	var list []mtm.GID
	for gid := range pg.prepared {
		list = append(list, gid)
	}
	slices.SortFunc(list, func(a, b mtm.GID) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	return list
}
