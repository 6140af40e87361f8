package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

func TestPast(t *testing.T) {
	was := past{System: "7", Timeline: 2, LSN: 0x3000060}
	now := func(system string, timeline uint32, lsn mtm.LSN, history string) presence {
		return presence{past: past{System: system, Timeline: timeline, LSN: lsn}, history: history}
	}
	history := "1\t0/1000000\tno recovery target specified\n\n2\t0/3000060\tno recovery target specified\n"
	clean := was
	clean.Clean = true
	for name, c := range map[string]struct {
		was  past
		now  presence
		want string
	}{
		"never seen":                    {past{}, now("7", 1, 1, ""), ""},
		"the same place":                {was, now("7", 2, 0x3000060, ""), ""},
		"further":                       {was, now("7", 2, 0x4000000, ""), ""},
		"back":                          {was, now("7", 2, 0x300005f, ""), "PostgreSQL is at 0/300005F, and this node's was at 0/3000060 already"},
		"another server":                {was, now("8", 1, 1, ""), ""},
		"promoted after a clean stop":   {clean, now("7", 3, 0x3000100, history), ""},
		"promoted, and lacks something": {clean, now("7", 3, 0x3000100, "2\t0/3000000\tx\n"), "timeline 3"},
		"promoted after a crash":        {was, now("7", 3, 0x3000100, history), "timeline 3"},
		"promoted, no history":          {clean, now("7", 3, 0x3000100, "2\tx\n"), "timeline 3"},
		"an earlier timeline":           {clean, now("7", 1, 0x3000100, ""), "timeline 1"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.was.follows(c.now)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
	end, ok := endOfTimeline("2\t1A/300\tx", 2)
	require.True(t, ok)
	require.Equal(t, mtm.LSN(0x1A00000300), end)
}
