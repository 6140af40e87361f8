package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/coordinator"
)

func TestLapsedLeaseIsWaitedFor(t *testing.T) {
	l := newLease(newClock(), time.Minute)
	l.extend(l.clock.now() + 60_000)
	require.NoError(t, l.hold(t.Context()))
	require.Nil(t, l.refused())

	l.extend(0)
	answer := make(chan error, 1)
	go func() { answer <- l.hold(context.Background()) }()
	require.Eventually(t, func() bool { return l.waiting.Load() == 1 }, 5*time.Second, time.Millisecond)
	l.extend(l.clock.now()) // not long enough
	require.Empty(t, answer)
	l.extend(l.clock.now() + 60_000)
	require.NoError(t, <-answer)

	l.extend(0)
	go func() { answer <- l.hold(context.Background()) }()
	require.Eventually(t, func() bool { return l.waiting.Load() == 1 }, 5*time.Second, time.Millisecond)
	l.refuse(mtm.NotOnline(mtm.StatusRecovery, ""))
	require.ErrorContains(t, <-answer, "57P03")
	require.ErrorContains(t, l.hold(t.Context()), "recovery")
	require.NotNil(t, l.refused())
	l.extend(l.clock.now() + 60_000)
	require.NoError(t, l.hold(t.Context()), "a lease counts, whatever was said before")

	l = newLease(newClock(), 10*time.Millisecond)
	require.ErrorContains(t, l.hold(t.Context()), "57P03", "nobody waits for ever")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, newLease(newClock(), time.Minute).hold(ctx), context.Canceled)
}

// The clock that leases are compared with must go on while the process does not.
func TestClockIsTheMachines(t *testing.T) {
	c := clock{zero: bootNanos() - 1_500_000_000}
	require.InDelta(t, 1500, c.now(), 1000)
}

func TestWhoIsTurnedAway(t *testing.T) {
	gen := mtm.Generation{Num: 1, Members: mtm.Nodes(1, 2, 3), Configured: mtm.Nodes(1, 2, 3)}
	for _, c := range []struct {
		s    coordinator.Status
		want string
	}{
		{coordinator.Status{Status: mtm.StatusOnline, Generation: gen, Connected: mtm.Nodes(1, 2, 3)}, ""},
		{coordinator.Status{Status: mtm.StatusIsolated, Generation: gen, Connected: mtm.Nodes(1, 2)}, ""}, // an election will tell
		{coordinator.Status{Status: mtm.StatusIsolated, Generation: gen, Connected: mtm.Nodes(1)}, "Nodes {2,3} are out of reach"},
		{coordinator.Status{Status: mtm.StatusRecovery, Generation: gen, Behind: 77}, "It is 77 bytes behind."},
		{coordinator.Status{Status: mtm.StatusDisabled, Generation: gen}, "disabled"},
	} {
		e := refusalOf(c.s, false)
		if c.want == "" {
			require.Nil(t, e, c.s.Status)
			continue
		}
		require.ErrorContains(t, e, c.want)
		require.ErrorContains(t, e, "57P03")
	}
}
