package scenario

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"mtm/testcluster"
)

// TestRowsInsertedOneByOneSurviveTheDeathOfAllDaemons proves S1, S2, S4 and S8 at length: 100,000 rows (10,000 with -short)
// are inserted one by one on all three nodes at once, all three mtmd are killed and restarted in the middle, and each
// acknowledged row is on all nodes, once.
func TestRowsInsertedOneByOneSurviveTheDeathOfAllDaemons(t *testing.T) {
	want := int64(100_000)
	if testing.Short() {
		want = 10_000
	}
	c := testcluster.Start(t, testcluster.Options{})
	l := newLoad(t, c, 24)
	l.simple = true
	began := time.Now()
	l.start(t)
	total := func() (n int64) {
		for i := range l.acked {
			n += l.acked[i].Load()
		}
		return n
	}
	reach := func(n int64) {
		t.Helper()
		require.NoError(t, awaitFor(c, 8*time.Minute, fmt.Sprintf("%d rows", n), func() error {
			if got := total(); got < n {
				return fmt.Errorf("%d by now; errors: %v", got, l.errors())
			}
			return nil
		}))
	}
	reach(want / 2)
	var g errgroup.Group
	for _, n := range c.Nodes() {
		g.Go(func() error { return kill9(n.Info().MtmdPid) })
	}
	require.NoError(t, g.Wait())
	for _, n := range c.Nodes() {
		n.WaitMtmdGone()
	}
	for _, n := range c.Nodes() {
		n.StartMtmd()
	}
	c.WaitOnline()
	reach(want)
	l.finish()
	t.Logf("%d rows in %v", total(), time.Since(began).Round(time.Second))
	l.tell(t)
	l.check(t, c)
	requireNonePrepared(t, c)
}

func kill9(pid int) error {
	if pid == 0 {
		return errors.New("no process")
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

// memoryLimit is what mtmd may take at any time, whatever its clients do. In KiB.
const memoryLimit = 256 << 10

// peakMemory is the most that a process ever had resident, in KiB.
func peakMemory(t testing.TB, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	require.NotNil(t, m)
	kib, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return kib
}

func peaks(t testing.TB, c *testcluster.Cluster) []int {
	var all []int
	for _, n := range c.Nodes() {
		all = append(all, peakMemory(t, n.Info().MtmdPid))
	}
	return all
}

// TestMillionRowCopyInBoundedMemory proves that one COPY of a million rows through the gateway commits everywhere, and that no
// mtmd grows with it.
func TestMillionRowCopyInBoundedMemory(t *testing.T) {
	const rows = 1_000_000
	c := testcluster.Start(t, testcluster.Options{})
	db := c.Node(1).Connect()
	execSQL(t, db, "CREATE TABLE big (id int PRIMARY KEY, t text)")
	began := time.Now()
	i, filler := 0, strings.Repeat("mtm ", 16)
	n, err := db.CopyFrom(t.Context(), pgx.Identifier{"big"}, []string{"id", "t"}, pgx.CopyFromFunc(func() ([]any, error) {
		if i++; i > rows {
			return nil, nil
		}
		return []any{i, filler + strconv.Itoa(i)}, nil
	}))
	require.NoError(t, err, logs(c))
	took := time.Since(began)
	require.EqualValues(t, rows, n)
	for _, n := range c.Nodes() {
		require.EqualValues(t, rows, one[int](t, n.Connect(), "SELECT count(*) FROM big"), "S7 on node %d", n.ID)
	}
	all := peaks(t, c)
	t.Logf("%d rows committed on all nodes in %v; peak memory of each mtmd: %v KiB", rows, took.Round(100*time.Millisecond), all)
	for i, kib := range all {
		require.Less(t, kib, memoryLimit, "node %d", i+1)
	}
	c.RequireEqual()
}

// TestConflictsOnAllNodesAtOnce proves that updates of the same few rows from all nodes make progress on each, lose to one
// another by 40001 only, and wait for nobody.
func TestConflictsOnAllNodesAtOnce(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{})
	t.Run("transfers between few accounts", func(t *testing.T) { transfers(t, c.For(t)) })
	t.Run("crossed updates of two rows", func(t *testing.T) { crossed(t, c.For(t)) })
	t.Run("one row that everybody updates", func(t *testing.T) { hotRow(t, c.For(t)) })
}

const conflictSeconds = 10

// longestWait bounds any transaction of a conflict test, its retries aside.
const longestWait = 5 * time.Second

func transfers(t *testing.T, c *testcluster.Cluster) {
	l := newLoad(t, c, 4)
	end := time.Now().Add(conflictSeconds * time.Second)
	l.start(t)
	// Progress on each node, again and again, is what makes it end.
	for time.Now().Before(end) {
		l.awaitProgress(t, c, 20)
	}
	l.finish()
	l.tell(t)
	l.check(t, c)
	for code := range l.errors() {
		require.Equal(t, "40001", code, "all answers: %v", l.errors())
	}
	require.Less(t, l.slowest, longestWait)
}

// crossed lets each node's one client update the same two rows in an order of its own.
func crossed(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE crossed (id int PRIMARY KEY, n int NOT NULL); INSERT INTO crossed VALUES (1, 0), (2, 0)")
	var mu sync.Mutex
	done := map[int]int{}
	var g errgroup.Group
	end := time.Now().Add(conflictSeconds * time.Second)
	for _, n := range c.Nodes() {
		db := n.Connect()
		g.Go(func() error {
			for time.Now().Before(end) {
				began := time.Now()
				err := crossedOnce(t, db, n.ID%2 == 0)
				if took := time.Since(began); took > longestWait {
					return fmt.Errorf("node %d: one transaction took %v (%v)", n.ID, took, err)
				}
				if err != nil && sqlState(err) != "40001" {
					return fmt.Errorf("node %d: %w", n.ID, err)
				}
				if err == nil {
					mu.Lock()
					done[n.ID]++
					mu.Unlock()
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait(), "%s", logs(c))
	t.Logf("commits by node: %v", done)
	sum := 0
	for _, n := range c.Nodes() {
		require.Positive(t, done[n.ID], "node %d starved: %v", n.ID, done)
		sum += done[n.ID]
	}
	c.RequireEqual()
	require.Equal(t, []int{sum, sum}, one[[]int](t, c.Node(2).Connect(), "SELECT array_agg(n ORDER BY id) FROM crossed"))
}

func crossedOnce(t testing.TB, db *pgx.Conn, reverse bool) error {
	first, second := 1, 2
	if reverse {
		first, second = 2, 1
	}
	return pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "UPDATE crossed SET n = n + 1 WHERE id = $1", first); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), "UPDATE crossed SET n = n + 1 WHERE id = $1", second)
		return err
	})
}

