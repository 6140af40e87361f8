package scenario

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// registers is load that swaps the values of a few rows on all nodes at once, and reads them. A history of swaps must be
// linearizable (porcupine finds an order, or that there is none), and a read must not miss what was acknowledged before it began (S7).
type registers struct {
	urls    []string
	strict  bool // reads are part of the history, too
	began   time.Time
	stop    atomic.Bool
	running sync.WaitGroup
	value   atomic.Int64 // every value is written once

	mu      sync.Mutex
	first   int // of this round's keys
	history []porcupine.Operation
	values  map[version]int64 // acknowledged
	newest  map[int]int64     // of each key, the newest version that was acknowledged
	wrong   []string
	swaps   int
	reads   int
}

type version struct {
	key int
	n   int64
}

// swap is an input: put value, get what was there; or, value 0, read.
type swap struct {
	key   int
	value int64
}

const registerKeys = 6

func newRegisters(t testing.TB, c *testcluster.Cluster) *registers {
	r := &registers{values: map[version]int64{}, newest: map[int]int64{}, began: time.Now()}
	for _, n := range c.Nodes() {
		r.urls = append(r.urls, n.URL())
	}
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE registers (k int PRIMARY KEY, v bigint NOT NULL, version bigint NOT NULL)")
	return r
}

// start begins a round, with new keys, so that its history is complete.
func (r *registers) start(t testing.TB, c *testcluster.Cluster) {
	r.mu.Lock()
	r.first += registerKeys
	r.history = nil
	first := r.first
	r.mu.Unlock()
	execSQL(t, c.Node(1).Connect(), "INSERT INTO registers SELECT i, 0, 0 FROM generate_series($1::int, $2::int) i", first, first+registerKeys-1)
	r.stop.Store(false)
	for node := range r.urls {
		r.running.Go(func() { r.client(node, 2*node, r.swap) })
		r.running.Go(func() { r.client(node, 2*node+1, r.read) })
	}
	t.Cleanup(r.finish)
}

func (r *registers) finish() {
	r.stop.Store(true)
	r.running.Wait()
}

func (r *registers) client(node, id int, op func(context.Context, *pgx.Conn, int, int) error) {
	s := session{url: r.urls[node], app: "register"}
	defer s.close()
	for !r.stop.Load() {
		if !s.open() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), txLimit)
		err := op(ctx, s.conn, id, r.first+rand.IntN(registerKeys))
		cancel()
		s.after(err)
		if errors.Is(err, context.DeadlineExceeded) {
			r.mu.Lock()
			r.wrong = append(r.wrong, "an operation on a register hung: "+err.Error())
			r.mu.Unlock()
		}
	}
}

func (r *registers) clock() int64 { return time.Since(r.began).Nanoseconds() }

func (r *registers) swap(ctx context.Context, db *pgx.Conn, client, key int) error {
	in := swap{key: key, value: r.value.Add(1)}
	op := porcupine.Operation{ClientId: client, Input: in, Call: r.clock()}
	var old, now int64
	err := db.QueryRow(ctx, `UPDATE registers r SET v = $2, version = r.version + 1 FROM (SELECT k, v FROM registers WHERE k = $1 FOR UPDATE) o
		WHERE r.k = o.k RETURNING o.v, r.version`, key, in.value).Scan(&old, &now)
	op.Return = r.clock()
	f := fateOf(err, false)
	if f == nowhere {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.swaps++
	if f == unknown {
		op.Return = math.MaxInt64 // it may take place at any time, or never
	} else {
		op.Output = old
		r.values[version{key, now}] = in.value
		r.newest[key] = max(r.newest[key], now)
	}
	r.history = append(r.history, op)
	return err
}

func (r *registers) read(ctx context.Context, db *pgx.Conn, client, key int) error {
	r.mu.Lock()
	least := r.newest[key]
	r.mu.Unlock()
	op := porcupine.Operation{ClientId: client, Input: swap{key: key}, Call: r.clock()}
	var v, now int64
	if err := db.QueryRow(ctx, "SELECT v, version FROM registers WHERE k = $1", key).Scan(&v, &now); err != nil {
		return err
	}
	op.Return, op.Output = r.clock(), v
	defer time.Sleep(time.Millisecond) // pacing: reads are not the load
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	if now < least {
		r.wrong = append(r.wrong, fmt.Sprintf("S7: register %d: version %d was acknowledged, and a read then saw %d", key, least, now))
	}
	if want, ok := r.values[version{key, now}]; ok && want != v {
		r.wrong = append(r.wrong, fmt.Sprintf("S3: register %d: version %d is %d, and a read saw %d", key, now, want, v))
	}
	if r.strict {
		r.history = append(r.history, op)
	}
	return nil
}

// registerModel is one register per key, 0 at first.
var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[int][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(swap).key
			by[key] = append(by[key], op)
		}
		var all [][]porcupine.Operation
		for _, part := range by {
			all = append(all, part)
		}
		return all
	},
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		in, was := input.(swap), state.(int64)
		now := in.value
		if now == 0 {
			now = was
		}
		return output == nil || output.(int64) == was, now
	},
}

