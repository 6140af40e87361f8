package dmq

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
)

// exact checks what a sink was told: messages ascend, without a gap but where the peer was reported down between.
func exact(t *testing.T, all []seen) {
	t.Helper()
	up, last := false, uint64(0)
	first := true // of this time up
	for i, e := range all {
		switch {
		case e.up:
			require.False(t, up, "%d: up twice", i)
			up, first = true, true
		case e.down:
			require.True(t, up, "%d: down twice", i)
			up = false
		default:
			n := e.message.Body.(mtm.Forget).Upto
			require.True(t, up, "%d: message %d while down", i, n)
			require.Greater(t, n, last, "%d: repeated", i)
			if !first {
				require.Equal(t, last+1, n, "%d: lost", i)
			}
			first, last = false, n
		}
	}
}

// flood sends numbered messages to node to until ctx is done, never more than a few thousand ahead.
func flood(ctx context.Context, n *node, to mtm.NodeID) {
	for i := uint64(1); ctx.Err() == nil; i++ {
		n.Send(msg(to, i))
		for i%64 == 0 && n.Stats()[0].Queued > 300 && ctx.Err() == nil {
			sleep(ctx, time.Millisecond)
		}
		if up, changed := n.link(to).isUp(); !up {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

func TestCutConnectionsLoseAndRepeatNothing(t *testing.T) {
	t.Run("back in time", func(t *testing.T) { testCuts(t, patience) })
	t.Run("too late, now and then", func(t *testing.T) { testCuts(t, 3*time.Millisecond) })
}

func testCuts(t *testing.T, grace time.Duration) {
	a, b, toA, toB := pair(t, func(c *Config) { c.DownGrace = grace })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { flood(ctx, a, 2) })
	wg.Go(func() { flood(ctx, b, 1) })
	cuts := 150
	if testing.Short() {
		cuts = 50
	}
	for i := range cuts {
		if p := rand.IntN(3); p == 0 {
			toA.cut()
		} else if p == 1 {
			toB.cut()
		} else {
			toA.cut()
			toB.cut()
		}
		n := []*node{a, b}[i%2]
		got := n.Stats()[0].Received
		n.sink.waitMessages(t, int(got)+rand.IntN(300))
	}
	cancel()
	wg.Wait()
	for _, x := range []*node{a, b} {
		exact(t, x.sink.wait(t, "the link", func(all []seen) bool { return true }))
		s := x.Stats()[0]
		t.Logf("received %d, streams %d, downs %d", s.Received, s.Connects, s.Downs)
		if grace == patience {
			require.Less(t, s.Downs, s.Connects/4, "a cut alone is not worth a report")
		} else {
			require.Positive(t, s.Downs)
		}
	}
}

func TestShortCutIsNotReported(t *testing.T) {
	a, b, toA, toB := pair(t, func(c *Config) { c.DownGrace = patience })
	for i := range uint64(20) {
		ca, cb := a.Stats()[0].Connects, b.Stats()[0].Connects
		a.Send(msg(2, 2*i+1))
		toB.cut()
		toA.cut()
		a.Send(msg(2, 2*i+2))
		require.Eventually(t, func() bool {
			return a.Stats()[0].Connects > ca && b.Stats()[0].Connects > cb
		}, patience, time.Millisecond)
	}
	got := b.sink.waitMessages(t, 40)
	exact(t, got)
	require.Zero(t, count(got, func(e seen) bool { return e.down }))
	require.Zero(t, a.Stats()[0].Downs)
}

func TestSilenceIsReportedWithinTheTimeout(t *testing.T) {
	a, b, toA, toB := pair(t, nil)
	began := time.Now()
	toA.freeze()
	toB.freeze()
	a.sink.waitDown(t, 1)
	b.sink.waitDown(t, 1)
	took := time.Since(began)
	require.Greater(t, took, 500*time.Millisecond)
	require.Less(t, took, 5*time.Second, "a busy machine allowed for")
	require.Contains(t, a.Stats()[0].LastError, "700ms")
	toA.thaw()
	toB.thaw()
	a.sink.waitUp(t, 2)
	b.sink.waitUp(t, 2)
	a.Send(msg(2, 1))
	exact(t, b.sink.waitMessages(t, 1))
}

func TestOneWaySilenceIsReportedAtBothEnds(t *testing.T) {
	a, b, toA, _ := pair(t, nil)
	toA.freeze() // what b dials
	a.sink.waitDown(t, 1)
	b.sink.waitDown(t, 1)
	toA.thaw()
	a.sink.waitUp(t, 2)
	b.sink.waitUp(t, 2)
}

func TestStoppedPeerIsReportedAtOnceAndComesBackAsAnother(t *testing.T) {
	dir := pki(t, "node-1", "node-2")
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	slow := func(c *Config) { c.DownGrace, c.RecvTimeout = time.Hour, time.Hour } // neither may be what reports it
	addr := lb.Addr().String()
	a := start(t, dir, 1, la, map[mtm.NodeID]string{2: addr}, slow)
	peers := map[mtm.NodeID]string{1: la.Addr().String()}
	b := start(t, dir, 2, lb, peers, slow)
	for i := 1; i <= 5; i++ {
		a.sink.waitUp(t, i)
		b.sink.waitUp(t, 1)
		a.Send(msg(2, uint64(i)))
		require.Equal(t, []uint64{uint64(i)}, numbers(b.sink.waitMessages(t, 1)))
		b.stop()
		a.sink.waitDown(t, i)
		b = start(t, dir, 2, listen(t, addr), peers, slow)
	}
	a.sink.waitUp(t, 6)
	seenIncarnations := map[uint64]bool{}
	for _, e := range a.sink.wait(t, "", func([]seen) bool { return true }) {
		if e.up {
			require.False(t, seenIncarnations[e.incarnation], "each process is another incarnation")
			seenIncarnations[e.incarnation] = true
		}
	}
}

func TestRestartBehindAProxyIsNoticed(t *testing.T) {
	dir := pki(t, "node-1", "node-2")
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	toB := newProxy(t, lb.Addr().String())
	addr, peers := lb.Addr().String(), map[mtm.NodeID]string{1: la.Addr().String()}
	a := start(t, dir, 1, la, map[mtm.NodeID]string{2: toB.addr()}, nil)
	b := start(t, dir, 2, lb, peers, nil)
	a.sink.waitUp(t, 1)
	b.stop()
	a.sink.waitDown(t, 1)
	start(t, dir, 2, listen(t, addr), peers, nil)
	a.sink.waitUp(t, 2)
}

func TestOverflowIsLinkFailure(t *testing.T) {
	a, b, _, toB := pair(t, func(c *Config) { c.MaxQueueBytes, c.RecvTimeout = 1<<20, time.Hour })
	toB.freeze()
	big := mtm.Message{To: 2, Body: mtm.Prepare{GID: mtm.GID{Origin: 1}, Payload: mtm.Payload{Data: make([]byte, 300<<10)}}}
	for range 10 {
		a.Send(big)
	}
	a.sink.waitDown(t, 1)
	require.Contains(t, a.Stats()[0].LastError, "queued")
	require.Zero(t, a.Stats()[0].QueuedBytes)
	toB.thaw()
	b.sink.waitDown(t, 1)
	a.sink.waitUp(t, 2)
	b.sink.waitUp(t, 2)
	a.Send(msg(2, 1))
	b.sink.wait(t, "the message", func(all []seen) bool { return len(numbers(all)) == 1 })
}

func TestSlowSinkDelaysNoHeartbeat(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	block := make(chan struct{})
	b.sink.mu.Lock()
	b.sink.block = block
	b.sink.mu.Unlock()
	for i := range uint64(1000) {
		a.Send(msg(2, i+1))
	}
	for range 20 { // a second of heartbeats, each newer than the one before
		last := a.LastAck(2)
		require.Eventually(t, func() bool { return a.LastAck(2).After(last) }, patience, time.Millisecond)
	}
	close(block)
	got := b.sink.waitMessages(t, 1000)
	exact(t, got)
	require.Zero(t, a.Stats()[0].Downs)
}

func TestSlowSinkIsBounded(t *testing.T) {
	a, b, _, _ := pair(t, func(c *Config) { c.MaxQueueBytes = 4 << 20 })
	block := make(chan struct{})
	b.sink.mu.Lock()
	b.sink.block = block
	b.sink.mu.Unlock()
	big := mtm.Message{To: 2, Body: mtm.Prepare{GID: mtm.GID{Origin: 1}, Payload: mtm.Payload{Data: make([]byte, 100<<10)}}}
	deadline := time.Now().Add(patience)
	for a.Stats()[0].Downs == 0 && time.Now().Before(deadline) {
		if a.Stats()[0].QueuedBytes < 2<<20 {
			a.Send(big)
		}
	}
	require.Less(t, b.link(1).box.bytes, 6<<20)
	close(block)
	b.sink.waitDown(t, 1)
	b.sink.waitUp(t, 2)
}

func TestThreeNodes(t *testing.T) {
	dir := pki(t, "node-1", "node-2", "node-3")
	ls := map[mtm.NodeID]net.Listener{1: listen(t, "127.0.0.1:0"), 2: listen(t, "127.0.0.1:0"), 3: listen(t, "127.0.0.1:0")}
	nodes := map[mtm.NodeID]*node{}
	for id := range ls {
		peers := map[mtm.NodeID]string{}
		for other, l := range ls {
			if other != id {
				peers[other] = l.Addr().String()
			}
		}
		nodes[id] = start(t, dir, id, ls[id], peers, nil)
	}
	for _, n := range nodes {
		n.sink.waitUp(t, 2)
	}
	for id, n := range nodes {
		for other := range nodes {
			if other != id {
				n.Send(msg(other, uint64(id)))
			}
		}
	}
	for id, n := range nodes {
		for _, e := range n.sink.waitMessages(t, 2) {
			if e.message.Body != nil {
				require.Equal(t, id, e.message.To)
				require.EqualValues(t, e.message.From, e.message.Body.(mtm.Forget).Upto)
			}
		}
	}
}
