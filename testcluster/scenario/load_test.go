package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// fate is what a client knows of a transaction of its own.
type fate int

const (
	committed fate = iota // acknowledged
	nowhere               // an answer that promises that it did not, and will not, commit
	unknown               // no answer, or one that says so
)

// fateOf reads an answer. beforeCommit: COMMIT was not sent yet. pgconn.SafeToRetry is not asked: it says yes to the "conn
// closed" that pgx gives when the connection broke while it waited for an answer.
func fateOf(err error, beforeCommit bool) fate {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return committed
	case beforeCommit:
		return nowhere
	case !errors.As(err, &pg):
		return unknown
	case pg.Code == "40001", pg.Code == "40P01", pg.Code == "57014", pg.Code == "57P03", pg.Code[:2] == "23":
		return nowhere
	}
	return unknown
}

// span is from the first statement of a transaction to its answer.
type span struct{ began, ended time.Time }

const (
	accounts = 24
	lists    = 24
	opening  = 1000 // balance
	// txLimit is how long one transaction may take, a dead node's return included.
	txLimit = 90 * time.Second
)

// loadSchema: n is given by each node's sequence; entries has a row per transaction, and says all that it did.
const loadSchema = `DROP TABLE IF EXISTS entries, accounts, lists;
	CREATE TABLE entries (n serial PRIMARY KEY, id text NOT NULL, a int, b int, amount int, list int);
	CREATE INDEX ON entries (id);
	CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
	CREATE TABLE lists (id int PRIMARY KEY, entries text[] NOT NULL DEFAULT '{}');
	INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, 24) i;
	INSERT INTO lists SELECT i FROM generate_series(1, 24) i;`

// load is clients that write on all nodes at once: single inserts, and blocks that move money between two accounts and
// append to a list, some of which PostgreSQL cannot prepare. Each transaction has an id, by which the check finds it again.
type load struct {
	urls    []string // by node, from 0
	clients int      // on each node
	simple  bool     // single inserts only, of which a few are read back
	app     string   // application_name
	users   bool     // some blocks are prepared, and ended on any node

	mu      sync.Mutex
	fates   map[string]fate
	answers map[string]error // what those got that were not acknowledged
	times   map[string]span  // of those that were acknowledged
	codes   map[string]int   // what went wrong, by SQLSTATE
	wrong   []string         // violations seen while it ran
	slowest time.Duration
	tx      atomic.Int64   // numbers transactions
	acked   []atomic.Int64 // by node
	stop    atomic.Bool
	running sync.WaitGroup
	cleaned sync.WaitGroup // the cleaner, see users
	runs    bool           // for the goroutine that starts and ends it
}

// newLoad makes the tables, anew if an earlier load was here, and a load that does not run yet.
func newLoad(t testing.TB, c *testcluster.Cluster, clients int) *load {
	t.Helper()
	l := &load{clients: clients, app: "load", fates: map[string]fate{}, answers: map[string]error{}, times: map[string]span{}, codes: map[string]int{}}
	for _, n := range c.Nodes() {
		l.urls = append(l.urls, n.URL())
	}
	l.acked = make([]atomic.Int64, len(l.urls))
	execSQL(t, c.Node(1).Connect(), loadSchema)
	return l
}

// start lets it run until finish, which the end of the test calls too. One that runs goes on.
func (l *load) start(t testing.TB) {
	if l.runs {
		return
	}
	l.runs = true
	l.stop.Store(false)
	for node := range l.urls {
		for range l.clients {
			l.running.Add(1)
			go func() {
				defer l.running.Done()
				l.client(node)
			}()
		}
	}
	if l.users {
		done := make(chan struct{})
		l.cleaned.Go(func() { l.clean(done) })
		go func() {
			l.running.Wait() // the last may wait for what the others left
			close(done)
		}()
	}
	t.Cleanup(l.finish)
}

// finish ends it after the transactions that run.
func (l *load) finish() {
	l.stop.Store(true)
	l.running.Wait()
	l.cleaned.Wait()
	l.runs = false
}

// client is one session after another on one node, with one on the next node to read what was written.
func (l *load) client(node int) {
	var write, read session
	write.url, read.url = l.urls[node], l.urls[(node+1)%len(l.urls)]
	write.app, read.app = l.app, l.app+"-reader"
	defer write.close()
	defer read.close()
	for !l.stop.Load() {
		if !write.open() {
			continue
		}
		write.number++
		id := fmt.Sprintf("%d-%d", node+1, l.tx.Add(1))
		began := time.Now()
		beforeCommit, err := l.transact(write.conn, id)
		f := fateOf(err, beforeCommit)
		l.note(node, id, f, err, span{began, time.Now()})
		if f == committed && (!l.simple || write.number%16 == 0) && read.open() {
			l.readBack(&read, id)
		}
		write.after(err)
	}
}

