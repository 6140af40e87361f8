package generations

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// Who is on hold stands for nothing and votes for nothing, also what it was asked before; afterwards it does again.
func TestHoldStopsElections(t *testing.T) {
	all := mtm.Nodes(1, 2, 3)
	first := mtm.Generation{Num: 1, Members: all, Configured: all}
	m := New(Config{ID: 1, Initial: first}, mtm.RecGeneration{}, 0)
	now := uint64(0)
	next := mtm.Generation{Num: 2, Members: mtm.Nodes(1, 2), Configured: all}
	run := func(ms uint64, from2 ...mtm.Body) (sent []mtm.Message, persisted []mtm.Record) {
		for end := now + ms; now < end; now += 10 {
			beat := mtm.Heartbeat{Sent: now, Gen: m.State().Gen, Donors: all, LastOnline: 1, Connected: mtm.Nodes(1, 2)}
			for _, b := range append([]mtm.Body{beat}, from2...) {
				m.Receive(2, b)
			}
			m.Tick(now)
			r := m.Ready()
			sent, persisted = append(sent, r.Send...), append(persisted, r.Persist...)
		}
		return sent, persisted
	}
	votes := func(sent []mtm.Message) (yes, campaigns int) {
		for _, s := range sent {
			switch b := s.Body.(type) {
			case mtm.CampaignVote:
				if b.OK {
					yes++
				}
			case mtm.Campaign:
				campaigns++
			}
		}
		return yes, campaigns
	}
	m.PeerUp(2)
	m.Hold(true)
	require.True(t, m.Held())
	sent, persisted := run(5000, mtm.Campaign{Gen: next})
	yes, campaigns := votes(sent)
	require.Zero(t, yes)
	require.Zero(t, campaigns, "node 3 is lost, and it lets it be")
	require.Empty(t, persisted)
	require.Equal(t, first, m.State().Gen)

	m.Receive(2, mtm.Elected{Gen: mtm.Generation{Num: 2, Members: mtm.Nodes(2, 3), Configured: all}, Donors: mtm.Nodes(2, 3)})
	require.EqualValues(t, 2, m.State().Gen.Num, "what the others have elected counts")

	m = New(Config{ID: 1, Initial: first}, mtm.RecGeneration{}, now)
	m.PeerUp(2)
	m.Hold(true)
	run(2000)
	m.Hold(false)
	sent, _ = run(3000)
	_, campaigns = votes(sent)
	require.NotZero(t, campaigns)
	sent, _ = run(3000, mtm.Campaign{Gen: mtm.Generation{Num: 100, Members: mtm.Nodes(1, 2), Configured: all}})
	yes, _ = votes(sent)
	require.NotZero(t, yes)
}
