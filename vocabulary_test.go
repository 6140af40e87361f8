package mtm

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"
)

// dumbSet is the oracle of NodeSet: a list.
type dumbSet []NodeID

func (d dumbSet) set() NodeSet { return Nodes(d...) }

func randomSet(r *rand.Rand) dumbSet {
	var d dumbSet
	for id := NodeID(1); id <= MaxNodes; id++ {
		if r.IntN(2) == 0 {
			d = append(d, id)
		}
	}
	return d
}

func TestNodeSetAgreesWithAList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		a, b := randomSet(r), randomSet(r)
		s, u := a.set(), b.set()
		require.Equal(t, len(a), s.Len())
		require.Equal(t, []NodeID(a), append([]NodeID(nil), s.IDs()...))
		both, contained := 0, true
		for id := NodeID(1); id <= MaxNodes; id++ {
			inA, inB := slices.Contains(a, id), slices.Contains(b, id)
			require.Equal(t, inA, s.Has(id))
			require.Equal(t, inA || inB, s.Union(u).Has(id))
			require.Equal(t, inA && inB, s.Intersect(u).Has(id))
			require.Equal(t, inA && !inB, s.Minus(u).Has(id))
			require.True(t, s.With(id).Has(id))
			require.False(t, s.Without(id).Has(id))
			contained = contained && (!inB || inA)
			if inA && inB {
				both++
			}
		}
		require.Equal(t, contained, s.Contains(u))
		require.Equal(t, both > len(b)/2, s.IsMajorityOf(u))
	}
}

func TestNodeSetHasNoNobody(t *testing.T) {
	s := Nodes(1, 2, 16)
	for _, id := range []NodeID{-1, 0, 3, 17, 64, 1000} {
		require.False(t, s.Has(id), "%d", id)
		require.Equal(t, id == 3, id.Valid())
	}
	require.Equal(t, "{1,2,16}", s.String())
	require.Equal(t, "{}", NodeSet(0).String())
	require.False(t, NodeSet(0).IsMajorityOf(0))
}

// Two majorities of the same set always meet: what Paxos stands on.
func TestMajoritiesMeet(t *testing.T) {
	all := Nodes(1, 2, 3, 4, 5)
	for a := NodeSet(0); a < 64; a += 2 {
		for b := NodeSet(0); b < 64; b += 2 {
			if a.IsMajorityOf(all) && b.IsMajorityOf(all) {
				require.NotZero(t, a.Intersect(b))
			}
		}
	}
	require.False(t, Nodes(1, 2).IsMajorityOf(Nodes(1, 2, 3, 4)))
	require.True(t, Nodes(1, 2).IsMajorityOf(Nodes(1, 2, 3)))
	require.False(t, Nodes(1, 8, 9).IsMajorityOf(Nodes(1, 2, 3)), "strangers do not count")
}

func TestGIDRoundTrip(t *testing.T) {
	f := func(origin uint8, gen, seq uint64) bool {
		g := GID{Origin: NodeID(origin%MaxNodes + 1), Gen: gen, Seq: seq}
		back, ok := ParseGID(g.String())
		return ok && back == g
	}
	require.NoError(t, quick.Check(f, nil))
}

func TestParseGIDRefusesWhatStringDoesNotWrite(t *testing.T) {
	for _, text := range []string{
		"", "mtm-", "mtm-1-2", "mtm-1-2-3-4", "mtm-0-1-1", "mtm-17-1-1", "mtm-01-1-1", "mtm-1-01-1", "mtm-1-1-+1",
		"mtm-1-1--1", "MTM-1-1-1", " mtm-1-1-1", "mtm-1-1-1 ", "mtm-1-1-18446744073709551616", "x", "mtm-1-1-1'",
	} {
		g, ok := ParseGID(text)
		require.False(t, ok, text)
		require.True(t, g.IsZero(), text)
	}
}

func TestGIDIsSafeInSQL(t *testing.T) {
	require.Equal(t, "COMMIT PREPARED 'mtm-3-7-42'", GID{3, 7, 42}.SQL("COMMIT PREPARED"))
	require.Less(t, len(GID{16, 1<<64 - 1, 1<<64 - 1}.String()), 200, "PostgreSQL's limit for a gid")
}

