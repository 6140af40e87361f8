package main

import (
	"fmt"

	"mtm"
)

// unrest says what still keeps the run from its end, or "".
func (w *world) unrest() string {
	for _, c := range w.clients {
		if !c.idle() {
			return fmt.Sprintf("client %d of %d waits for %s", c.id, len(w.clients), c.gid)
		}
	}
	if w.operator != nil && len(w.operator.steps) > 0 {
		return fmt.Sprintf("the operator waits: %v", w.operator.steps)
	}
	for _, n := range w.nodes {
		if !w.all.Has(n.id) {
			continue
		}
		if why := n.unrest(0); why != "" {
			return fmt.Sprintf("n%d %s", n.id, why)
		}
	}
	return ""
}

// unrestWithout says what keeps the others from going on without a node: they exclude it, and end all that there is.
func (w *world) unrestWithout(away *node) string {
	for _, c := range w.clients {
		if !c.idle() {
			return fmt.Sprintf("client %d of %d waits for %s while n%d is away", c.id, len(w.clients), c.gid, away.id)
		}
	}
	for _, n := range w.nodes {
		if n == away {
			continue
		}
		if why := n.unrest(away.id); why != "" {
			return fmt.Sprintf("n%d %s while n%d is away", n.id, why, away.id)
		}
	}
	return ""
}

// inDoubt says what the nodes other than away have not ended, though a majority of them is there.
func (w *world) inDoubt(away *node) string {
	for _, n := range w.nodes {
		if n == away {
			continue
		}
		if !n.alive || !n.pg.up {
			return fmt.Sprintf("n%d is down", n.id)
		}
		if len(n.pg.prepared) > 0 {
			return fmt.Sprintf("n%d holds %v prepared while n%d is away", n.id, n.pg.preparedGIDs(), away.id)
		}
		if st := n.brain.Status(); st.Undecided != 0 {
			return fmt.Sprintf("n%d has %d undecided while n%d is away", n.id, st.Undecided, away.id)
		}
	}
	return ""
}

// unrest: what a node that is away has yet to forget does not count.
func (n *node) unrest(away mtm.NodeID) string {
	if !n.alive || !n.pg.up {
		return "is down"
	}
	if len(n.pg.prepared) > 0 {
		return fmt.Sprintf("holds %v prepared", n.pg.preparedGIDs())
	}
	if n.unrestOfUsers() {
		return fmt.Sprintf("holds %d that users prepared", len(n.pg.user))
	}
	if len(n.pg.live) > 0 {
		return "has open transactions"
	}
	if n.frozen > n.w.now {
		return "is frozen"
	}
	st := n.brain.Status()
	if away == 0 && st.Generation.Members != n.w.all {
		return fmt.Sprintf("is in %v", st.Generation)
	}
	if st.Status != mtm.StatusOnline || !n.gate.opened {
		return fmt.Sprintf("is %s, gate open: %v", st.Status, n.gate.opened)
	}
	// What the brain would have to remember is all that it knows.
	for _, r := range n.brain.Checkpoint() {
		switch r := r.(type) {
		case mtm.RecDecide:
			if r.GID.Origin != away && n.w.all.Has(r.GID.Origin) {
				return fmt.Sprintf("remembers %T%+v", r, r)
			}
		case mtm.RecHave:
			if r.Origin != away && n.w.all.Has(r.Origin) {
				return fmt.Sprintf("remembers %T%+v", r, r)
			}
		case mtm.RecBase, mtm.RecCheckpoint, mtm.RecCheckpointEnd, mtm.RecReserve, mtm.RecForget, mtm.RecGeneration:
		default:
			return fmt.Sprintf("remembers %T%+v", r, r)
		}
	}
	if st.InFlight != 0 || st.Undecided != 0 {
		return fmt.Sprintf("has %d in flight, %d undecided", st.InFlight, st.Undecided)
	}
	return ""
}