// hotRow lets five clients of each node update a row of their own and then the same row, again until it is committed. Who loses
// lets the winners pass first, so most tries end well: without that there were ten for each that did.
func hotRow(t *testing.T, c *testcluster.Cluster) {
	const clients, seconds = 5, 6
	execSQL(t, c.Node(1).Connect(), `CREATE TABLE hot (id int PRIMARY KEY, n int NOT NULL); CREATE TABLE own (id int PRIMARY KEY, n int NOT NULL);
		INSERT INTO hot VALUES (1, 0); INSERT INTO own SELECT i, 0 FROM generate_series(1, 100) i`)
	var mu sync.Mutex
	done, lost, slowest := make([]int, len(c.Nodes())+1), 0, time.Duration(0)
	var g errgroup.Group
	end := time.Now().Add(seconds * time.Second)
	for _, n := range c.Nodes() {
		for i := range clients {
			db, own := n.Connect(), n.ID*clients+i
			g.Go(func() error {
				for time.Now().Before(end) {
					began, tries := time.Now(), 1
					err := updateHot(t, db, own)
					for ; sqlState(err) == "40001"; tries++ {
						err = updateHot(t, db, own)
					}
					if err != nil {
						return fmt.Errorf("node %d: %w", n.ID, err)
					}
					mu.Lock()
					done[n.ID]++
					lost += tries - 1
					slowest = max(slowest, time.Since(began))
					mu.Unlock()
				}
				return nil
			})
		}
	}
	require.NoError(t, g.Wait(), "%s", logs(c))
	sum := 0
	for _, n := range c.Nodes() {
		require.Positive(t, done[n.ID], "node %d starved: %v", n.ID, done)
		sum += done[n.ID]
	}
	t.Logf("commits by node: %v; %d lost and tried again; the slowest took %v", done[1:], lost, slowest.Round(time.Millisecond))
	require.Less(t, slowest, longestWait, "retries included")
	require.Less(t, lost, 8*sum, "tries that lost, for %d commits", sum)
	c.RequireEqual()
	require.Equal(t, []int{sum, sum}, one[[]int](t, c.Node(2).Connect(), "SELECT ARRAY[(SELECT n FROM hot), (SELECT sum(n) FROM own)::int]"))
}

func updateHot(t testing.TB, db *pgx.Conn, own int) error {
	return pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "UPDATE own SET n = n + 1 WHERE id = $1", own); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), "UPDATE hot SET n = n + 1 WHERE id = 1")
		return err
	})
}