func FuzzParseGID(f *testing.F) {
	f.Add("mtm-1-2-3")
	f.Add("mtm-16-18446744073709551615-0")
	f.Add("mtm-1-2-3-4")
	f.Fuzz(func(t *testing.T, text string) {
		if g, ok := ParseGID(text); ok && g.String() != text {
			t.Fatalf("%q reads as %q", text, g)
		}
	})
}

func TestGIDsAndBallotsAreInATotalOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 2000 {
		a := GID{NodeID(1 + r.IntN(3)), uint64(r.IntN(2)), uint64(r.IntN(3))}
		b := GID{NodeID(1 + r.IntN(3)), a.Gen, uint64(r.IntN(3))}
		require.Equal(t, a != b, a.Less(b) != b.Less(a), "%v %v", a, b)
		x, y := Ballot{uint64(r.IntN(3)), NodeID(1 + r.IntN(3))}, Ballot{uint64(r.IntN(3)), NodeID(1 + r.IntN(3))}
		require.Equal(t, x != y, x.Less(y) != y.Less(x), "%v %v", x, y)
		require.True(t, Ballot{}.Less(x), "no ballot is below every ballot")
	}
	require.True(t, Ballot{}.IsZero())
	require.False(t, Ballot{Node: 1}.IsZero(), "the coordinator's own ballot is one")
}

// dumbCovers is the oracle of Covers: the set of everything that was decided, written out.
func dumbCovers(d Deps, g GID) bool {
	for _, o := range d {
		for seq := uint64(0); seq <= o.Upto; seq++ {
			if o.Origin == g.Origin && seq == g.Seq && !slices.Contains(o.Except, seq) {
				return true
			}
		}
	}
	return false
}

func TestDepsAgreeWithASet(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 500 {
		var d Deps
		for _, id := range r.Perm(3) {
			o := OriginDeps{Origin: NodeID(id + 1), Upto: uint64(r.IntN(12))}
			for seq := uint64(0); seq <= o.Upto; seq++ {
				if r.IntN(3) == 0 {
					o.Except = append(o.Except, seq)
				}
			}
			d = append(d, o)
		}
		for seq := uint64(0); seq < 14; seq++ {
			for id := NodeID(1); id <= 4; id++ {
				g := GID{Origin: id, Gen: 1, Seq: seq}
				require.Equal(t, dumbCovers(d, g), d.Covers(g), "%v %v", d, g)
			}
		}
	}
}

func TestOnlyCertainFailuresAreSafeToRetry(t *testing.T) {
	gid := GID{1, 1, 1}
	cause := errors.New("why")
	for _, c := range []struct {
		err  error
		safe bool
	}{
		{nil, false}, {cause, false}, {Conflict("x"), true}, {&Error{Code: "40P01"}, true},
		{Unknown(gid, "x"), false}, {NotOnline(StatusIsolated, "x"), false}, {&Error{Code: "23505"}, false},
		{errors.Join(cause, Conflict("x")), true},
	} {
		require.Equal(t, c.safe, SafeToRetry(c.err), "%v", c.err)
	}
	e := &Error{Code: "40001", Msg: "m", Detail: "d", Err: cause}
	require.Equal(t, "m (SQLSTATE 40001): d: why", e.Error())
	require.ErrorIs(t, e, cause)
}

func TestNotationOfPostgreSQL(t *testing.T) {
	require.Equal(t, "16/B374D848", LSN(0x16_B374D848).String())
	require.Equal(t, "gen 3 {1,2} of {1,2,3}", Generation{3, Nodes(1, 2), Nodes(1, 2, 3)}.String())
}

// What a node tells after it must be durable before; what may be lost is written down here on purpose.
func TestRecordsThatMustBeDurable(t *testing.T) {
	for _, r := range []Record{
		RecPrepare{}, RecPromise{}, RecAccept{}, RecReserve{}, RecForget{}, RecCheckpointEnd{}, RecGeneration{},
		RecDecide{Firm: true},
	} {
		require.True(t, r.Sync(), "%T", r)
	}
	for _, r := range []Record{RecDecide{}, RecCheckpoint{}} {
		require.False(t, r.Sync(), "%T", r)
	}
}
