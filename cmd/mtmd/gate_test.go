package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/coordinator"
)

func testGate(t *testing.T) (*gate, *[]coordinator.Event) {
	t.Helper()
	var events []coordinator.Event
	g := newGate(1, func(ev coordinator.Event) { events = append(events, ev) }, newMetrics(), newLease(newClock(), 50*time.Millisecond), 50*time.Millisecond, time.Second)
	return g, &events
}

func TestGateNumbersInOrderAndBoundsWhatIsInFlight(t *testing.T) {
	g, events := testGate(t)
	g.allow(coordinator.OpenGate{Gen: 3, First: 10, Below: 100, Limit: 2})
	a, err := g.Permit(t.Context(), 7)
	require.NoError(t, err)
	b, err := g.Permit(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, mtm.GID{Origin: 1, Gen: 3, Seq: 10}, a)
	require.Equal(t, uint64(11), b.Seq)
	require.Equal(t, coordinator.Permitted{GID: a, Age: 7}, (*events)[0])

	_, err = g.Permit(t.Context(), 0)
	require.ErrorContains(t, err, "53400", "a third must wait, and say why it gave up")

	g.Prepared(a, nil, false)
	g.reply(coordinator.Reply{GID: a})
	g.release()
	require.Nil(t, g.Wait(t.Context(), mtm.GID{Origin: 1, Gen: 3, Seq: 99}).Err, "unknown transactions do not hang")
	_, err = g.Permit(t.Context(), 0)
	require.NoError(t, err)
}

func TestClosedGateWaitsForThoseWhoPrepare(t *testing.T) {
	g, events := testGate(t)
	g.allow(coordinator.OpenGate{Gen: 1, First: 1, Below: 100, Limit: 9})
	a, err := g.Permit(t.Context(), 0)
	require.NoError(t, err)
	g.forbid(coordinator.CloseGate{Reason: mtm.NotOnline(mtm.StatusIsolated, "Nodes {2} are out of reach."), Seq: 4})
	require.NotContains(t, *events, coordinator.GateClosed{Next: 2, Seq: 4})
	g.Prepared(a, mtm.Conflict("x"), false)
	require.Contains(t, *events, coordinator.GateClosed{Next: 2, Seq: 4})
	_, err = g.Permit(t.Context(), 0)
	require.ErrorContains(t, err, "57P03")
}

func TestOutcomeReachesWhoWaits(t *testing.T) {
	g, _ := testGate(t)
	g.allow(coordinator.OpenGate{Gen: 1, First: 1, Below: 100, Limit: 9})
	a, err := g.Permit(t.Context(), 0)
	require.NoError(t, err)
	g.Prepared(a, nil, false)
	done := make(chan *mtm.Error)
	go func() { done <- g.Wait(context.Background(), a) }()
	g.reply(coordinator.Reply{GID: a, Err: mtm.Conflict("lost")})
	require.Equal(t, mtm.CodeSerialization, (<-done).Code)
}

// TestALongCommitIsWaitedFor: resolve_timeout is about a node that has lost the cluster.
func TestALongCommitIsWaitedFor(t *testing.T) {
	g, _ := testGate(t)
	g.resolve = time.Millisecond
	g.allow(coordinator.OpenGate{Gen: 1, First: 1, Below: 100, Limit: 9})
	a, err := g.Permit(t.Context(), 0)
	require.NoError(t, err)
	g.Prepared(a, nil, false)
	g.lease.extend(g.lease.clock.now() + uint64(time.Hour.Milliseconds()))
	done := make(chan *mtm.Error, 1)
	go func() { done <- g.Wait(context.Background(), a) }()
	select {
	case e := <-done:
		require.Fail(t, "not waited for", "%v", e)
	case <-time.After(20 * g.resolve):
	}
	g.lease.extend(0)
	require.Equal(t, mtm.CodeOutcomeUnknown, (<-done).Code)
}
