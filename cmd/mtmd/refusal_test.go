package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/coordinator"
)

// TestClientsWaitDuringASwitch: who was elected and has not yet written down that it is a donor lets them wait; who recovers does not.
func TestClientsWaitDuringASwitch(t *testing.T) {
	all := mtm.Nodes(1, 2, 3)
	s := coordinator.Status{ID: 1, Status: mtm.StatusRecovery, Connected: all, Generation: mtm.Generation{Num: 4, Members: all, Configured: all}}
	require.Nil(t, refusalOf(s, false))
	recovers := s
	recovers.Donor = 2
	require.ErrorContains(t, refusalOf(recovers, false), "57P03")
	dropped := s
	dropped.Dropped = true
	require.ErrorContains(t, refusalOf(dropped, false), "dropped")
	excluded := s
	excluded.Generation.Members = mtm.Nodes(2, 3)
	require.ErrorContains(t, refusalOf(excluded, false), "57P03")
}

func TestWhoChangesGenerationsLetsClientsWait(t *testing.T) {
	all := mtm.Nodes(1, 2, 3)
	s := coordinator.Status{
		ID: 1, Status: mtm.StatusRecovery, Connected: mtm.Nodes(1, 2), Generation: mtm.Generation{Num: 2, Members: mtm.Nodes(1, 2), Configured: all},
	}
	require.Nil(t, refusalOf(s, false))
	s.Donor = 2
	require.Equal(t, mtm.CodeCannotConnect, refusalOf(s, false).Code, "it has to catch up")
	s.Donor, s.Connected = 0, mtm.Nodes(1)
	require.Equal(t, mtm.CodeCannotConnect, refusalOf(s, false).Code, "it is alone")
}
