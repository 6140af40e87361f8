package testcluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// inserts is load that can be checked afterwards: each row has a number that is used once, and what its client was told
// is remembered.
type inserts struct {
	t       *testing.T
	c       *testcluster.Cluster
	next    atomic.Int64
	limit   int // rows to be acknowledged in all; 0: until finish
	stopped chan struct{}
	clients sync.WaitGroup
	arrived chan struct{} // gets a token, without waiting for room, at each acknowledgement

	mu      sync.Mutex
	acked   []int64
	refused []int64 // told that it certainly did not commit
	unknown []int64
	odd     []string // errors that a client should never see
}

// startInserts makes the table and runs clients on every node until limit rows were acknowledged, or finish is called.
func startInserts(t *testing.T, c *testcluster.Cluster, clientsPerNode, limit int) *inserts {
	t.Helper()
	_, err := c.Node(1).Connect().Exec(t.Context(), "CREATE TABLE load (n bigint PRIMARY KEY, node int, note text)")
	require.NoError(t, err)
	l := &inserts{t: t, c: c, limit: limit, stopped: make(chan struct{}), arrived: make(chan struct{}, 1)}
	for _, n := range c.Nodes() {
		for range clientsPerNode {
			l.clients.Go(func() { l.client(n) })
		}
	}
	return l
}

// client inserts row after row, and connects again when its connection breaks.
func (l *inserts) client(n *testcluster.Node) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	url := n.URL()
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			conn.Close(ctx)
		}
	}()
	for !l.done() {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, url); err != nil {
				conn = nil
				l.pause()
				continue
			}
		}
		id := l.next.Add(1)
		stmt, cancel := context.WithTimeout(ctx, 2*time.Minute)
		_, err := conn.Exec(stmt, "INSERT INTO load VALUES ($1, $2, 'some text that fills a row')", id, n.ID)
		cancel()
		if l.record(id, err); err != nil {
			l.pause()
		}
	}
}

// pause keeps a client that gets nothing done from spinning.
func (l *inserts) pause() {
	select {
	case <-l.stopped:
	case <-time.After(20 * time.Millisecond):
	}
}

func (l *inserts) done() bool {
	select {
	case <-l.stopped:
		return true
	default:
		return l.limit > 0 && l.count() >= l.limit
	}
}

// record files what a client was told.
func (l *inserts) record(id int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var pg *pgconn.PgError
	switch {
	case err == nil:
		l.acked = append(l.acked, id)
		select {
		case l.arrived <- struct{}{}:
		default:
		}
	case errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "57P03"):
		l.refused = append(l.refused, id)
	case errors.As(err, &pg) && (pg.Code == "23505" || pg.Code[:2] == "42" || pg.Code[:2] == "XX"):
		l.odd = append(l.odd, fmt.Sprintf("row %d: %v", id, err))
	default: // 08007, a broken connection, an end in the middle
		l.unknown = append(l.unknown, id)
	}
}

func (l *inserts) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// waitAcked waits until n more rows were acknowledged.
func (l *inserts) waitAcked(n int) {
	l.t.Helper()
	want, end := l.count()+n, time.After(2*time.Minute)
	for l.count() < want {
		select {
		case <-l.arrived:
		case <-end:
			l.t.Fatalf("no progress: %d rows acknowledged, %d refused, %d unknown; waited for %d", l.count(), len(l.refused), len(l.unknown), want)
		}
	}
}

// finish ends the load, waits until the cluster has settled, and checks S1, S2, S4 and S8 of the design.
func (l *inserts) finish() {
	l.t.Helper()
	if l.limit == 0 {
		close(l.stopped)
	}
	l.clients.Wait()
	l.c.WaitOnline()
	l.c.RequireEqual()
	present := map[int64]bool{}
	rows, err := l.c.Node(1).ConnectPg().Query(context.Background(), "SELECT n FROM load")
	require.NoError(l.t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	require.NoError(l.t, err)
	for _, n := range all {
		present[n] = true
	}
	l.t.Logf("%d acknowledged, %d refused, %d unknown, %d rows", len(l.acked), len(l.refused), len(l.unknown), len(all))
	require.Empty(l.t, l.odd)
	for _, n := range l.acked {
		if !present[n] {
			l.t.Errorf("S2: row %d was acknowledged and is not there", n)
		}
	}
	for _, n := range l.refused {
		if present[n] {
			l.t.Errorf("S4: row %d was refused as not committed and is there", n)
		}
	}
	tried := map[int64]bool{}
	for _, list := range [][]int64{l.acked, l.unknown, l.refused} {
		for _, n := range list {
			tried[n] = true
		}
	}
	for n := range present {
		if !tried[n] {
			l.t.Errorf("S9: row %d is there and nobody wrote it", n)
		}
	}
}
