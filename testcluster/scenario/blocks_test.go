package scenario

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/testcluster"
)

// counted is what nextval() gave to clients since a sequence began anew, committed or not.
type counted struct {
	mu   sync.Mutex
	by   map[int64]int // node
	most int64
}

func (s *counted) add(t *testing.T, node int, id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, twice := s.by[id]; twice {
		t.Errorf("%d was given twice, on nodes %d and %d", id, was, node)
	}
	s.by[id], s.most = node, max(s.most, id)
}

// count inserts n rows, one by one, and notes their numbers. Only conflicts are forgiven, or lost whatever, if the node may die.
func (s *counted) count(t *testing.T, n *testcluster.Node, rows int, mayDie bool) {
	ctx := context.WithoutCancel(t.Context())
	var db *pgx.Conn
	for done, failed := 0, 0; done < rows; {
		var err error
		if db == nil {
			if db, err = n.ConnectErr(ctx); err != nil {
				db = nil
			}
		}
		if db != nil {
			var id int64
			if err = db.QueryRow(ctx, "INSERT INTO dense (node) VALUES ($1) RETURNING id", n.ID).Scan(&id); err == nil {
				s.add(t, n.ID, id)
				done++
				continue
			}
		}
		if failed++; mayDie && failed < 2000 {
			if db != nil && db.IsClosed() {
				db = nil
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if failed > 20 || sqlState(err) != mtm.CodeSerialization {
			t.Errorf("node %d: %v", n.ID, err)
			return
		}
	}
	db.Close(ctx) //nolint:errcheck // it was of use
}

// blockSequences: no number comes twice, whatever fails, and few are left out.
func blockSequences(t *testing.T, c *testcluster.Cluster) {
	ctx := t.Context()
	execSQL(t, c.Node(2).Connect(), `SET mtm.sequence_mode = block; CREATE TABLE dense (id serial, node int);
		CREATE TABLE dense2 (i int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x int)`)
	var s *counted
	anew := func() { s = &counted{by: map[int64]int{}} }
	everywhere := func(rows int) {
		var all sync.WaitGroup
		for _, n := range c.Nodes() {
			all.Go(func() { s.count(t, n, rows, false) })
			all.Go(func() { s.count(t, n, rows, false) })
		}
		all.Wait()
	}
	anew()
	everywhere(100)
	t.Logf("%d rows, the greatest number is %d", len(s.by), s.most)
	require.LessOrEqual(t, s.most, int64(600+3*2*256), "dense")

	var all sync.WaitGroup
	for _, n := range c.Nodes() {
		all.Go(func() { s.count(t, n, 150, true) })
	}
	await(t, c, "some rows", func() error {
		if s.mu.Lock(); len(s.by) < 700 {
			defer s.mu.Unlock()
			return fmt.Errorf("%d rows", len(s.by))
		}
		s.mu.Unlock()
		return nil
	})
	c.Node(3).Kill()
	c.Node(3).Start()
	all.Wait()
	c.Node(3).WaitStatus("online")

	for i, sql := range []string{"ALTER SEQUENCE dense_id_seq RESTART WITH 100000", "SELECT setval('dense_id_seq', 199999)", "TRUNCATE dense RESTART IDENTITY",
		"DO $$ BEGIN ALTER TABLE dense ALTER id TYPE bigint; ALTER SEQUENCE dense_id_seq AS bigint RESTART 5000000000; END $$"} {
		db := c.Node(1 + i%3).Connect()
		repeated(t, func() error { _, err := db.Exec(ctx, sql); return err })
		anew()
		everywhere(20)
		least := []int64{100000, 200000, 1, 5000000000}[i]
		require.LessOrEqual(t, s.most, least+120+6*32+3*64, sql)
		for id := range s.by {
			require.GreaterOrEqual(t, id, least, sql)
		}
	}

	// As many as it takes, in the transaction that creates.
	execSQL(t, c.Node(1).Connect(), `BEGIN; SET LOCAL mtm.sequence_mode = block; CREATE TABLE dense3 (id serial PRIMARY KEY, x int);
		INSERT INTO dense3 (x) SELECT g FROM generate_series(1, 1000) g; COMMIT`)
	for _, n := range c.Nodes() {
		db := n.Connect()
		repeated(t, func() error { _, err := db.Exec(ctx, "INSERT INTO dense3 (x) VALUES (1)"); return err })
	}
	// More than a block, by one statement: a larger one is drawn meanwhile.
	rows := make([][]any, 10_000)
	for i := range rows {
		rows[i] = []any{i}
	}
	for _, n := range c.Nodes()[:2] {
		db := n.Connect()
		repeated(t, func() error {
			_, err := db.CopyFrom(ctx, pgx.Identifier{"dense2"}, []string{"x"}, pgx.CopyFromRows(rows))
			return err
		})
		execSQL(t, db, "INSERT INTO dense2 (x) SELECT g FROM generate_series(1, 5000) g")
	}
	db := c.Node(3).Connect()
	execSQL(t, db, "SELECT mtm.reserve_numbers('dense2_i_seq', 10000)")
	_, err := db.CopyFrom(ctx, pgx.Identifier{"dense2"}, []string{"x"}, pgx.CopyFromRows(rows))
	require.NoError(t, err)
	_, err = db.Exec(ctx, "CREATE SEQUENCE stepping; SELECT mtm.reserve_numbers('stepping', 10)")
	require.Equal(t, "55000", sqlState(err))
	require.Equal(t, "1 1 9223372036854775807", one[string](t, c.Node(3).Connect(),
		"SELECT concat_ws(' ', seqstart, seqmin, seqmax) FROM pg_sequence WHERE seqrelid = 'dense_id_seq'::regclass"))

	execSQL(t, c.Node(3).Connect(), "CREATE SCHEMA elsewhere; ALTER TABLE dense SET SCHEMA elsewhere; ALTER SCHEMA elsewhere RENAME TO there; ALTER TABLE there.dense SET SCHEMA public")
	anew()
	s.count(t, c.Node(1), 100, false)
	s.count(t, c.Node(2), 100, false)
	var want string
	for _, n := range c.Nodes() {
		got := one[string](t, n.ConnectPg(), "SELECT string_agg(seqid::regclass || ' ' || next, ' ' ORDER BY seqid::regclass::text) FROM mtm.blocks WHERE NOT open")
		if want == "" {
			want = got
		}
		require.Equal(t, want, got)
		require.Equal(t, 3, strings.Count(got, "seq"), got)
	}
	execSQL(t, c.Node(1).Connect(), "DROP TABLE dense, dense2, dense3; DROP SCHEMA there")
	for _, n := range c.Nodes() {
		require.Zero(t, one[int](t, n.ConnectPg(), "SELECT count(*) FROM mtm.blocks"))
	}
}

// repeated does what a client does who is told to repeat.
func repeated(t *testing.T, f func() error) {
	t.Helper()
	for try := 1; ; try++ {
		err := f()
		if err == nil {
			return
		}
		require.True(t, try < 20 && sqlState(err) == mtm.CodeSerialization, err)
	}
}
