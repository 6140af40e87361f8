package verify_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"mtm/cmd/mtmctl/verify"
	"mtm/testcluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is three databases of one server, which stand for three nodes.
type world struct {
	t       *testing.T
	sources []verify.Source
	dbs     []*pgx.Conn
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	node := testcluster.Start(t, testcluster.Options{Nodes: 1, PostgresOnly: true, Database: "base"}).Node(1)
	for _, name := range []string{"a", "b", "c"} {
		_, err := node.ConnectPg().Exec(t.Context(), "CREATE DATABASE "+name+" TEMPLATE template0")
		require.NoError(t, err)
		url := strings.Replace(node.PgURL(), "/base", "/"+name, 1)
		db, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(func() { db.Close(context.Background()) })
		w.dbs = append(w.dbs, db)
		w.sources = append(w.sources, verify.Source{Name: name, URL: url})
	}
	return w
}

// on runs SQL on the named nodes, "abc".
func (w *world) on(nodes, sql string) {
	w.t.Helper()
	for _, n := range nodes {
		_, err := w.dbs[n-'a'].Exec(w.t.Context(), sql)
		require.NoError(w.t, err, sql)
	}
}

// found compares and gives what differs, one line each.
func (w *world) found(o verify.Options) (lines []string) {
	w.t.Helper()
	if o.Settle == 0 {
		o.Settle = 200 * time.Millisecond
	}
	r, err := verify.Run(w.t.Context(), w.sources, o)
	require.NoError(w.t, err)
	for _, d := range r.Definitions {
		lines = append(lines, fmt.Sprintf("%s %s: %s", d.Kind, d.Name, strings.Join(d.On, " / ")))
	}
	for _, t := range r.Differing {
		for _, d := range t.Rows {
			lines = append(lines, fmt.Sprintf("%s %s: %s", t.Name, d.Name, strings.Join(d.On, " / ")))
		}
	}
	require.Equal(w.t, len(lines) == 0, r.Equal)
	return lines
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	w.on("abc", `CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN code AS bpchar(4);
		CREATE TABLE k (a int, "B b" text, c bpchar(3), v numeric, PRIMARY KEY (a, "B b", c));
		INSERT INTO k SELECT g, 'x' || g, 'q', g FROM generate_series(1, 3000) g;
		CREATE TABLE e (m mood PRIMARY KEY, i int); INSERT INTO e VALUES ('sad', 1), ('glad', 2);
		CREATE TABLE d (m code NOT NULL UNIQUE, i int); INSERT INTO d VALUES ('ab', 1);
		CREATE TABLE bag (x float8, j json); INSERT INTO bag SELECT 1.5, '{}' FROM generate_series(1, 3);
		CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part1 PARTITION OF part DEFAULT;
		INSERT INTO part VALUES (1); CREATE MATERIALIZED VIEW mat AS SELECT 1 AS one;
		CREATE UNLOGGED TABLE local (x int); CREATE SEQUENCE s; CREATE TABLE long (id int PRIMARY KEY, t text);
		INSERT INTO long VALUES (1, repeat('x', 1000))`)
	w.on("a", `INSERT INTO local VALUES (1); SELECT nextval('s')`)
	w.on("abc", `CREATE SCHEMA mtm; CREATE TABLE mtm.local_tables (relid regclass);
		CREATE TABLE "Mine" (x int); INSERT INTO mtm.local_tables VALUES ('"Mine"')`)
	w.on("b", `INSERT INTO "Mine" VALUES (1)`)
	w.on("b", `ALTER SEQUENCE s INCREMENT 16`)
	require.Empty(t, w.found(verify.Options{}), "what is local does not count")
	w.on("c", `DELETE FROM mtm.local_tables`)
	require.Equal(t, []string{`local table public."Mine": exists / exists / `}, w.found(verify.Options{})[:1])
	w.on("c", `INSERT INTO mtm.local_tables VALUES ('"Mine"')`)

	w.on("b", `UPDATE k SET v = 0 WHERE a = 17; DELETE FROM k WHERE a = 18; UPDATE e SET i = 9 WHERE m = 'glad';
		UPDATE d SET i = 9; UPDATE part SET id = 2; UPDATE long SET t = t || 'y'`)
	w.on("c", `DELETE FROM bag WHERE ctid = '(0,1)'; DROP MATERIALIZED VIEW mat; CREATE MATERIALIZED VIEW mat AS SELECT 2 AS one`)
	lines := w.found(verify.Options{})
	require.Len(t, lines, 11, lines)
	require.Contains(t, lines[0], "materialized view public.mat")
	require.Regexp(t, `^public.bag of hash -?\d+: 3 × \(1.5,\{\}\) / 3 × \(1.5,\{\}\) / 2 × \(1.5,\{\}\)$`, lines[1])
	require.Equal(t, []string{
		"public.d (m) = (ab): (\"ab  \",1) / (\"ab  \",9) / (\"ab  \",1)",
		"public.e (m) = (glad): (glad,2) / (glad,9) / (glad,2)",
		`public.k (a, "B b", c) = (17, x17, q): (17,x17,"q  ",17) / (17,x17,"q  ",0) / (17,x17,"q  ",17)`,
		`public.k (a, "B b", c) = (18, x18, q): (18,x18,"q  ",18) /  / (18,x18,"q  ",18)`,
	}, lines[2:6])
	require.Regexp(t, `x… \(hash .*x… \(hash `, lines[6], "what is cut off says that it differs")
	for i, prefix := range []string{"public.mat of hash", "public.mat of hash", "public.part1 (id) = (1)", "public.part1 (id) = (2)"} {
		require.True(t, strings.HasPrefix(lines[7+i], prefix), lines[7+i])
	}
}

