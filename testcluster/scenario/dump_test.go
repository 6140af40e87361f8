package scenario

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// dumpAndRestore moves a schema from a stock PostgreSQL into the cluster and back, by pg_dump, psql and pg_restore.
func dumpAndRestore(t *testing.T, c *testcluster.Cluster) {
	stock := testcluster.Start(t, testcluster.Options{Nodes: 1, PostgresOnly: true}).Node(1)
	bin := stock.Info().PgBin
	// A node of a busy machine may be out of the cluster for a moment: then a step is done again, from its beginning.
	run := func(before func(), program string, args ...string) (said string) {
		t.Helper()
		await(t, c, program, func() error {
			before()
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			var stderr bytes.Buffer
			cmd := exec.CommandContext(ctx, testcluster.Program(bin, program), args...)
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil && !strings.Contains(stderr.String(), "is not online") {
				require.NoError(t, err, "%s %v: %s%s", program, args, &stderr, logs(c))
			}
			said = string(out)
			return err
		})
		return said
	}
	nothing := func() {}
	drop := func() {
		await(t, c, "schema dropped", func() error {
			_, err := c.Node(1).Connect().Exec(t.Context(), "DROP SCHEMA IF EXISTS shop CASCADE")
			return err
		})
	}
	psql := func(before func(), url string, args ...string) {
		t.Helper()
		run(before, "psql", append([]string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url}, args...)...)
	}
	dump := func(url string) string { return asDumped(run(nothing, "pg_dump", "-n", "shop", "-d", url)) }
	everywhere := func(want string) {
		t.Helper()
		for _, n := range c.Nodes() {
			require.Equal(t, want, dump(n.URL()), "node %d", n.ID)
		}
		c.RequireEqual()
	}

	psql(nothing, stock.PgURL(), "-f", "testdata/dump/shop.sql")
	want := dump(stock.PgURL())
	require.Contains(t, want, "CREATE MATERIALIZED VIEW")
	dir := t.TempDir()
	script, custom, directory := filepath.Join(dir, "script"), filepath.Join(dir, "custom"), filepath.Join(dir, "directory")
	run(nothing, "pg_dump", "-n", "shop", "-f", script, "-d", stock.PgURL())
	run(nothing, "pg_dump", "-n", "shop", "-Fc", "-f", custom, "-d", stock.PgURL())

	psql(drop, c.Node(1).URL(), "-1", "-f", script)
	everywhere(want)
	// With rows as INSERT, each a transaction of its own, over what is there.
	run(nothing, "pg_dump", "-n", "shop", "--clean", "--if-exists", "--rows-per-insert=50", "-f", script, "-d", c.Node(2).URL())
	psql(nothing, c.Node(3).URL(), "-f", script)
	everywhere(want)
	// Two jobs: with a snapshot that one exports, and that the other imports.
	run(func() { require.NoError(t, os.RemoveAll(directory)) }, "pg_dump", "-n", "shop", "-Fd", "-j", "2", "-f", directory, "-d", c.Node(3).URL())
	run(drop, "pg_restore", "-j", "2", "-d", c.Node(2).URL(), custom)
	everywhere(want)
	run(drop, "pg_restore", "-1", "-d", c.Node(1).URL(), directory)
	everywhere(want)
	drop()
	// And back.
	psql(nothing, stock.PgURL(), "-c", "DROP SCHEMA shop CASCADE")
	run(nothing, "pg_restore", "-d", stock.PgURL(), directory)
	require.Equal(t, want, dump(stock.PgURL()))
}

// restricted is in every dump, with a key of its own.
var restricted = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`)

// asDumped drops what may differ: where a sequence stands, for nodes take their own numbers, and the order of rows without a key.
func asDumped(dump string) string {
	var kept []string
	for _, l := range strings.Split(restricted.ReplaceAllString(dump, ""), "\n") {
		if !strings.HasPrefix(l, "SELECT pg_catalog.setval(") {
			kept = append(kept, l)
		}
	}
	return strings.Join(kept, "\n")
}
