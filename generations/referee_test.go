package generations

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// pair is two machines with a referee, which hear each other unless they are cut off, and the referee unless it is down.
type pair struct {
	t       *testing.T
	now     uint64
	nodes   map[mtm.NodeID]*Machine
	disk    map[mtm.NodeID]mtm.RecGeneration
	referee *Arbiter
	apart   bool
	down    bool
	asked   []mtm.RefereeRequest
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, nodes: map[mtm.NodeID]*Machine{}, disk: map[mtm.NodeID]mtm.RecGeneration{}, referee: row(0, 0)}
	for id := mtm.NodeID(1); id <= 2; id++ {
		p.start(id)
	}
	p.run(1000)
	return p
}

func (p *pair) start(id mtm.NodeID) {
	all := mtm.Nodes(1, 2)
	p.nodes[id] = New(Config{
		ID: id, Initial: mtm.Generation{Num: 1, Members: all, Configured: all}, Referee: true, Life: p.now,
	}, p.disk[id], p.now)
	p.nodes[id].PeerUp(3 - id)
	if m := p.nodes[3-id]; m != nil {
		m.PeerUp(id)
	}
}

func (p *pair) stop(id mtm.NodeID) {
	delete(p.nodes, id)
	if m := p.nodes[3-id]; m != nil {
		m.PeerDown(id)
	}
}

// run lets time pass; a node that must recover has done so when its donor is online.
func (p *pair) run(ms uint64) {
	for end := p.now + ms; p.now < end; p.now += 10 {
		for id := mtm.NodeID(1); id <= 2; id++ {
			m := p.nodes[id]
			if m == nil {
				continue
			}
			m.Tick(p.now)
			p.drain(id)
			peer := p.nodes[3-id]
			donor := !p.apart && peer != nil && peer.Online() && peer.State().Gen.Num >= m.State().Gen.Num
			if m.MayBecomeOnline() && (m.IsDonor() || donor) {
				m.BecomeOnline()
			}
			m.SetCaughtUp(m.IsDonor() || donor)
			p.drain(id)
		}
	}
}

func (p *pair) drain(id mtm.NodeID) {
	r := p.nodes[id].Ready()
	for _, rec := range r.Persist {
		p.disk[id] = rec.(mtm.RecGeneration)
	}
	for _, m := range r.Send {
		if to := p.nodes[m.To]; to != nil && !p.apart {
			to.Receive(m.From, m.Body)
			p.drain(m.To)
		}
	}
	for _, q := range r.Ask {
		p.asked = append(p.asked, q)
		if p.down {
			continue
		}
		if a, _ := p.referee.Ask(q); p.nodes[id] != nil {
			p.nodes[id].RefereeSaid(a)
			p.drain(id)
		}
	}
}

func (p *pair) serves(id mtm.NodeID) bool {
	m := p.nodes[id]
	return m != nil && m.LeaseEnd() > p.now
}

func TestTheSurvivorGoesOnAloneByTheGrant(t *testing.T) {
	p := newPair(t)
	p.stop(2)
	p.run(500)
	require.True(t, p.nodes[1].Sole())
	require.True(t, p.serves(1))
	require.True(t, p.nodes[1].Established())
	require.Equal(t, mtm.NodeID(1), p.referee.State().Holder)
}

func TestNoGrantIsAskedForBeforeTheLeaseOfThePeerHasRunOut(t *testing.T) {
	p := newPair(t)
	promised := p.nodes[1].peers[2].promised
	p.stop(2)
	for p.run(10); p.now <= promised; p.run(10) {
		for _, q := range p.asked {
			require.NotEqual(t, mtm.RefereeGrant, q.Kind, "at %d", p.now)
		}
		require.Equal(t, uint64(1), p.nodes[1].State().Vote.Num)
	}
	p.run(100)
	require.True(t, p.nodes[1].Sole())
}

func TestNobodyVotesForNothingWhileTheRefereeIsDown(t *testing.T) {
	p := newPair(t)
	p.down = true
	p.stop(2)
	p.run(5000)
	require.Equal(t, uint64(1), p.nodes[1].State().Vote.Num)
	require.False(t, p.serves(1))
}

func TestTheLoserAloneNeverServes(t *testing.T) {
	p := newPair(t)
	p.stop(2)
	p.run(500)
	p.stop(1)
	p.start(2)
	p.run(20000)
	require.False(t, p.serves(2))
	require.Equal(t, mtm.Nodes(1), p.nodes[2].State().Gen.Members, "it has learned who goes on")
	p.start(1)
	p.run(5000)
	require.True(t, p.serves(1) && p.serves(2))
	require.Zero(t, p.referee.State().Holder, "both are back")
}

func TestTheWinnerRestartsWithoutTheReferee(t *testing.T) {
	p := newPair(t)
	p.stop(2)
	p.run(500)
	p.down = true
	p.stop(1)
	p.start(1)
	p.run(100)
	require.True(t, p.serves(1))
}

func TestTheGrantIsClearedWhenBothAreBackAndTheOtherMayGoOnThen(t *testing.T) {
	p := newPair(t)
	p.stop(2)
	p.run(500)
	p.start(2)
	p.run(3000)
	require.True(t, p.serves(1) && p.serves(2))
	require.Equal(t, mtm.Nodes(1, 2), p.nodes[1].State().Gen.Members)
	p.stop(1)
	p.run(500)
	require.True(t, p.nodes[2].Sole())
}

func TestOneOfTwoThatAreApartGoesOn(t *testing.T) {
	p := newPair(t)
	p.apart = true
	p.run(3000)
	require.NotEqual(t, p.serves(1), p.serves(2))
	p.apart = false
	p.run(3000)
	require.True(t, p.serves(1) && p.serves(2))
}

// A grant that comes when its candidacy is over elects nobody.
func TestALateGrantIsVoid(t *testing.T) {
	p := newPair(t)
	before := p.nodes[1].State()
	p.nodes[1].RefereeSaid(mtm.RefereeAnswer{Kind: mtm.RefereeGrant, Gen: 7, OK: true, Holder: 1, HolderGen: 7})
	require.Equal(t, before, p.nodes[1].State())
}

// Who voted for a change of the configured nodes may not know that it is in force.
func TestWhoVotedForAnotherConfigurationAsksNoReferee(t *testing.T) {
	p := newPair(t)
	m := p.nodes[1]
	m.st.Vote.Num, m.st.Barred = 9, m.st.Barred.With(1)
	p.asked = nil
	p.stop(2)
	p.run(5000)
	require.Empty(t, p.asked)
	require.False(t, p.serves(1))
}

// The clock of a node begins anew with each life.
func TestAnAcknowledgementOfAnEarlierLifeGivesNoLease(t *testing.T) {
	all := mtm.Nodes(1, 2)
	cfg := Config{ID: 1, Initial: mtm.Generation{Num: 1, Members: all, Configured: all}, Life: 1}
	m := New(cfg, mtm.RecGeneration{}, 0)
	m.PeerUp(2)
	m.Tick(100)
	beat := m.Ready().Send[0].Body.(mtm.Heartbeat)
	m.Receive(2, mtm.HeartbeatAck{Sent: beat.Sent})
	require.NotZero(t, m.LeaseEnd())
	cfg.Life = 2
	m = New(cfg, mtm.RecGeneration{}, 0)
	m.PeerUp(2)
	m.Tick(120)
	m.Receive(2, mtm.HeartbeatAck{Sent: beat.Sent})
	require.Zero(t, m.LeaseEnd())
}
