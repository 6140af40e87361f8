package verify

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// play shows a row on two nodes once a second, and gives when it was decided, and how.
func play(a, b []string) (at int, verdict string) {
	var start time.Time
	w := newWatched("k", []reading{{version: a[0]}, {version: b[0]}}, start)
	for i := range a {
		now := start.Add(time.Duration(i) * time.Second)
		w.add(0, reading{version: a[i]}, now)
		w.add(1, reading{version: b[i]}, now)
		if w.travelled() {
			return i, "equal"
		}
		if w.different(3*time.Second, now) {
			return i, "different"
		}
	}
	return len(a), "open"
}

func TestWhatDiffersIsDecided(t *testing.T) {
	for name, one := range map[string]struct {
		a, b    []string
		at      int
		verdict string
	}{
		"the second node is late":                    {[]string{"2", "2", "2"}, []string{"1", "1", "2"}, 2, "equal"},
		"hot, and never the same at one moment":      {[]string{"3", "4", "5"}, []string{"2", "3", "4"}, 1, "equal"},
		"deleted here, not yet there":                {[]string{"", ""}, []string{"1", ""}, 1, "equal"},
		"nobody touches it any more":                 {[]string{"1", "1", "1", "1"}, []string{"2", "2", "2", "2"}, 3, "different"},
		"the last change begins the wait anew":       {[]string{"1", "1", "3", "3", "3", "3"}, []string{"2", "2", "2", "2", "2", "2"}, 5, "different"},
		"one node is stuck while the other goes on":  {[]string{"1", "2", "3", "4", "5", "6", "7"}, []string{"0", "0", "0", "0", "0", "0", "0"}, 6, "different"},
		"both go on and no version was seen on both": {[]string{"1", "3", "5", "7", "9", "11", "13"}, []string{"2", "4", "6", "8", "10", "12", "14"}, 7, "open"},
	} {
		at, verdict := play(one.a, one.b)
		require.Equal(t, one.verdict, verdict, name)
		require.Equal(t, one.at, at, name)
	}
}

func TestUndecidedIsNotDifferent(t *testing.T) {
	open := Difference{Kind: "row", Undecided: true}
	require.True(t, (&Result{Differing: []Table{{Rows: []Difference{open}}}}).Undecided())
	require.False(t, (&Result{Definitions: []Difference{{Kind: "index"}}, Differing: []Table{{Rows: []Difference{open}}}}).Undecided())
	require.False(t, (&Result{Equal: true}).Undecided())
}
