package generations

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// changing is a world in which nodes are dropped and added, and transactions commit: a counter that all members of a
// generation raise together. Who becomes online must know the counter.
type changing struct {
	*world
	target    mtm.NodeSet // what operators want configured
	committed int
	knows     map[mtm.NodeID]int
	changes   map[uint64]bool // generations that changed the configured nodes
}

func newChanging(t *testing.T, seed uint64, initial int) *changing {
	c := &changing{world: newWorld(t, seed, initial), knows: map[mtm.NodeID]int{}, changes: map[uint64]bool{}}
	c.target = c.world.all()
	c.world.joined = c.learnFrom
	return c
}

// learnFrom: node id becomes online, as a donor by itself, else with what a donor knows.
func (c *changing) learnFrom(id mtm.NodeID, m *Machine) {
	if m.IsDonor() {
		return
	}
	for _, d := range m.State().Donors.IDs() {
		if n := c.nodes[d]; n != nil && n.Online() && n.State().Gen.Num == m.State().Gen.Num {
			c.knows[id] = max(c.knows[id], c.knows[d])
		}
	}
}

// commit raises the counter in the generation of node id, if all its members are online in it.
func (c *changing) commit(id mtm.NodeID) {
	m := c.nodes[id]
	if m == nil || !m.Online() {
		return
	}
	g := m.State().Gen
	for _, member := range g.Members.IDs() {
		if o := c.nodes[member]; o == nil || !o.Online() || o.State().Gen.Num != g.Num {
			return
		}
	}
	for _, member := range g.Members.IDs() {
		require.Equal(c.t, c.committed, c.knows[member], "node %d is online in %v and lacks commits at %d", member, g, c.now)
		c.knows[member]++
	}
	c.committed++
}

// operate asks for a change: one node more, or one less.
func (c *changing) operate() {
	if c.rng.IntN(2) == 0 && c.n < 6 {
		for _, m := range c.nodes {
			if m != nil && m.Online() && !m.st.Gen.Configured.Has(mtm.NodeID(c.n+1)) {
				c.n++
				id := mtm.NodeID(c.n)
				gen := m.State().Gen
				c.disk[id] = mtm.RecGeneration{Gen: gen, Vote: gen}
				c.onlineIn[id] = map[uint64]bool{}
				c.start(id)
				c.target = c.target.With(id)
				return
			}
		}
		return
	}
	a, b := mtm.NodeID(1+c.rng.IntN(c.n)), mtm.NodeID(1+c.rng.IntN(c.n))
	if m := c.nodes[a]; m != nil && c.target.Without(b).Len() >= 2 && c.target.Has(a) {
		m.Drop(b)
	}
}

func (c *changing) play(steps int, faults bool) {
	for range steps {
		if faults && c.rng.IntN(25) == 0 {
			c.fault()
		}
		if faults && c.rng.IntN(60) == 0 {
			c.operate()
		}
		c.step()
		c.commit(mtm.NodeID(1 + c.rng.IntN(c.n)))
	}
}

// TestConfiguredNodesChangeUnderFaults: whatever is added and dropped meanwhile, and whoever is lost, nobody who is online
// lacks a commit, no lease is stale, and all that are configured come together in the end.
func TestConfiguredNodesChangeUnderFaults(t *testing.T) {
	changes := 0
	for seed := range uint64(120) {
		c := newChanging(t, seed, 2+int(seed%4))
		c.play(1500, true)
		c.cut = map[[2]mtm.NodeID]bool{}
		for _, id := range c.all().IDs() {
			if c.nodes[id] == nil {
				c.start(id)
			}
		}
		for i := 0; !c.together(); i++ {
			if i > 6000 {
				for id, m := range c.nodes {
					t.Logf("node %d online=%v joining=%v dropped=%v %+v", id, m.Online(), m.Joining(), m.Dropped(), m.State())
				}
				require.Fail(t, "not healed", "seed %d at %d", seed, c.now)
			}
			c.play(1, false)
		}
		sets := map[mtm.NodeSet]bool{}
		for _, g := range c.elected {
			sets[g.Configured] = true
		}
		changes += len(sets) - 1
	}
	require.Greater(t, changes, 120, "too few changes: nothing is tested")
}

