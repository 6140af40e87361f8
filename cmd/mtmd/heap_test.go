package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestALargeHeapIsCollectedAsEver(t *testing.T) {
	require.Equal(t, 800, gcPercent(0))
	require.Equal(t, 400, gcPercent(3<<20))
	require.Equal(t, 100, gcPercent(12<<20))
	require.Equal(t, 100, gcPercent(1<<40))
}
