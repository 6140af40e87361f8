package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
	"mtm/cmd/mtmctl/admin"
	"mtm/sql/statement"
)

// This file compares what a query gives on all nodes: mtm.check_query(). First without disturbing anybody; if that differs, all nodes
// hold new commits back until none is under way, which takes milliseconds, take their snapshots, and go on: what differs between
// those is different. It must do so twice, for a transaction whose origin is lost may end on one node before another.

const (
	checkRounds   = 8               // until a difference is told or it cannot be decided
	checkHold     = time.Second     // for a node's transactions to end, while new ones wait
	checkPatience = 5 * time.Minute // without a word from who asked
	checkRows     = 10000           // rows of one bucket that are looked at for what differs
	shownRow      = 100             // characters
)

// checkQuery is the argument of mtm.check_query().
type checkQuery struct {
	Query      string `json:"query"`
	SearchPath string `json:"search_path"`
	User       string `json:"user"`
}

// checkRequest is what the methods check_… are told.
type checkRequest struct {
	ID string `json:"id"`
	checkQuery
	Bucket int `json:"bucket"`
}

// checkAnswer is what they answer.
type checkAnswer struct {
	Code    string         `json:"code,omitempty"` // of an error of PostgreSQL's, which Error is
	Error   string         `json:"error,omitempty"`
	Still   bool           `json:"still"` // nothing was under way when the snapshot was taken
	Gen     uint64         `json:"gen"`
	Buckets map[int]string `json:"buckets,omitempty"`
	Rows    []checkRow     `json:"rows,omitempty"`
}

type checkRow struct {
	Hash  int64  `json:"hash"`
	Count int64  `json:"count"`
	Text  string `json:"text"`
}

// checks are the comparisons that this node takes part in.
type checks struct {
	mu   sync.Mutex
	open map[string]*check
}

type check struct {
	mu      sync.Mutex // one call at a time
	conn    *pgx.Conn
	query   string
	timer   *time.Timer
	release func() (was bool) // ends the hold of the gate; nil: there is none
}

// maxChecks bounds how many may be open.
const maxChecks = 8

// still keeps new transactions waiting until release is called, or limit has passed, and returns when none of this node's is under way.
// release reports whether it was kept so until then.
func (g *gate) still(ctx context.Context, limit time.Duration) (release func() bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	g.mu.Lock()
	g.stopped++
	g.mu.Unlock()
	ended := false // under g.mu
	end := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		if ended {
			return false
		}
		ended = true
		g.stopped--
		g.wake()
		return true
	}
	for {
		g.mu.Lock()
		idle, changed := g.inFlight == 0, g.changed
		g.mu.Unlock()
		if idle {
			timer := time.AfterFunc(limit, func() { end() })
			return func() bool { timer.Stop(); return end() }, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			end()
			return nil, fmt.Errorf("transactions were under way for %v", limit)
		}
	}
}

// call carries out one of the methods check_….
func (c *checks) call(ctx context.Context, d *daemon, method string, req checkRequest) (a checkAnswer, err error) {
	if method == "check_open" {
		err = c.begin(ctx, d, req)
	} else {
		c.mu.Lock()
		one := c.open[req.ID]
		c.mu.Unlock()
		if one == nil {
			return a, errors.New("the comparison is over, or this mtmd was restarted")
		}
		if method == "check_end" {
			c.end(req.ID)
			return a, nil
		}
		one.mu.Lock()
		defer one.mu.Unlock()
		one.timer.Reset(checkPatience)
		a, err = one.step(ctx, d, method, req)
		one.timer.Reset(checkPatience)
	}
	if pg := new(pgconn.PgError); errors.As(err, &pg) {
		return checkAnswer{Code: pg.Code, Error: pg.Message}, nil
	}
	return a, err
}

func (c *checks) begin(ctx context.Context, d *daemon, req checkRequest) error {
	conn, err := d.connect(ctx, "mtm_check")
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `SELECT set_config('search_path', $1, false), set_config('extra_float_digits', '1', false)`, req.SearchPath)
	if err == nil {
		_, err = conn.PgConn().Exec(ctx, "SET SESSION AUTHORIZATION "+pgx.Identifier{req.User}.Sanitize()).ReadAll()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && len(c.open) >= maxChecks {
		err = errors.New("too many queries are being compared")
	}
	if err != nil {
		closeNow(conn)
		return err
	}
	c.open[req.ID] = &check{conn: conn, query: req.Query, timer: time.AfterFunc(checkPatience, func() { c.end(req.ID) })}
	return nil
}

