package main

import (
	"mtm"
	"mtm/coordinator"
)

// node is one machine: a PostgreSQL and the mtmd beside it, each of which can crash alone.
type node struct {
	w    *world
	id   mtm.NodeID
	pg   *postgres
	disk disk

	// The life of one mtmd process.
	alive    bool
	life     uint64 // incarnation; grows with each start
	born     uint64
	frozen   uint64  // the process stands still until then
	rate     float64 // of its clock
	streams  map[mtm.NodeID]*stream
	recQueue []coordinator.ApplyRecovered
	recBusy  bool
	brain    *coordinator.Node
	inbox    []coordinator.Event
	busy     bool // a turn is under way, or will be
	outbox   []coordinator.Ready
	writing  bool // the journal's writer is at work
	gate     gate
	sessions []*client // connected now
	spills   map[string]int
	crashed  bool // ever
	absent   bool // not added yet, or gone for ever
}

func newNode(w *world, id mtm.NodeID) *node {
	n := &node{w: w, id: id, spills: map[string]int{}, rate: 1}
	if w.drift > 0 {
		n.rate += w.drift * (2*w.rng.Float64() - 1)
	}
	n.pg = newPostgres(w, n)
	return n
}

// start is a new mtmd process: read the journal, meet PostgreSQL, go.
func (n *node) start() {
	w := n.w
	if n.alive || n.absent {
		return
	}
	if !n.pg.up {
		w.after(20*ms, n.start)
		return
	}
	n.life++
	n.alive, n.busy, n.born, n.inbox = true, true, w.now, nil
	n.outbox, n.writing = nil, false
	n.gate = gate{n: n}
	n.streams, n.recQueue, n.recBusy, n.frozen = map[mtm.NodeID]*stream{}, nil, false, 0
	cfg := w.plan.config()
	cfg.ID = n.id
	cfg.Generation = mtm.Generation{Num: 1, Members: w.initial, Configured: w.initial}
	cfg.Incarnation = n.life
	n.pg.endAll() // nothing of the earlier life may prepare after this
	cfg.Recovered = n.pg.recovered
	n.brain = coordinator.New(cfg)
	for _, r := range n.disk.records[n.disk.base:] {
		n.brain.Replay(r)
	}
	n.pg.startUsers()
	held, committed := n.pg.preparedGIDs(), n.pg.fateOf(n.brain.Open())
	w.tracef("n%d START life %d, journal of %d records, prepared %v", n.id, n.life, len(n.disk.records), held)
	n.cleanSpills()
	n.brain.Start(held, committed...)
	w.net.restarted(n.id)
	n.pg.slot.reconnect()
	n.tick(n.life)
	n.hand()
}

// crash ends the mtmd process at this very moment.
func (n *node) crash() {
	if !n.alive {
		return
	}
	w := n.w
	w.tracef("n%d CRASH of mtmd", n.id)
	n.alive, n.crashed, n.brain, n.inbox = false, true, nil, nil
	before := n.disk.durable
	n.disk.crash(w)
	for _, r := range n.disk.records[min(before, len(n.disk.records)):] {
		w.check.durable(n, r) // it reached the disk after all
	}
	n.pg.clientsGone()
	for _, c := range append([]*client(nil), n.sessions...) {
		c.lost()
	}
	n.sessions = n.sessions[:0]
	w.net.crashed(n.id)
	if w.calm {
		return
	}
	if w.mode == modeAmnesia && w.chance(0.8) {
		w.after(w.between(100, 2*ms), n.start)
		return
	}
	if w.storms > 0 {
		w.after(w.between(1*ms, 60*ms), n.start)
		return
	}
	if w.elections && w.chance(w.longAway) {
		w.after(w.between(300*ms, 2500*ms), n.start)
		return
	}
	w.after(pick(w.rng, w.between(1*ms, 30*ms), w.between(50*ms, 1*second)), n.start)
}

func (n *node) tick(life uint64) {
	if !n.alive || n.life != life {
		return
	}
	n.push(coordinator.Tick{Now: n.clock()})
	if n.w.plant == plantEarlyClear {
		n.clearTooEarly()
	}
	n.w.after(n.w.plan.tick, func() { n.tick(life) })
}

// push puts an event into the inbox and sees that somebody takes it out.
func (n *node) push(ev coordinator.Event) {
	n.inbox = append(n.inbox, ev)
	if !n.busy {
		n.busy = true
		n.wake()
	}
}

// post is push after a delay, unless the process has ended by then.
func (n *node) post(d uint64, life uint64, ev coordinator.Event) {
	n.w.after(d, func() {
		if n.alive && n.life == life {
			n.push(ev)
		}
	})
}

func (n *node) wake() {
	life := n.life
	n.w.after(n.w.between(5, 100), func() {
		switch {
		case !n.alive || n.life != life:
		case n.frozen > n.w.now:
			n.w.at(n.frozen, n.wake)
		default:
			n.turn()
		}
	})
}

