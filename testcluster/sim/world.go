package main

import (
	"fmt"
	"io"
	"math/rand/v2"

	"mtm"
)

// world is one run.
type world struct {
	plan
	seed     uint64
	rng      *rand.Rand
	now      uint64 // microseconds
	queue    queue
	nodes    []*node // node i+1 at i
	clients  []*client
	all      mtm.NodeSet
	net      network
	traps    []*trap
	check    checker
	payloads [][]image // what Payload.Data and Payload.Spill stand for
	calm     bool      // the second phase: no more faults
	done     bool
	failure  error
	out      io.Writer // the trace, or nil
	events   uint64
}

// options of a run, from flags.
type options struct {
	nodes int
	plant string
	trace io.Writer
}

// run plays one seed and returns the violation it found, if any, and how many events it took.
func run(seed uint64, o options) (uint64, error) {
	rng := rand.New(rand.NewPCG(seed, 0x6d746d))
	w := &world{seed: seed, rng: rng, plan: newPlan(rng, nodesFor(seed, o.nodes), o.plant), out: o.trace}
	w.check = newChecker(w)
	for i := 1; i <= w.plan.nodes; i++ {
		w.all = w.all.With(mtm.NodeID(i))
	}
	for _, id := range w.all.IDs() {
		w.nodes = append(w.nodes, newNode(w, id))
	}
	w.net.init(w)
	w.tracef("plan %+v", w.plan)
	w.setTraps()
	for _, n := range w.nodes {
		n.start()
	}
	for i := 0; i < w.plan.clients; i++ {
		newClient(w, i)
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
	return w.events, w.failure
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

// beginCalm ends the faults: links heal, everything starts again, and soon all must be at rest.
func (w *world) beginCalm() {
	w.tracef("CALM")
	w.calm = true
	w.traps = nil
	w.net.healAll()
	for _, n := range w.nodes {
		if !n.pg.up {
			w.after(w.between(1*ms, 50*ms), n.pg.start)
		}
		if !n.alive {
			w.after(w.between(1*ms, 100*ms), n.start)
		}
	}
	deadline := w.now + 120*second
	var watch func()
	watch = func() {
		why := w.unrest()
		switch {
		case why == "":
			w.check.final()
			w.done = true
		case w.now > deadline:
			w.fail("S8 not at rest: %s", why)
		default:
			w.after(50*ms, watch)
		}
	}
	w.after(200*ms, watch)
}