// together: all configured nodes are online in one generation, and all others know that they are not configured.
func (c *changing) together() bool {
	var gen mtm.Generation
	for _, m := range c.nodes {
		if m.State().Gen.Num > gen.Num {
			gen = m.State().Gen
		}
	}
	for id, m := range c.nodes {
		switch {
		case m.State().Gen != gen:
			return false
		case gen.Configured.Has(id) && (!m.Online() || m.LeaseEnd() <= c.now):
			return false
		case !gen.Configured.Has(id) && !m.Dropped():
			return false
		}
	}
	return gen.Members == gen.Configured
}

// TestChangeNeedsAMajorityThatIsOnline: a second change does not start while the first one's generation has too few that
// have everything (C1).
func TestChangeNeedsAMajorityThatIsOnline(t *testing.T) {
	gen := mtm.Generation{Num: 5, Members: mtm.Nodes(2, 3, 4), Configured: mtm.Nodes(1, 2, 3, 4)}
	m := New(Config{ID: 2}, mtm.RecGeneration{Gen: gen, Vote: gen, LastOnline: 5, Donors: mtm.Nodes(2)}, 0)
	beat := func(id mtm.NodeID, lastOnline uint64) {
		m.PeerUp(id)
		m.Receive(id, mtm.Heartbeat{Sent: 1, Gen: gen, LastOnline: lastOnline, Connected: mtm.Nodes(2, 3, 4)})
	}
	beat(3, 5)
	beat(4, 2) // it recovers
	m.Drop(1)
	m.Tick(1000)
	require.Nil(t, m.campaign)
	beat(3, 5)
	beat(4, 5)
	m.Tick(1010)
	require.NotNil(t, m.campaign)
	require.Equal(t, mtm.Nodes(2, 3, 4), m.campaign.gen.Configured)

	// A voter that has moved on meanwhile makes it fail.
	m.Receive(3, mtm.CampaignVote{Gen: m.campaign.gen, OK: true, LastOnline: 5})
	m.Receive(4, mtm.CampaignVote{Gen: m.campaign.gen, OK: true, LastOnline: 6})
	require.Nil(t, m.campaign)
	require.EqualValues(t, 5, m.State().Gen.Num)
}

// TestVoterRefusesChanges lists what C1 and C2 forbid a voter.
func TestVoterRefusesChanges(t *testing.T) {
	cur := mtm.Generation{Num: 5, Members: mtm.Nodes(1, 2, 3), Configured: mtm.Nodes(1, 2, 3)}
	everybody := mtm.Nodes(1, 2, 3, 4, 5)
	for name, one := range map[string]struct {
		from       mtm.NodeID
		members    mtm.NodeSet
		configured mtm.NodeSet
		ok         bool
	}{
		"one is added by itself":       {4, mtm.Nodes(1, 2, 3, 4), mtm.Nodes(1, 2, 3, 4), true},
		"one is added by another":      {1, mtm.Nodes(1, 2, 3, 4), mtm.Nodes(1, 2, 3, 4), false},
		"one is added, no member":      {4, mtm.Nodes(1, 2, 3), mtm.Nodes(1, 2, 3, 4), false},
		"two are added":                {4, mtm.Nodes(1, 2, 3, 4, 5), mtm.Nodes(1, 2, 3, 4, 5), false},
		"one is dropped":               {1, mtm.Nodes(1, 2), mtm.Nodes(1, 2), true},
		"one drops itself":             {3, mtm.Nodes(1, 2), mtm.Nodes(1, 2), false},
		"one is exchanged":             {4, mtm.Nodes(1, 2, 4), mtm.Nodes(1, 2, 4), false},
		"dropped, and another missing": {1, mtm.Nodes(1, 2).Without(2), mtm.Nodes(1, 2), false},
	} {
		m := New(Config{ID: 2}, mtm.RecGeneration{Gen: cur, Vote: cur, LastOnline: 5}, 0)
		for _, id := range everybody.Without(2).IDs() {
			m.PeerUp(id)
			m.Receive(id, mtm.Heartbeat{Sent: 1, Gen: cur, LastOnline: 5, Connected: everybody})
		}
		g := mtm.Generation{Num: 9, Members: one.members, Configured: one.configured}
		require.Equal(t, one.ok, m.acceptable(one.from, g), name)
		m.st.LastOnline = 4 // not online: no change at all
		require.False(t, m.acceptable(one.from, g), name)
	}
}

