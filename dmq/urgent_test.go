package dmq

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// A lease must not wait behind data: neither in the queue of the sender, nor in the inbox of the receiver.
func TestUrgentMessagesOvertakeData(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	block := make(chan struct{})
	b.sink.mu.Lock()
	b.sink.block = block
	b.sink.mu.Unlock()
	const n = 2000
	for i := range uint64(n) {
		a.Send(msg(2, i+1))
	}
	beat := mtm.HeartbeatAck{Sent: 77}
	a.Send(mtm.Message{To: 2, Body: beat})
	all := b.sink.waitMessages(t, 1)
	require.Equal(t, beat, all[len(all)-1].message.Body)
	close(block)
	b.sink.waitMessages(t, n+1)
}

func TestSuspendedNodeIsDownUntilItResumes(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	for i := range 2 {
		a.Suspend(errors.New("PostgreSQL is away"))
		downs := func(c counts) bool { return c.downs > i }
		a.sink.waitCounts(t, "down here", downs)
		b.sink.waitCounts(t, "down there", downs)
		a.Send(msg(2, 1))
		b.Send(msg(1, 1))
		require.False(t, a.Stats()[0].Connected)
		a.Resume()
		a.sink.waitUp(t, i+2)
		b.sink.waitUp(t, i+2)
	}
}
