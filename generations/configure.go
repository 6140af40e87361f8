package generations

import "mtm"

// This file is about changes of the configured nodes, one at a time: a node asks to be added when it has caught up, or a
// member asks for another to be dropped. Two generations whose configured nodes differ by at most one have a voter in
// common, for any majority of n nodes meets any majority of the same nodes and one more. C1 keeps all that may still be
// elected that close: a change starts from a generation in which a majority of its configured nodes is online, and none of those
// votes for what came before (C2).

// Drop asks for a node to be configured no more; 0: not any longer. The wish ends when it is fulfilled.
func (m *Machine) Drop(id mtm.NodeID) {
	m.dropping = 0
	if id != m.cfg.ID && m.st.Gen.Configured.Has(id) {
		m.dropping = id
	}
}

// Joining reports whether this node has never been configured: it recovers, and asks to be added.
func (m *Machine) Joining() bool {
	return !m.st.Gen.Configured.Has(m.cfg.ID) && m.st.LastOnline == 0
}

// added: the addition of this node cannot be undone any more, for enough of the others are online in it. Had it been online
// before, it could not tell that from being dropped.
func (m *Machine) added() bool {
	online := m.OnlinePeers()
	return m.cfg.AnyBase || online.IsMajorityOf(m.st.Gen.Configured.Without(m.cfg.ID)) || online.Contains(m.st.Gen.Members.Without(m.cfg.ID))
}

// Dropped reports whether this node was configured once, and is no more.
func (m *Machine) Dropped() bool {
	return !m.st.Gen.Configured.Has(m.cfg.ID) && m.st.LastOnline != 0
}

// configure follows a generation to its configured nodes. What was promised to a node that is dropped stays promised.
func (m *Machine) configure(nodes mtm.NodeSet) {
	for _, id := range nodes.Without(m.cfg.ID).IDs() {
		if m.peers[id] == nil {
			m.peers[id] = &peer{}
		}
	}
	if !nodes.Has(m.dropping) {
		m.dropping = 0
	}
	if !nodes.Has(m.cfg.ID) {
		m.caughtUp = false
	}
}

// maybeChange stands for a generation with other configured nodes, when this node wants one and C1 can hold.
func (m *Machine) maybeChange() {
	g := m.st.Gen
	switch {
	case m.Joining() && m.caughtUp && g.Configured.Len() < mtm.MaxNodes:
		gen := mtm.Generation{Members: g.Members.With(m.cfg.ID), Configured: g.Configured.With(m.cfg.ID)}
		if (m.OnlinePeers().Contains(g.Members) || m.cfg.AnyBase) && m.cliqueOf(gen.Configured).Contains(gen.Members) {
			m.stand(gen, gen.Members, g.Num)
		}
	case (m.Online() || m.cfg.AnyBase) && m.dropping != 0:
		gen := mtm.Generation{Members: g.Members.Without(m.dropping), Configured: g.Configured.Without(m.dropping)}
		voters := gen.Members
		if !voters.IsMajorityOf(g.Configured) && !m.Sole() { // who goes on alone stands for a majority
			voters = g.Members // the one that goes must agree
		}
		if gen.Members.IsMajorityOf(gen.Configured) && (voters.IsMajorityOf(g.Configured) || m.Sole()) &&
			(m.OnlinePeers().Contains(voters) || m.cfg.AnyBase) && m.clique().Contains(voters) {
			m.stand(gen, voters, g.Num)
		}
	}
}

// acceptableChange is C1 at the voter.
func (m *Machine) acceptableChange(from mtm.NodeID, g mtm.Generation) bool {
	cur := m.st.Gen
	added, dropped := g.Configured.Minus(cur.Configured), cur.Configured.Minus(g.Configured)
	if added.Len()+dropped.Len() != 1 || g.Members != cur.Members.Union(added).Minus(dropped) {
		return false
	}
	if added != 0 && added != mtm.Nodes(from) || dropped == mtm.Nodes(from) {
		return false
	}
	if from == m.cfg.ID && m.Joining() {
		return true
	}
	// What a candidate asks for that has not heard of an addition yet looks like a wish to drop who was added.
	if dropped != 0 && !m.OnlinePeers().Has(from) && !m.cfg.AnyBase {
		return false
	}
	return (m.Online() || m.cfg.AnyBase) && m.cliqueOf(cur.Configured.Union(added)).Contains(g.Members)
}

// sameBase is C1 at the candidate: who voted for a change is online in the generation that it starts from.
func (m *Machine) sameBase(c *campaign) bool {
	if c.base == 0 || m.cfg.AnyBase {
		return true
	}
	for _, id := range c.voters.IDs() {
		if joins := id == m.cfg.ID && m.Joining(); c.votes[id] != c.base && !joins {
			return false
		}
	}
	return true
}
