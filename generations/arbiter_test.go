package generations

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// row is an armed referee with the given grant.
func row(holder mtm.NodeID, gen uint64) *Arbiter {
	return NewArbiter(mtm.RefereeState{Pair: mtm.Nodes(1, 2), Holder: holder, Gen: gen, Floor: 1})
}

func request(kind mtm.RefereeKind, node mtm.NodeID, gen uint64) mtm.RefereeRequest {
	return mtm.RefereeRequest{Kind: kind, Node: node, Gen: gen, Configured: mtm.Nodes(1, 2)}
}

// The decision table of the reference: row, request, answer.
func TestRefereeDecisionTable(t *testing.T) {
	for _, c := range []struct {
		name   string
		holder mtm.NodeID
		gen    uint64
		ask    mtm.RefereeRequest
		ok     bool
		why    string
		then   mtm.NodeID
		thenIn uint64
	}{
		{"no row", 0, 0, request(mtm.RefereeGrant, 1, 5), true, "", 1, 5},
		{"own row of an older generation", 1, 5, request(mtm.RefereeGrant, 1, 6), true, "", 1, 6},
		{"own row of the same generation", 1, 5, request(mtm.RefereeGrant, 1, 5), false, "grant was already issued to node 1 in generation 5", 1, 5},
		{"own row of a newer generation", 1, 5, request(mtm.RefereeGrant, 1, 4), false, "grant was already issued to node 1 in generation 5", 1, 5},
		{"row of the other node", 1, 5, request(mtm.RefereeGrant, 2, 9), false, "grant was already issued to node 1 in generation 5", 1, 5},
		{"a grant that was long under way", 0, 0, request(mtm.RefereeGrant, 1, 1), false, "both nodes were online in generation 1 since", 0, 0},
		{"both are online again", 1, 5, request(mtm.RefereeClear, 2, 6), true, "", 0, 0},
		{"both were online before the grant", 1, 5, request(mtm.RefereeClear, 2, 4), true, "", 1, 5},
		{"a probe stores nothing", 0, 0, request(mtm.RefereeProbe, 1, 5), true, "", 0, 0},
		{"a probe of the loser", 1, 5, request(mtm.RefereeProbe, 2, 9), false, "grant was already issued to node 1 in generation 5", 1, 5},
	} {
		a := row(c.holder, c.gen)
		before := a.State()
		ans, changed := a.Ask(c.ask)
		require.Equal(t, c.ok, ans.OK, c.name)
		require.Equal(t, c.why, ans.Why, c.name)
		require.Equal(t, c.then, a.State().Holder, c.name)
		require.Equal(t, c.thenIn, a.State().Gen, c.name)
		require.Equal(t, a.State() != before, changed, c.name)
		require.Equal(t, a.State().Holder, ans.Holder, c.name)
	}
}

func TestARefereeIsForTwoNodes(t *testing.T) {
	for _, configured := range []mtm.NodeSet{0, mtm.Nodes(1), mtm.Nodes(1, 2, 3), mtm.Nodes(2, 3), mtm.Nodes(1, 3)} {
		for _, kind := range []mtm.RefereeKind{mtm.RefereeProbe, mtm.RefereeGrant} {
			a := row(0, 0)
			ans, changed := a.Ask(mtm.RefereeRequest{Kind: kind, Node: 1, Gen: 5, Configured: configured})
			require.False(t, ans.OK, "%v", configured)
			require.NotEmpty(t, ans.Why)
			require.False(t, changed)
		}
	}
}

// A referee without memory may have forgotten a grant, so it waits for both nodes to be online together.
func TestANewRefereeGrantsNothingBeforeBothWereOnline(t *testing.T) {
	a := NewArbiter(mtm.RefereeState{})
	grant := request(mtm.RefereeGrant, 1, 9)
	for _, r := range []mtm.RefereeRequest{
		request(mtm.RefereeClear, 1, 3), request(mtm.RefereeClear, 1, 3), request(mtm.RefereeClear, 2, 4),
	} {
		ans, changed := a.Ask(r)
		require.False(t, ans.OK)
		require.False(t, changed)
		ans, _ = a.Ask(grant)
		require.False(t, ans.OK, "after %v", r)
	}
	ans, changed := a.Ask(request(mtm.RefereeClear, 1, 4))
	require.True(t, ans.OK)
	require.True(t, changed)
	require.Equal(t, mtm.RefereeState{Pair: mtm.Nodes(1, 2), Floor: 4}, a.State())
	ans, _ = a.Ask(grant)
	require.True(t, ans.OK)
}

// The configured nodes have changed: a third node in the place of the second.
func TestARefereeTakesAnotherPairFromBothOfIt(t *testing.T) {
	a := row(2, 5)
	pair := mtm.Nodes(1, 3)
	for i, id := range []mtm.NodeID{1, 3} {
		ans, _ := a.Ask(mtm.RefereeRequest{Kind: mtm.RefereeClear, Node: id, Gen: 9, Configured: pair})
		require.Equal(t, i == 1, ans.OK)
	}
	require.Equal(t, mtm.RefereeState{Pair: pair, Floor: 9}, a.State())
	ans, _ := a.Ask(request(mtm.RefereeGrant, 2, 12))
	require.False(t, ans.OK)
}

// Three nodes became two: the other one may not have heard, and go on with the third.
func TestNoGrantBeforeBothWereOnlineWithTheseConfiguredNodes(t *testing.T) {
	a := row(0, 0)
	grant := request(mtm.RefereeGrant, 1, 21)
	grant.Since = 20
	ans, _ := a.Ask(grant)
	require.False(t, ans.OK)
	require.Contains(t, ans.Why, "online together once since")
	_, changed := a.Ask(request(mtm.RefereeClear, 2, 20))
	require.True(t, changed)
	ans, _ = a.Ask(grant)
	require.True(t, ans.OK)
}

func TestANodeRemembersSinceWhenTheseNodesAreConfigured(t *testing.T) {
	all := mtm.Nodes(1, 2, 3)
	m := New(Config{ID: 1, Initial: mtm.Generation{Num: 1, Members: all, Configured: all}}, mtm.RecGeneration{}, 0)
	require.Equal(t, uint64(1), m.State().Since)
	m.learn(mtm.Generation{Num: 5, Members: mtm.Nodes(1, 2), Configured: all}, mtm.Nodes(1, 2))
	require.Equal(t, uint64(1), m.State().Since)
	m.learn(mtm.Generation{Num: 6, Members: mtm.Nodes(1, 2), Configured: mtm.Nodes(1, 2)}, mtm.Nodes(1, 2))
	require.Equal(t, uint64(6), m.State().Since)
	m.learn(mtm.Generation{Num: 9, Members: mtm.Nodes(1), Configured: mtm.Nodes(1, 2)}, mtm.Nodes(1))
	require.Equal(t, uint64(6), m.State().Since)
}
