package testcluster_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// failPoints are the steps of a commit at which mtmd kills itself when MTM_FAIL_AT says so, read from its source, so
// that none is forgotten.
func failPoints(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../cmd/mtmd/failpoint.go")
	require.NoError(t, err)
	list := regexp.MustCompile(`(?s)var failPoints = \[\]string\{(.*?)\}`).FindSubmatch(text)
	require.NotNil(t, list)
	var names []string
	for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllSubmatch(list[1], -1) {
		names = append(names, string(m[1]))
	}
	require.Greater(t, len(names), 5)
	return names
}

// TestKilledBetweenAnyTwoSteps kills mtmd of one node after the other, at one step of a commit after the other, under
// load on all nodes, and starts it again: S1 to S9 hold.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	c := three(t)
	load := startInserts(t, c, 3, 0)
	for i, name := range failPoints(t) {
		n := c.Node(i%3 + 1)
		load.waitAcked(20)
		n.StopMtmd()
		n.LaunchMtmd("MTM_FAIL_AT=" + name + ":15")
		n.WaitMtmdGone()
		n.StartMtmd()
		n.WaitStatus("online")
		t.Logf("%s on node %d: killed and back", name, n.ID)
	}
	load.waitAcked(50)
	load.finish()
}

// TestMillionRowsInBoundedMemory copies a million rows through the gateway of one node and looks at what the three
// mtmd used at most.
func TestMillionRowsInBoundedMemory(t *testing.T) {
	c := three(t)
	execute(t, c.Node(1), "CREATE TABLE big (id int PRIMARY KEY, v text)")
	c.Node(1).Psql("COPY big FROM PROGRAM 'seq 1 1000000 | sed \"s/.*/&\\tsome text in row &/\"'")
	requireRows(t, c, "SELECT count(*), sum(id::bigint) FROM big", "1000000|500000500000")
	for _, n := range c.Nodes() {
		peak := peakMemory(t, n)
		t.Logf("node %d: mtmd used at most %d MiB", n.ID, peak>>20)
		require.Less(t, peak, int64(256<<20), "node %d", n.ID)
	}
	c.RequireEqual()
}

var peakLine = regexp.MustCompile(`(?m)^VmHWM:\s*(\d+) kB`)

// peakMemory is the most that mtmd of n ever had in memory, in bytes (VmHWM of proc(5)).
func peakMemory(t *testing.T, n *testcluster.Node) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/" + itoa(n.Info().MtmdPid) + "/status")
	require.NoError(t, err)
	m := peakLine.FindStringSubmatch(string(text))
	require.NotNil(t, m)
	return atoi(t, strings.TrimSpace(m[1])) << 10
}
