package generations

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// three are machines that have heard each other.
func three(t *testing.T) map[mtm.NodeID]*Machine {
	t.Helper()
	all := mtm.Nodes(1, 2, 3)
	ms := map[mtm.NodeID]*Machine{}
	for _, id := range all.IDs() {
		ms[id] = New(Config{ID: id, Life: 7, Initial: mtm.Generation{Num: 1, Members: all, Configured: all}}, mtm.RecGeneration{}, 0)
		for _, other := range all.Without(id).IDs() {
			ms[id].PeerUp(other)
		}
	}
	for now := uint64(50); now <= 1000; now += 50 {
		for _, id := range all.IDs() {
			ms[id].Tick(now)
		}
		carry(ms)
	}
	require.Positive(t, ms[3].LeaseEnd())
	return ms
}

// carry delivers what was said until nobody says anything more. A new generation is entered at once.
func carry(ms map[mtm.NodeID]*Machine) {
	for said := true; said; {
		said = false
		for id := mtm.NodeID(1); id <= 3; id++ {
			r := ms[id].Ready()
			if r.Switch {
				ms[id].BecomeOnline()
			}
			for _, m := range r.Send {
				said = true
				ms[m.To].Receive(m.From, m.Body)
			}
		}
	}
}

func TestALeaseThatWasGivenBackIsNotWaitedFor(t *testing.T) {
	ms := three(t)
	ms[3].Leave()
	carry(ms)
	require.Equal(t, mtm.Nodes(3), ms[1].Leavers())
	require.Positive(t, ms[3].LeaseEnd(), "it serves until all is drained")
	require.False(t, ms[3].AllDrained())
	ms[1].SetDrained(true)
	ms[2].SetDrained(true)
	carry(ms)
	require.True(t, ms[3].AllDrained())
	ms[3].GiveBack()
	require.Zero(t, ms[3].LeaseEnd())
	carry(ms)
	for now := uint64(1010); now <= 1020; now += 10 {
		for id := mtm.NodeID(1); id <= 3; id++ {
			ms[id].Tick(now)
		}
		carry(ms)
	}
	require.Equal(t, mtm.Nodes(1, 2), ms[1].State().Gen.Members)
	require.True(t, ms[1].Online() && ms[2].Online())
	require.Zero(t, ms[1].Leavers())
}

func TestWhoLeftHasNoLeaseWhateverIsAcknowledged(t *testing.T) {
	ms := three(t)
	ms[3].Leave()
	ms[3].GiveBack()
	for _, m := range ms[3].Ready().Send {
		if b, ok := m.Body.(mtm.Heartbeat); ok {
			ms[3].Receive(m.To, mtm.HeartbeatAck{Sent: b.Sent})
		}
	}
	require.Zero(t, ms[3].LeaseEnd())
	ms[3].Leave() // again
	require.True(t, ms[3].HasLeft(), "there is no way back")
	ms[3].SetDrained(true)
	require.True(t, ms[3].HasLeft())
}

func TestAWordOfAnEarlierLifeEndsNoLease(t *testing.T) {
	ms := three(t)
	kept := ms[1].peers[3].promised
	require.Positive(t, kept)
	b := mtm.Heartbeat{Sent: 6<<lifeShift | 900, Gen: ms[1].State().Gen, LastOnline: 1, Connected: mtm.Nodes(1, 2, 3), Leave: mtm.Left}
	ms[1].Receive(3, b)
	require.Equal(t, kept, ms[1].peers[3].promised)
	b.Sent = 7<<lifeShift | 1000
	ms[1].Receive(3, b)
	require.Zero(t, ms[1].peers[3].promised)
}

func TestWhoLeavesStandsForNothing(t *testing.T) {
	ms := three(t)
	ms[3].Leave()
	ms[3].PeerDown(1)
	for now := uint64(1010); now <= 3000; now += 10 {
		ms[3].Tick(now)
		for _, m := range ms[3].Ready().Send {
			_, stands := m.Body.(mtm.Campaign)
			require.False(t, stands)
		}
	}
}

func TestTheFirstInTheRowStandsAtOnce(t *testing.T) {
	ms := three(t)
	ms[3].Leave()
	carry(ms)
	ms[1].SetDrained(true)
	ms[2].SetDrained(true)
	carry(ms)
	ms[3].GiveBack()
	carry(ms) // no tick
	require.Equal(t, mtm.Nodes(1, 2), ms[1].State().Gen.Members)
	require.True(t, ms[1].Online() && ms[2].Online())
	require.Equal(t, uint64(2), ms[2].State().Gen.Num, "nobody else stood")
}
