package logrep

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestASlotRestsWhileItsNodeCatchesUp: what was prepared before is delivered, what is recovered is not read, and what is prepared
// after Renew is delivered again.
func TestASlotRestsWhileItsNodeCatchesUp(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	own := newTestSink()
	p.b.exec("CREATE PUBLICATION mtm FOR ALL TABLES")
	_, err := CreateSlot(t.Context(), p.b.cfg)
	require.NoError(t, err)
	capture := NewCapture(p.b.cfg, own)
	capture.restMax = 4 << 20
	p.run(capture.Run)
	slot := func(what string) string {
		return p.b.rows("SELECT " + what + " FROM pg_replication_slots WHERE slot_name LIKE '" + p.b.cfg.Slot + "%'")[0]
	}
	before, finish := p.gid(), NewFinisher(p.b.cfg, own)
	p.run(finish.Run)
	before.Origin = 2
	p.b.exec("BEGIN; INSERT INTO t VALUES (0, 'before')")
	p.b.exec(before.SQL("PREPARE TRANSACTION"))
	capture.Expect(before)
	require.Equal(t, before, wait(t, own.captured, "Captured").gid)
	finish.Finish(before, true)
	wait(t, own.finished, "Finished")
	p.a.exec("INSERT INTO t VALUES (0, 'before')")

	r, sink := p.recovery()
	at := uint64(0)
	catchUp := func(n int) {
		for range n {
			at++
			r.Apply(p.gid(), at, p.committed(fmt.Sprintf("INSERT INTO t SELECT %d + g, repeat(md5(g::text), 30) FROM generate_series(1, 500) g", at*1000)).p)
		}
		sink.reach(at)
	}
	catchUp(2)
	require.Equal(t, "|t", slot("active"), "a member is read")
	capture.Rest(true)
	until(t, "nobody reads the slot", func() bool { catchUp(1); return slot("active") == "|f" })
	until(t, "it was replaced, for it kept too much", func() bool { catchUp(1); return slot("slot_name") != "|"+p.b.cfg.Slot })
	require.Equal(t, "|f", slot("active"))
	catchUp(2)
	prepared, err := capture.Renew(t.Context())
	require.NoError(t, err)
	require.Empty(t, prepared)
	until(t, "it is read again", func() bool { return slot("active") == "|t" })
	after := p.gid()
	after.Origin = 2
	p.b.exec("BEGIN; INSERT INTO t VALUES (1, 'after')")
	p.b.exec(after.SQL("PREPARE TRANSACTION"))
	capture.Expect(after)
	require.Equal(t, after, wait(t, own.captured, "Captured").gid)
	finish.Finish(after, true)
	wait(t, own.finished, "Finished")
	p.a.exec("INSERT INTO t VALUES (1, 'after')")
	catchUp(3)
	require.Equal(t, "|t", slot("active"))
	require.EqualValues(t, 2+at*500, p.same("t"))
	require.Empty(t, own.incidents)
}
