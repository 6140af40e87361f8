package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	"mtm/testcluster/devcluster"
)

// duo is two nodes and a referee, with a client on each node that inserts one row after the other.
type duo struct {
	t *testing.T
	*testcluster.Cluster
	writers [2]*writer
}

// writer inserts rows on one node, and goes on whatever happens.
type writer struct {
	node  *testcluster.Node
	count atomic.Int64 // acknowledged
	mu    sync.Mutex
	acked []int64
}

// run inserts until ctx ends: what was acknowledged is noted, what was not is left.
func (w *writer) run(ctx context.Context, url string) {
	var db *pgx.Conn
	defer func() {
		if db != nil {
			db.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the node may be gone
		}
	}()
	for id := int64(w.node.ID) * 1_000_000_000; ctx.Err() == nil; id++ {
		if err := w.insert(ctx, &db, url, id); err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond): // who is refused does not hurry
			}
			continue
		}
		w.mu.Lock()
		w.acked = append(w.acked, id)
		w.mu.Unlock()
		w.count.Add(1)
	}
}

func (w *writer) insert(ctx context.Context, db **pgx.Conn, url string, id int64) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if *db == nil || (*db).IsClosed() {
		if *db, err = pgx.Connect(ctx, url); err != nil {
			*db = nil
			return err
		}
	}
	_, err = (*db).Exec(ctx, "INSERT INTO journal VALUES ($1)", id)
	return err
}

// newDuo starts the cluster and its clients; all is checked when the test ends.
func newDuo(t *testing.T) *duo {
	d := &duo{t: t, Cluster: testcluster.Start(t, testcluster.Options{Nodes: 2, Referee: true})}
	execSQL(t, d.Node(1).Connect(), "CREATE TABLE journal (id bigint PRIMARY KEY)")
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for i := range d.writers {
		w := &writer{node: d.Node(i + 1)}
		d.writers[i] = w
		url := w.node.URL()
		group.Go(func() { w.run(ctx, url) })
	}
	t.Cleanup(func() { stop(); group.Wait() })
	d.bothCommit()
	return d
}

