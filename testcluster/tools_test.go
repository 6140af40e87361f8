package testcluster_test

import (
	"context"
	"os/exec"
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