func TestVerifyDefinitions(t *testing.T) {
	w := newWorld(t)
	w.on("abc", `CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v > 0)); CREATE VIEW v AS SELECT id FROM t;
		CREATE FUNCTION f(int) RETURNS int LANGUAGE sql RETURN $1; CREATE TYPE mood AS ENUM ('sad')`)
	for _, one := range []struct{ change, undo, want string }{
		{"CREATE INDEX i ON t (v)", "DROP INDEX i", "index public.i"},
		{"ALTER TABLE t ADD COLUMN n int", "ALTER TABLE t DROP COLUMN n", "column public.t.n"},
		{"ALTER TABLE t ALTER v SET DEFAULT 7", "ALTER TABLE t ALTER v DROP DEFAULT", "default 7"},
		{"ALTER TABLE t ADD CHECK (id > 0)", "ALTER TABLE t DROP CONSTRAINT t_id_check", "constraint public.t.t_id_check"},
		{"CREATE OR REPLACE VIEW v AS SELECT id + 0 AS id FROM t", "CREATE OR REPLACE VIEW v AS SELECT id FROM t", "view public.v"},
		{"CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql RETURN 2", "CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql RETURN $1", "function public.f(integer)"},
		{"GRANT SELECT ON t TO public", "REVOKE SELECT ON t FROM public", "table public.t"},
		{"CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)", "DROP OPERATOR === (int, int)", "operator public.===(integer,integer)"},
		{"COMMENT ON COLUMN t.v IS 'x'", "COMMENT ON COLUMN t.v IS NULL", "comment public.t.v"},
		{"CREATE TABLE u (x int)", "DROP TABLE u", "table public.u"},
		{"ALTER TYPE mood ADD VALUE 'glad'", "", "type public.mood"},
	} {
		w.on("b", one.change)
		require.Contains(t, strings.Join(w.found(verify.Options{}), "\n"), one.want, one.change)
		if one.undo == "" {
			break
		}
		w.on("b", one.undo)
	}
}

func TestVerifyMoreRowsThanAreFollowed(t *testing.T) {
	w := newWorld(t)
	w.on("abc", `CREATE TABLE t (id int PRIMARY KEY)`)
	w.on("b", `INSERT INTO t SELECT generate_series(1, 20000)`)
	r, err := verify.Run(t.Context(), w.sources, verify.Options{Rows: 10, Settle: 100 * time.Millisecond})
	require.NoError(t, err)
	require.True(t, r.Differing[0].More)
	require.Len(t, r.Differing[0].Rows, 10)
}

// TestVerifyUnderLoad: nodes that get the same changes, one a little after the other, are equal; a row that differs is
// found among the hot ones.
func TestVerifyUnderLoad(t *testing.T) {
	w := newWorld(t)
	patient := verify.Options{Settle: 3 * time.Second} // a busy machine may stop the load between two nodes for a moment
	w.on("abc", `CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 50) g;
		CREATE TABLE bag (n int); INSERT INTO bag SELECT g FROM generate_series(1, 20) g`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.load(ctx) }()
	for range 5 {
		if lines := w.found(patient); len(lines) > 0 {
			t.Errorf("differs: %v", lines)
		}
	}
	cancel()
	require.NoError(t, <-done)
	require.Empty(t, w.found(verify.Options{}))
	w.on("c", `UPDATE t SET n = -1 WHERE id = 50`)
	require.Len(t, w.found(verify.Options{}), 1)
}

// load makes the same changes on all nodes, in turn, until ctx ends. DDL is among them.
func (w *world) load(ctx context.Context) error {
	for i := 0; ; i++ {
		for _, db := range w.dbs {
			_, err := db.Exec(context.Background(), fmt.Sprintf(`UPDATE t SET n = %d WHERE id = %d; UPDATE t SET n = n + 1 WHERE id = 1;
				DELETE FROM bag WHERE n = %[2]d; INSERT INTO bag VALUES (%[1]d %% 25);
				CREATE TABLE tmp%[1]d (x int PRIMARY KEY); DROP TABLE IF EXISTS tmp%[3]d`, i, i%40+1, max(i-5, 0)))
			if err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}