func (l *load) note(node int, id string, f fate, err error, when span) {
	took := when.ended.Sub(when.began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fates[id] = f
	l.slowest = max(l.slowest, took)
	if f == committed {
		l.acked[node].Add(1)
		l.times[id] = when
		return
	}
	l.answers[id] = err
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg):
		l.codes[pg.Code]++
		if pg.Code == "XX000" || strings.HasPrefix(pg.Code, "42") {
			l.wrong = append(l.wrong, fmt.Sprintf("transaction %s got %v", id, err))
		}
	case errors.Is(err, context.DeadlineExceeded):
		l.wrong = append(l.wrong, fmt.Sprintf("transaction %s hung for %v", id, took))
	default:
		l.codes["connection"]++
	}
}

// transact is one transaction.
func (l *load) transact(db *pgx.Conn, id string) (beforeCommit bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), txLimit)
	defer cancel()
	if l.simple || rand.IntN(2) == 0 {
		_, err := db.Exec(ctx, "INSERT INTO entries (id) VALUES ($1)", id)
		return false, err
	}
	// In ascending order, so that two clients of one node never deadlock: stock PostgreSQL would say 40P01.
	a := 1 + rand.IntN(accounts-1)
	b := a + 1 + rand.IntN(accounts-a)
	list, amount := 1+rand.IntN(lists), rand.IntN(21)-10
	tx, err := db.Begin(ctx)
	if err != nil {
		return true, err
	}
	notifies := rand.IntN(3) == 0
	if notifies { // one that PostgreSQL cannot prepare
		if _, err := tx.Exec(ctx, "NOTIFY load"); err != nil {
			tx.Rollback(ctx) //nolint:errcheck // the session may be gone
			return true, err
		}
	}
	for _, st := range []struct {
		sql  string
		args []any
	}{
		{"INSERT INTO entries (id, a, b, amount, list) VALUES ($1, $2, $3, $4, $5)", []any{id, a, b, amount, list}},
		{"UPDATE accounts SET balance = balance - $2 WHERE id = $1", []any{a, amount}},
		{"UPDATE accounts SET balance = balance + $2 WHERE id = $1", []any{b, amount}},
		{"UPDATE lists SET entries = entries || $2::text WHERE id = $1", []any{list, id}},
	} {
		if _, err := tx.Exec(ctx, st.sql, st.args...); err != nil {
			tx.Rollback(ctx) //nolint:errcheck // the session may be gone
			return true, err
		}
	}
	if l.users && !notifies && rand.IntN(3) == 0 {
		if _, err := db.Exec(ctx, "PREPARE TRANSACTION 'load "+id+"'"); err != nil {
			return false, err
		}
		return false, l.endUser(ctx, db, id)
	}
	return false, tx.Commit(ctx)
}

// readBack checks S7: what was acknowledged on one node is seen on another by whoever asks now.
func (l *load) readBack(read *session, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), txLimit)
	defer cancel()
	var count, sum int64
	if err := read.conn.QueryRow(ctx, "SELECT count(*) FROM entries WHERE id = $1", id).Scan(&count); err != nil {
		read.after(err)
		return // no answer is no lie
	}
	if !l.simple && read.number%4 == 0 {
		if err := read.conn.QueryRow(ctx, "SELECT sum(balance)::bigint FROM accounts").Scan(&sum); err != nil {
			read.after(err)
		} else if sum != accounts*opening {
			l.mu.Lock()
			l.wrong = append(l.wrong, fmt.Sprintf("S1: the accounts hold %d, and a reader saw %d", accounts*opening, sum))
			l.mu.Unlock()
		}
	}
	read.number++
	if count != 1 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.wrong = append(l.wrong, fmt.Sprintf("S7: %s was acknowledged, and a read on the next node then saw %d of it", id, count))
	}
}

// session is a connection that is made again when it broke.
type session struct {
	url, app string
	conn     *pgx.Conn
	number   int // of transactions tried
}

// open reports whether there is a connection now. A refused one is tried again a little later.
func (s *session) open() bool {
	if s.conn != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cfg, err := pgx.ParseConfig(s.url)
	if err == nil {
		cfg.RuntimeParams["application_name"] = s.app
		s.conn, err = pgx.ConnectConfig(ctx, cfg)
	}
	if err != nil {
		s.conn = nil
		<-time.After(20 * time.Millisecond) // pacing, so that a dead node's port is not flooded
		return false
	}
	return true
}

// after a transaction: a connection that broke is given up; who was refused does not hurry, or a node that catches up would
// have to refuse him all the time.
func (s *session) after(err error) {
	if err != nil && s.conn.IsClosed() {
		s.close()
	}
	if sqlState(err) == "57P03" {
		<-time.After(20 * time.Millisecond)
	}
}

func (s *session) close() {
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.conn.Close(ctx) //nolint:errcheck // it may be broken
		s.conn = nil
	}
}

