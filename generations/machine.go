package generations

import "mtm"

// Config is what a Machine must be told. Times are milliseconds.
type Config struct {
	ID        mtm.NodeID
	AnyBase   bool           // a fault for tests: changes do not look whether anybody is online
	ServeOn   bool           // a fault for tests: who gave its lease back keeps it
	Life      uint64         // of this process: differs from those of its earlier lives
	Initial   mtm.Generation // the first generation, in which every member is online
	Heartbeat uint64         // between two heartbeats; default 50
	Lease     uint64         // how long an acknowledged heartbeat lets a node answer reads; default 250
	Silence   uint64         // after which a peer counts as lost; default 700; under 4 leases
	Referee   bool           // two nodes and a referee: one of them may go on alone, by its grant
}

func (c Config) withDefaults() Config {
	def := func(v *uint64, d uint64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Heartbeat, 50)
	def(&c.Lease, 250)
	def(&c.Silence, 700)
	return c
}

// promise is how long a voter keeps to a lease: longer than its holder may count on, by what clocks may drift.
func (c Config) promise() uint64 { return c.Lease + c.Lease/10 + 1 }

// Ready is what a step of the machine asks for: persist first, then send and ask, then switch.
type Ready struct {
	Persist []mtm.Record
	Send    []mtm.Message
	Ask     []mtm.RefereeRequest // whatever comes back goes to RefereeSaid; nothing may come
	Switch  bool                 // State().Gen is new: leave the old one, and prepare to become online
}

// Machine decides generations for one node. It is not safe for concurrent use.
type Machine struct {
	cfg   Config
	st    mtm.RecGeneration
	now   uint64
	born  uint64 // when this life began
	peers map[mtm.NodeID]*peer
	ready Ready

	campaign  *campaign
	asked     map[mtm.NodeID]mtm.Generation // campaigns that wait for a lease to run out
	highest   uint64                        // highest number heard of
	beatAt    uint64
	votedAt   uint64
	votedFor  mtm.NodeID // in this life, last
	retryAt   uint64     // not to campaign before
	caughtUp  bool       // has nearly everything: may ask to be a member again
	campaigns uint64     // how many were begun, to spread them
	failures  uint64     // how many of them failed, since the last that was won
	probe     probing

	held     bool       // the operator wants no elections
	leave    mtm.Leave  // this node is being stopped, or another is
	dropping mtm.NodeID // this node wants it to be configured no more; 0: none
}

// peer is what is known of another node.
type peer struct {
	up        bool
	heard     uint64 // when it was last heard
	acked     uint64 // when we sent the newest heartbeat that it acknowledged
	hasAcked  bool
	promised  uint64 // until when we keep to the lease we gave it
	life      uint64 // of its process, to which we gave the lease
	hasLife   bool
	beat      mtm.Heartbeat
	hasBeaten bool
}

// campaign is a candidacy of this node.
type campaign struct {
	gen   mtm.Generation
	votes map[mtm.NodeID]uint64 // LastOnline of who voted for it
	until uint64
	asked bool // the referee, for a grant

	voters mtm.NodeSet // who must vote for it: the members, and perhaps who is dropped
	base   uint64      // of a change of the configured nodes: the generation in which it was asked for; else 0
}

// New makes a machine; st is what was persisted last, zero at the very first start.
func New(cfg Config, st mtm.RecGeneration, now uint64) *Machine {
	m := &Machine{cfg: cfg.withDefaults(), st: st, now: now, born: now, peers: map[mtm.NodeID]*peer{}, asked: map[mtm.NodeID]mtm.Generation{}}
	if st.Gen.Num == 0 {
		m.st = mtm.RecGeneration{Gen: cfg.Initial, Donors: cfg.Initial.Members, LastOnline: cfg.Initial.Num, Vote: cfg.Initial, Since: cfg.Initial.Num}
	}
	m.highest = max(m.st.Gen.Num, m.st.Vote.Num)
	for _, id := range m.st.Gen.Configured.Without(cfg.ID).IDs() {
		m.peers[id] = &peer{}
	}
	return m
}

