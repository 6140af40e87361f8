package main

import (
	"mtm"
	"mtm/coordinator"
)

// network carries messages between live nodes and tells them, as dmq would, who is in reach. Each message takes its
// own time, so they overtake each other; they are lost on a cut link, and at random.
type network struct {
	w   *world
	cut [mtm.MaxNodes + 1][mtm.MaxNodes + 1]bool // one way each
	// told is the incarnation under which a node believes another to be up; 0: down.
	told [mtm.MaxNodes + 1][mtm.MaxNodes + 1]uint64
	// broken: the connection lost something that nobody repeats, so it must be seen to go down.
	loseTo  mtm.NodeID // the next message to this node is lost; 0: none
	broken  [mtm.MaxNodes + 1][mtm.MaxNodes + 1]bool
	ordered [mtm.MaxNodes + 1][mtm.MaxNodes + 1]uint64 // when the last message of a recovery arrives
}

func (t *network) init(w *world) { t.w = w }

// lose takes the next message to a node.
func (t *network) lose(to mtm.NodeID) { t.loseTo = to }

func (t *network) send(m mtm.Message) {
	w := t.w
	p, isPrepare := m.Body.(mtm.Prepare)
	spilled := isPrepare && p.Payload.Spill != ""
	if t.cut[m.From][m.To] || !w.calm && w.chance(w.loss) || t.loseTo == m.To {
		t.loseTo = 0
		w.tracef("   lost %d->%d %s", m.From, m.To, body(m.Body))
		if spilled {
			t.breakLink(m.From, m.To)
		}
		return
	}
	t.deliver(m)
	if !w.calm && !spilled && w.chance(w.dup) {
		t.deliver(m)
	}
}

func (t *network) deliver(m mtm.Message) {
	w := t.w
	d := w.between(100, w.delay)
	if !w.calm && w.chance(w.spike) {
		d = w.between(w.delay, w.spikeMax)
	}
	switch m.Body.(type) {
	case mtm.RecoverTxn, mtm.RecoverDone: // links keep the order; all other messages are proof against disorder
		at := max(w.now+d, t.ordered[m.From][m.To]+1)
		t.ordered[m.From][m.To] = at
		d = at - w.now
	}
	w.after(d, func() {
		to := w.node(m.To)
		if !to.alive || t.cut[m.From][m.To] {
			w.tracef("   lost %d->%d %s", m.From, m.To, body(m.Body))
			if p, ok := m.Body.(mtm.Prepare); ok && p.Payload.Spill != "" {
				t.breakLink(m.From, m.To)
			}
			return
		}
		to.received(m)
	})
}

// breakLink makes both ends see the connection go down, and perhaps come back.
func (t *network) breakLink(a, b mtm.NodeID) {
	for _, p := range [2][2]mtm.NodeID{{a, b}, {b, a}} {
		t.broken[p[0]][p[1]] = true
		t.look(p[0], p[1], t.w.between(1*ms, 100*ms))
	}
}

func (t *network) works(i, j mtm.NodeID) bool {
	return t.w.node(i).alive && t.w.node(j).alive && !t.cut[i][j] && !t.cut[j][i] &&
		t.w.node(j).frozen <= t.w.now
}

// changed: something happened to node j, or to the link between i and j; both will notice in a while.
func (t *network) changed(i, j mtm.NodeID) {
	t.look(i, j, t.noticeTime(i, j))
	t.look(j, i, t.noticeTime(j, i))
}

func (t *network) noticeTime(i, j mtm.NodeID) uint64 {
	w := t.w
	switch {
	case t.works(i, j):
		return w.between(1*ms, 40*ms)
	case w.chance(w.slowDown):
		return w.between(100*ms, 1*second)
	}
	return w.between(200, 80*ms)
}

// look lets node i find out about node j after d. A cut that healed before was not noticed, unless it must be.
func (t *network) look(i, j mtm.NodeID, d uint64) {
	w := t.w
	w.after(d, func() {
		n := w.node(i)
		if !n.alive {
			return
		}
		up := t.works(i, j)
		if t.told[i][j] != 0 && (!up || t.broken[i][j]) {
			t.told[i][j] = 0
			n.push(coordinator.PeerDown{Node: j})
		}
		t.broken[i][j] = false
		if inc := w.node(j).life; up && t.told[i][j] != inc {
			t.told[i][j] = inc
			n.push(coordinator.PeerUp{Node: j, Incarnation: inc})
		}
	})
}

// forgetTold: node i starts anew and knows nobody.
func (t *network) restarted(i mtm.NodeID) {
	for _, n := range t.w.nodes {
		if n.id != i {
			t.told[i][n.id] = 0
			t.broken[i][n.id] = false
			t.changed(i, n.id)
		}
	}
}

func (t *network) crashed(i mtm.NodeID) {
	for _, n := range t.w.nodes {
		if n.id != i {
			t.changed(i, n.id)
		}
	}
}

func (t *network) setCut(i, j mtm.NodeID, cut bool) {
	if t.cut[i][j] != cut {
		t.cut[i][j] = cut
		t.w.tracef("LINK %d->%d cut=%v", i, j, cut)
		t.changed(i, j)
	}
}

func (t *network) healAll() {
	for _, a := range t.w.nodes {
		for _, b := range t.w.nodes {
			t.setCut(a.id, b.id, false)
		}
	}
}
