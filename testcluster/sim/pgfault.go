package main

import (
	"slices"

	"mtm"
)

// This file is how the fake PostgreSQL crashes, and what is left of sessions whose mtmd is gone.

var errShutdown = &mtm.Error{Code: mtm.CodeAdminShutdown, Msg: "terminating connection"}

// crash loses everything but what is committed or prepared. A PREPARE under way may have reached the disk.
func (pg *postgres) crash() {
	if !pg.up {
		return
	}
	pg.w.tracef("n%d CRASH of postgres", pg.n.id)
	pg.up = false
	for _, x := range slices.Clone(pg.live) {
		if x.state == xactOpen || x.state == xactCommitting {
			pg.breakOpen(x)
			continue
		}
		asked := x.state == xactPreparing
		if asked && pg.w.chance(0.5) {
			pg.land(x)
			x.ended(end{err: errShutdown, unknown: true})
			continue
		}
		pg.drop(x)
		x.ended(end{err: errShutdown, unknown: asked})
	}
	pg.slot.crashed()
	if !pg.w.calm {
		pg.w.after(pg.w.between(10*ms, 400*ms), pg.start)
	}
}

func (pg *postgres) start() {
	if pg.up {
		return
	}
	pg.w.tracef("n%d postgres is up", pg.n.id)
	pg.up = true
	pg.slot.reconnect()
}

// clientsGone: mtmd has crashed. Backends notice in a while; a PREPARE that was sent goes on.
func (pg *postgres) clientsGone() {
	for _, x := range slices.Clone(pg.live) {
		x.ended, x.finished = func(end) {}, func() {}
		if x.state == xactOpen || x.state == xactCommitting {
			pg.w.after(pg.w.between(0, 20*ms), func() { pg.breakOpen(x) })
			continue
		}
		pg.w.after(pg.w.between(0, 20*ms), func() {
			if x.state == xactActive {
				pg.drop(x)
			}
		})
	}
}

// endAll terminates the backends that apply before a new mtmd lists what is prepared. Those of clients may end later,
// and a PREPARE of theirs land after it.
func (pg *postgres) endAll() {
	for _, x := range slices.Clone(pg.live) {
		if x.state == xactOpen || x.state == xactCommitting {
			pg.breakOpen(x) // Open asks for their fate, so they are waited for
			continue
		}
		if x.session && pg.w.chance(0.5) {
			continue
		}
		if x.state == xactPreparing && pg.w.chance(0.5) {
			pg.land(x)
			continue
		}
		pg.drop(x)
	}
}

// slot is the one logical slot: own transactions in the order of their PREPAREs.
type slot struct {
	pg       *postgres
	entries  []mtm.GID // LSN i+1 at i
	acked    int       // as the running PostgreSQL knows
	saved    int       // as it will know after a crash
	pos      int       // next to deliver
	conn     uint64
	inFlight bool
}

func (s *slot) add(gid mtm.GID) {
	s.entries = append(s.entries, gid)
	s.pump()
}

func (s *slot) ack(l mtm.LSN) {
	s.acked = max(s.acked, int(l))
	if s.pg.w.chance(0.1) {
		s.saved = s.acked
	}
}

func (s *slot) crashed() {
	s.conn++
	s.inFlight = false
	if !s.pg.n.alive || s.pg.w.chance(0.3) {
		s.acked = s.saved // else mtmd asks to start where it was
	}
}

// reconnect: a new capture starts after what was acknowledged.
func (s *slot) reconnect() {
	s.conn++
	s.inFlight = false
	s.pos = s.acked
	s.pump()
}

// pass makes a new slot in place of the old one: what was added is not delivered.
func (s *slot) pass() {
	s.acked, s.saved = len(s.entries), len(s.entries)
	s.reconnect()
}

// pump delivers one after the other. The content of one that was rolled back meanwhile may be cut short.
func (s *slot) pump() {
	w, n := s.pg.w, s.pg.n
	if s.inFlight || !n.alive || !s.pg.up || s.pos >= len(s.entries) {
		return
	}
	s.inFlight = true
	conn := s.conn
	w.after(w.between(30, 4*ms), func() {
		if s.conn != conn || !n.alive || !s.pg.up {
			return
		}
		s.inFlight = false
		s.deliver(s.entries[s.pos], mtm.LSN(s.pos+1))
		s.pos++
		s.pump()
	})
}

// land: a PREPARE, or a COMMIT, that was under way has reached the disk.
func (pg *postgres) land(x *xact) {
	if len(x.items) > 0 && x.user == nil {
		pg.nowCommitted(x)
		return
	}
	pg.nowPrepared(x)
}
