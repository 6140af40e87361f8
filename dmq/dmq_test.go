package dmq

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
)

func TestMessagesArriveInOrder(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	const n = 20000
	for i := uint64(1); i <= n; i++ {
		a.Send(msg(2, i))
		b.Send(msg(1, i))
	}
	for _, x := range []*node{a, b} {
		got := numbers(x.sink.waitMessages(t, n))
		require.Len(t, got, n)
		for i, v := range got {
			require.EqualValues(t, i+1, v)
		}
	}
	s := a.Stats()[0]
	require.True(t, s.Connected)
	require.EqualValues(t, n, s.Sent)
	require.EqualValues(t, n, s.Received)
	require.Equal(t, b.Incarnation(), s.Incarnation)
}

func TestHeartbeatsAreAcknowledged(t *testing.T) {
	a, _, _, _ := pair(t, nil)
	first := a.LastAck(2)
	require.Eventually(t, func() bool { return a.LastAck(2).After(first) && !first.IsZero() || !resetIfZero(&first, a) },
		patience, time.Millisecond)
	require.Less(t, time.Since(a.LastAck(2)), time.Second)
	require.False(t, a.LastHeard(2).IsZero())
	require.Positive(t, a.Stats()[0].RTT)
	require.True(t, a.LastAck(9).IsZero())
}

func resetIfZero(first *time.Time, a *node) bool {
	if first.IsZero() {
		*first = a.LastAck(2)
	}
	return true
}

func TestMessageToADownPeerIsDropped(t *testing.T) {
	dir := pki(t, "node-1", "node-2")
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	a := start(t, dir, 1, la, map[mtm.NodeID]string{2: lb.Addr().String()}, nil)
	a.Send(msg(2, 1))
	b := start(t, dir, 2, lb, map[mtm.NodeID]string{1: la.Addr().String()}, nil)
	a.sink.waitUp(t, 1)
	b.sink.waitUp(t, 1)
	a.Send(msg(2, 2))
	require.Equal(t, []uint64{2}, numbers(b.sink.waitMessages(t, 1)))
}

// TestPeerIsAdded: a node that was no peer is refused, and a moment after AddPeer the link is up, both ways.
func TestPeerIsAdded(t *testing.T) {
	dir := pki(t, "node-1", "node-2")
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	a := start(t, dir, 1, la, map[mtm.NodeID]string{2: lb.Addr().String()}, nil)
	b := start(t, dir, 2, lb, nil, nil)
	require.Eventually(t, func() bool { return a.Stats()[0].LastError != "" }, patience, time.Millisecond)
	require.Empty(t, b.Stats())
	require.Error(t, b.AddPeer(2, "x"), "itself")
	require.Error(t, b.AddPeer(17, "x"))
	require.NoError(t, b.AddPeer(1, la.Addr().String()))
	a.sink.waitUp(t, 1)
	b.sink.waitUp(t, 1)
	a.Send(msg(2, 7))
	b.Send(msg(1, 8))
	require.Equal(t, []uint64{7}, numbers(b.sink.waitMessages(t, 1)))
	require.Equal(t, []uint64{8}, numbers(a.sink.waitMessages(t, 1)))
	require.Len(t, b.Stats(), 1)
}

// TestPeerIsMovedAndRemoved: a peer is dialled at another address from the moment that it is told, and one that was removed is not
// let in any more, until it is added again.
func TestPeerIsMovedAndRemoved(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	la := listen(t, "127.0.0.1:0") // nobody answers there
	defer la.Close()
	addr := b.link(1).address()
	require.NoError(t, b.AddPeer(1, addr), "where it is already")
	up, _ := b.link(1).isUp()
	require.True(t, up)
	require.NoError(t, b.AddPeer(1, la.Addr().String()))
	a.sink.waitDown(t, 1)
	b.sink.waitDown(t, 1)
	require.NoError(t, b.AddPeer(1, addr))
	a.sink.waitUp(t, 2)
	b.sink.waitUp(t, 2)

	b.RemovePeer(1)
	a.sink.waitDown(t, 2)
	b.sink.waitDown(t, 2)
	require.Eventually(t, func() bool { return strings.Contains(a.Stats()[0].LastError, "does not allow") }, patience, time.Millisecond)
	require.Empty(t, b.Stats())
	require.NoError(t, b.AddPeer(1, addr))
	a.sink.waitUp(t, 3)
	b.sink.waitUp(t, 3)
}
