package generations

import "mtm"

// Tick moves the clock, in milliseconds, never back.
func (m *Machine) Tick(now uint64) {
	m.now = max(m.now, now)
	if m.now >= m.beatAt {
		m.beat()
	}
	for id := mtm.NodeID(1); id <= mtm.MaxNodes; id++ {
		if g, ok := m.asked[id]; ok {
			m.consider(id, g)
		}
	}
	if c := m.campaign; c != nil && (m.now >= c.until || c.asked && m.clique().Contains(c.gen.Configured)) {
		m.failed(60) // too late, or the peer is back before the referee has answered
	}
	m.tellReferee()
	m.tryCampaign()
}

// tryCampaign stands for a generation if one is needed, and this node may now.
func (m *Machine) tryCampaign() {
	if m.campaign == nil && m.now >= m.retryAt && !m.held && (m.leave == mtm.Staying || m.leave == mtm.Drained) {
		m.maybeCampaign()
	}
}

// spread is a delay that differs between nodes and between tries, so that candidates seldom compete: at first by
// rank, then by a hash (SplitMix64's finalizer: Steele, Lea, Flood, 2014) over more and more.
func (m *Machine) spread(step uint64) uint64 {
	if m.failures == 0 {
		return step * uint64(m.Connected().Intersect(mtm.NodeSet(1)<<uint(m.cfg.ID)-1).Len())
	}
	x := uint64(m.cfg.ID)<<32 + m.campaigns*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return step * ((x >> 33) % (4 * min(m.failures, 8)))
}

// Receive takes in a message of a peer; it reports whether the message was about generations.
func (m *Machine) Receive(from mtm.NodeID, b mtm.Body) bool {
	p := m.peers[from]
	if p == nil {
		return false
	}
	p.heard = m.now
	switch b := b.(type) {
	case mtm.Heartbeat:
		m.onHeartbeat(from, p, b)
	case mtm.HeartbeatAck:
		if at, ok := m.sentAt(b.Sent); ok && (!p.hasAcked || at > p.acked) {
			p.acked, p.hasAcked = at, true
		}
	case mtm.Campaign:
		m.asked[from] = b.Gen
		m.consider(from, b.Gen)
	case mtm.CampaignVote:
		m.onVote(from, b)
	case mtm.Elected:
		m.learn(b.Gen, b.Donors)
	default:
		return false
	}
	return true
}

func (m *Machine) onHeartbeat(from mtm.NodeID, p *peer, b mtm.Heartbeat) {
	before := mtm.Staying
	if p.hasBeaten {
		before = p.beat.Leave
	}
	p.beat, p.hasBeaten = b, true
	m.heardLeave(p, b, before)
	m.highest = max(m.highest, b.Gen.Num)
	m.learn(b.Gen, b.Donors)
	if b.Leave == mtm.Left {
		m.tryCampaign() // who is first in the row need not wait for a tick
	}
	if b.Gen.Num != m.st.Gen.Num || !m.st.Gen.Members.Has(from) || m.excluding(from) || b.Leave == mtm.Left {
		return // V3: no lease for whom a newer generation excludes, or one that is voted or asked for
	}
	p.promised = m.now + m.cfg.promise()
	p.life, p.hasLife = b.Sent>>lifeShift, true
	m.send(from, mtm.HeartbeatAck{Sent: b.Sent})
}

// excluding reports whether this node voted, or is about to vote, for a generation without id.
func (m *Machine) excluding(id mtm.NodeID) bool {
	if m.st.Barred.Has(id) {
		return true
	}
	for _, g := range m.asked {
		if !g.Members.Has(id) {
			return true
		}
	}
	return false
}

// learn moves this node to a higher generation.
func (m *Machine) learn(g mtm.Generation, donors mtm.NodeSet) {
	if g.Num <= m.st.Gen.Num {
		return
	}
	if g.Configured != m.st.Gen.Configured {
		m.st.Since = g.Num
		if !m.cfg.AnyBase {
			m.campaign = nil // it was to follow a generation of others
		}
	}
	m.st.Gen, m.st.Donors = g, donors
	m.configure(g.Configured)
	m.highest = max(m.highest, g.Num)
	if m.st.Vote.Num <= g.Num {
		m.st.Barred = 0
	}
	if m.campaign != nil && m.campaign.gen.Num <= g.Num {
		m.campaign = nil
	}
	m.probe = probing{}
	m.persist()
	m.ready.Switch = true
	m.beat()
}

// consider answers a campaign, now or when a lease that stands against it has run out (V1 to V3).
func (m *Machine) consider(from mtm.NodeID, g mtm.Generation) {
	if m.held || !m.acceptable(from, g) {
		delete(m.asked, from)
		m.send(from, mtm.CampaignVote{Gen: g, LastOnline: m.st.LastOnline, Highest: m.highest})
		return
	}
	if g != m.st.Vote {
		if !m.leasesOver(g) {
			return // asked again at the next tick
		}
		m.st.Vote, m.votedAt, m.votedFor = g, m.now, from
		m.st.Barred = m.st.Barred.Union(g.Configured.Union(m.st.Gen.Configured).Minus(g.Members))
		if g.Configured != m.st.Gen.Configured {
			m.st.Barred = m.st.Barred.With(m.cfg.ID) // no referee: see alone
		}
		m.highest = max(m.highest, g.Num)
		m.persist()
	}
	delete(m.asked, from)
	m.send(from, mtm.CampaignVote{Gen: g, OK: true, LastOnline: m.st.LastOnline, Highest: m.highest})
}