// State is what the machine remembers, as it would be persisted now.
func (m *Machine) State() mtm.RecGeneration { return m.st }

// Ready returns what is to be done since the last call, and clears it.
func (m *Machine) Ready() Ready {
	r := m.ready
	m.ready = Ready{}
	return r
}

// Online reports whether this node may commit in its generation.
func (m *Machine) Online() bool {
	return m.st.LastOnline == m.st.Gen.Num && m.st.Gen.Members.Has(m.cfg.ID)
}

// Recovering reports whether this node is elected, and has yet to get what its donors have.
func (m *Machine) Recovering() bool {
	return !m.Online() && m.st.Gen.Members.Has(m.cfg.ID) && m.st.Vote.Num == m.st.Gen.Num
}

// IsDonor reports whether this node holds all that was committed before its generation.
func (m *Machine) IsDonor() bool { return m.st.Donors.Has(m.cfg.ID) }

// MayBecomeOnline reports whether V4 lets the node become online in its generation.
func (m *Machine) MayBecomeOnline() bool {
	return m.st.Gen.Members.Has(m.cfg.ID) && m.st.Vote.Num == m.st.Gen.Num && !m.Online() && (m.st.LastOnline != 0 || m.added())
}

// BecomeOnline is called when nothing of an older generation is under way here any more, and all of it is here.
func (m *Machine) BecomeOnline() {
	if !m.MayBecomeOnline() {
		return
	}
	m.st.LastOnline = m.st.Gen.Num
	m.caughtUp = false
	m.barPeers()
	m.persist()
	m.beat() // the others wait to hear it
}

// Established reports whether nobody outside the members can answer reads at the moment, by Tick's clock: this node has a
// lease, so a majority is in its generation, and who voted for a later one waits until that lease has run out, or is
// this node; or it goes on alone, and its peer is not online before it has left this generation. Ask it right after Tick
// only: the clock must be fresh.
func (m *Machine) Established() bool {
	return m.Sole() || m.Online() && m.st.Vote.Num == m.st.Gen.Num && m.LeaseEnd() > m.now
}

// Hold stops elections as far as this node goes: it stands for none, and votes for none, until it is called with false. Nobody has to
// vote, ever, so it is always allowed; but the nodes that lose a member commit nothing until the member, or the vote, is back.
func (m *Machine) Hold(on bool) {
	if m.held = on; on {
		m.campaign = nil
		clear(m.asked)
	}
}

// Held reports whether elections are on hold here.
func (m *Machine) Held() bool { return m.held }

// Electing reports whether an election is under way: milliseconds count then.
func (m *Machine) Electing() bool { return m.campaign != nil || len(m.asked) > 0 }

// SetCaughtUp tells whether a node outside the generation has nearly all that its members have.
func (m *Machine) SetCaughtUp(yes bool) { m.caughtUp = yes }

// PeerUp: the link to a peer works.
//
// A peer that is not configured is a guest: it hears what there is to hear, and counts for nothing.
func (m *Machine) PeerUp(id mtm.NodeID) {
	p := m.peers[id]
	if p == nil && id.Valid() && id != m.cfg.ID {
		p = &peer{}
		m.peers[id] = p
	}
	if p != nil {
		p.up, p.heard = true, m.now
	}
}

// PeerDown: the link is lost. What was promised to the peer stays promised.
func (m *Machine) PeerDown(id mtm.NodeID) {
	if p := m.peers[id]; p != nil {
		p.up, p.hasBeaten = false, false
		m.retryAt = min(m.retryAt, m.now+m.spread(10))
	}
}

// Connected is whom this node hears, itself counted.
func (m *Machine) Connected() mtm.NodeSet {
	s := mtm.Nodes(m.cfg.ID)
	for id, p := range m.peers {
		if p.up && m.now-p.heard < m.cfg.Silence && !p.leaves(mtm.Left) {
			s = s.With(id)
		}
	}
	return s
}

