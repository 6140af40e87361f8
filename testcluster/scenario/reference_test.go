package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
	"mtm/testcluster/devcluster"
)

// TestReferenceScenarios are those that the reference's tests run (and ours have nowhere else), one after the other on one cluster under
// load: after each, all nodes are online together, commit, and hold the same.
func TestReferenceScenarios(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{})
	l := newLoad(t, c, 2)
	for _, one := range []struct {
		name string
		do   func(*testing.T, *testcluster.Cluster, *load)
	}{
		{"edge partition between 1 and 3", edgePartition},
		{"kill -9 of a backend", killBackend},
		{"walsender killed in mid-apply", killWalsenders},
		{"connections reset during commit", resetConnections},
		{"messages late, in another order and twice", reorderMessages},
		{"TRUNCATE and VACUUM FULL on every node", truncateAndVacuum},
		{"DDL while a node is down, recovered through a third", ddlThroughThird},
		{"a dead node keeps no WAL", deadNodeKeepsNoWAL},
		{"standby promoted", standbyPromoted},
		{"PostgreSQL restored from an older copy", olderCopy},
		{"rolling upgrade", rollingUpgrade},
	} {
		ok := t.Run(one.name, func(t *testing.T) {
			c := c.For(t)
			l.start(t)
			l.awaitProgress(t, c, 3)
			one.do(t, c, l)
			whole(t, c)
			l.awaitProgress(t, c, 3)
			l.finish()
			l.check(t, c)
		})
		if !ok {
			return // what follows would only repeat it
		}
	}
	l.tell(t)
}

// edgePartition: node 2 and at least one of the ends commit.
func edgePartition(t *testing.T, c *testcluster.Cluster, l *load) {
	c.Partition("1/3")
	await(t, c, "a generation without one of the ends", func() error {
		if st := c.Node(2).Status(); st.Status != "online" || len(st.GenMembers) != 2 {
			return fmt.Errorf("node 2: %s", st.Raw)
		}
		return nil
	})
	from := []int64{l.acked[0].Load(), l.acked[1].Load(), l.acked[2].Load()}
	await(t, c, "commits on node 2 and on an end", func() error {
		for i := range from {
			from[i] = min(from[i], l.acked[i].Load())
		}
		if one, two, three := l.acked[0].Load()-from[0], l.acked[1].Load()-from[1], l.acked[2].Load()-from[2]; two < 5 || max(one, three) < 5 {
			return fmt.Errorf("%d, %d, %d", one, two, three)
		}
		return nil
	})
	c.Heal()
}

// killBackend: PostgreSQL ends all its processes and recovers, under a daemon that lives.
func killBackend(t *testing.T, c *testcluster.Cluster, _ *load) {
	pid := one[int](t, c.Node(1).ConnectPg(), "SELECT pid FROM pg_stat_activity WHERE application_name = 'load' LIMIT 1")
	require.NoError(t, kill9(pid))
	c.Node(1).WaitFor("the loss of PostgreSQL", func(st testcluster.Status) bool { return st.Status != "online" || len(st.GenMembers) < 3 })
}

func killWalsenders(t *testing.T, c *testcluster.Cluster, l *load) {
	for range 3 {
		for _, n := range c.Nodes() {
			require.Equal(t, 1, one[int](t, n.ConnectPg(), "SELECT count(pg_terminate_backend(pid))::int FROM pg_stat_replication"))
		}
		l.awaitProgress(t, c, 2)
	}
}

func resetConnections(t *testing.T, c *testcluster.Cluster, l *load) {
	for range 3 {
		for _, link := range []string{"1-2", "1-3", "2-3"} {
			require.NoError(t, c.Dev().Reset(t.Context(), link))
		}
		l.awaitProgress(t, c, 2)
	}
}

func reorderMessages(t *testing.T, c *testcluster.Cluster, l *load) {
	for _, delay := range []time.Duration{100 * time.Millisecond, 250 * time.Millisecond} {
		for _, link := range []string{"1-2", "1-3", "2-3"} {
			c.Slow(link, delay, 0)
			l.awaitProgress(t, c, 2)
			c.Slow(link, 0, 0)
			require.NoError(t, c.Dev().ResetLate(t.Context(), link))
			l.awaitProgress(t, c, 2)
		}
	}
}

func truncateAndVacuum(t *testing.T, c *testcluster.Cluster, l *load) {
	execAll(t, c.Node(1).Connect(), "CREATE TABLE truncated (id serial PRIMARY KEY, v text)")
	for _, n := range c.Nodes() {
		db := n.Connect()
		retried(t, db, "INSERT INTO truncated (v) SELECT 'x' FROM generate_series(1, 100)")
		retried(t, db, "TRUNCATE truncated")
		retried(t, db, "INSERT INTO truncated (v) VALUES ('last')")
		retried(t, db, "VACUUM FULL accounts")
		l.awaitProgress(t, c, 2)
	}
	for _, n := range c.Nodes() {
		require.Equal(t, 1, one[int](t, n.Connect(), "SELECT count(*)::int FROM truncated"), "node %d", n.ID)
	}
}