// commits waits until the client of node id was told of three more commits.
func (d *duo) commits(id int) {
	d.t.Helper()
	w := d.writers[id-1]
	from := w.count.Load()
	await(d.t, d.Cluster, fmt.Sprintf("commits on node %d", id), func() error {
		if n := w.count.Load() - from; n < 3 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
}

// bothCommit waits until both nodes are online together, and the referee knows.
func (d *duo) bothCommit() {
	d.t.Helper()
	d.WaitOnline()
	d.commits(1)
	d.commits(2)
	d.row("idle", 0)
}

// row waits for what the referee says.
func (d *duo) row(status string, holder int) {
	d.t.Helper()
	await(d.t, d.Cluster, "referee "+status, func() error {
		st, err := d.Dev().RefereeStatus(d.t.Context())
		if err == nil && (st.Status != status || !strings.Contains(string(st.Raw), fmt.Sprintf(`"holder":%d,`, holder))) {
			err = fmt.Errorf("it says %s", st.Raw)
		}
		return err
	})
}

// alone: node id goes on without the other one, and the referee has said so.
func (d *duo) alone(id int) {
	d.t.Helper()
	d.commits(id)
	d.row("granted", id)
	require.Equal(d.t, []int{id}, d.Node(id).Status().GenMembers)
}

// silent: node id serves nobody, and says why; nothing was committed there since before.
func (d *duo) silent(id int, before int64) {
	d.t.Helper()
	await(d.t, d.Cluster, fmt.Sprintf("refusal by node %d", id), func() error {
		ctx, cancel := context.WithTimeout(d.t.Context(), 10*time.Second)
		defer cancel()
		db, err := d.Node(id).ConnectErr(ctx)
		if err == nil {
			defer db.Close(ctx) //nolint:errcheck // it is refused
			var n int64
			err = db.QueryRow(ctx, "SELECT count(*) FROM journal").Scan(&n)
		}
		if sqlState(err) != "57P03" {
			return fmt.Errorf("it answers %v", err)
		}
		return nil
	})
	require.Equal(d.t, before, d.writers[id-1].count.Load(), "node %d has committed", id)
}

func (d *duo) referee(f func(context.Context, int, devcluster.What) error) {
	d.t.Helper()
	require.NoError(d.t, f(d.t.Context(), 0, devcluster.Referee))
}

// check: all that was acknowledged is there, once, on both nodes, and nothing else differs.
func (d *duo) check() {
	d.t.Helper()
	d.bothCommit()
	for _, w := range d.writers {
		w.mu.Lock()
		acked := slices.Clone(w.acked)
		w.mu.Unlock()
		for _, n := range d.Nodes() {
			have := one[int64](d.t, n.Connect(), "SELECT count(*) FROM journal WHERE id = ANY($1)", acked)
			require.EqualValues(d.t, len(acked), have, "of node %d, on node %d", w.node.ID, n.ID)
		}
	}
}

// TestReferee is every scenario of the reference with a referee, one after the other on one cluster under load.
func TestReferee(t *testing.T) {
	d := newDuo(t)
	dev := d.Dev()
	step := func(name string, f func()) {
		if !t.Run(name, func(t *testing.T) {
			d.t, d.Cluster = t, d.Cluster.For(t)
			f()
			d.check()
		}) {
			t.FailNow()
		}
		d.t = t
	}
	step("neighbour restart", func() {
		d.Node(2).Stop()
		d.alone(1)
		d.Node(2).Start()
	})
	step("crash", func() {
		d.Node(2).Kill()
		d.alone(1)
		d.Node(2).Start()
	})
	step("freeze", func() {
		d.Node(1).Freeze()
		d.alone(2)
		d.Node(1).Thaw()
	})
	step("crash of PostgreSQL only", func() {
		d.Node(1).KillPostgres()
		d.alone(2)
		d.Node(1).StartPostgres()
	})
	step("partition", func() {
		d.Partition("1/2,referee")
		d.alone(2)
		before := d.writers[0].count.Load()
		d.commits(2)
		require.Equal(t, before, d.writers[0].count.Load(), "node 1 is cut off from everybody")
		d.Heal()
	})
	step("partition between the nodes", func() {
		d.Partition("1/2")
		winner := 0
		await(d.t, d.Cluster, "a grant", func() error {
			for _, id := range []int{1, 2} {
				if st, err := dev.Status(d.t.Context(), id); err == nil && slices.Equal(st.GenMembers, []int{id}) && st.Status == "online" {
					winner = id
					return nil
				}
			}
			return errors.New("neither goes on")
		})
		loser := d.writers[2-winner]
		d.silent(3-winner, loser.count.Load())
		d.commits(winner)
		d.Heal()
	})
	step("both in turn", func() {
		d.Node(2).Kill()
		d.alone(1)
		d.Node(2).Start()
		d.bothCommit()
		d.Node(1).Kill()
		d.alone(2)
		d.Node(1).Start()
	})
	step("referee restart", func() {
		d.referee(dev.Kill)
		d.commits(1)
		d.Node(2).Kill()
		before := d.writers[0].count.Load()
		d.Node(1).WaitStatus("isolated")
		d.referee(func(ctx context.Context, id int, w devcluster.What) error { return dev.StartNode(ctx, id, w) })
		d.alone(1)
		require.Greater(t, d.writers[0].count.Load(), before)
		d.Node(2).Start()
	})
	step("winner restart with the referee down", func() {
		d.Node(2).Kill()
		d.alone(1)
		d.referee(dev.Kill)
		d.Node(1).Kill()
		d.Node(1).Start()
		d.commits(1)
		d.Node(2).Start()
		d.WaitOnline() // they need no referee together
		d.referee(func(ctx context.Context, id int, w devcluster.What) error { return dev.StartNode(ctx, id, w) })
	})
	step("loser alone", func() {
		d.Node(2).Kill()
		d.alone(1)
		d.Node(1).Kill()
		before := d.writers[1].count.Load()
		d.Node(2).Start()
		d.Node(2).WaitStatus("disabled")
		d.silent(2, before)
		d.Node(1).Start()
	})
	step("both up", func() {})
	requireNonePrepared(t, d.Cluster)
	requireSmall(t, dev.Info(t.Context()).Referee.MtmdPid)
}

// requireSmall: a referee fits into 32 MiB.
func requireSmall(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.Fields(value)[0])
			require.NoError(t, err)
			t.Logf("referee: at most %d kB resident", kb)
			require.Less(t, kb, 32<<10)
			return
		}
	}
	require.Fail(t, "no VmHWM")
}
