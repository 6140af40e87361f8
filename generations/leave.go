package generations

import "mtm"

// This file is about a node that is being stopped. Its heartbeats say how far it is:
//
//   - Leaving: it begins no commit any more, and nor do the others, until nothing is under way that needs its vote. Each
//     of them says so (Drained).
//   - Left: it has given its lease back. It answers no read any more in this life, so nobody who votes for a generation
//     without it has to wait for the lease (V3), and the others elect one at once.
//
// A heartbeat that is late or comes twice does no harm: who left says so of one life, and a lease counts for one life.

// Leave says that this node is being stopped. There is no way back in this life.
func (m *Machine) Leave() {
	if m.leave == mtm.Staying || m.leave == mtm.Drained {
		m.leave = mtm.Leaving
		m.campaign = nil
		m.beat()
	}
}

// GiveBack ends this node's lease for good.
func (m *Machine) GiveBack() {
	if m.leave == mtm.Leaving {
		m.leave = mtm.Left
		m.beat()
	}
}

// HasLeft reports whether the lease was given back.
func (m *Machine) HasLeft() bool { return m.leave == mtm.Left }

// SetDrained says that nothing of this node's own is under way, or that it is again, while others leave.
func (m *Machine) SetDrained(yes bool) {
	want := mtm.Staying
	if yes {
		want = mtm.Drained
	}
	if m.leave != want && (m.leave == mtm.Staying || m.leave == mtm.Drained) {
		m.leave = want
		m.beat()
	}
}

// Leavers are the members that are about to leave, or have, this node counted.
func (m *Machine) Leavers() (s mtm.NodeSet) {
	if m.leave >= mtm.Leaving && m.leave != mtm.Drained {
		s = s.With(m.cfg.ID)
	}
	for id, p := range m.peers {
		if p.leaves(mtm.Leaving) || p.leaves(mtm.Left) {
			s = s.With(id)
		}
	}
	return s.Intersect(m.st.Gen.Members)
}

// AllDrained reports whether every other member in reach has nothing of its own under way, or leaves, too.
func (m *Machine) AllDrained() bool {
	for _, id := range m.st.Gen.Members.Without(m.cfg.ID).IDs() {
		if p := m.peers[id]; p != nil && p.up && (!p.hasBeaten || p.beat.Leave == mtm.Staying) {
			return false
		}
	}
	return true
}

func (p *peer) leaves(step mtm.Leave) bool { return p.up && p.hasBeaten && p.beat.Leave == step }

// heardLeave takes in what a heartbeat says of leaving; before is what the one before it said.
func (m *Machine) heardLeave(p *peer, b mtm.Heartbeat, before mtm.Leave) {
	if b.Leave != mtm.Left {
		return
	}
	if life := b.Sent >> lifeShift; p.hasLife && life == p.life {
		p.promised = 0
	}
	if before != mtm.Left {
		m.retryAt = min(m.retryAt, m.now+m.spread(10))
	}
}