func (c *checks) end(id string) {
	c.mu.Lock()
	one := c.open[id]
	delete(c.open, id)
	c.mu.Unlock()
	if one == nil {
		return
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.timer.Stop()
	if one.release != nil {
		one.release()
	}
	closeNow(one.conn)
}

// rows are the hashes and texts of the query's rows.
func (c *check) rows() string {
	return `(SELECT hashtextextended(t, 0) AS h, t FROM (SELECT ROW(mtm_row.*)::text COLLATE "C" AS t FROM (` + c.query + "\n) mtm_row) x) y"
}

func (c *check) step(ctx context.Context, d *daemon, method string, req checkRequest) (a checkAnswer, err error) {
	switch method {
	case "check_hold":
		c.release, err = d.gate.still(ctx, checkHold)
	case "check_snapshot":
		_, err = c.conn.PgConn().Exec(ctx, "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT FROM pg_class LIMIT 1").ReadAll()
		if l := d.current.Load(); l != nil && l.status.Load() != nil {
			s := l.status.Load()
			a.Gen, a.Still = s.Generation.Num, len(s.InDoubt) == 0
		}
	case "check_release":
		a.Still = c.release != nil && c.release()
		c.release = nil
	case "check_digest":
		a.Buckets = map[int]string{}
		var bucket int
		var digest string
		rows, _ := c.conn.Query(ctx, `SELECT (h & 255)::int, count(*) || ' ' || sum(h) FROM `+c.rows()+` GROUP BY 1`)
		_, err = pgx.ForEachRow(rows, []any{&bucket, &digest}, func() error { a.Buckets[bucket] = digest; return nil })
	case "check_rows":
		rows, _ := c.conn.Query(ctx, `SELECT h, count(*), min(left(t, $2)) FROM `+c.rows()+` WHERE h & 255 = $1 GROUP BY 1 ORDER BY 1 LIMIT $3`, req.Bucket, shownRow, checkRows)
		a.Rows, err = pgx.CollectRows(rows, pgx.RowToStructByPos[checkRow])
	default:
		err = fmt.Errorf("this mtmd (%s) has no method %q", version, method)
	}
	return a, err
}

// beginCheck begins mtm.check_query(). Only superusers may call that, and only it asks so.
func (j *jobs) beginCheck(pid int32) *mtm.Error {
	var arg checkQuery
	text, err := j.argument(pid)
	if err == nil {
		err = json.Unmarshal(text, &arg)
	}
	if err != nil {
		return &mtm.Error{Code: "22023", Msg: "the query did not arrive", Err: err}
	}
	stmts, ok := statement.Split(arg.Query)
	if !ok || len(stmts) != 1 || stmts[0].Kind != statement.Read {
		return &mtm.Error{Code: "42601", Msg: "only one query that reads can be compared"}
	}
	arg.Query = stmts[0].Text(arg.Query)
	return j.begin(pid, func(ctx context.Context, tell func(string)) (string, error) {
		nodes, done, err := j.d.adminNodes()
		if err != nil {
			return "", err
		}
		defer done()
		return j.d.compareQuery(ctx, nodes, arg, tell)
	})
}

// comparison is one run of mtm.check_query().
type comparison struct {
	nodes []admin.Node
	req   checkRequest
}

// each calls a method on all nodes at once.
func (c *comparison) each(ctx context.Context, method string) ([]checkAnswer, error) {
	answers, errs := make([]checkAnswer, len(c.nodes)), make([]error, len(c.nodes))
	var work sync.WaitGroup
	for i, n := range c.nodes {
		work.Go(func() {
			errs[i] = n.Admin.Call(ctx, method, c.req, &answers[i])
			switch {
			case errs[i] != nil:
				errs[i] = fmt.Errorf("node %d: %w", n.ID, errs[i])
			case answers[i].Code != "":
				errs[i] = &mtm.Error{Code: answers[i].Code, Msg: answers[i].Error, Detail: fmt.Sprintf("On node %d.", n.ID)}
			}
		})
	}
	work.Wait()
	return answers, errors.Join(errs...)
}

// compareQuery tells "t" or "f", and behind it what to warn of.
func (d *daemon) compareQuery(ctx context.Context, nodes []admin.Node, q checkQuery, tell func(string)) (string, error) {
	r, err := d.rosterOf()
	if err != nil {
		return "", err
	}
	c := &comparison{req: checkRequest{ID: fmt.Sprintf("%d-%d", d.cfg.NodeID, time.Now().UnixNano()), checkQuery: q}}
	missing, reached := "", r.others().With(d.cfg.NodeID)
	for _, n := range nodes {
		if reached.Has(mtm.NodeID(n.ID)) {
			c.nodes = append(c.nodes, n)
		} else {
			missing += fmt.Sprintf(" %d", n.ID)
		}
	}
	if missing != "" {
		missing = "not compared, for they are out of reach: nodes" + missing
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), peerWait)
		defer cancel()
		_, _ = c.each(ctx, "check_end")
	}()
	if _, err := c.each(ctx, "check_open"); err != nil {
		return "", err
	}
	differed := 0
	var why error
	for round := range checkRounds {
		tell(fmt.Sprintf("comparing, round %d", round+1))
		at, still, err := c.look(ctx, round > 0)
		var pg *mtm.Error
		switch {
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case errors.As(err, &pg):
			return "", err
		case err != nil:
			why = err
			continue
		}
		bucket, different := firstDifference(at)
		if !different {
			return "t" + missing, nil
		}
		if !still {
			continue
		}
		if differed++; differed == 2 {
			text, err := c.show(ctx, bucket)
			return "f" + text, err
		}
	}
	return "", &mtm.Error{Code: "55000", Msg: "the nodes were never at rest together, so it cannot be told whether the results differ", Hint: "Try again.", Err: why}
}

