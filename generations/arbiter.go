package generations

import (
	"fmt"

	"mtm"
)

// Arbiter is the referee of a two-node cluster: one row, which names the node that may go on alone. It is pure; whoever
// drives it makes State durable, when Ask says that it changed, before the answer leaves.
//
// The row is cleared only by a node that is online in the two-node generation together with its peer, so whoever is
// granted an empty row holds all that was ever committed.
type Arbiter struct {
	st     mtm.RefereeState
	claims map[mtm.NodeID]claim
}

// claim is what a node said while the referee did not know the pair that it is of.
type claim struct {
	gen  uint64
	pair mtm.NodeSet
}

// NewArbiter goes on from what was persisted last.
func NewArbiter(st mtm.RefereeState) *Arbiter {
	return &Arbiter{st: st, claims: map[mtm.NodeID]claim{}}
}

// State is what has to be remembered.
func (a *Arbiter) State() mtm.RefereeState { return a.st }

// Ask answers a request; changed: State has to be durable before the answer is sent.
func (a *Arbiter) Ask(r mtm.RefereeRequest) (ans mtm.RefereeAnswer, changed bool) {
	why := a.refuse(r)
	before := a.st
	if why == "" {
		why = a.take(r)
	}
	return mtm.RefereeAnswer{
		Kind: r.Kind, Gen: r.Gen, OK: why == "", Holder: a.st.Holder, HolderGen: a.st.Gen, Floor: a.st.Floor, Why: why,
	}, a.st != before
}

// refuse says what is wrong with a request whatever the row.
func (a *Arbiter) refuse(r mtm.RefereeRequest) string {
	switch {
	case r.Configured.Len() != 2:
		return fmt.Sprintf("a referee is for two nodes, and %v are configured", r.Configured)
	case !r.Configured.Has(r.Node):
		return fmt.Sprintf("node %d is not one of %v", r.Node, r.Configured)
	case r.Kind == mtm.RefereeClear:
		return ""
	case a.st.Pair == 0:
		return "the referee is new: both nodes have to be online together once"
	case r.Configured != a.st.Pair:
		return fmt.Sprintf("the referee serves nodes %v, not %v", a.st.Pair, r.Configured)
	case r.Since > a.st.Floor: // the peer may not know yet that the third one is dropped, and go on with it
		return fmt.Sprintf("both nodes have to be online together once since nodes %v are configured", r.Configured)
	case a.st.Holder != 0 && a.st.Holder != r.Node:
		return fmt.Sprintf("grant was already issued to node %d in generation %d", a.st.Holder, a.st.Gen)
	}
	return ""
}

func (a *Arbiter) take(r mtm.RefereeRequest) string {
	switch r.Kind {
	case mtm.RefereeProbe:
		return ""
	case mtm.RefereeGrant:
		return a.grant(r)
	case mtm.RefereeClear:
		return a.clear(r)
	}
	return fmt.Sprintf("the referee does not know request %d", int(r.Kind))
}

// grant: the row is empty, or the asking node's own. A number is granted once, and none at or below the floor, which
// is a request that was long under way.
func (a *Arbiter) grant(r mtm.RefereeRequest) string {
	switch {
	case a.st.Holder == r.Node && r.Gen <= a.st.Gen:
		return fmt.Sprintf("grant was already issued to node %d in generation %d", a.st.Holder, a.st.Gen)
	case r.Gen <= a.st.Floor:
		return fmt.Sprintf("both nodes were online in generation %d since", a.st.Floor)
	}
	a.st.Holder, a.st.Gen = r.Node, r.Gen
	return ""
}

// clear empties a row that is older than the generation in which both are online. A pair that the referee does not
// know is believed when both nodes tell of the same generation: one alone may not know of a grant that a lost disk held.
func (a *Arbiter) clear(r mtm.RefereeRequest) string {
	if r.Gen <= a.st.Floor && r.Configured == a.st.Pair {
		return ""
	}
	if r.Configured != a.st.Pair {
		if r.Gen <= a.st.Floor || !a.bothClaim(r) {
			return "waiting for the other node to be online in the same generation"
		}
		a.st.Pair = r.Configured
		clear(a.claims)
	}
	a.st.Floor = max(a.st.Floor, r.Gen)
	if a.st.Gen <= r.Gen {
		a.st.Holder, a.st.Gen = 0, 0
	}
	return ""
}

func (a *Arbiter) bothClaim(r mtm.RefereeRequest) bool {
	c := claim{r.Gen, r.Configured}
	a.claims[r.Node] = c
	for _, id := range r.Configured.IDs() {
		if a.claims[id] != c {
			return false
		}
	}
	return true
}
