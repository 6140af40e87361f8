package scenario

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
	"mtm/testcluster/faults"
)

// bulk is load of another kind: large transactions, which travel in spill files, and DDL. Each writes rows of one number.
type bulk struct {
	urls    []string
	rows    int
	stop    atomic.Bool
	running sync.WaitGroup
	next    atomic.Int64

	mu    sync.Mutex
	fates map[int64]fate
}

func newBulk(t testing.TB, c *testcluster.Cluster, rows int) *bulk {
	b := &bulk{rows: rows, fates: map[int64]fate{}}
	for _, n := range c.Nodes() {
		b.urls = append(b.urls, n.URL())
	}
	execAll(t, c.Node(1).Connect(), "CREATE TABLE bulk (n bigint, i int, v text, PRIMARY KEY (n, i))")
	return b
}

func (b *bulk) start(t testing.TB) {
	b.stop.Store(false)
	for node := range b.urls {
		b.running.Add(1)
		go func() {
			defer b.running.Done()
			b.client(node)
		}()
	}
	t.Cleanup(b.finish)
}

func (b *bulk) finish() {
	b.stop.Store(true)
	b.running.Wait()
}

func (b *bulk) client(node int) {
	s := session{url: b.urls[node], app: "bulk"}
	defer s.close()
	for !b.stop.Load() {
		if !s.open() {
			continue
		}
		n := b.next.Add(1)
		ctx, cancel := context.WithTimeout(context.Background(), txLimit)
		var err error
		before := false
		if n%4 == 0 {
			before, err = b.block(ctx, s.conn, n)
		} else {
			_, err = s.conn.Exec(ctx, "INSERT INTO bulk SELECT $1, i, repeat(md5(i::text), 8) FROM generate_series(1, $2::int) i", n, b.rows)
		}
		cancel()
		b.mu.Lock()
		b.fates[n] = fateOf(err, before)
		b.mu.Unlock()
		s.after(err)
		time.Sleep(100 * time.Millisecond) // pacing: it is meant to be rare
	}
}

// block is a transaction with a table of its own, which the next one drops.
func (b *bulk) block(ctx context.Context, db *pgx.Conn, n int64) (before bool, err error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return true, err
	}
	for _, sql := range []string{
		fmt.Sprintf("CREATE TABLE bulk_%d (i int PRIMARY KEY, v text)", n),
		fmt.Sprintf("INSERT INTO bulk_%d SELECT i, 'x' FROM generate_series(1, 50) i", n),
		fmt.Sprintf("INSERT INTO bulk SELECT %d, i, 'ddl' FROM generate_series(1, %d) i", n, b.rows),
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			tx.Rollback(ctx) //nolint:errcheck // the session may be gone
			return true, err
		}
	}
	return false, tx.Commit(ctx)
}

func (b *bulk) check(t testing.TB, c *testcluster.Cluster) {
	rows, err := c.Node(2).ConnectPg().Query(t.Context(), "SELECT n, count(*)::int FROM bulk GROUP BY n")
	require.NoError(t, err)
	found := map[int64]int{}
	var n int64
	var count int
	_, err = pgx.ForEachRow(rows, []any{&n, &count}, func() error { found[n] = count; return nil })
	require.NoError(t, err)
	for n, f := range b.fates {
		switch got := found[n]; {
		case f == committed && got == 0:
			t.Errorf("S2: bulk %d was acknowledged, and is lost", n)
		case f == nowhere && got > 0:
			t.Errorf("S4: bulk %d was refused, and is there", n)
		case got != 0 && got != b.rows:
			t.Errorf("S1: bulk %d has %d rows", n, got)
		}
	}
	t.Logf("bulk: %d tried, %d there", len(b.fates), len(found))
}

