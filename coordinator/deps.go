package coordinator

import (
	"slices"

	"mtm"
)

// depsNow is all that a transaction captured now may have seen: whatever was decided here.
func (n *Node) depsNow() mtm.Deps {
	open := map[mtm.NodeID][]uint64{}
	for gid, u := range n.txns {
		if u.outcome == undecided {
			open[gid.Origin] = append(open[gid.Origin], gid.Seq)
		}
	}
	var deps mtm.Deps
	for _, id := range n.gen.Configured.IDs() {
		if upto := n.maxSeen[id]; upto > 0 {
			slices.Sort(open[id])
			deps = append(deps, mtm.OriginDeps{Origin: id, Upto: upto, Except: open[id]})
		}
	}
	return deps
}

// unfinishedOf lists what t may have seen at its origin and is not finished here. Everything that was decided in this
// generation was prepared here before, so what is not known here is not missed.
func (n *Node) unfinishedOf(t *txn) map[mtm.GID]bool {
	wait := map[mtm.GID]bool{}
	if n.cfg.Plant.NoDeps {
		return wait
	}
	for gid, u := range n.txns {
		if u != t && u.holdsOrWill() && t.deps.Covers(gid) {
			wait[gid] = true
		}
	}
	return wait
}
