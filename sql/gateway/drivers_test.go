package gateway

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDrivers runs programs that use other people's drivers; one that is not installed is skipped. MTM_NODE_PATH is a
// node_modules folder with pg in it.
func TestDrivers(t *testing.T) {
	h := start(t)
	jdbc, _ := filepath.Glob("/usr/share/java/postgresql.jar")
	for _, c := range []struct {
		name string
		has  bool
		cmd  []string
	}{
		{"psycopg2", exec.Command("/usr/bin/python3", "-c", "import psycopg2").Run() == nil, []string{"/usr/bin/python3", "testdata/driver.py"}},
		{"jdbc", len(jdbc) > 0, []string{"java", "-cp", "/usr/share/java/postgresql.jar", "testdata/Driver.java"}},
		{"node-postgres", os.Getenv("MTM_NODE_PATH") != "", []string{"node", "testdata/driver.js"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.has {
				t.Skip("not installed")
			}
			fresh(t, h)
			cmd := exec.Command(c.cmd[0], append(c.cmd[1:], fmt.Sprint(h.port))...)
			cmd.Env = append(os.Environ(), "NODE_PATH="+os.Getenv("MTM_NODE_PATH"))
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			require.True(t, strings.HasSuffix(string(out), "ok\n"), string(out))
		})
	}
}