// check: the round has ended.
func (r *registers) check(t testing.TB, c *testcluster.Cluster) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Empty(t, r.wrong)
	// What is there at last is a read that sees all.
	rows, err := c.Node(2).ConnectPg().Query(t.Context(), "SELECT k, v FROM registers WHERE k >= $1", r.first)
	require.NoError(t, err)
	var key int
	var v int64
	now := r.clock()
	_, err = pgx.ForEachRow(rows, []any{&key, &v}, func() error {
		r.history = append(r.history, porcupine.Operation{ClientId: 100, Input: swap{key: key}, Output: v, Call: now, Return: now + 1})
		return nil
	})
	require.NoError(t, err)
	switch porcupine.CheckOperationsTimeout(registerModel, r.history, 20*time.Second) {
	case porcupine.Illegal:
		t.Errorf("S3: the swaps of a register are not linearizable: %d operations from key %d on\n%s", len(r.history), r.first, r.illegal())
	case porcupine.Unknown:
		t.Logf("registers: no verdict on %d operations after 20 s", len(r.history))
	}
}

// illegal tells the history of a key that has no order.
func (r *registers) illegal() (text string) {
	for _, part := range registerModel.Partition(r.history) {
		if porcupine.CheckOperationsTimeout(registerModel, part, 5*time.Second) != porcupine.Illegal {
			continue
		}
		for _, op := range part {
			end := "never"
			if op.Return != math.MaxInt64 {
				end = fmt.Sprintf("%.6f", float64(op.Return)/1e9)
			}
			text += fmt.Sprintf("client %d: %.6f to %s: %+v got %v\n", op.ClientId, float64(op.Call)/1e9, end, op.Input, op.Output)
		}
		return text
	}
	return ""
}

// TestRegisterModelTellsOrderFromDisorder: what the checker is worth.
func TestRegisterModelTellsOrderFromDisorder(t *testing.T) {
	op := func(value, got, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: swap{key: 1, value: value}, Output: got, Call: call, Return: ret}
	}
	lost := porcupine.Operation{Input: swap{key: 1, value: 9}, Call: 1, Return: math.MaxInt64}
	for name, one := range map[string]struct {
		history []porcupine.Operation
		want    bool
	}{
		"in turn":                         {[]porcupine.Operation{op(1, 0, 1, 2), op(2, 1, 3, 4), op(0, 2, 5, 6)}, true},
		"at once":                         {[]porcupine.Operation{op(1, 2, 1, 4), op(2, 0, 1, 4), op(0, 1, 5, 6)}, true},
		"lost update":                     {[]porcupine.Operation{op(1, 0, 1, 4), op(2, 0, 1, 4)}, false},
		"stale":                           {[]porcupine.Operation{op(1, 0, 1, 2), op(0, 0, 3, 4)}, false},
		"no answer, and it took place":    {[]porcupine.Operation{lost, op(2, 9, 5, 6)}, true},
		"no answer, and it did not":       {[]porcupine.Operation{lost, op(2, 0, 5, 6)}, true},
		"no answer, and it came and went": {[]porcupine.Operation{lost, op(0, 9, 5, 6), op(0, 0, 7, 8)}, false},
	} {
		require.Equal(t, one.want, porcupine.CheckOperations(registerModel, one.history), name)
	}
}