// retried runs a statement until it did not lose a conflict with the load.
func retried(t *testing.T, db *pgx.Conn, sql string) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := db.Exec(ctx, sql)
		cancel()
		if err == nil {
			return
		}
		require.Equal(t, "40001", sqlState(err), "%s: %v", sql, err)
		require.True(t, time.Now().Before(end), "%s: %v", sql, err)
	}
}

// ddlThroughThird: whoever ran the DDL is gone when the node that missed it is back.
func ddlThroughThird(t *testing.T, c *testcluster.Cluster, _ *load) {
	c.Node(3).Kill()
	c.Node(1).WaitFor("a generation without node 3", func(st testcluster.Status) bool { return st.Status == "online" && len(st.GenMembers) == 2 })
	db := c.Node(1).Connect()
	retried(t, db, "CREATE TABLE missed (id serial PRIMARY KEY, v text)")
	retried(t, db, "INSERT INTO missed (v) VALUES ('a')")
	retried(t, db, "ALTER TABLE missed ADD COLUMN w int DEFAULT 7")
	retried(t, db, "CREATE TABLE own (id int)")
	retried(t, db, "SELECT mtm.make_table_local('own')")
	retried(t, db, "INSERT INTO own VALUES (1)")
	c.Node(1).Kill()
	c.Node(3).Start()
	await(t, c, "nodes 2 and 3 online together", func() error {
		for _, id := range []int{2, 3} {
			if st := c.Node(id).Status(); st.Status != "online" {
				return fmt.Errorf("node %d: %s", id, st.Raw)
			}
		}
		return nil
	})
	require.Equal(t, "a7", one[string](t, c.Node(3).Connect(), "SELECT v || w FROM missed"))
	retried(t, c.Node(3).Connect(), "INSERT INTO own VALUES (3)")
	require.Equal(t, "own 3", one[string](t, c.Node(3).Connect(), "SELECT concat(relid, ' ', id) FROM mtm.local_tables, own"))
	require.Zero(t, one[int](t, c.Node(2).Connect(), "SELECT count(*) FROM own"))
	c.Node(1).Start()
}

// deadNodeKeepsNoWAL: what a dead node has to get is kept in the journal, and PostgreSQL's slot goes on. When it is back it need not
// decode first what it was given: else its own commits would wait for that, and the others for its locks.
func deadNodeKeepsNoWAL(t *testing.T, c *testcluster.Cluster, _ *load) {
	c.Node(3).Kill()
	c.Node(1).WaitFor("a generation without node 3", func(st testcluster.Status) bool { return st.Status == "online" && len(st.GenMembers) == 2 })
	const mib = 1 << 20
	db, pg := c.Node(1).Connect(), c.Node(1).ConnectPg()
	from := one[string](t, pg, "SELECT pg_current_wal_lsn()::text")
	execAll(t, db, "CREATE TABLE volume (id int PRIMARY KEY, v text)")
	for i := range 4 {
		retried(t, db, fmt.Sprintf("INSERT INTO volume SELECT i, repeat(md5(i::text), 30) FROM generate_series(%d, %d) i", i*8000, i*8000+7999))
	}
	await(t, c, "the slot's restart", func() error {
		execSQL(t, pg, "CHECKPOINT") // a running-xacts record moves restart_lsn on
		written := one[int64](t, pg, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), $1::pg_lsn)::bigint", from)
		kept := one[int64](t, pg, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots WHERE slot_type = 'logical'")
		if written < 30*mib || kept > 8*mib {
			return fmt.Errorf("%d MiB were written, the slot keeps %d MiB", written/mib, kept/mib)
		}
		return nil
	})
	c.Node(3).Start()
	// Its walsender decodes little of what node 3 is given: it has a twentieth of a processor.
	pg3 := c.Node(3).ConnectPg()
	var walsender int
	await(t, c, "a walsender on node 3", func() error {
		return pg3.QueryRow(t.Context(), "SELECT pid FROM pg_stat_replication JOIN pg_replication_slots ON active_pid = pid "+
			"WHERE application_name = 'mtm_capture' AND sent_lsn IS NOT NULL").Scan(&walsender)
	})
	defer slowDown(walsender)()
	c.Node(3).WaitStatus("online")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := c.Node(3).Connect().Exec(ctx, "INSERT INTO volume VALUES (-3, 'node 3')")
	require.NoError(t, err, "what node 3 was given stands before what it commits")
}