// awaitProgress waits until every node has acknowledged so many more.
func (l *load) awaitProgress(t testing.TB, c *testcluster.Cluster, more int64) {
	t.Helper()
	from := make([]int64, len(l.acked))
	for i := range from {
		from[i] = l.acked[i].Load()
	}
	await(t, c, "commits on every node", func() error {
		for i := range from {
			if got := l.acked[i].Load() - from[i]; got < more {
				return fmt.Errorf("node %d acknowledged %d of %d; errors by now: %v", i+1, got, more, l.errors())
			}
		}
		return nil
	})
}

func (l *load) errors() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]int{}
	for k, v := range l.codes {
		all[k] = v
	}
	return all
}

// check compares the ledger with the nodes; the load must have finished.
func (l *load) check(t testing.TB, c *testcluster.Cluster) {
	t.Helper()
	if l.users {
		l.cleanAll(t, c)
	}
	c.RequireEqual() // S1, S3, S8: no node differs, none has anything prepared
	l.checkRows(t, c.Node(1).ConnectPg())
}

// checkRows is check but for the comparison of nodes.
func (l *load) checkRows(t testing.TB, db *pgx.Conn) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Empty(t, l.wrong)
	l.checkEntries(t, db)
	// S3 and S9: what the rows hold is the sum of the transactions that are there, each once.
	bad := one[[]string](t, db, `SELECT coalesce(array_agg(format('account %s: %s, entries say %s', id, balance, due)), '{}')
		FROM (SELECT id, balance, 1000 + coalesce((SELECT sum(amount) FROM entries WHERE b = x.id), 0)
			- coalesce((SELECT sum(amount) FROM entries WHERE a = x.id), 0) AS due FROM accounts x) y WHERE balance <> due`)
	require.Empty(t, bad)
	bad = one[[]string](t, db, `SELECT coalesce(array_agg(coalesce(x.list, y.list) || ' ' || coalesce(x.id, y.id)), '{}')
		FROM (SELECT id::text AS list, e AS id, count(*) AS times FROM lists, unnest(entries) e GROUP BY 1, 2) x
		FULL JOIN (SELECT list::text, id, count(*) AS times FROM entries WHERE list IS NOT NULL GROUP BY 1, 2) y
			ON x.list = y.list AND x.id = y.id AND x.times = y.times
		WHERE x.list IS NULL OR y.list IS NULL`)
	require.Empty(t, bad, "lists and entries differ")
	l.checkLists(t, db)
	require.EqualValues(t, accounts*opening, one[int64](t, db, "SELECT sum(balance)::bigint FROM accounts"))
}

// checkLists is S3 in time: of two acknowledged appends to one list, the one that began when the other had been answered comes later.
func (l *load) checkLists(t testing.TB, db *pgx.Conn) {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT id, entries FROM lists")
	require.NoError(t, err)
	var list int
	var entries []string
	_, err = pgx.ForEachRow(rows, []any{&list, &entries}, func() error {
		var latest time.Time // the last time at which one of those so far began
		var last string
		for _, id := range entries {
			when, ok := l.times[id]
			if !ok {
				continue
			}
			if when.ended.Before(latest) {
				return fmt.Errorf("S3: list %d: %s was answered before %s began, and comes after it", list, id, last)
			}
			if when.began.After(latest) {
				latest, last = when.began, id
			}
		}
		return nil
	})
	require.NoError(t, err)
}

// checkEntries is S2 (acknowledged: there), S4 (refused: not there) and S9 (nothing else is there).
func (l *load) checkEntries(t testing.TB, db *pgx.Conn) {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT id, count(*)::int FROM entries GROUP BY id")
	require.NoError(t, err)
	found := map[string]int{}
	var id string
	var count int
	_, err = pgx.ForEachRow(rows, []any{&id, &count}, func() error { found[id] = count; return nil })
	require.NoError(t, err)
	var bad []string
	for id, f := range l.fates {
		n := found[id]
		switch {
		case f == committed && n == 0:
			bad = append(bad, "S2: acknowledged, and lost: "+id)
		case f == nowhere && n > 0:
			bad = append(bad, fmt.Sprintf("S4: refused, and there: %s: %v", id, l.answers[id]))
		case n > 1:
			bad = append(bad, fmt.Sprintf("%d times: %s", n, id))
		}
		delete(found, id)
	}
	for id := range found {
		bad = append(bad, "S9: nobody wrote it: "+id)
	}
	if len(bad) > 20 {
		bad = append(bad[:20], fmt.Sprintf("… %d in all", len(bad)))
	}
	require.Empty(t, bad)
}

// tell logs what the load did.
func (l *load) tell(t testing.TB) {
	var per []int64
	for i := range l.acked {
		per = append(per, l.acked[i].Load())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("acknowledged by node: %v; errors: %v; slowest transaction %v", per, l.codes, l.slowest.Round(time.Millisecond))
}
