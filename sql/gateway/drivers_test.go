package gateway

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDrivers runs programs that use other people's drivers, which scripts/drivers.sh installs where it can; one that is not there
// is skipped. MTM_NODE_PATH is a node_modules folder with pg in it.
func TestDrivers(t *testing.T) {
	h := start(t)
	const python, jar = "/usr/bin/python3", "/usr/share/java/postgresql.jar"
	node := os.Getenv("MTM_NODE_PATH")
	runs := func(name string, args ...string) bool { return exec.Command(name, args...).Run() == nil }
	for _, c := range []struct {
		name string
		has  bool
		cmd  []string
	}{
		{"psycopg2", runs(python, "-c", "import psycopg2"), []string{python, "testdata/psycopg2_driver.py"}},
		{"psycopg3", runs(python, "-c", "import psycopg"), []string{python, "testdata/psycopg3_driver.py"}},
		{"asyncpg", runs(python, "-c", "import asyncpg"), []string{python, "testdata/asyncpg_driver.py"}},
		{"jdbc", runs("test", "-e", jar) && runs("java", "--describe-module", "jdk.compiler"), []string{"java", "-cp", jar, "testdata/JDBCDriver.java"}},
		{"node-postgres", node != "", []string{"node", "testdata/node_driver.js"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.has {
				t.Skip("not installed: scripts/drivers.sh says what is missing")
			}
			fresh(t, h)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, c.cmd[0], append(c.cmd[1:], fmt.Sprint(h.port))...)
			cmd.Env = append(os.Environ(), "NODE_PATH="+node)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			require.True(t, strings.HasSuffix(string(out), "ok\n"), string(out))
		})
	}
}