// received takes a message from the network; a spilled payload is written to a file of this node first.
func (n *node) received(m mtm.Message) {
	if p, ok := m.Body.(mtm.Prepare); ok && p.Payload.Spill != "" {
		p.Payload.Spill = n.newSpill(int(p.Payload.Size))
		m.Body = p
	}
	n.push(coordinator.Received{Message: m})
}

// turn drains some of the inbox. What may happen at once does; the rest waits for the writer, and the brain goes on
// meanwhile, as in mtmd.
func (n *node) turn() {
	k := min(len(n.inbox), 1+n.w.rng.IntN(n.w.batch))
	for _, ev := range n.inbox[:k] {
		n.w.traceEvent(n, ev)
		n.brain.Step(ev)
	}
	n.inbox = append(n.inbox[:0], n.inbox[k:]...)
	n.hand()
}

// hand starts what may start at once, and queues the rest; a crash may come before each single effect.
func (n *node) hand() {
	r := n.brain.Ready()
	n.w.traceReady(n, r)
	if n.w.chance(n.w.compact) && len(n.disk.records) > 6 {
		n.w.tracef("   n%d checkpoint", n.id)
		r.Persist = append(r.Persist, n.brain.Checkpoint()...)
	}
	r.Do = append(r.Do, n.askOutcome()...)
	if !n.sendAll(r.Forward) || !n.actAll(r.Start) {
		return
	}
	if n.w.plant == plantSend {
		if !n.sendAll(r.Send) {
			return
		}
		r.Send = nil
	}
	n.outbox = append(n.outbox, r)
	if !n.writing {
		n.writing = true
		n.write()
	}
	n.turnDone()
}

// write journals what is queued, with one sync if any record wants it, and then lets the rest of it happen.
func (n *node) write() {
	batch := n.outbox
	n.outbox = nil
	sync, mark := false, -1
	for _, r := range batch {
		for _, rec := range r.Persist {
			if !n.point(rec, 0) {
				return
			}
			if _, ok := rec.(mtm.RecCheckpoint); ok {
				mark = len(n.disk.records)
			}
			n.disk.append(rec)
			sync = sync || rec.Sync()
		}
	}
	if !sync {
		n.release(batch)
		return
	}
	life := n.life
	n.w.after(n.w.between(50, n.w.fsync), n.unlessFrozen(func() {
		if n.alive && n.life == life && n.synced() {
			if mark >= 0 {
				n.disk.shorten(mark, n.w.elections)
			}
			n.release(batch)
		}
	}))
}

// unlessFrozen puts off what a frozen process cannot do.
func (n *node) unlessFrozen(do func()) func() {
	return func() {
		if n.frozen > n.w.now {
			n.w.at(n.frozen, do)
			return
		}
		do()
	}
}

// clock is what the process reads, in milliseconds since it started.
func (n *node) clock() uint64 { return uint64(float64(n.w.now-n.born)*n.rate) / ms }

// freeze stops the process, but not its PostgreSQL.
func (n *node) freeze(d uint64) {
	w := n.w
	w.tracef("n%d FREEZE for %d ms", n.id, d/ms)
	n.frozen = max(n.frozen, w.now+d)
	w.net.crashed(n.id)
	w.at(n.frozen, func() { w.net.crashed(n.id) })
}

// readable reports whether the gateway may answer a read now.
func (n *node) readable() bool {
	if !n.w.elections {
		return true
	}
	if !n.alive || n.brain == nil || !n.pg.up || n.frozen > n.w.now {
		return false
	}
	st := n.brain.Status()
	if n.w.plant == plantNoLease {
		return st.Status == mtm.StatusOnline || st.Status == mtm.StatusIsolated
	}
	end := st.LeaseEnd
	if n.w.plant == plantNoWait && end > 0 {
		end += 250 // as if its peer had not waited for the lease
	}
	return end > n.clock()
}

// synced: the fsync has returned.
func (n *node) synced() bool {
	for _, rec := range n.disk.sync() {
		n.w.check.durable(n, rec)
	}
	return n.point(pointSynced{}, 0)
}

// release is what follows Persist.
func (n *node) release(batch []coordinator.Ready) {
	for _, r := range batch {
		if !n.sendAll(r.Send) || !n.actAll(r.Do) {
			return
		}
		for _, rep := range r.Reply {
			if !n.point(rep, 0) {
				return
			}
			n.reply(rep)
		}
	}
	n.writing = false
	if len(n.outbox) > 0 {
		n.writing = true
		n.write()
	}
}

func (n *node) turnDone() {
	if len(n.inbox) > 0 {
		n.wake()
		return
	}
	n.busy = false
}

func (n *node) sendAll(list []mtm.Message) bool {
	for _, m := range list {
		if !n.point(m.Body, m.To) {
			return false
		}
		n.w.net.send(m)
	}
	return true
}

func (n *node) actAll(list []coordinator.Action) bool {
	for _, a := range list {
		if !n.point(a, 0) {
			return false
		}
		n.act(a)
	}
	return true
}

func (n *node) reply(r coordinator.Reply) {
	for _, c := range n.sessions {
		if c.gid == r.GID && c.waits {
			c.replied(r.Err)
			return
		}
	}
	n.w.fail("n%d a reply for %s, and nobody waits for it", n.id, r.GID)
}
