package main

import (
	"slices"

	"mtm"
	"mtm/coordinator"
)

// This file changes the configured nodes while all else goes on: 3, 4, 5 and back to 3, living and dead ones dropped.

// operator asks for one change after the other, and looks whether it is done.
type operator struct {
	w       *world
	steps   []mtm.NodeID // added if absent, else dropped
	fresh   mtm.NodeSet  // were never added yet
	waiting bool
	done    int
}

const (
	firstNodes = 3
	mostNodes  = 5
)

// setMembers makes the run one with changes.
func (w *world) setMembers() {
	w.awayChance = 0
	w.leaveEvery = 0 // many a node would be stopped while it is added, and its addition undone: see docs/testing.md
	w.plan.txns += 4
	w.operator = &operator{w: w, fresh: mtm.Nodes(4, 5)}
	list := []mtm.NodeID{4, 5}
	first := mtm.NodeID(1 + w.rng.IntN(mostNodes))
	second := mtm.NodeID(1 + (int(first)+w.rng.IntN(mostNodes-1))%mostNodes)
	if first < 4 && w.chance(0.3) { // dropped while there are four
		list = slices.Insert(list, 1, first)
		w.operator.steps = append(list, second)
		return
	}
	w.operator.steps = append(list, first, second)
}

func (o *operator) start() {
	for id := mtm.NodeID(firstNodes + 1); id <= mostNodes; id++ {
		n := newNode(o.w, id)
		n.absent = true
		o.w.nodes = append(o.w.nodes, n)
	}
	o.later()
}

func (o *operator) later() { o.w.after(o.w.between(5*ms, 60*ms), o.look) }

// look drives the step that is due.
func (o *operator) look() {
	if len(o.steps) == 0 {
		return
	}
	id := o.steps[0]
	n := o.w.node(id)
	switch {
	case o.fresh.Has(id) && !o.waiting:
		o.waiting = o.copyTo(n)
	case o.fresh.Has(id):
		if n.alive && n.brain.Status().Status == mtm.StatusOnline {
			o.fresh = o.fresh.Without(id)
			o.next()
		}
	case !o.waiting && !o.othersAreThere(n):
	case !o.waiting:
		o.waiting = true
		if o.w.chance(0.4) {
			n.leaveForEver()
		}
		o.w.tracef("OPERATOR drops n%d", id)
	default:
		o.drop(n)
	}
	o.later()
}

func (o *operator) next() {
	o.w.tracef("OPERATOR is done with n%d", o.steps[0])
	o.waiting = false
	o.done++
	o.steps = o.steps[1:]
}

// drop asks some node to drop n, until one that is online lives without it together with all its members, and waits until nothing in
// doubt counts on it.
func (o *operator) drop(n *node) {
	for _, other := range o.w.nodes {
		if other == n || !other.alive {
			continue
		}
		st := other.brain.Status()
		if o.news(st) && st.Status == mtm.StatusOnline && !st.Generation.Configured.Has(n.id) && st.Online == st.Generation.Members {
			if o.unneeded(n) {
				o.next()
				o.w.all = o.w.all.Without(n.id)
				o.w.after(o.w.between(1, 500*ms), n.leaveForEver)
			}
			return
		}
	}
	if other := o.w.nodes[o.w.rng.IntN(len(o.w.nodes))]; other != n && other.alive {
		other.push(coordinator.DropNode{Node: n.id})
	}
}

// unneeded: no other node has a transaction that n takes part in deciding.
func (o *operator) unneeded(n *node) bool {
	for _, other := range o.w.nodes {
		if other != n && o.w.all.Has(other.id) && (!other.alive || other.brain.Status().CountsOn.Has(n.id)) {
			return false
		}
	}
	return true
}

// othersAreThere: nobody else is behind, who could find only copies to recover from, which do not reach back far enough.
func (o *operator) othersAreThere(n *node) bool {
	for _, other := range o.w.nodes {
		if other != n && other.alive && o.w.all.Has(other.id) {
			st := other.brain.Status()
			return o.news(st) && st.Online.With(n.id).Contains(o.w.all)
		}
	}
	return false
}

// news: it is not what a node says that is frozen, or cut off, and has missed what became of the cluster.
func (o *operator) news(st coordinator.Status) bool {
	for num := range o.w.check.gens {
		if num > st.Generation.Num {
			return false
		}
	}
	return true
}

func (n *node) leaveForEver() {
	n.w.tracef("n%d leaves for ever", n.id)
	n.crash()
	n.absent = true
}

// copyTo makes a new node from the data of one that is online, at a moment at which its brain knows all that its
// PostgreSQL has; false: not now.
func (o *operator) copyTo(n *node) bool {
	w := o.w
	donor := w.nodes[w.rng.IntN(len(w.nodes))]
	if !donor.alive || !donor.pg.up || donor.absent || donor.brain.Status().Status != mtm.StatusOnline {
		return false
	}
	have := donor.brain.Have()
	for gid, r := range w.check.txns {
		if r.committed.Has(donor.id) && !covers(have, gid) {
			return false
		}
	}
	for gid, r := range w.check.txns {
		if r.committed.Has(donor.id) {
			w.check.txns[gid].committed = r.committed.With(n.id)
		}
	}
	for k, r := range donor.pg.rows {
		n.pg.rows[k] = row{exists: r.exists, val: r.val, last: r.last, version: r.version}
	}
	n.pg.up = true
	n.disk.append(coordinator.Seed(n.id, donor.brain.Status().Generation, have)...)
	n.disk.sync()
	n.absent = false
	w.all = w.all.With(n.id)
	w.tracef("OPERATOR copies n%d to n%d: %+v", donor.id, n.id, have)
	n.start()
	return true
}

func covers(have []mtm.OriginHave, gid mtm.GID) bool {
	s := stream{req: mtm.Recover{Have: have}}
	return s.has(gid)
}

// configured is who decides a transaction.
func (c *checker) configured(gid mtm.GID) mtm.NodeSet {
	if g, ok := c.gens[gid.Gen]; ok {
		return g.Configured
	}
	return c.w.initial
}