// slowDown lets a process run one twentieth of the time, until the function that it returns is called or the process is gone. To stop
// it for good could stop all of PostgreSQL, for it may hold a lock.
func slowDown(pid int) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		signal, pause := syscall.SIGSTOP, 95*time.Millisecond
		for syscall.Kill(pid, signal) == nil {
			select {
			case <-ctx.Done():
				_ = syscall.Kill(pid, syscall.SIGCONT)
				return
			case <-time.After(pause):
			}
			if signal == syscall.SIGSTOP {
				signal, pause = syscall.SIGCONT, 5*time.Millisecond
			} else {
				signal, pause = syscall.SIGSTOP, 95*time.Millisecond
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// standbyPromoted: a standby that had everything when node 3 and its PostgreSQL were stopped takes its place; one that did not is refused.
func standbyPromoted(t *testing.T, c *testcluster.Cluster, l *load) {
	n := c.Node(3)
	spare := startSpare(t, c, n)
	n.Stop() // a walsender sends all before it ends
	require.NoError(t, spare.Promote(t.Context()))
	require.NoError(t, spare.Stop(t.Context()))
	require.NoError(t, spare.Swap(t.Context()))
	n.Start()
	whole(t, c)
	require.Equal(t, 1, one[int](t, n.ConnectPg(), "SELECT count(*)::int FROM pg_replication_slots WHERE plugin = 'pgoutput'"))
	l.awaitProgress(t, c, 3)

	spare = startSpare(t, c, n)
	require.NoError(t, spare.Stop(t.Context()))
	l.awaitProgress(t, c, 3)
	n.Kill()
	require.NoError(t, spare.Start(t.Context()))
	require.NoError(t, spare.Promote(t.Context()))
	require.NoError(t, spare.Stop(t.Context()))
	refusedPast(t, spare, n, "PostgreSQL is on timeline 3, and this node's was on timeline 2")
}

// olderCopy: a PostgreSQL that lacks what this node has committed is refused.
func olderCopy(t *testing.T, c *testcluster.Cluster, l *load) {
	n := c.Node(3)
	spare, err := c.Dev().Spare(t.Context(), n.ID)
	require.NoError(t, err)
	l.awaitProgress(t, c, 3)
	n.Stop()
	refusedPast(t, spare, n, "it was restored from an older copy")

	// Also under a daemon that runs, and goes on with the right one.
	n.Start()
	whole(t, c)
	l.awaitProgress(t, c, 3)
	n.KillPostgres()
	require.NoError(t, spare.Swap(t.Context()))
	n.StartPostgres()
	n.WaitMtmdGone()
	require.Contains(t, lastLines(t, n), "it was restored from an older copy")
	n.StopPostgres()
	require.NoError(t, spare.Swap(t.Context()))
	n.Start()
}

func startSpare(t *testing.T, c *testcluster.Cluster, n *testcluster.Node) *devcluster.Spare {
	t.Helper()
	spare, err := c.Dev().Spare(t.Context(), n.ID)
	require.NoError(t, err)
	require.NoError(t, spare.Start(t.Context()))
	await(t, c, "the standby streams", func() error {
		if one[int](t, n.ConnectPg(), "SELECT count(*)::int FROM pg_stat_replication WHERE application_name LIKE 'spare%' AND state = 'streaming'") == 0 {
			return errors.New("it does not")
		}
		return nil
	})
	return spare
}

// refusedPast: with spare in n's place, mtmd does not start, and says why; with its own PostgreSQL it does.
func refusedPast(t *testing.T, spare *devcluster.Spare, n *testcluster.Node, why string) {
	t.Helper()
	require.NoError(t, spare.Swap(t.Context()))
	n.StartPostgres()
	n.LaunchMtmd()
	n.WaitMtmdGone()
	require.Contains(t, lastLines(t, n), why)
	n.StopPostgres()
	require.NoError(t, spare.Swap(t.Context()))
	n.Start()
}

func lastLines(t *testing.T, n *testcluster.Node) string {
	t.Helper()
	text, err := os.ReadFile(n.Info().MtmdLog)
	require.NoError(t, err)
	return string(text[max(0, len(text)-4096):])
}

// rollingUpgrade: node after node is stopped and started with another mtmd. Who writes on the others sees no error, and both versions work together.
func rollingUpgrade(t *testing.T, c *testcluster.Cluster, l *load) {
	path := filepath.Join(toolDir, "mtmd-next")
	out, err := exec.Command("go", "build", "-ldflags", "-X main.version=9.9.9-next", "-o", path, "mtm/cmd/mtmd").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, c.Dev().UseMtmd(t.Context(), path))
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE probe (id serial PRIMARY KEY, node int, at timestamptz DEFAULT now())")
	for i, n := range c.Nodes() {
		var probes []*probe
		for _, other := range c.Nodes() {
			if other.ID != n.ID {
				probes = append(probes, startProbe(t, other))
			}
		}
		n.Stop()
		n.Start()
		whole(t, c)
		for _, p := range probes {
			p.finish()
			require.Empty(t, p.failures(), "on node %d as node %d is upgraded", p.node, n.ID)
		}
		l.awaitProgress(t, c, 2)
		require.Contains(t, string(n.Status().Raw), `"9.9.9-next"`)
		require.Equal(t, i == 2, strings.Contains(string(c.Node(3).Status().Raw), `"9.9.9-next"`))
	}
}
