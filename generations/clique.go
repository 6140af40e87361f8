package generations

import "mtm"

// Clique is the largest set of nodes that all see each other, both ways: links[i] is what node i sees, itself counted
// or not. Of several the one with the smallest bitmask wins, so that all nodes with the same view agree.
func Clique(links map[mtm.NodeID]mtm.NodeSet) mtm.NodeSet {
	var nodes mtm.NodeSet
	for id := range links {
		nodes = nodes.With(id)
	}
	mutual := map[mtm.NodeID]mtm.NodeSet{}
	for _, a := range nodes.IDs() {
		for _, b := range nodes.IDs() {
			if a != b && links[a].Has(b) && links[b].Has(a) {
				mutual[a] = mutual[a].With(b)
			}
		}
	}
	var best mtm.NodeSet
	grow(mutual, 0, nodes, 0, &best)
	return best
}

// grow is Bron and Kerbosch's search (1973): in is a clique, may are the nodes that extend it, not those tried before.
func grow(mutual map[mtm.NodeID]mtm.NodeSet, in, may, not mtm.NodeSet, best *mtm.NodeSet) {
	if may == 0 && not == 0 {
		if in.Len() > best.Len() || in.Len() == best.Len() && in < *best {
			*best = in
		}
		return
	}
	for _, id := range may.IDs() {
		grow(mutual, in.With(id), may.Intersect(mutual[id]), not.Intersect(mutual[id]), best)
		may, not = may.Without(id), not.With(id)
	}
}
