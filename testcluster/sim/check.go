package main

import (
	"slices"

	"mtm"
)

// record is what an observer who sees everything knows of a transaction.
type record struct {
	images    []image
	waitLocal bool
	acked     bool
	failed    *mtm.Error
	prepared  mtm.NodeSet // PostgreSQL of these held it prepared
	accepted  mtm.NodeSet // the journals of these hold an acceptance of commit, durably
	committed mtm.NodeSet
	rolled    mtm.NodeSet
	toldYes   mtm.NodeSet // these say that it is committed, in their journals or to who asked
	toldNo    mtm.NodeSet // … that it is aborted
}

// checker asserts S1 to S9 of docs/design.md at each effect, and at the end.
type checker struct {
	w     *world
	txns  map[mtm.GID]*record
	gids  []mtm.GID   // of txns, in the order in which they began
	order [][]mtm.GID // per row: who changed it, in the order in which the first node committed
	fresh []int       // per row: versions that every read must see
	acks  int
	gens  map[uint64]mtm.Generation
	votes map[mtm.NodeID]uint64 // highest generation that a node voted for, durably
	last  map[mtm.NodeID]uint64 // in which it was online last
	alone map[mtm.NodeID]uint64 // in which it last was online alone, by a referee's grant
}

func newChecker(w *world) checker {
	return checker{
		w: w, txns: map[mtm.GID]*record{},
		order: make([][]mtm.GID, w.rowsInAll()), fresh: make([]int, w.rowsInAll()),
		gens: map[uint64]mtm.Generation{}, votes: map[mtm.NodeID]uint64{}, last: map[mtm.NodeID]uint64{},
		alone: map[mtm.NodeID]uint64{},
	}
}

func (c *checker) begin(gid mtm.GID, images []image, waitLocal bool) {
	if c.txns[gid] != nil {
		c.w.fail("S9 %s is given twice", gid)
	}
	c.txns[gid] = &record{images: slices.Clone(images), waitLocal: waitLocal}
	c.gids = append(c.gids, gid)
}

func (c *checker) prepared(n *node, gid mtm.GID) {
	if r := c.txns[gid]; r != nil {
		r.prepared = r.prepared.With(n.id)
		r.rolled = r.rolled.Without(n.id) // an early Apply that failed is rolled back, and applied again in its turn
	}
}

// durable: a record has reached the journal's disk.
func (c *checker) durable(n *node, rec mtm.Record) {
	if g, ok := rec.(mtm.RecGeneration); ok {
		c.generation(n, g)
	}
	if a, ok := rec.(mtm.RecAccept); ok && a.Commit && c.txns[a.GID] != nil {
		c.txns[a.GID].accepted = c.txns[a.GID].accepted.With(n.id)
	}
	if d, ok := rec.(mtm.RecDecide); ok {
		c.told(n, d.GID, d.Commit)
	}
}

// told: n says how gid ended, for good: in its journal, to another node, or to a client who asks. Nobody may ever say otherwise.
// Without elections a member that lost what it had decided says "aborted" for a moment.
func (c *checker) told(n *node, gid mtm.GID, commit bool) {
	r := c.txns[gid]
	if r == nil || len(r.images) == 0 || !c.w.elections {
		return
	}
	if commit {
		r.toldYes = r.toldYes.With(n.id)
	} else {
		r.toldNo = r.toldNo.With(n.id)
	}
	c.agree(gid, r)
}

func (c *checker) agree(gid mtm.GID, r *record) {
	switch {
	case r.toldYes != 0 && r.toldNo != 0:
		c.w.fail("S1 %v say that %s is committed, and %v that it is aborted", r.toldYes, gid, r.toldNo)
	case r.toldYes != 0 && r.rolled != 0:
		c.w.fail("S1 %v say that %s is committed, and %v rolled it back", r.toldYes, gid, r.rolled)
	case r.toldNo != 0 && r.committed != 0:
		c.w.fail("S1 %v say that %s is aborted, and %v committed it", r.toldNo, gid, r.committed)
	case r.toldNo != 0 && r.acked:
		c.w.fail("S2 %v say that %s is aborted, and it was acknowledged", r.toldNo, gid)
	}
}

