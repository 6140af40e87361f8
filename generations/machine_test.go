package generations

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// world runs machines under a random network and checks the rules of doc.go after every step. Recovery is played by
// an oracle: a node is caught up, or becomes online, at random once somebody else is online.
type world struct {
	t        *testing.T
	rng      *rand.Rand
	now      uint64
	n        int
	nodes    map[mtm.NodeID]*Machine
	disk     map[mtm.NodeID]mtm.RecGeneration
	cut      map[[2]mtm.NodeID]bool
	flying   []flight
	elected  map[uint64]mtm.Generation
	onlineIn map[mtm.NodeID]map[uint64]bool
	initial  mtm.NodeSet
	joined   func(id mtm.NodeID, m *Machine) // before a node becomes online
}

type flight struct {
	at uint64
	m  mtm.Message
}

func newWorld(t *testing.T, seed uint64, n int) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), n: n, nodes: map[mtm.NodeID]*Machine{},
		disk: map[mtm.NodeID]mtm.RecGeneration{}, cut: map[[2]mtm.NodeID]bool{}, elected: map[uint64]mtm.Generation{},
		onlineIn: map[mtm.NodeID]map[uint64]bool{}, joined: func(mtm.NodeID, *Machine) {}}
	w.initial = w.all()
	for id := mtm.NodeID(1); int(id) <= n; id++ {
		w.onlineIn[id] = map[uint64]bool{}
		w.start(id)
	}
	return w
}

func (w *world) all() mtm.NodeSet {
	var s mtm.NodeSet
	for i := 1; i <= w.n; i++ {
		s = s.With(mtm.NodeID(i))
	}
	return s
}

func (w *world) start(id mtm.NodeID) {
	g := mtm.Generation{Num: 1, Members: w.initial, Configured: w.initial}
	w.nodes[id] = New(Config{ID: id, Initial: g}, w.disk[id], w.now)
	for _, other := range w.all().Without(id).IDs() {
		w.nodes[id].PeerUp(other)
		if m := w.nodes[other]; m != nil {
			m.PeerUp(id)
		}
	}
}

func (w *world) step() {
	w.now += uint64(1 + w.rng.IntN(10))
	for i := 0; i < len(w.flying); i++ {
		f := w.flying[i]
		if f.at > w.now {
			continue
		}
		w.flying = append(w.flying[:i], w.flying[i+1:]...)
		i--
		if m := w.nodes[f.m.To]; m != nil && !w.cut[[2]mtm.NodeID{f.m.From, f.m.To}] {
			m.Receive(f.m.From, f.m.Body)
			w.drain(f.m.To)
		}
	}
	for _, id := range w.all().IDs() {
		m := w.nodes[id]
		if m == nil {
			continue
		}
		m.Tick(w.now)
		w.drain(id)
		w.recover(id, m)
	}
	w.check()
}

// drain persists, then sends; now and then the node dies in between.
func (w *world) drain(id mtm.NodeID) {
	r := w.nodes[id].Ready()
	for _, rec := range r.Persist {
		w.disk[id] = rec.(mtm.RecGeneration)
	}
	for _, m := range r.Send {
		w.flying = append(w.flying, flight{at: w.now + uint64(w.rng.IntN(30)), m: m})
		if e, ok := m.Body.(mtm.Elected); ok {
			old, known := w.elected[e.Gen.Num]
			require.True(w.t, !known || old == e.Gen, "two generations %d: %v and %v", e.Gen.Num, old, e.Gen)
			w.elected[e.Gen.Num] = e.Gen
		}
	}
}

func (w *world) recover(id mtm.NodeID, m *Machine) {
	if m.Online() {
		return
	}
	if m.MayBecomeOnline() && (m.IsDonor() || w.rng.IntN(20) == 0 && w.donorOnline(m)) {
		w.joined(id, m)
		m.BecomeOnline()
		w.drain(id)
		return
	}
	m.SetCaughtUp(m.IsDonor() || w.someoneOnline(id))
}

func (w *world) donorOnline(m *Machine) bool {
	for _, d := range m.State().Donors.IDs() {
		if n := w.nodes[d]; n != nil && n.Online() && n.State().Gen.Num == m.State().Gen.Num {
			return true
		}
	}
	return false
}

func (w *world) someoneOnline(not mtm.NodeID) bool {
	for id, m := range w.nodes {
		if id != not && m != nil && m.Online() {
			return true
		}
	}
	return false
}

func (w *world) check() {
	highest := uint64(0)
	for n := range w.elected {
		highest = max(highest, n)
	}
	for id, m := range w.nodes {
		if m == nil || !m.Online() {
			continue
		}
		st := m.State()
		w.onlineIn[id][st.Gen.Num] = true
		if m.LeaseEnd() <= w.now {
			continue
		}
		// L1, V3: who may read is not excluded by a later generation in which somebody is online already.
		for other, o := range w.nodes {
			if o != nil && o.Online() && o.State().Gen.Num > st.Gen.Num && !o.State().Gen.Members.Has(id) {
				require.Fail(w.t, "stale lease", "node %d in %v, node %d in %v at %d", id, st.Gen, other, o.State().Gen, w.now)
			}
		}
	}
}

func (w *world) fault() {
	a := mtm.NodeID(1 + w.rng.IntN(w.n))
	b := mtm.NodeID(1 + w.rng.IntN(w.n))
	switch w.rng.IntN(6) {
	case 0:
		w.nodes[a] = nil
	case 1:
		if w.nodes[a] == nil {
			w.start(a)
		}
	case 2, 3:
		w.cut[[2]mtm.NodeID{a, b}] = true
	default:
		w.cut = map[[2]mtm.NodeID]bool{}
	}
}

func (w *world) healed() bool {
	for _, m := range w.nodes {
		if m == nil || !m.Online() || m.State().Gen.Members != w.all() || m.LeaseEnd() <= w.now {
			return false
		}
	}
	return true
}

// TestGenerationsUnderFaults: no stale lease, no two generations of one number, and all come together in the end.
func TestGenerationsUnderFaults(t *testing.T) {
	for seed := range uint64(300) {
		n := 3 + 2*int(seed%2)
		w := newWorld(t, seed, n)
		for range 600 {
			if w.rng.IntN(25) == 0 {
				w.fault()
			}
			w.step()
		}
		w.cut = map[[2]mtm.NodeID]bool{}
		for _, id := range w.all().IDs() {
			if w.nodes[id] == nil {
				w.start(id)
			}
		}
		for i := 0; !w.healed(); i++ {
			if i > 4000 {
				text := ""
				for id, m := range w.nodes {
					text += fmt.Sprintf("\nnode %d online=%v lease=%d %+v", id, m.Online(), int64(m.LeaseEnd())-int64(w.now), m.State())
				}
				require.Fail(t, "not healed", "seed %d at %d%s", seed, w.now, text)
			}
			w.step()
		}
	}
}
