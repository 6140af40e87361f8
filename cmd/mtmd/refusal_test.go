package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/coordinator"
)

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