// generation is S6: who voted for a generation is never online in one below it that it was not online in then.
func (c *checker) generation(n *node, g mtm.RecGeneration) {
	if old, ok := c.gens[g.Gen.Num]; ok && old != g.Gen {
		c.w.fail("S6 there are two generations %d: %v and %v", g.Gen.Num, old, g.Gen)
	}
	c.gens[g.Gen.Num] = g.Gen
	if g.LastOnline != c.last[n.id] && g.LastOnline < c.votes[n.id] {
		c.w.fail("S6 n%d is online in generation %d, and voted for %d", n.id, g.LastOnline, c.votes[n.id])
	}
	c.last[n.id] = g.LastOnline
	if g.Gen.Sole() && g.LastOnline == g.Gen.Num {
		c.alone[n.id] = g.Gen.Num
	}
	c.votes[n.id] = max(c.votes[n.id], g.Vote.Num)
}

// quorum is S5: a majority of the configured nodes accepted it, or one that went on alone in its generation or later.
func (c *checker) quorum(gid mtm.GID, r *record) bool {
	for id, num := range c.alone {
		if num >= gid.Gen && r.accepted.Has(id) {
			return true
		}
	}
	return r.accepted.IsMajorityOf(c.configured(gid))
}

// members are who has to prepare a transaction.
func (c *checker) members(gid mtm.GID) mtm.NodeSet {
	if g, ok := c.gens[gid.Gen]; ok {
		return g.Members
	}
	return c.w.initial
}

// recovered: n commits what a donor sent.
func (c *checker) recovered(n *node, it recoverItem) {
	r := c.txns[it.gid]
	switch {
	case r == nil:
		c.w.fail("S9 n%d recovers %s, which no client asked for", n.id, it.gid)
		return
	case r.rolled != 0:
		c.w.fail("S1 n%d recovers %s, which %v rolled back", n.id, it.gid, r.rolled)
	case r.failed != nil:
		c.w.fail("S4 n%d recovers %s, which was reported as failed: %v", n.id, it.gid, r.failed)
	case r.committed.Has(n.id):
		c.w.fail("S3 n%d recovers %s, which it has", n.id, it.gid)
	case r.committed == 0 && !c.quorum(it.gid, r):
		c.w.fail("S5 n%d recovers %s, which only %v accepted", n.id, it.gid, r.accepted)
	case !sameImages(r.images, it.images):
		c.w.fail("S9 n%d recovers %s with %v instead of %v", n.id, it.gid, it.images, r.images)
	}
	r.committed = r.committed.With(n.id)
	c.agree(it.gid, r)
}

// commit: COMMIT PREPARED ran on n.
func (c *checker) commit(n *node, x *xact) {
	gid, r := x.gid, c.txns[x.gid]
	switch {
	case r == nil:
		c.w.fail("S9 n%d commits %s, which no client asked for", n.id, gid)
		return
	case len(r.images) == 0:
		return // concerns this node alone
	case r.rolled != 0:
		c.w.fail("S1 n%d commits %s, which %v rolled back", n.id, gid, r.rolled)
	case r.failed != nil:
		c.w.fail("S4 n%d commits %s, which was reported as failed: %v", n.id, gid, r.failed)
	case !r.prepared.Contains(c.members(gid)):
		c.w.fail("S5 n%d commits %s, which only %v prepared", n.id, gid, r.prepared)
	case !c.quorum(gid, r):
		c.w.fail("S5 n%d commits %s, which only %v accepted", n.id, gid, r.accepted)
	case !sameImages(r.images, x.images):
		c.w.fail("S9 n%d commits %s with %v instead of %v", n.id, gid, x.images, r.images)
	}
	r.committed = r.committed.With(n.id)
	c.agree(gid, r)
	for _, k := range x.held {
		c.version(n, gid, k, r.images)
	}
}

