package logrep

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"mtm"
	"mtm/logrep/pgoutput"
)

// rivals knows which rows the transactions in flight here change, so that two of different nodes that change the same one
// are told of as soon as both are known, before one of them is applied and waits for the other's lock. It is a hint that saves
// work: what it misses (inserts, large transactions, other unique keys) the lock monitor finds, and a pair that it names
// wrongly, the second having seen the first committed, the coordinator does not heed.
type rivals struct {
	mu      sync.Mutex
	rows    map[uint64][]mtm.GID // who changes a row, by its hash
	txns    map[mtm.GID]rival
	past    [rivalPast]pastRival // the last that are over, in a ring
	newest  int
	waiters map[*rowWaiter]bool
}

// pastRival is a transaction that is over.
type pastRival struct {
	gid  mtm.GID
	rows []uint64
}

// rowWaiter waits until nobody of another node changes one of rows.
type rowWaiter struct {
	node mtm.NodeID
	rows []uint64
	bell chan struct{} // something has changed
}

type rival struct {
	rows []uint64
	at   time.Time
}

const (
	rivalBytes = 32 << 10 // a larger payload is left to the lock monitor
	rivalRows  = 64       // … and so is one that changes more rows
	rivalPast  = 256
	rivalMax   = 1000             // transactions; past it, those are forgotten that nobody finished for rivalStale
	rivalStale = 30 * time.Second // whose end was never told, as around a lost connection to PostgreSQL
)

var rivalSeed = maphash.MakeSeed()

// enter notes what gid changes and gives the others' transactions in flight that change a row of it, each once.
func (r *rivals) enter(gid mtm.GID, p mtm.Payload) []mtm.GID {
	rows := changedRows(p)
	if len(rows) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, twice := r.txns[gid]; twice {
		return nil
	}
	if r.txns == nil {
		r.rows, r.txns = map[uint64][]mtm.GID{}, map[mtm.GID]rival{}
	}
	if len(r.txns) >= rivalMax {
		for old, x := range r.txns {
			if time.Since(x.at) > rivalStale {
				r.remove(old)
			}
		}
	}
	r.txns[gid] = rival{rows: rows, at: time.Now()}
	defer r.ring(gid, rows)
	var found []mtm.GID
	for _, row := range rows {
		for _, other := range r.rows[row] {
			if other.Origin != gid.Origin && !slices.Contains(found, other) {
				found = append(found, other)
			}
		}
		r.rows[row] = append(r.rows[row], gid)
	}
	return found
}

// leave: gid is over here.
func (r *rivals) leave(gid mtm.GID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(gid)
}

func (r *rivals) remove(gid mtm.GID) {
	x, found := r.txns[gid]
	if !found {
		return
	}
	r.newest = (r.newest + 1) % rivalPast
	r.past[r.newest] = pastRival{gid, x.rows}
	defer r.ring(gid, x.rows)
	for _, row := range x.rows {
		rest := slices.DeleteFunc(r.rows[row], func(g mtm.GID) bool { return g == gid })
		if len(rest) == 0 {
			delete(r.rows, row)
		} else {
			r.rows[row] = rest
		}
	}
	delete(r.txns, gid)
}

// contested reports whether a transaction of another node in flight changes a row of gid.
func (r *rivals) contested(gid mtm.GID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range r.txns[gid].rows {
		for _, other := range r.rows[row] {
			if other.Origin != gid.Origin {
				return true
			}
		}
	}
	return false
}

// ring tells those who wait for one of rows that gid came or went.
func (r *rivals) ring(gid mtm.GID, rows []uint64) {
	for w := range r.waiters {
		if w.node != gid.Origin && slices.ContainsFunc(w.rows, func(row uint64) bool { return slices.Contains(rows, row) }) {
			signal(w.bell)
		}
	}
}

// rowsOf is what gid changes, or changed if it was over not long ago.
func (r *rivals) rowsOf(gid mtm.GID) []uint64 {
	if x, found := r.txns[gid]; found {
		return x.rows
	}
	for _, x := range r.past {
		if x.gid == gid {
			return x.rows
		}
	}
	return nil
}

// taken reports whether a transaction of another node than w's changes one of w's rows.
func (r *rivals) taken(w *rowWaiter) bool {
	for _, row := range w.rows {
		for _, gid := range r.rows[row] {
			if gid.Origin != w.node {
				return true
			}
		}
	}
	return false
}

// Yield waits until no transaction of another node than node is in flight here that changes a row that gid changes or changed,
// and none came for quiet; for limit at most. It reports whether that is so.
func (c *Catalog) Yield(ctx context.Context, node mtm.NodeID, gid mtm.GID, quiet, limit time.Duration) bool {
	r := &c.rivals
	r.mu.Lock()
	w := &rowWaiter{node: node, rows: r.rowsOf(gid), bell: make(chan struct{}, 1)}
	if len(w.rows) == 0 || quiet == 0 && !r.taken(w) {
		r.mu.Unlock()
		return true
	}
	if r.waiters == nil {
		r.waiters = map[*rowWaiter]bool{}
	}
	r.waiters[w] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiters, w)
		r.mu.Unlock()
	}()
	end := time.NewTimer(limit)
	defer end.Stop()
	for {
		var calm <-chan time.Time
		r.mu.Lock()
		taken := r.taken(w)
		r.mu.Unlock()
		if !taken {
			calm = time.After(quiet)
		}
		select {
		case <-w.bell:
		case <-calm:
			return true
		case <-end.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// changedRows hashes the keys of the rows that p updates or deletes; nil if it does not say, or they are too many.
func changedRows(p mtm.Payload) (rows []uint64) {
	if p.Spill != "" || len(p.Data) > rivalBytes || p.Has(mtm.PayloadDDL) || p.Has(mtm.PayloadEmpty) {
		return nil
	}
	in, err := openInline(p.Data)
	if err != nil {
		return nil
	}
	var parser pgoutput.Parser
	rels := map[uint32]pgoutput.Relation{}
	for {
		f, err := in.next()
		if err != nil || len(rows) > rivalRows {
			break
		}
		if f.kind == 'I' {
			continue
		}
		m, err := parser.Parse(f.kind, f.body)
		if err != nil {
			return nil
		}
		row, ok := uint64(0), false
		switch m := m.(type) {
		case pgoutput.Relation:
			rels[m.ID] = m
		case *pgoutput.Update:
			key := m.New
			if m.OldKind != 0 {
				key = m.Old
			}
			row, ok = hashKey(rels[m.Relation], m.OldKind, key)
		case *pgoutput.Delete:
			row, ok = hashKey(rels[m.Relation], m.OldKind, m.Old)
		}
		if ok && !slices.Contains(rows, row) {
			rows = append(rows, row)
		}
	}
	if len(rows) > rivalRows {
		return nil
	}
	return rows
}

// hashKey hashes a table's name and the values of its key. A row without a key, which comes whole, is not told from its
// duplicates.
func hashKey(rel pgoutput.Relation, kind byte, row pgoutput.Tuple) (hash uint64, ok bool) {
	if kind == 'O' || len(row) != len(rel.Columns) {
		return 0, false
	}
	var h maphash.Hash
	h.SetSeed(rivalSeed)
	_, _ = h.WriteString(rel.Schema)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(rel.Name)
	for i, v := range row {
		if rel.Columns[i].Key {
			if v.Kind != pgoutput.Text {
				return 0, false
			}
			ok = true
			_ = h.WriteByte(0)
			_, _ = h.Write(v.Data)
		}
	}
	return h.Sum64(), ok
}