func (m *Machine) acceptable(from mtm.NodeID, g mtm.Generation) bool {
	if g == m.st.Vote && g.Num > m.st.Gen.Num {
		return true
	}
	if g.Num <= m.st.Gen.Num || g.Num <= m.st.Vote.Num {
		return false
	}
	if g.Configured != m.st.Gen.Configured {
		return m.acceptableChange(from, g)
	}
	if !g.Configured.Has(m.cfg.ID) || !m.st.Gen.Members.With(from).Contains(g.Members) || !m.clique().Contains(g.Members) {
		return false
	}
	// An online node of a whole generation gives up no member for an outsider.
	whole := m.Online() && m.clique().Contains(m.st.Gen.Members)
	return !whole || g.Members.Contains(m.st.Gen.Members)
}

func (m *Machine) leasesOver(g mtm.Generation) bool {
	if m.now < m.born+m.cfg.promise() {
		return false
	}
	for id, p := range m.peers {
		if !g.Members.Has(id) && m.now < p.promised {
			return false
		}
	}
	return true
}

// clique is the largest set of configured nodes that see each other, as far as this node knows.
func (m *Machine) clique() mtm.NodeSet { return m.cliqueOf(m.st.Gen.Configured) }

func (m *Machine) cliqueOf(among mtm.NodeSet) mtm.NodeSet {
	connected := m.Connected().Intersect(among)
	links := map[mtm.NodeID]mtm.NodeSet{m.cfg.ID: connected}
	for id, p := range m.peers {
		if connected.Has(id) && p.hasBeaten {
			links[id] = p.beat.Connected
		}
	}
	return Clique(links)
}

// maybeCampaign stands for a generation when one is needed: members are lost, or this node wants to be one again.
func (m *Machine) maybeCampaign() {
	g := m.st.Gen
	clique := m.clique()
	if !g.Configured.Has(m.cfg.ID) {
		m.maybeChange()
		return
	}
	if !clique.Has(m.cfg.ID) {
		return
	}
	if m.st.Vote.Num > g.Num && m.votedFor != m.cfg.ID && m.now < m.votedAt+2*m.cfg.Heartbeat && clique.Has(m.votedFor) {
		return // the one that it voted for is about to win: two elections in a row cost the slower node a recovery
	}
	members := g.Members.Intersect(clique).With(m.cfg.ID)
	lost := g.Members.Has(m.cfg.ID) && !clique.Contains(g.Members)
	join := !m.Online() && m.caughtUp && !g.Members.Has(m.cfg.ID)
	stuck := !m.Online() && g.Members.Has(m.cfg.ID) && m.st.Vote.Num != g.Num && m.caughtUp
	unsettled := m.st.Vote.Num > g.Num && // whoever asked for it is gone, or was this node, which asked the referee
		(m.now > m.votedAt+4*m.cfg.promise() || m.st.Vote.Sole())
	if m.Sole() || !lost && !join && !stuck && !unsettled {
		m.maybeChange()
		return
	}
	if members.IsMajorityOf(g.Configured) || m.alone(members) && m.mayStandAlone() {
		m.stand(mtm.Generation{Members: members, Configured: g.Configured}, members, 0)
	}
}

// stand begins a candidacy for a generation, whose number it gives.
func (m *Machine) stand(gen mtm.Generation, voters mtm.NodeSet, base uint64) {
	m.campaigns++
	m.highest++
	gen.Num = m.highest
	m.campaign = &campaign{gen: gen, voters: voters, base: base, votes: map[mtm.NodeID]uint64{}, until: m.now + 2*m.cfg.promise()}
	m.asked[m.cfg.ID] = gen
	for _, id := range voters.Without(m.cfg.ID).IDs() {
		m.send(id, mtm.Campaign{Gen: gen})
	}
	m.consider(m.cfg.ID, gen)
}

func (m *Machine) onVote(from mtm.NodeID, v mtm.CampaignVote) {
	m.highest = max(m.highest, v.Highest)
	c := m.campaign
	if c == nil || v.Gen != c.gen {
		return
	}
	if !v.OK {
		m.failed(30)
		return
	}
	c.votes[from] = v.LastOnline
	for _, id := range c.voters.IDs() {
		if _, ok := c.votes[id]; !ok {
			return
		}
	}
	if !c.gen.Members.IsMajorityOf(c.gen.Configured) {
		m.askGrant(c)
		return
	}
	if !m.sameBase(c) {
		m.failed(30)
		return
	}
	m.win(c)
}

// win: every proposed member voted, and they are a majority (E1) or have the referee's grant (E2). The donors are the
// most advanced of them (D1).
func (m *Machine) win(c *campaign) {
	var donors mtm.NodeSet
	highest := uint64(0)
	for id, lo := range c.votes {
		if c.gen.Members.Has(id) {
			highest = max(highest, lo)
		}
	}
	for id, lo := range c.votes {
		if lo == highest && c.gen.Members.Has(id) {
			donors = donors.With(id)
		}
	}
	m.campaign, m.failures = nil, 0
	m.learn(c.gen, donors) // who was dropped is a guest now, and hears of it
	for _, id := range m.others() {
		m.send(id, mtm.Elected{Gen: c.gen, Donors: donors})
	}
}

// failed ends a candidacy that was not won.
func (m *Machine) failed(step uint64) {
	m.campaign = nil
	m.failures++
	m.retryAt = m.now + 20 + m.spread(step)
}
