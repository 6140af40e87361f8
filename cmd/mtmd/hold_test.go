package main

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/coordinator"
)

// begun are the transactions whose end was begun.
type begun []uint64

func (b *begun) Finish(gid mtm.GID, _ bool) { *b = append(*b, gid.Seq) }

func finishOf(seq uint64) coordinator.Finish {
	return coordinator.Finish{GID: mtm.GID{Origin: 1, Gen: 1, Seq: seq}, Commit: true}
}

// TestHoldWaitsForWhatIsUnderWay: while a copy takes its snapshot nothing is being finished, and nothing begins to be.
func TestHoldWaitsForWhatIsUnderWay(t *testing.T) {
	var b begun
	f := &finishes{to: &b}
	f.finish(finishOf(1))
	f.finish(finishOf(2))
	held := make(chan error, 1)
	go func() {
		held <- f.hold(t.Context(), func(context.Context) error {
			f.finish(finishOf(3))
			require.Equal(t, begun{1, 2}, b)
			require.Error(t, f.hold(t.Context(), func(context.Context) error { return nil }), "one at a time")
			return errors.New("told")
		})
	}()
	f.finished(finishOf(1).GID)
	select {
	case <-held:
		require.Fail(t, "one is still under way")
	default:
	}
	f.finished(finishOf(2).GID)
	require.EqualError(t, <-held, "told")
	require.Equal(t, begun{1, 2, 3}, b)
	f.finished(finishOf(3).GID)
}

// TestHoldGivesUp: a transaction whose end takes long does not keep the others waiting.
func TestHoldGivesUp(t *testing.T) {
	var b begun
	f := &finishes{to: &b}
	f.finish(finishOf(1))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	require.EqualError(t, f.hold(ctx, func(context.Context) error { panic("not idle") }), "enough")
	f.finish(finishOf(2))
	require.Equal(t, begun{1, 2}, b)
	require.Zero(t, f.waiting)
}

// TestPassWaitsForWhatWasUnderWay: and not for what comes later.
func TestPassWaitsForWhatWasUnderWay(t *testing.T) {
	var b begun
	f := &finishes{to: &b}
	require.NoError(t, f.pass(t.Context()))
	f.finish(finishOf(1))
	f.finish(finishOf(2))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, f.pass(ctx), context.Canceled)
	passed := make(chan error, 1)
	go func() { passed <- f.pass(t.Context()) }()
	for waits := false; !waits; runtime.Gosched() {
		f.mu.Lock()
		waits = f.fewer != nil
		f.mu.Unlock()
	}
	f.finish(finishOf(3))
	f.finished(finishOf(2).GID)
	select {
	case <-passed:
		require.Fail(t, "the first one is still under way")
	default:
	}
	f.finished(finishOf(1).GID)
	require.NoError(t, <-passed)
}
