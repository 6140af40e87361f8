package generations

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// bruteClique is the dumb oracle: it tries every subset.
func bruteClique(links map[mtm.NodeID]mtm.NodeSet, n int) mtm.NodeSet {
	var best mtm.NodeSet
	for mask := 0; mask < 1<<n; mask++ {
		s := mtm.NodeSet(mask << 1)
		ok := true
		for _, a := range s.IDs() {
			if _, known := links[a]; !known {
				ok = false
			}
			for _, b := range s.IDs() {
				ok = ok && (a == b || links[a].Has(b) && links[b].Has(a))
			}
		}
		if ok && (s.Len() > best.Len() || s.Len() == best.Len() && s < best) {
			best = s
		}
	}
	return best
}

func TestCliqueAgreesWithOracle(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		n := 1 + rng.IntN(6)
		links := map[mtm.NodeID]mtm.NodeSet{}
		for a := 1; a <= n; a++ {
			if rng.IntN(10) == 0 {
				continue
			}
			var s mtm.NodeSet
			for b := 1; b <= n; b++ {
				if rng.IntN(4) > 0 {
					s = s.With(mtm.NodeID(b))
				}
			}
			links[mtm.NodeID(a)] = s
		}
		require.Equal(t, bruteClique(links, n), Clique(links), "%v", links)
	}
}
