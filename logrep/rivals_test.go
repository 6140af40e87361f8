package logrep

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/logrep/pgoutput"
)

var accountsRel = pgoutput.Relation{ID: 7, Schema: "public", Name: "accounts", Identity: 'd',
	Columns: []pgoutput.Column{{Key: true, Name: "id", Type: 23, Mod: -1}, {Name: "v", Type: 23, Mod: -1}}}

// changing is a payload that updates the rows with these keys.
func changing(t *testing.T, keys ...int) mtm.Payload {
	t.Helper()
	w := newPayloadWriter(nil, 1<<20)
	frame := func(m pgoutput.Message) {
		b := pgoutput.Append(nil, m, false, 0)
		require.NoError(t, w.frame(0, b[0], b[1:]))
	}
	text := func(s string) pgoutput.Value { return pgoutput.Value{Kind: pgoutput.Text, Data: []byte(s)} }
	frame(accountsRel)
	for _, key := range keys {
		frame(&pgoutput.Update{Relation: 7, New: pgoutput.Tuple{text(strconv.Itoa(key)), text("1")}})
	}
	p, err := w.finish(nil, 0)
	require.NoError(t, err)
	return p
}

func TestRivalsChangeTheSameRow(t *testing.T) {
	var r rivals
	id := func(origin mtm.NodeID, seq uint64) mtm.GID { return mtm.GID{Origin: origin, Gen: 1, Seq: seq} }
	require.Empty(t, r.enter(id(1, 1), changing(t, 1, 2)))
	require.Empty(t, r.enter(id(2, 1), changing(t, 3, 12)))
	require.Empty(t, r.enter(id(1, 2), changing(t, 2)), "of one node: it has seen the other's end")
	require.False(t, r.contested(id(2, 1)))
	require.ElementsMatch(t, []mtm.GID{id(1, 1), id(1, 2), id(2, 1)}, r.enter(id(3, 1), changing(t, 1, 2, 3)))
	require.Empty(t, r.enter(id(3, 1), changing(t, 1)), "known already")
	require.True(t, r.contested(id(2, 1)))
	r.leave(id(3, 1))
	r.leave(id(3, 1))
	require.False(t, r.contested(id(2, 1)))
	require.Empty(t, r.enter(id(3, 2), changing(t, 4)))
	require.Empty(t, r.enter(id(3, 3), mtm.Payload{Data: []byte("garbage")}))
	many := make([]int, rivalRows+1)
	for i := range many {
		many[i] = i
	}
	require.Empty(t, r.enter(id(3, 4), changing(t, many...)), "left to the lock monitor")
	for _, gid := range []mtm.GID{id(1, 1), id(1, 2), id(2, 1), id(3, 2)} {
		r.leave(gid)
	}
	require.Empty(t, r.rows)
	require.Empty(t, r.txns)
}

func TestYieldWaitsForTheRowsOfTheWinner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const quiet, limit = 10 * time.Millisecond, 100 * time.Millisecond
		c := NewCatalog()
		id := func(origin mtm.NodeID, seq uint64) mtm.GID { return mtm.GID{Origin: origin, Gen: 1, Seq: seq} }
		yield := func(gid mtm.GID, quiet time.Duration) (took time.Duration, calm bool) {
			began := time.Now()
			calm = c.Yield(t.Context(), 1, gid, quiet, limit)
			return time.Since(began), calm
		}
		took, calm := yield(id(2, 1), quiet)
		require.True(t, calm && took == 0, "nobody knows what it changed")
		c.rivals.enter(id(1, 1), changing(t, 5, 6))
		c.rivals.enter(id(2, 1), changing(t, 6))
		took, calm = yield(id(1, 1), 0)
		require.True(t, !calm && took == limit, "in flight to the end")
		// Over, but another one follows it on the same row.
		time.AfterFunc(20*time.Millisecond, func() { c.finished(id(2, 1)) })
		time.AfterFunc(25*time.Millisecond, func() { c.rivals.enter(id(3, 1), changing(t, 6)) })
		time.AfterFunc(30*time.Millisecond, func() { c.finished(id(3, 1)) })
		took, calm = yield(id(1, 1), quiet)
		require.True(t, calm)
		require.Equal(t, 40*time.Millisecond, took)
		// What is over is remembered for a while; own transactions are no reason to wait.
		c.finished(id(1, 1))
		c.rivals.enter(id(1, 2), changing(t, 6))
		took, calm = yield(id(1, 1), 0)
		require.True(t, calm && took == 0)
		c.rivals.enter(id(3, 2), changing(t, 5))
		time.AfterFunc(7*time.Millisecond, func() { c.finished(id(3, 2)) })
		took, calm = yield(id(1, 1), 0)
		require.True(t, calm)
		require.Equal(t, 7*time.Millisecond, took)
		require.Empty(t, c.rivals.waiters)
	})
}

// TestRivalsAreToldOfBeforeTheyMeet: neither need wait for a lock first.
func TestRivalsAreToldOfBeforeTheyMeet(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)")
	other := mtm.GID{Origin: 2, Gen: 1, Seq: 77}
	first := p.prepare("UPDATE t SET v = v + 1 WHERE id = 1")
	p.b.cfg.Catalog.rivals.enter(other, first.p) // as if node 2 had captured the same change
	p.applier.Apply(first.gid, 0, first.p)
	require.Equal(t, [2]mtm.GID{first.gid, other}, wait(t, p.sink.blocked, "Blocked"))
	require.Equal(t, [2]mtm.GID{other, first.gid}, wait(t, p.sink.blocked, "Blocked"))
	require.Nil(t, wait(t, p.sink.applied, "Applied").err)
	p.finish(first.gid, true)
	require.Len(t, p.b.cfg.Catalog.rivals.txns, 1)
	// The origin hears of it before it hears of the transaction.
	p.a.cfg.Catalog.rivals.enter(other, first.p)
	second := p.prepare("DELETE FROM t WHERE id = 1")
	require.Equal(t, [2]mtm.GID{other, second.gid}, wait(t, p.sink.blocked, "Blocked"))
	require.Equal(t, [2]mtm.GID{second.gid, other}, wait(t, p.sink.blocked, "Blocked"))
	require.Nil(t, p.apply(second))
	p.finish(second.gid, true)
	require.Len(t, p.a.cfg.Catalog.rivals.txns, 1)
	p.same("t")
}