// TestSoak does to a cluster under load whatever package faults can, at random, several things at a time, and checks S1 to S9 after each
// round: three nodes, and two with a referee. It is for "make soak": what it meets differs from run to run. The environment says more:
//
//	MTM_SOAK          for how long, of each
//	MTM_SOAK_SEED     chooses the faults (that of the clock; it is logged). It repeats the faults, not what they meet
//	MTM_SOAK_ONLY     "cut off,kill": these faults only
//	MTM_SOAK_STRICT   1: plain reads must be linearizable, too
func TestSoak(t *testing.T) {
	text, seed := os.Getenv("MTM_SOAK"), uint64(time.Now().UnixNano())
	if text == "" {
		t.Skip("make soak runs it")
	}
	limit, err := time.ParseDuration(text)
	require.NoError(t, err)
	if text := os.Getenv("MTM_SOAK_SEED"); text != "" {
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Run("three nodes", func(t *testing.T) { soak(t, testcluster.Options{FaultDisks: true}, limit, seed) })
	t.Run("two and a referee", func(t *testing.T) {
		soak(t, testcluster.Options{Nodes: 2, Referee: true, FaultDisks: true}, limit, seed)
	})
}

func soak(t *testing.T, o testcluster.Options, limit time.Duration, seed uint64) {
	t.Logf("MTM_SOAK_SEED=%d", seed)
	c := testcluster.Start(t, o)
	options := faults.Options{Dev: c.Dev(), Seed: seed, Points: failPoints(t), Log: t.Logf}
	if text := os.Getenv("MTM_SOAK_ONLY"); text != "" {
		options.Only = strings.Split(text, ",")
	}
	l, b, r := newLoad(t, c, 2), newBulk(t, c, 1000), newRegisters(t, c)
	l.users = true
	options.Relief = func() { l.finish(); b.finish(); r.finish() }
	in, err := faults.New(t.Context(), options)
	require.NoError(t, err)
	r.strict = os.Getenv("MTM_SOAK_STRICT") != ""
	rounds := 0
	for end := time.Now().Add(limit); time.Now().Before(end); rounds++ {
		l.start(t)
		b.start(t)
		r.start(t, c)
		l.awaitProgress(t, c, 5)
		require.NoError(t, in.Strike(t.Context(), 5), logs(c))
		if err := in.Mend(t.Context()); err != nil {
			t.Fatalf("%v\n%s\n%s", err, diagnosis(t, c), logs(c))
		}
		l.start(t) // if it was held back
		whole(t, c)
		l.recovered(t, c)
		l.finish()
		b.finish()
		r.finish()
		began := time.Now()
		l.check(t, c)
		b.check(t, c)
		r.check(t, c)
		t.Logf("%s round %d checked in %v", time.Now().Format("15:04:05.000"), rounds+1, time.Since(began).Round(time.Millisecond))
		require.False(t, t.Failed())
	}
	l.tell(t)
	t.Logf("bulk: %d; registers: %d swaps, %d reads", len(b.fates), r.swaps, r.reads)
	counts := in.Counts()
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("fault: %4d %s", counts[name], name)
	}
	t.Logf("%d rounds, seed %d, no violation", rounds, seed)
}

// recovered waits until each node commits again, with the patience that a machine needs on which every processor has ten customers, and
// says how long it took.
func (l *load) recovered(t testing.TB, c *testcluster.Cluster) {
	began, from := time.Now(), make([]int64, len(l.acked))
	for i := range from {
		from[i] = l.acked[i].Load()
	}
	more := func() (all []int64) {
		for i := range from {
			all = append(all, l.acked[i].Load()-from[i])
		}
		return all
	}
	err := awaitFor(c, 3*patience, "commits on every node", func() error {
		if slices.Min(more()) < 5 {
			return fmt.Errorf("by node: %v; errors by now: %v", more(), l.errors())
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, diagnosis(t, c))
	}
	t.Logf("%s commits by node %v in %v", time.Now().Format("15:04:05.000"), more(), time.Since(began).Round(time.Millisecond))
}

// diagnosis asks every node what it is about, and leaves what its goroutines do in the cluster's directory.
func diagnosis(t testing.TB, c *testcluster.Cluster) string {
	var b strings.Builder
	for _, n := range c.Nodes() {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		fmt.Fprintf(&b, "--- node %d: %s\n", n.ID, get(ctx, n.HTTP()+"/status"))
		path := filepath.Join(c.Dev().Dir(), fmt.Sprintf("goroutines-%d", n.ID))
		os.WriteFile(path, get(ctx, n.HTTP()+"/debug/pprof/goroutine?debug=2"), 0o644) //nolint:errcheck // it is only for us
		if db, err := n.ConnectPgErr(ctx); err == nil {
			rows, _ := db.Query(ctx, `SELECT format('%s %s %s %s %s blocked by %s: %s', pid, application_name, state, wait_event_type, wait_event,
				pg_blocking_pids(pid), left(query, 120)) FROM pg_stat_activity WHERE state <> 'idle' OR application_name LIKE 'mtm%' ORDER BY 1`)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			fmt.Fprintf(&b, "%s %v\n", strings.Join(lines, "\n"), err)
			db.Close(ctx) //nolint:errcheck // done with it
		}
		cancel()
	}
	return b.String()
}

func get(ctx context.Context, url string) []byte {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return []byte(err.Error())
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return []byte(err.Error())
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return []byte(err.Error())
	}
	return text
}
