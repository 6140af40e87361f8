package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
	"mtm/testcluster/devcluster"
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
		if err != nil && s.conn.IsClosed() {
			s.close()
		}
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

// TestRandomFaults kills, freezes, cuts off and restarts nodes and parts of nodes at random, one or two at a time, under
// load on all of them. MTM_CHAOS is for how long (10s), MTM_CHAOS_SEED the seed that chooses (that of the clock; it is
// logged). The seed repeats the faults, not what they meet.
func TestRandomFaults(t *testing.T) {
	limit, seed := 10*time.Second, uint64(time.Now().UnixNano())
	var err error
	if text := os.Getenv("MTM_CHAOS"); text != "" {
		limit, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	if text := os.Getenv("MTM_CHAOS_SEED"); text != "" {
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("MTM_CHAOS_SEED=%d", seed)
	c := testcluster.Start(t, testcluster.Options{})
	r := &chaos{c: c, rng: rand.New(rand.NewPCG(seed, 1)), points: failPoints(t)}
	l, b := newLoad(t, c, 2), newBulk(t, c, 2000)
	for end := time.Now().Add(limit); time.Now().Before(end); {
		l.start(t)
		b.start(t)
		for range 4 {
			r.round(t)
		}
		whole(t, c)
		l.awaitProgress(t, c, 5)
		l.finish()
		b.finish()
		l.check(t, c)
		b.check(t, c)
		require.False(t, t.Failed())
	}
	l.tell(t)
}

type chaos struct {
	c      *testcluster.Cluster
	rng    *rand.Rand
	points []string
}

func (r *chaos) pause(limit time.Duration) { time.Sleep(time.Duration(r.rng.Int64N(int64(limit)))) }

// round does one or two things to one or two nodes, and undoes them.
func (r *chaos) round(t *testing.T) {
	ctx, dev := t.Context(), r.c.Dev()
	order := r.rng.Perm(3)
	n, other := order[0]+1, order[1]+1
	what := []devcluster.What{devcluster.Mtmd, devcluster.Postgres, devcluster.Both}[r.rng.IntN(3)]
	kind := r.rng.IntN(8)
	t.Logf("%s %d: node %d, %s; other %d", time.Now().Format("15:04:05.000"), kind, n, what, other)
	switch kind {
	case 0, 1: // one is killed
		require.NoError(t, dev.Kill(ctx, n, what))
		r.pause(2 * time.Second)
	case 2: // one is frozen
		require.NoError(t, dev.Freeze(ctx, n, what))
		r.pause(3 * time.Second)
		require.NoError(t, dev.Thaw(ctx, n, what))
	case 3: // one is cut off, another is killed meanwhile
		r.c.Partition(fmt.Sprintf("%d/%d,%d", n, other, order[2]+1))
		r.pause(2 * time.Second)
		require.NoError(t, dev.Kill(ctx, other, what))
		r.pause(time.Second)
		r.c.Heal()
	case 4: // one dies at a step
		point := fmt.Sprintf("MTM_FAIL_AT=%s:%d", r.points[r.rng.IntN(len(r.points))], 1+r.rng.IntN(60))
		t.Log(point)
		require.NoError(t, dev.Kill(ctx, n, devcluster.Mtmd))
		_ = dev.StartNode(ctx, n, devcluster.Mtmd, point) // it may be so quick to die that it never answers
		r.pause(3 * time.Second)
		if r.rng.IntN(2) == 0 && r.c.Node(n).Info().PostgresPid != 0 {
			require.NoError(t, dev.Kill(ctx, n, devcluster.Both))
		}
	case 5: // one is frozen, another is killed, the first thaws
		require.NoError(t, dev.Freeze(ctx, n, what))
		r.pause(1500 * time.Millisecond)
		require.NoError(t, dev.Kill(ctx, other, what))
		r.pause(time.Second)
		require.NoError(t, dev.Thaw(ctx, n, what))
		r.pause(time.Second)
	case 6: // one is killed, and another while the first recovers
		require.NoError(t, dev.Kill(ctx, n, what))
		r.pause(2 * time.Second)
		_ = dev.StartNode(ctx, n, devcluster.Both)
		r.pause(time.Second)
		require.NoError(t, dev.Kill(ctx, other, what))
		r.pause(time.Second)
	case 7: // all, or one twice
		if r.rng.IntN(3) == 0 {
			for i := range 3 {
				require.NoError(t, dev.Kill(ctx, i+1, what))
			}
		}
		for range 2 {
			require.NoError(t, dev.Kill(ctx, n, what))
			require.NoError(t, dev.StartNode(ctx, n, devcluster.Both))
			r.pause(700 * time.Millisecond)
		}
	}
	require.NoError(t, dev.StartAll(ctx))
}