// OnlinePeers are the members of this node's generation that said that they are online in it, itself counted if so.
func (m *Machine) OnlinePeers() mtm.NodeSet {
	var s mtm.NodeSet
	if m.Online() {
		s = s.With(m.cfg.ID)
	}
	for id, p := range m.peers {
		if p.hasBeaten && p.beat.Gen.Num == m.st.Gen.Num && p.beat.LastOnline == m.st.Gen.Num && m.st.Gen.Members.Has(id) && !p.leaves(mtm.Left) {
			s = s.With(id)
		}
	}
	return s
}

// Agreed reports whether every member is in reach and said that it is in this node's generation: after a restart a node
// does not know yet whether the others have gone on without it.
func (m *Machine) Agreed() bool {
	for _, id := range m.st.Gen.Members.Without(m.cfg.ID).IDs() {
		if p := m.peers[id]; p == nil || !p.up || !p.hasBeaten || p.beat.Gen.Num != m.st.Gen.Num {
			return false
		}
	}
	return true
}

// Behind reports whether somebody in reach was online in a later generation than this node, which must catch up first.
func (m *Machine) Behind() bool {
	for id, p := range m.peers {
		if p.hasBeaten && p.beat.LastOnline > m.st.LastOnline && m.Connected().Intersect(m.st.Gen.Configured).Has(id) {
			return true
		}
	}
	return false
}

// LeaseEnd is until when, by Tick's clock, this node may answer reads (L1); 0 when it has no lease.
func (m *Machine) LeaseEnd() uint64 {
	if !m.Online() || m.leave == mtm.Left && !m.cfg.ServeOn {
		return 0
	}
	if m.Sole() {
		return m.now + m.cfg.Lease
	}
	configured := m.st.Gen.Configured
	need := configured.Len()/2 + 1 - 1 // besides itself
	if need <= 0 {
		return m.now + m.cfg.Lease
	}
	best := uint64(0)
	for id, p := range m.peers {
		if !p.hasAcked || !configured.Has(id) {
			continue
		}
		count := 0
		for id, q := range m.peers {
			if q.hasAcked && q.acked >= p.acked && configured.Has(id) {
				count++
			}
		}
		if count >= need {
			best = max(best, p.acked+m.cfg.Lease)
		}
	}
	return best
}

// lifeShift leaves room for a clock of 500 years in a stamp, and for a million lives in a row.
const lifeShift = 44

// stamp is what a heartbeat sent now carries, and what comes back with its acknowledgement. The clock begins anew with
// each life, so an acknowledgement of an earlier one must be told apart.
func (m *Machine) stamp() uint64 { return m.cfg.Life<<lifeShift | m.now }

// sentAt is when, in this life, a heartbeat with this stamp was sent.
func (m *Machine) sentAt(stamp uint64) (at uint64, ok bool) {
	at = stamp & (1<<lifeShift - 1)
	return at, at <= m.now && stamp == m.cfg.Life<<lifeShift|at
}

func (m *Machine) persist() { m.ready.Persist = append(m.ready.Persist, m.st) }

func (m *Machine) send(to mtm.NodeID, b mtm.Body) {
	if v, ok := b.(mtm.CampaignVote); ok && to == m.cfg.ID {
		m.onVote(to, v) // it was persisted before whatever follows from it is sent
		return
	}
	m.ready.Send = append(m.ready.Send, mtm.Message{From: m.cfg.ID, To: to, Body: b})
}

// others are the configured peers, and guests, in ascending order, so that a run can be repeated.
func (m *Machine) others() []mtm.NodeID {
	all := m.st.Gen.Configured
	for id, p := range m.peers {
		if p.up {
			all = all.With(id)
		}
	}
	return all.Without(m.cfg.ID).IDs()
}

func (m *Machine) beat() {
	for _, id := range m.others() {
		if m.peers[id].up {
			m.send(id, mtm.Heartbeat{Sent: m.stamp(), Gen: m.st.Gen, Donors: m.st.Donors, LastOnline: m.st.LastOnline, Connected: m.Connected(), Leave: m.leave})
		}
	}
	m.beatAt = m.now + m.cfg.Heartbeat
}
