package gateway

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTurnsFollowThePaceOfCommits: a turn is a few commits, on a fast machine and, up to a limit, on a slow one.
func TestTurnsFollowThePaceOfCommits(t *testing.T) {
	var p pace
	for _, c := range []struct{ commit, quiet, limit time.Duration }{
		{0, yieldQuiet, yieldMax},
		{5 * time.Millisecond, yieldQuiet, yieldMax},
		{60 * time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond},
		{time.Minute, 10 * yieldQuiet, 10 * yieldMax},
	} {
		for range 1000 {
			p.note(c.commit)
		}
		quiet, limit := p.turn()
		require.InDelta(t, c.quiet, quiet, float64(time.Millisecond))
		require.InDelta(t, c.limit, limit, float64(time.Millisecond))
	}
	require.LessOrEqual(t, 10*yieldMax, time.Second, "nobody waits long for others, whatever they do")
}
