package main

import (
	"mtm"
	"mtm/coordinator"
)

type xactState int

const (
	xactActive xactState = iota
	xactPreparing
	xactPrepared
	xactOpen       // its session holds it instead of a PREPARE
	xactCommitting // … and was told to commit
	xactDead
)

// end is how a transaction left its backend: prepared if err is nil.
type end struct {
	err     *mtm.Error
	unknown bool // the connection was lost while PREPARE ran
}

// xact is one transaction in one PostgreSQL, a client's or an applied one.
type xact struct {
	pg       *postgres
	session  bool
	gid      mtm.GID // once it has one
	state    xactState
	stmts    []stmt
	at       int // the statement that runs
	waitsOn  int // row that at waits for, or -1
	images   []image
	held     []int
	finished func() // after the last statement
	ended    func(end)
	atMark   bool          // prepared by recovery, without a vote
	life     uint64        // of the mtmd whose session holds it open
	commit   bool          // … and what it was told to do
	items    []recoverItem // recovered transactions, committed together
	user     *userTxn      // it is what a user prepares
	behind   int           // looks at which it waited for what a user had prepared
}

// How long, in simulated microseconds.
const (
	conflictGrace   = 10 * ms
	blockedAgain    = 60 * ms
	deadlockTimeout = 80 * ms
)

func (pg *postgres) begin(session bool) *xact {
	x := &xact{pg: pg, session: session, waitsOn: -1}
	pg.live = append(pg.live, x)
	return x
}

// next runs the statements from i on.
func (x *xact) next(i int) {
	if x.state != xactActive {
		return
	}
	if x.session && x.pg.n.frozen > x.pg.w.now {
		x.pg.w.at(x.pg.n.frozen, func() { x.next(i) })
		return
	}
	x.at = i
	if i == len(x.stmts) {
		x.finished()
		return
	}
	s := x.stmts[i]
	w := x.pg.w
	if x.session && s.op == opRead && !x.pg.n.readable() {
		x.pg.kill(x, mtm.NotOnline(mtm.StatusIsolated, "no lease"))
		return
	}
	switch res := x.pg.exec(x, s); {
	case res == resBlocked:
		x.block(s.key)
	case res == resDuplicate:
		x.pg.kill(x, &mtm.Error{Code: "23505", Msg: "duplicate key"})
	case res == resNotFound && !x.session:
		x.pg.kill(x, &mtm.Error{Code: "02000", Msg: "row not found"})
	default:
		w.after(w.between(20, 2*ms), func() { x.next(i + 1) })
	}
}

// block queues x for a row, watched by deadlock detection and, for an apply, by the conflict monitor.
func (x *xact) block(key int) {
	r := &x.pg.rows[key]
	x.waitsOn = key
	r.queue = append(r.queue, x)
	x.pg.w.after(deadlockTimeout, func() { x.checkDeadlock(key) })
	if !x.session {
		x.pg.w.after(conflictGrace, func() { x.conflict(key) })
	}
}

func (x *xact) checkDeadlock(key int) {
	if x.state != xactActive || x.waitsOn != key {
		return
	}
	h := x.pg.rows[key].holder
	for range x.pg.live {
		if h == nil || h.waitsOn < 0 {
			return
		}
		if h = x.pg.rows[h.waitsOn].holder; h == x {
			x.pg.kill(x, &mtm.Error{Code: "40P01", Msg: "deadlock detected"})
			return
		}
	}
}

// conflict is what logrep's monitor does about an apply that waits: doom an open session, else ask the brain, and
// ask it again while the wait lasts.
func (x *xact) conflict(key int) {
	if x.state != xactActive || x.waitsOn != key {
		return
	}
	w, n := x.pg.w, x.pg.n
	h := x.pg.rows[key].holder
	again := uint64(5 * ms)
	switch {
	case h == nil || h.state == xactPreparing && h.session:
	case h.session && h.state == xactActive:
		w.tracef("n%d %s dooms a session", n.id, x.gid)
		x.pg.kill(h, mtm.Conflict("Doomed by an older transaction."))
	case h.user != nil && x.pg.announced(h.user):
		if x.behind++; x.behind > 20 {
			w.tracef("n%d %s is refused: it waits for what a user prepared", n.id, x.gid)
			x.pg.kill(x, mtm.Conflict("A user's prepared transaction has locks that it needs."))
			return
		}
	default:
		if n.alive {
			n.push(coordinator.Blocked{Waiter: x.gid, Holder: h.gid})
		}
		again = blockedAgain
	}
	w.after(again, func() { x.conflict(key) })
}

// deliver hands one transaction to the brain.
func (s *slot) deliver(gid mtm.GID, lsn mtm.LSN) {
	w, n := s.pg.w, s.pg.n
	rec := w.check.txns[gid]
	images := rec.images
	if rec.rolled.Has(n.id) && len(images) > 0 && w.chance(0.5) {
		images = images[:w.rng.IntN(len(images))]
	}
	n.rumour(gid)
	var flags []mtm.PayloadFlags
	if w.users.byGID[gid] != nil || w.users.orders[gid].of != nil {
		flags = append(flags, mtm.PayloadDDL) // so that nothing of it is applied early
	}
	n.push(coordinator.Captured{GID: gid, LSN: lsn, Payload: n.payload(images, rec.waitLocal, flags...)})
}
