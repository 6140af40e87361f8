package scenario

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// driversPrepare: what transaction managers do through their drivers: prepare on one node, find and end on another.
func driversPrepare(t *testing.T, c *testcluster.Cluster) {
	const python, jar = "/usr/bin/python3", "/usr/share/java/postgresql.jar"
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE xa (v text PRIMARY KEY, i int)")
	port := func(node int) string {
		cfg, err := pgx.ParseConfig(c.Node(node).URL())
		require.NoError(t, err)
		return strconv.Itoa(int(cfg.Port))
	}
	runs := func(name string, args ...string) bool { return exec.Command(name, args...).Run() == nil }
	want := []string{}
	var commands [][]string
	for _, module := range []string{"psycopg2", "psycopg"} {
		if runs(python, "-c", "import "+module) {
			commands = append(commands, []string{python, "testdata/xa/tpc.py", c.Node(1).URL(), c.Node(2).URL(), module})
			want = append(want, module+"commit", module+"one phase", module+"twice")
		}
	}
	if runs("test", "-e", jar) && runs("java", "--describe-module", "jdk.compiler") {
		commands = append(commands, []string{"java", "-cp", jar, "testdata/xa/XA.java", port(1), port(2)})
		want = append(want, "java one phase", "javatrue")
	}
	if len(commands) == 0 {
		t.Log("no driver is installed: scripts/drivers.sh says what is missing")
	}
	for _, cmd := range commands {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, cmd[0], cmd[1:]...).CombinedOutput()
		cancel()
		require.NoError(t, err, "%v: %s%s", cmd, out, logs(c))
		require.True(t, strings.HasSuffix(string(out), "ok\n"), "%s", out)
	}
	for _, n := range c.Nodes() {
		require.ElementsMatch(t, want, one[[]string](t, n.Connect(), "SELECT coalesce(array_agg(v), '{}') FROM xa"), "node %d", n.ID)
		require.Zero(t, one[int](t, n.Connect(), "SELECT count(*) FROM pg_prepared_xacts"))
	}
}