// version: on n, gid is the next to change row k.
func (c *checker) version(n *node, gid mtm.GID, k int, images []image) {
	i := n.pg.rows[k].version
	if i < len(c.order[k]) {
		if c.order[k][i] != gid {
			c.w.fail("S3 n%d: change %d of row %d is by %s, elsewhere by %s", n.id, i, k, gid, c.order[k][i])
		}
		return
	}
	var before mtm.GID
	if i > 0 {
		before = c.order[k][i-1]
	}
	c.order[k] = append(c.order[k], gid)
	for _, im := range images {
		if im.key == k && im.prev != before {
			c.w.fail("S3 %s changed row %d as %v had left it, and follows %v", gid, k, im.prev, before)
		}
	}
}

func sameImages(a, b []image) bool {
	return slices.EqualFunc(a, b, func(x, y image) bool { return x.op == y.op && x.key == y.key && x.val == y.val })
}

func (c *checker) rolledBack(n *node, gid mtm.GID, atMark bool) {
	r := c.txns[gid]
	if r == nil || atMark {
		return // it comes again, or was aborted
	}
	r.rolled = r.rolled.With(n.id)
	if r.committed != 0 {
		c.w.fail("S1 n%d rolls back %s, which %v committed", n.id, gid, r.committed)
	}
	if r.acked {
		c.w.fail("S2 n%d rolls back %s, which was acknowledged", n.id, gid)
	}
	c.agree(gid, r)
}

// acknowledged: the client was told that gid is committed.
func (c *checker) acknowledged(n *node, gid mtm.GID) {
	r := c.txns[gid]
	r.acked = true
	c.agree(gid, r)
	c.acks++
	if len(r.images) == 0 {
		return
	}
	if r.waitLocal {
		if !r.committed.Has(n.id) {
			c.w.fail("S2 %s is acknowledged, and not committed at home", gid)
		}
		return
	}
	lacking := c.w.all.Minus(r.committed)
	if c.w.elections {
		lacking = 0
		for _, o := range c.w.nodes {
			if o.readable() && !r.committed.Has(o.id) {
				lacking = lacking.With(o.id)
			}
		}
	}
	if lacking != 0 {
		c.w.fail("S7 %s is acknowledged, and committed on %v only", gid, r.committed)
	}
	for _, im := range r.images {
		c.fresh[im.key] = max(c.fresh[im.key], slices.Index(c.order[im.key], gid)+1)
	}
}

// failed: the client was told that gid did not commit. Nobody may find a row missing, or there already, that the
// origin saw otherwise: then a member applied too early, or in another order.
func (c *checker) failed(n *node, gid mtm.GID, err *mtm.Error) {
	r := c.txns[gid]
	r.failed = err
	if r.committed != 0 {
		c.w.fail("S4 %s is reported as failed, and committed on %v", gid, r.committed)
	}
	if err.Code == "02000" || err.Code == "23505" {
		c.w.fail("S3 %s was refused by a member for what its origin did not see: %v", gid, err)
	}
}

// read: a client reads row k on n.
func (c *checker) read(n *node, k int) {
	if n.pg.rows[k].version < c.fresh[k] {
		c.w.fail("S7 n%d reads version %d of row %d, and %d was acknowledged", n.id, n.pg.rows[k].version, k, c.fresh[k])
	}
}

// final is S2 and S8: everything is at rest, so all nodes are equal.
func (c *checker) final() {
	for k, order := range c.order {
		for _, id := range c.w.all.IDs() {
			n := c.w.node(id)
			r, first := &n.pg.rows[k], &c.w.node(c.w.all.IDs()[0]).pg.rows[k]
			if r.version != len(order) || r.exists != first.exists || r.exists && r.val != first.val {
				c.w.fail("S8 row %d differs on n%d: %d changes of %d", k, n.id, r.version, len(order))
			}
		}
	}
	for gid, r := range c.txns {
		if len(r.images) > 0 && r.committed != 0 && !r.committed.Contains(c.w.all) {
			c.w.fail("S1 %s is committed on %v only", gid, r.committed)
		}
		if len(r.images) > 0 && r.acked && !r.committed.Contains(c.w.all) {
			c.w.fail("S2 %s was acknowledged, and is committed on %v", gid, r.committed)
		}
	}
	for _, n := range c.w.nodes {
		if !n.crashed && !n.writing && len(n.inbox) == 0 && len(n.spills) > 0 {
			c.w.fail("n%d leaves spill files behind: %d", n.id, len(n.spills))
		}
	}
}
