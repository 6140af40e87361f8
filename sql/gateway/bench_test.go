package gateway

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBenchmark prints what pgbench makes of PostgreSQL and of the gateway, in turns. It runs when MTM_BENCH is set to
// the seconds that each run takes.
func TestBenchmark(t *testing.T) {
	seconds := os.Getenv("MTM_BENCH")
	if seconds == "" {
		t.Skip("MTM_BENCH is not set")
	}
	h := start(t)
	bench := func(port int, args ...string) string {
		args = append(args, "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-U", "postgres", "postgres")
		out, err := exec.Command(program("pgbench"), args...).CombinedOutput()
		require.NoError(t, err, string(out))
		return string(regexp.MustCompile(`tps = (\d+)`).FindString(string(out)))
	}
	bench(pg.port, "-i", "-s", "5", "-q")
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, script := range []string{"select-only", "simple-update"} {
			for _, clients := range []string{"1", "4"} {
				for range 2 {
					args := []string{"-n", "-M", mode, "-b", script, "-c", clients, "-T", seconds}
					t.Logf("%-9s %-14s %s clients: direct %s, gateway %s", mode, script, clients, bench(pg.port, args...), bench(h.port, args...))
				}
			}
		}
	}
	psql(t, pg.port, "drop table pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history")
}
