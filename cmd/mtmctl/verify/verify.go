package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// Source is one node: a name for the result, and how to reach its PostgreSQL, straight or through the gateway.
type Source struct {
	Name string
	URL  string // URL or keyword form; $PG… variables and ~/.pgpass fill in what it lacks
}

// Options bound the work.
type Options struct {
	Settle   time.Duration                    // how long a difference must stay as it is to count; 0: 5 s
	Rows     int                              // rows of a table that are followed and listed at most; 0: 10000
	Progress func(format string, args ...any) // what is being done; may be nil
}

// Result is what was found.
type Result struct {
	Equal       bool         `json:"equal"`
	Nodes       []string     `json:"nodes"`
	Tables      int          `json:"tables"` // whose rows were compared
	Rows        int64        `json:"rows"`   // on the first node
	Definitions []Difference `json:"definitions"`
	Differing   []Table      `json:"differing"`
}

// Difference is one thing that is not the same everywhere: an object, or a row.
type Difference struct {
	Kind      string   `json:"kind"` // "row", "table", "index", …
	Name      string   `json:"name"` // of the object; the key of a row
	On        []string `json:"on"`   // per node, in the order of Result.Nodes: what it has; empty: nothing
	Undecided bool     `json:"undecided,omitempty"`
}

// Table is a table with rows that differ.
type Table struct {
	Name string       `json:"table"`
	More bool         `json:"more,omitempty"` // more rows differ than are listed
	Rows []Difference `json:"rows"`
}

// Undecided reports whether nothing differs for certain, but something kept changing for too long to be compared.
func (r *Result) Undecided() bool {
	some := false
	for _, d := range r.all() {
		if !d.Undecided {
			return false
		}
		some = true
	}
	for _, t := range r.Differing {
		if t.More && len(t.Rows) == 0 {
			some = true
		}
	}
	return some
}

func (r *Result) all() (all []Difference) {
	all = append(all, r.Definitions...)
	for _, t := range r.Differing {
		all = append(all, t.Rows...)
	}
	return all
}

// ErrConnect is wrapped by the error of Run when a node cannot be reached.
var ErrConnect = errors.New("a node cannot be reached")

const (
	defaultSettle = 5 * time.Second
	defaultRows   = 10000
	maxPasses     = 5 // how often what a concurrent change interrupted is tried again
)

// verifier is one run.
type verifier struct {
	Options
	conns  []*pgx.Conn // one per source
	result *Result
}

// Run compares the sources, two or more. The error is of the comparing itself: that nodes differ is in the result.
func Run(ctx context.Context, sources []Source, o Options) (*Result, error) {
	if len(sources) < 2 {
		return nil, errors.New("there must be at least two nodes to compare")
	}
	if o.Settle <= 0 {
		o.Settle = defaultSettle
	}
	if o.Rows <= 0 {
		o.Rows = defaultRows
	}
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	v := &verifier{Options: o, conns: make([]*pgx.Conn, len(sources)), result: &Result{}}
	for _, s := range sources {
		v.result.Nodes = append(v.result.Nodes, s.Name)
	}
	defer v.close()
	if err := v.connect(ctx, sources); err != nil {
		return nil, err
	}
	if err := v.definitions(ctx); err != nil {
		return nil, err
	}
	if err := v.tables(ctx); err != nil {
		return nil, err
	}
	v.result.Equal = len(v.result.Definitions) == 0 && len(v.result.Differing) == 0
	return v.result, nil
}

// settings make every node print the same value in the same way.
const settings = `SELECT set_config(name, value, false) FROM (VALUES ('search_path', 'pg_catalog'), ('datestyle', 'ISO'),
	('intervalstyle', 'postgres'), ('timezone', 'UTC'), ('extra_float_digits', '1'), ('bytea_output', 'hex'),
	('lc_monetary', 'C'), ('row_security', 'off'), ('statement_timeout', '0'), ('lock_timeout', '0'),
	('transaction_timeout', '0'), ('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '0'), ('default_transaction_read_only', 'on')) AS s (name, value)
	WHERE name IN (SELECT name FROM pg_settings)`

func (v *verifier) connect(ctx context.Context, sources []Source) error {
	return v.each(func(i int) error {
		cfg, err := pgx.ParseConfig(sources[i].URL)
		if err != nil {
			return err
		}
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // no cached plan outlives a change of its table
		cfg.RuntimeParams["application_name"] = "mtmctl verify"
		cfg.RuntimeParams["client_encoding"] = "UTF8"
		if v.conns[i], err = pgx.ConnectConfig(ctx, cfg); err != nil {
			return fmt.Errorf("%w: %w", ErrConnect, err)
		}
		_, err = v.conns[i].Exec(ctx, settings)
		return err
	})
}

func (v *verifier) close() {
	for _, c := range v.conns {
		if c != nil {
			c.Close(context.Background()) //nolint:errcheck // nothing was written
		}
	}
}

// each runs f for all nodes at once, and gives the first error, with the name of its node.
func (v *verifier) each(f func(i int) error) error {
	var g errgroup.Group
	for i := range v.conns {
		g.Go(func() error {
			if err := f(i); err != nil {
				return fmt.Errorf("node %s: %w", v.result.Nodes[i], err)
			}
			return nil
		})
	}
	return g.Wait()
}

// changedUnderway reports whether an object was dropped or altered between two looks at it.
func changedUnderway(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "42P01", "42703", "42704", "42883", "3F000", "55000", "XX000":
		return true
	}
	return false
}
