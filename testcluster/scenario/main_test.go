package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"mtm"
	"mtm/testcluster"
)

// patience is how long anything is waited for: long, for a machine with every core busy.
const patience = time.Minute

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "mtm-scenario-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	toolDir = dir
	code := m.Run()
	os.RemoveAll(dir) //nolint:errcheck // a directory of ours in /tmp
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var toolDir string

// buildMtmctl builds mtmctl once.
var buildMtmctl = sync.OnceValues(func() (string, error) {
	path := filepath.Join(toolDir, "mtmctl")
	if out, err := exec.Command("go", "build", "-o", path, "mtm/cmd/mtmctl").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build mtmctl: %w\n%s", err, out)
	}
	return path, nil
})

// mtmctl runs mtmctl and gives what it printed, on both outputs, and its exit code.
func mtmctl(t testing.TB, args ...string) (string, int) {
	t.Helper()
	path, err := buildMtmctl()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// await polls until ok gives nil; after patience the test ends with its last error and the logs.
func await(t testing.TB, c *testcluster.Cluster, what string, ok func() error) {
	t.Helper()
	require.NoError(t, awaitFor(c, patience, what, ok))
}

func awaitFor(c *testcluster.Cluster, limit time.Duration, what string, ok func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); ; <-tick.C {
		err := ok()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s: %w\n%s", limit, what, err, logs(c))
		}
	}
}

// logs are the ends of the logs of all nodes.
func logs(c *testcluster.Cluster) string {
	var b strings.Builder
	for _, n := range c.Nodes() {
		i := n.Info()
		for _, path := range []string{i.MtmdLog, i.PgLog} {
			fmt.Fprintf(&b, "--- %s:\n%s\n", path, tail(path, 25))
		}
	}
	return b.String()
}

func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// execSQL runs SQL text, of several statements perhaps, and again when it lost against the cluster (40001), as any client has to.
func execSQL(t testing.TB, db *pgx.Conn, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for try := 1; ; try++ {
		_, err := db.Exec(ctx, sql, args...)
		if sqlState(err) == mtm.CodeSerialization && try < 4 {
			t.Logf("again, after %s: %s", detailOf(err), sql)
			continue
		}
		require.NoError(t, err, "%s\n%s", detailOf(err), sql)
		return
	}
}

func detailOf(err error) string {
	if pg := new(pgconn.PgError); errors.As(err, &pg) {
		return pg.Message + " (" + pg.Detail + ")"
	}
	return ""
}

// one reads a single value.
func one[T any](t testing.TB, db *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, db.QueryRow(ctx, sql, args...).Scan(&v), sql)
	return v
}

// requireNonePrepared waits until no node has a prepared transaction of mtm.
func requireNonePrepared(t testing.TB, c *testcluster.Cluster) {
	t.Helper()
	for _, n := range c.Nodes() {
		db := n.ConnectPg()
		await(t, c, fmt.Sprintf("the end of what is prepared on node %d", n.ID), func() error {
			if left := prepared(t, db); len(left) > 0 {
				return fmt.Errorf("left: %v", left)
			}
			return nil
		})
	}
}

// prepared lists mtm's prepared transactions of one PostgreSQL.
func prepared(t testing.TB, db *pgx.Conn) []string {
	return one[[]string](t, db, `SELECT coalesce(array_agg(gid), '{}') FROM pg_prepared_xacts WHERE gid LIKE 'mtm-%'`)
}

// sqlState is the SQLSTATE of an answer, or "" if err is none.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}