// A candidate that has not heard of an addition yet asks for its members under the old configured nodes. To a voter in the
// new generation that looks like a wish to drop who was added (found by the simulator, seed 4421 with members).
func TestElectionFromBeforeAnAdditionDoesNotUndoIt(t *testing.T) {
	old := mtm.Generation{Num: 4, Members: mtm.Nodes(1, 2, 3), Configured: mtm.Nodes(1, 2, 3)}
	cur := mtm.Generation{Num: 5, Members: mtm.Nodes(1, 2, 3, 4), Configured: mtm.Nodes(1, 2, 3, 4)}
	g := mtm.Generation{Num: 9, Members: old.Members, Configured: old.Configured}
	voter := New(Config{ID: 2}, mtm.RecGeneration{Gen: cur, Vote: cur, LastOnline: 5}, 0)
	beat := func(id mtm.NodeID, gen mtm.Generation, lastOnline uint64) {
		voter.PeerUp(id)
		voter.Receive(id, mtm.Heartbeat{Sent: 1, Gen: gen, LastOnline: lastOnline, Connected: cur.Members})
	}
	beat(3, cur, 5)
	beat(4, cur, 5)
	beat(1, old, 4)
	require.False(t, voter.acceptable(1, g))
	beat(1, cur, 4) // it recovers
	require.False(t, voter.acceptable(1, g))
	beat(1, cur, 5) // now it knows what it asks for
	require.True(t, voter.acceptable(1, g))

	// So what it asked for before counts no more once it has heard.
	candidate := New(Config{ID: 1}, mtm.RecGeneration{Gen: old, Vote: old, LastOnline: 4}, 0)
	candidate.Tick(1000)
	for _, id := range mtm.Nodes(2, 3).IDs() {
		candidate.PeerUp(id)
		candidate.Receive(id, mtm.Heartbeat{Sent: 1, Gen: old, LastOnline: 4, Connected: old.Members})
	}
	candidate.highest = 6
	candidate.stand(g, g.Members, 0)
	require.NotNil(t, candidate.campaign)
	g = candidate.campaign.gen
	candidate.Receive(2, mtm.Elected{Gen: cur, Donors: old.Members})
	for _, id := range mtm.Nodes(2, 3).IDs() {
		candidate.Receive(id, mtm.CampaignVote{Gen: g, OK: true, LastOnline: 5})
	}
	require.Equal(t, cur, candidate.State().Gen)
}

// A node that is added is online only when its addition cannot be undone any more. Before, it asks again if that happens, and does not
// take itself for dropped (seed 3746 with members).
func TestNodeWhoseAdditionIsUndoneAsksAgain(t *testing.T) {
	old := mtm.Generation{Num: 4, Members: mtm.Nodes(1, 2), Configured: mtm.Nodes(1, 2, 3)}
	cur := mtm.Generation{Num: 5, Members: mtm.Nodes(1, 2, 4), Configured: mtm.Nodes(1, 2, 3, 4)}
	added := func() (*Machine, func(mtm.NodeID)) {
		m := New(Config{ID: 4}, mtm.RecGeneration{Gen: cur, Vote: cur, Donors: old.Members}, 0)
		online := func(id mtm.NodeID) {
			m.PeerUp(id)
			m.Receive(id, mtm.Heartbeat{Sent: 1, Gen: cur, LastOnline: 5, Connected: cur.Members})
		}
		online(1)
		require.False(t, m.MayBecomeOnline())
		m.BecomeOnline()
		require.False(t, m.Online())
		return m, online
	}
	m, _ := added()
	m.PeerUp(2)
	m.Receive(2, mtm.Elected{Gen: mtm.Generation{Num: 6, Members: mtm.Nodes(2, 3), Configured: mtm.Nodes(1, 2, 3)}, Donors: mtm.Nodes(2)})
	require.True(t, m.Joining())
	require.False(t, m.Dropped())

	m, online := added()
	online(2) // two of three are online in it: the third finds no majority for the old ones
	require.True(t, m.MayBecomeOnline())
	m.BecomeOnline()
	require.True(t, m.Online())
}
