package scenario

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"mtm/testcluster"
)

// overIdle is how much more than idle mtmd may take, whatever passes through it. In KiB.
const overIdle = 64 << 10

// setting is a number from the environment.
func setting(t testing.TB, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	return n
}

// TestVolumesInBoundedMemory proves that large results, large COPY and many sessions do not pile up in mtmd. MTM_VOLUME says how many
// MiB, MTM_SESSIONS how many sessions: CI takes less than the 1024 and 2000 that count.
func TestVolumesInBoundedMemory(t *testing.T) {
	mib, sessions := setting(t, "MTM_VOLUME", 48), setting(t, "MTM_SESSIONS", 200)
	c := testcluster.Start(t, testcluster.Options{Settings: []string{fmt.Sprintf("max_connections=%d", sessions+100)}})
	db := c.Node(1).Connect()
	execSQL(t, db, "CREATE TABLE big (id int PRIMARY KEY, t text)")
	execSQL(t, db, "INSERT INTO big VALUES (0, 'x')")
	pg := db.PgConn()
	rows := fmt.Sprintf("SELECT repeat('x', 1023) FROM generate_series(1, %d)", mib<<10)
	volume := func(n int64) { require.GreaterOrEqual(t, n, int64(mib)<<20) }

	measured(t, c, "result of a simple Query", func(ctx context.Context) {
		n := int64(0)
		for r := pg.Exec(ctx, rows); r.NextResult(); {
			n += drain(t, r.ResultReader())
		}
		volume(n)
	})
	measured(t, c, "result of an Execute", func(ctx context.Context) {
		volume(drain(t, pg.ExecParams(ctx, rows, nil, nil, nil, nil)))
	})
	measured(t, c, "one value", func(ctx context.Context) {
		// PostgreSQL builds at most 1 GiB.
		n := min(mib<<20, 1<<30-1024)
		require.EqualValues(t, n, drain(t, pg.ExecParams(ctx, fmt.Sprintf("SELECT repeat('x', %d)", n-1), nil, nil, nil, nil)))
	})
	measured(t, c, "COPY TO STDOUT", func(ctx context.Context) {
		tag, err := pg.CopyTo(ctx, io.Discard, "COPY ("+rows+") TO STDOUT")
		require.NoError(t, err)
		require.EqualValues(t, mib<<10, tag.RowsAffected())
	})
	measured(t, c, "COPY FROM STDIN", func(ctx context.Context) {
		tag, err := pg.CopyFrom(ctx, &lines{left: mib << 10}, "COPY big FROM STDIN")
		require.NoError(t, err, logs(c))
		require.EqualValues(t, mib<<10, tag.RowsAffected())
	})
	for _, n := range c.Nodes() {
		await(t, c, "the rows", func() error {
			got, err := one1[int](t.Context(), n, "SELECT count(*) FROM big")
			if err == nil && got != mib<<10+1 {
				err = fmt.Errorf("%d rows", got)
			}
			return err
		})
	}
	measured(t, c, fmt.Sprintf("%d idle sessions", sessions), func(ctx context.Context) {
		cfg, err := pgconn.ParseConfig(c.Node(1).URL())
		require.NoError(t, err)
		all := make([]*pgconn.PgConn, sessions)
		var g errgroup.Group
		g.SetLimit(16)
		for i := range all {
			g.Go(func() error {
				conn, err := pgconn.ConnectConfig(ctx, cfg)
				if err == nil {
					_, err = conn.Exec(ctx, "SELECT count(*) FROM pg_class").ReadAll()
				}
				all[i] = conn
				return err
			})
		}
		require.NoError(t, g.Wait(), logs(c))
		for _, conn := range all {
			require.NoError(t, conn.Close(ctx))
		}
	})
}

// one1 is one value, or the error.
func one1[T any](ctx context.Context, n *testcluster.Node, sql string) (v T, err error) {
	conn, err := n.ConnectErr(ctx)
	if err != nil {
		return v, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return v, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
}

// measured runs f, and checks how much every mtmd grows meanwhile, at most.
func measured(t *testing.T, c *testcluster.Cluster, what string, f func(context.Context)) {
	var idle []int
	for _, n := range c.Nodes() {
		pid := n.Info().MtmdPid
		require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)) // the peak begins anew: proc(5)
		idle = append(idle, peakMemory(t, pid))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	began := time.Now()
	f(ctx)
	took := time.Since(began)
	var grown []int
	for i, peak := range peaks(t, c) {
		grown = append(grown, peak-idle[i])
	}
	t.Logf("%s: %v; idle %v KiB; grown by %v KiB", what, took.Round(time.Millisecond), idle, grown)
	for i, kib := range grown {
		require.Less(t, kib, overIdle, "%s, node %d", what, i+1)
	}
}

// drain reads a result and counts its bytes, with one for each value.
func drain(t testing.TB, r *pgconn.ResultReader) (n int64) {
	for r.NextRow() {
		for _, v := range r.Values() {
			n += int64(len(v)) + 1
		}
	}
	_, err := r.Close()
	require.NoError(t, err)
	return n
}

// lines is what COPY reads: rows of a kibibyte.
type lines struct {
	left int
	buf  bytes.Buffer
}

func (l *lines) Read(p []byte) (int, error) {
	for l.buf.Len() < len(p) && l.left > 0 {
		fmt.Fprintf(&l.buf, "%d\t%s\n", l.left, filler[:1014])
		l.left--
	}
	return l.buf.Read(p)
}

var filler = string(bytes.Repeat([]byte("mtm "), 256))
