package main

import (
	"context"
	"encoding/base64"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm/coordinator"
)

func TestOnlyQueriesAreCompared(t *testing.T) {
	j := startJobs(t)
	argue := func(text string) {
		_, failure, _ := j.answer(asker(1, "n"+base64.StdEncoding.EncodeToString([]byte(text))))
		require.Nil(t, failure)
	}
	for text, code := range map[string]string{
		`nonsense`: "22023", `{"query": "DELETE FROM t"}`: "42601", `{"query": "SELECT 1; SELECT 2"}`: "42601", `{"query": ""}`: "42601",
		`{"query": "WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x"}`: "42601",
	} {
		argue(text)
		_, failure, _ := j.answer(asker(1, "q"))
		require.NotNil(t, failure, text)
		require.Equal(t, code, failure.Code, text)
	}
}

// A gate that is kept still gives no permit, until it is released or too long has passed.
func TestStillGateGivesNoPermit(t *testing.T) {
	g := newGate(1, func(coordinator.Event) {}, newMetrics(), newLease(newClock(), time.Minute), time.Minute, time.Minute)
	g.allow(coordinator.OpenGate{Gen: 1, First: 1, Below: 100, Limit: 10})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := g.Permit(ctx, 0)
	require.NoError(t, err)
	_, err = g.still(ctx, time.Millisecond)
	require.ErrorContains(t, err, "under way")
	permitted := make(chan error, 1)
	permit := func() {
		_, err := g.Permit(ctx, 0)
		permitted <- err
	}
	permit() // it was given up
	require.NoError(t, <-permitted)
	go func() { g.release(); g.release() }()
	release, err := g.still(ctx, time.Minute)
	require.NoError(t, err)
	go permit()
	select {
	case <-permitted:
		t.Fatal("a permit was given")
	case <-time.After(20 * time.Millisecond): // what is tested: that nothing happens
	}
	require.True(t, release())
	require.NoError(t, <-permitted)
	require.False(t, release())
	g.release()
	release, err = g.still(ctx, time.Millisecond)
	require.NoError(t, err)
	permit() // when the time is over
	require.NoError(t, <-permitted)
	require.False(t, release())
}

func TestFirstDifference(t *testing.T) {
	_, different := firstDifference([]map[int]string{{1: "2 5"}, {1: "2 5"}, {1: "2 5"}})
	require.False(t, different)
	bucket, different := firstDifference([]map[int]string{{1: "2 5"}, {1: "2 5"}, {1: "2 5", 255: "1 1"}})
	require.True(t, different)
	require.Equal(t, 255, bucket)
}
