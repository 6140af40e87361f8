package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"mtm"
)

// world is one run.
type world struct {
	plan
	seed     uint64
	rng      *rand.Rand
	curious  *rand.Rand // of clients who ask for outcomes, see askOutcome
	now      uint64     // microseconds
	queue    queue
	nodes    []*node // node i+1 at i
	clients  []*client
	all      mtm.NodeSet // configured, when all that operators asked for is done
	initial  mtm.NodeSet // configured at first
	operator *operator   // changes them; nil: nobody does
	net      network
	referee  referee
	traps    []*trap
	check    checker
	users    users
	payloads [][]image // what Payload.Data and Payload.Spill stand for
	calm     bool      // the second phase: no more faults
	done     bool
	failure  error
	out      io.Writer // the trace, or nil
	events   uint64
}

// options of a run, from flags.
type options struct {
	nodes     int
	plant     string
	mode      string
	elections bool
	referee   bool
	members   bool
	trace     io.Writer
}

// run plays one seed and returns the violation it found, if any, and how many events it took.
func run(seed uint64, o options) (uint64, error) {
	w := newWorld(seed, o)
	w.play()
	return w.events, w.failure
}

func newWorld(seed uint64, o options) *world {
	rng := rand.New(rand.NewPCG(seed, 0x6d746d))
	o.referee = o.referee || slices.Contains(refereePlants, o.plant)
	if o.referee {
		o.nodes, o.elections = 2, true
	}
	o.members = o.members || slices.Contains(memberPlants, o.plant)
	if o.members {
		o.nodes, o.elections = firstNodes, true
	}
	if o.plant == plantNoPromise {
		o.mode = modeAmnesia
	}
	w := &world{seed: seed, rng: rng, curious: rand.New(rand.NewPCG(seed, 1)), plan: newPlan(rng, nodesFor(seed, o.nodes), o.plant, o.mode), out: o.trace}
	if o.elections || slices.Contains(electionPlants, o.plant) {
		w.setElections(rng)
	}
	if o.referee {
		w.setReferee(rng)
	}
	if o.members {
		w.setMembers()
	}
	w.users = newUsers()
	if w.elections && !o.members && (seed%3 == 0 || slices.Contains(userPlants, o.plant)) {
		w.user = 0.25
	}
	w.check = newChecker(w)
	for i := 1; i <= w.plan.nodes; i++ {
		w.all = w.all.With(mtm.NodeID(i))
	}
	w.initial = w.all
	for _, id := range w.all.IDs() {
		w.nodes = append(w.nodes, newNode(w, id))
	}
	w.net.init(w)
	w.referee.w = w
	return w
}

// play runs until all is at rest, or an assertion fails.
func (w *world) play() {
	w.tracef("plan %+v", w.plan)
	w.setTraps()
	w.setStorms()
	if w.hasReferee {
		w.referee.start()
	}
	for _, n := range w.nodes {
		n.start()
	}
	if w.operator != nil {
		w.operator.start()
	}
	for i := 0; i < w.plan.clients; i++ {
		newClient(w, i)
	}
	if w.user > 0 {
		w.after(50*ms, w.ender)
		w.after(60*ms, w.ender)
	}
	w.scheduleFaults()
	w.at(w.faultsUntil, w.beginCalm)
	for w.failure == nil && !w.done {
		t, ok := w.queue.pop()
		if !ok {
			w.fail("S8 nothing more happens, and the run is not at rest")
			break
		}
		w.events++
		w.now = t.at
		t.do()
	}
}

func (w *world) at(when uint64, do func()) { w.queue.push(max(when, w.now), do) }

func (w *world) after(d uint64, do func()) { w.queue.push(w.now+d, do) }

// between draws a duration.
func (w *world) between(lo, hi uint64) uint64 {
	if hi <= lo {
		return lo
	}
	return lo + w.rng.Uint64N(hi-lo)
}

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

func (w *world) node(id mtm.NodeID) *node { return w.nodes[id-1] }

func (w *world) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("at %d.%03d ms: %s", w.now/ms, w.now%ms, fmt.Sprintf(format, args...))
		w.tracef("VIOLATION %v", w.failure)
	}
}

func (w *world) tracef(format string, args ...any) {
	if w.out != nil {
		fmt.Fprintf(w.out, "%6d.%03d  %s\n", w.now/ms, w.now%ms, fmt.Sprintf(format, args...))
	}
}

// beginCalm ends the faults: links heal, everything starts again, and soon all must be at rest. In some runs one node
// stays away for a while, and the others must end what is in doubt without it.
func (w *world) beginCalm() {
	w.tracef("CALM")
	w.calm = true
	w.traps = nil
	w.net.healAll()
	w.calmReferee()
	var away *node
	if w.chance(w.awayChance) {
		away = w.nodes[w.rng.IntN(len(w.nodes))]
		away.crash()
		w.tracef("n%d stays away", away.id)
	}
	for _, n := range w.nodes {
		if n != away {
			n.comeBack()
		}
	}
	if away == nil {
		w.waitFor(120*second, w.unrest, w.end)
		return
	}
	why := func() string { return w.inDoubt(away) }
	if w.elections {
		why = func() string { return w.unrestWithout(away) }
	}
	if w.hasReferee {
		why = func() string { return w.unrestAlone(away) }
	}
	w.waitFor(60*second, why, func() {
		w.tracef("n%d comes back", away.id)
		away.comeBack()
		w.waitFor(120*second, w.unrest, w.end)
	})
}

func (n *node) comeBack() {
	if !n.pg.up {
		n.w.after(n.w.between(1*ms, 50*ms), n.pg.start)
	}
	if !n.alive {
		n.w.after(n.w.between(1*ms, 100*ms), n.start)
	}
}

// waitFor looks again and again until why says nothing any more; it must not take longer than limit.
func (w *world) waitFor(limit uint64, why func() string, then func()) {
	deadline := w.now + limit
	var look func()
	look = func() {
		switch text := why(); {
		case text == "":
			then()
		case w.now > deadline:
			w.fail("S8 not at rest: %s", text)
		default:
			w.after(50*ms, look)
		}
	}
	w.after(200*ms, look)
}

func (w *world) end() {
	w.check.final()
	w.done = true
}
