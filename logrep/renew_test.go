package logrep

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

func (p *pair) slots() string {
	rows := p.a.rows(fmt.Sprintf("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE '%s%%' ORDER BY 1", p.a.cfg.Slot))
	return strings.Join(rows, "")
}

func TestASlotThatIsFarBehindIsReplaced(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	first, second := "|"+p.a.cfg.Slot, "|"+p.a.cfg.Slot+"_2"
	p.commit("INSERT INTO t VALUES (1, 'a')")
	p.capture.renewLag = 1 << 30
	found, err := p.capture.Renew(t.Context())
	require.NoError(t, err)
	require.Empty(t, found)
	require.Equal(t, first, p.slots(), "it is near enough")

	// From here on every slot is too far behind.
	p.capture.renewLag = -1
	for i, want := range []string{second, first} {
		found, err = p.capture.Renew(t.Context())
		require.NoError(t, err)
		require.Empty(t, found)
		require.Equal(t, want, p.slots())
		p.commit(fmt.Sprintf("INSERT INTO t VALUES (%d, 'b')", 10+i))
		require.Empty(t, p.sink.captured, "nothing comes twice")
	}

	// A crash between the two left both: the one that was read further is read, the other goes.
	_, err = createSlot(t.Context(), p.a.conn, p.a.cfg.Slot+"_2")
	require.NoError(t, err)
	p.a.exec("SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '" + p.a.cfg.Slot + "'")
	until(t, "one slot is left", func() bool { return p.slots() == first || p.slots() == second })
	p.commit("INSERT INTO t VALUES (20, 'c')")
	require.Equal(t, 4, p.same("t"))
}

func TestWhatIsPreparedWhenASlotIsReplacedIsTold(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	own := mtm.GID{Origin: 1, Gen: 1, Seq: 77}
	for _, gid := range []mtm.GID{own, {Origin: 3, Gen: 1, Seq: 5}} {
		p.a.exec("BEGIN")
		p.a.exec(fmt.Sprintf("INSERT INTO t VALUES (%d, 'a')", gid.Seq))
		p.a.exec(gid.SQL("PREPARE TRANSACTION"))
	}
	found, err := p.capture.ownPrepared(t.Context(), p.a.conn)
	require.NoError(t, err)
	require.Equal(t, []mtm.GID{own}, found)
	p.a.exec(own.SQL("ROLLBACK PREPARED"))
	p.a.exec("ROLLBACK PREPARED 'mtm-3-1-5'")
}

// TestSlotsAreReplacedUnderWAL: what is written meanwhile moves the old slot past the beginning of the new one.
func TestSlotsAreReplacedUnderWAL(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	p.commit("INSERT INTO t VALUES (0, 'a')")
	p.capture.renewLag = -1
	ctx, cancel := context.WithCancel(t.Context())
	writer, done := p.a.session(), make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = run(ctx, writer, "SELECT pg_logical_emit_message(true, 'x', 'y')")
		}
	}()
	for i := range 25 {
		_, err := p.capture.Renew(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, p.slots(), "replaced %d times", i+1)
	}
	cancel()
	<-done
	p.commit("INSERT INTO t VALUES (1, 'b')")
	require.Equal(t, 2, p.same("t"))
}

// TestAMissingSlotIsMade: at the start of a daemon, or before its node comes back.
func TestAMissingSlotIsMade(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	p.commit("INSERT INTO t VALUES (1, 'a')")
	made, err := EnsureSlot(t.Context(), p.a.cfg)
	require.NoError(t, err)
	require.False(t, made, "it is there")

	require.NoError(t, DropSlot(t.Context(), p.a.cfg))
	made, err = EnsureSlot(t.Context(), p.a.cfg)
	require.NoError(t, err)
	require.True(t, made)
	p.commit("INSERT INTO t VALUES (2, 'b')")

	require.NoError(t, DropSlot(t.Context(), p.a.cfg))
	_, err = p.capture.Renew(t.Context())
	require.NoError(t, err)
	p.commit("INSERT INTO t VALUES (3, 'c')")
	require.Equal(t, 3, p.same("t"))

	require.NoError(t, DropSlot(t.Context(), p.a.cfg))
	p.a.exec("BEGIN")
	p.a.exec("INSERT INTO t VALUES (4, 'd')")
	p.a.exec("PREPARE TRANSACTION 'x'")
	_, err = EnsureSlot(t.Context(), p.a.cfg)
	require.ErrorContains(t, err, "cannot be made while 1 transactions are prepared")
	p.a.exec("ROLLBACK PREPARED 'x'")
}
