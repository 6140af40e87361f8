package testcluster_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// runPgbench runs pgbench through the gateway of n.
func runPgbench(t *testing.T, n *testcluster.Node, args ...string) {
	t.Helper()
	require.Empty(t, tryPgbench(n, args...))
}

// tryPgbench gives what pgbench said if it failed, and nothing otherwise.
func tryPgbench(n *testcluster.Node, args ...string) string {
	i := n.Info()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, testcluster.Program(i.PgBin, "pgbench"), append(args, i.URL)...).CombinedOutput()
	if err != nil {
		return err.Error() + "\n" + string(out)
	}
	return ""
}

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return n
}

var peakLine = regexp.MustCompile(`(?m)^VmHWM:\s*(\d+) kB`)

// peakMemory is the most that mtmd of n ever had in memory, in bytes (VmHWM of proc(5)).
func peakMemory(t *testing.T, n *testcluster.Node) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/" + itoa(n.Info().MtmdPid) + "/status")
	require.NoError(t, err)
	m := peakLine.FindStringSubmatch(string(text))
	require.NotNil(t, m)
	return atoi(t, m[1]) << 10
}
