package testcluster_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"mtm/testcluster"
	"mtm/testcluster/devcluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// postgres makes a cluster of PostgreSQL only.
func postgres(t *testing.T, nodes int, set ...string) *testcluster.Cluster {
	return testcluster.Start(t, testcluster.Options{Nodes: nodes, PostgresOnly: true, Database: "shop", Settings: set})
}

func TestPostgresIsConfiguredForMtm(t *testing.T) {
	c := postgres(t, 1, "work_mem=7MB", "log_line_prefix='it''s %m'")
	db := c.Node(1).ConnectPg()
	for name, want := range map[string]string{
		"wal_level": "logical", "fsync": "on", "max_prepared_transactions": "300", "max_replication_slots": "256",
		"work_mem": "7MB", "listen_addresses": "127.0.0.1", "server_encoding": "UTF8", "lc_collate": "C",
	} {
		var got string
		err := db.QueryRow(t.Context(), "SELECT coalesce(current_setting($1, true), (SELECT datcollate FROM pg_database WHERE datname = 'shop'))", name).Scan(&got)
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
}

func TestKilledPostgresComesBackWithItsData(t *testing.T) {
	c := postgres(t, 1)
	n := c.Node(1)
	ctx := t.Context()
	_, err := n.ConnectPg().Exec(ctx, "CREATE TABLE t (x int); INSERT INTO t SELECT generate_series(1, 1000)")
	require.NoError(t, err)
	before := n.Info().PostgresPid
	n.KillPostgres()
	require.Zero(t, n.Info().PostgresPid)
	n.StartPostgres()
	require.NotEqual(t, before, n.Info().PostgresPid)
	var count int
	require.NoError(t, n.ConnectPg().QueryRow(ctx, "SELECT count(*) FROM t").Scan(&count))
	require.Equal(t, 1000, count)
	n.StopPostgres()
	require.Zero(t, n.Info().PostgresPid)
}

func TestFrozenPostgresAnswersWhenThawed(t *testing.T) {
	c := postgres(t, 1)
	n := c.Node(1)
	db := n.ConnectPg()
	n.FreezePostgres()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := n.ConnectPgErr(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	n.ThawPostgres()
	require.NoError(t, db.Ping(t.Context()))
}

func TestCompareTablesSeesEveryDifference(t *testing.T) {
	c := postgres(t, 2)
	a, b := c.Node(1).ConnectPg(), c.Node(2).ConnectPg()
	ctx := t.Context()
	both := func(sql string) {
		t.Helper()
		_, err := a.Exec(ctx, sql)
		require.NoError(t, err)
		_, err = b.Exec(ctx, sql)
		require.NoError(t, err)
	}
	both(`CREATE SCHEMA "O'Neil"; CREATE TABLE "O'Neil"."a b" (x int, y text); CREATE UNLOGGED TABLE local (x int)`)
	_, err := a.Exec(ctx, `INSERT INTO "O'Neil"."a b" VALUES (1, 'one'), (2, NULL)`)
	require.NoError(t, err)
	require.ErrorContains(t, c.CompareTables(), "2 rows on node 1 and 0 on 2")
	_, err = b.Exec(ctx, `INSERT INTO "O'Neil"."a b" VALUES (2, NULL), (1, 'one')`)
	require.NoError(t, err)
	_, err = a.Exec(ctx, `INSERT INTO local VALUES (1)`)
	require.NoError(t, err)
	require.NoError(t, c.CompareTables(), "order of rows and unlogged tables do not matter")

	_, err = b.Exec(ctx, `UPDATE "O'Neil"."a b" SET y = '' WHERE y IS NULL`)
	require.NoError(t, err)
	require.ErrorContains(t, c.CompareTables(), "different rows")
	_, err = b.Exec(ctx, `UPDATE "O'Neil"."a b" SET y = NULL WHERE y = ''; CREATE TABLE more ()`)
	require.NoError(t, err)
	require.ErrorContains(t, c.CompareTables(), `"more" is on node 2 and not on 1`)
	_, err = b.Exec(ctx, `DROP TABLE more`)
	require.NoError(t, err)
	for _, sql := range []string{"BEGIN", `INSERT INTO "O'Neil"."a b" VALUES (3, 'x')`, "PREPARE TRANSACTION 'mtm-1-1-1'"} {
		_, err = b.Exec(ctx, sql)
		require.NoError(t, err)
	}
	require.ErrorContains(t, c.CompareTables(), "mtm-1-1-1")
	_, err = b.Exec(ctx, "ROLLBACK PREPARED 'mtm-1-1-1'")
	require.NoError(t, err)
	c.RequireEqual()
}

func TestStartRefuses(t *testing.T) {
	full := t.TempDir()
	require.NoError(t, os.WriteFile(full+"/x", nil, 0o600))
	for name, one := range map[string]struct {
		dir  string
		o    devcluster.Options
		want string
	}{
		"too many nodes":  {t.TempDir(), devcluster.Options{Nodes: 17}, "must be 1 to 16"},
		"bad setting":     {t.TempDir(), devcluster.Options{Settings: []string{"work_mem"}}, "key=value"},
		"no PostgreSQL":   {"", devcluster.Options{PgBins: []string{"/nonexistent"}}, "no PostgreSQL in /nonexistent"},
		"not empty":       {full, devcluster.Options{}, "is not empty"},
		"setting refused": {"", devcluster.Options{Nodes: 1, PostgresOnly: true, Settings: []string{"no_such=1"}}, "unrecognized configuration parameter"},
	} {
		t.Run(name, func(t *testing.T) {
			if one.dir == "" {
				var err error
				one.dir, err = os.MkdirTemp("", "mtm-")
				require.NoError(t, err)
				require.NoError(t, os.Chmod(one.dir, 0o755))
				defer os.RemoveAll(one.dir)
			}
			_, err := devcluster.Start(t.Context(), one.dir, one.o)
			require.ErrorContains(t, err, one.want)
		})
	}
}

func TestUnknownNodeAndMissingProxyAreToldPlainly(t *testing.T) {
	c := postgres(t, 1)
	d := c.Dev()
	ctx := t.Context()
	require.ErrorContains(t, d.Kill(ctx, 9, devcluster.Both), "no node 9")
	require.ErrorContains(t, d.Kill(ctx, 1, "backend"), "must be mtmd, postgres, both or referee")
	require.ErrorContains(t, d.Kill(ctx, 1, devcluster.Referee), "no referee")
	require.ErrorContains(t, d.Freeze(ctx, 1, devcluster.Mtmd), "does not run")
	require.ErrorContains(t, d.Partition(ctx, "1/2", false), "without a fault proxy")
	require.ErrorContains(t, d.Heal(ctx), "without a fault proxy")
	_, err := devcluster.Start(ctx, d.Dir(), devcluster.Options{})
	require.ErrorContains(t, err, "there is a dev cluster")
	_, err = devcluster.Open(t.TempDir())
	require.ErrorContains(t, err, "no dev cluster")
}