// look reads the query's result on all nodes. still: no transaction was under way anywhere when they took their snapshots.
func (c *comparison) look(ctx context.Context, hold bool) (at []map[int]string, still bool, err error) {
	if hold {
		_, err = c.each(ctx, "check_hold")
	}
	var seen, released []checkAnswer
	if err == nil {
		seen, err = c.each(ctx, "check_snapshot")
	}
	if hold {
		var endErr error
		released, endErr = c.each(ctx, "check_release")
		err = cmp.Or(err, endErr)
	}
	if err != nil {
		return nil, false, err
	}
	still = hold
	for i := range seen {
		still = still && seen[i].Still && seen[i].Gen == seen[0].Gen && released[i].Still
	}
	answers, err := c.each(ctx, "check_digest")
	for _, a := range answers {
		at = append(at, a.Buckets)
	}
	return at, still, err
}

// firstDifference is the first bucket in which nodes have different rows.
func firstDifference(at []map[int]string) (bucket int, different bool) {
	for b := range 256 {
		for _, one := range at {
			if one[b] != at[0][b] {
				return b, true
			}
		}
	}
	return 0, false
}

// show tells of a row that differs.
func (c *comparison) show(ctx context.Context, bucket int) (string, error) {
	c.req.Bucket = bucket
	answers, err := c.each(ctx, "check_rows")
	if err != nil {
		return "", err
	}
	last := int64(math.MaxInt64) // of a bucket that was cut short only what all have is compared
	counts, texts := map[int64]map[int]int64{}, map[int64]string{}
	for i, a := range answers {
		if len(a.Rows) == checkRows {
			last = min(last, a.Rows[checkRows-1].Hash)
		}
		for _, row := range a.Rows {
			if counts[row.Hash] == nil {
				counts[row.Hash] = map[int]int64{}
			}
			counts[row.Hash][i] = row.Count
			texts[row.Hash] = row.Text
		}
	}
	for _, hash := range slices.Sorted(maps.Keys(counts)) {
		var says []string
		differ := false
		for i, n := range c.nodes {
			differ = differ || counts[hash][i] != counts[hash][0]
			says = append(says, "node "+strconv.Itoa(n.ID)+": "+strconv.FormatInt(counts[hash][i], 10))
		}
		if differ && hash <= last {
			return fmt.Sprintf("the row %s is there so many times: %s", texts[hash], strings.Join(says, ", ")), nil
		}
	}
	return "the nodes have different rows", nil
}
