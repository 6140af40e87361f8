package generations

import "mtm"

// This file is what a node of a two-node cluster does about its referee (Arbiter): ask for a grant when it has lost its
// peer, and clear the grant when both are online again.

// refereeEvery is how often, in milliseconds, a referee is told that both nodes are online.
const refereeEvery = 1000

// refereePatience is how long, in milliseconds, the answer to a grant may take; a later one is void.
const refereePatience = 2000

// probing is what this node knows of the referee's row.
type probing struct {
	at    uint64 // not to ask before
	fresh uint64 // until when "a grant would be given" counts
	tell  uint64 // when to say again that both nodes are online
}

// Sole reports whether this node goes on alone by a grant: it needs nobody's lease, vote or acceptance. Nobody else
// can commit before it has left the generation: the referee grants its peer nothing before both are online together.
func (m *Machine) Sole() bool {
	return m.st.Gen.Sole() && m.Online()
}

// alone reports whether members may be elected by the referee's grant. Who voted for another configuration may not
// know that it is in force, and does not ask.
func (m *Machine) alone(members mtm.NodeSet) bool {
	return m.cfg.Referee && members == mtm.Nodes(m.cfg.ID) && m.st.Gen.Configured.Len() == 2 &&
		m.st.Gen.Configured.Has(m.cfg.ID) && !m.st.Barred.Has(m.cfg.ID)
}

// mayStandAlone asks the referee first whether it would grant, without a vote: a vote bars the peer from leases, and
// should not be given for nothing.
func (m *Machine) mayStandAlone() bool {
	if m.now < m.probe.fresh {
		return true
	}
	if m.now >= m.probe.at && m.now >= m.born+m.cfg.promise() { // no vote before that either
		m.probe.at = m.now + 4*m.cfg.Heartbeat
		m.ask(mtm.RefereeProbe, m.highest+1)
	}
	return false
}

func (m *Machine) ask(kind mtm.RefereeKind, gen uint64) {
	m.ready.Ask = append(m.ready.Ask, mtm.RefereeRequest{Kind: kind, Node: m.cfg.ID, Gen: gen, Configured: m.st.Gen.Configured, Since: m.st.Since})
}

// askGrant: this node has voted for going on alone, durably before the request leaves, so the lease that it gave its
// peer has run out (V3).
func (m *Machine) askGrant(c *campaign) {
	if !c.asked {
		c.asked = true
		c.until = m.now + refereePatience
		m.ask(mtm.RefereeGrant, c.gen.Num)
	}
}

// RefereeSaid takes in the referee's answer.
func (m *Machine) RefereeSaid(a mtm.RefereeAnswer) {
	m.highest = max(m.highest, a.HolderGen, a.Floor)
	switch a.Kind {
	case mtm.RefereeProbe:
		if !a.OK {
			m.probe.at = m.now + refereeEvery
			break
		}
		m.probe.fresh = m.now + 4*m.cfg.promise()
		if m.campaign == nil && m.now >= m.retryAt && (m.leave == mtm.Staying || m.leave == mtm.Drained) {
			m.maybeCampaign()
		}
	case mtm.RefereeGrant:
		c := m.campaign
		if c == nil || !c.asked || c.gen.Num != a.Gen {
			break // too late
		}
		if a.OK && m.st.Vote == c.gen {
			m.win(c)
			return
		}
		m.probe.fresh = 0
		m.failed(30)
	}
	// The peer holds the grant: it had voted for it, so its generation is elected, and this node is not in it.
	configured := m.st.Gen.Configured
	if !a.OK && a.Kind != mtm.RefereeClear && a.Holder != m.cfg.ID && configured.Has(a.Holder) && m.alone(mtm.Nodes(m.cfg.ID)) {
		holder := mtm.Nodes(a.Holder)
		m.learn(mtm.Generation{Num: a.HolderGen, Members: holder, Configured: configured}, holder)
	}
}

// tellReferee says now and then that both nodes are online together, so that the row is cleared.
func (m *Machine) tellReferee() {
	g := m.st.Gen
	if !m.cfg.Referee || g.Configured.Len() != 2 || g.Members != g.Configured || m.now < m.probe.tell {
		return
	}
	if m.OnlinePeers() == g.Members && m.Connected() == g.Members {
		m.probe.tell = m.now + refereeEvery
		m.ask(mtm.RefereeClear, g.Num)
	}
}

// barPeers: a peer that went on alone until now gave itself a lease, which may not be taken back everywhere yet. No vote
// is given for a generation without it until that has run out for certain.
func (m *Machine) barPeers() {
	if !m.cfg.Referee {
		return
	}
	for _, p := range m.peers {
		p.promised = max(p.promised, m.now+m.cfg.promise())
	}
}
