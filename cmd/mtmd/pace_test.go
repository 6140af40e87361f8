package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhatEndsAtOnceEndsOneByOneAndNotLate(t *testing.T) {
	var p pace
	now := time.Now()
	for i := range 20 {
		require.Equal(t, time.Duration(i)*paceStep, p.turn(now))
	}
	for range 2000 {
		require.LessOrEqual(t, p.turn(now), paceMax)
	}
	require.Zero(t, p.turn(now.Add(paceMax+paceStep)), "nobody is before it")
}
