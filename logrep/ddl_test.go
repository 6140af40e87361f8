package logrep

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// ddl is what a gateway sends for a statement.
func ddl(d ddlMessage) []string {
	d.V = 1
	if d.SearchPath == "" {
		d.SearchPath = `"$user", public`
	}
	content, _ := json.Marshal(d)
	return []string{
		say("mtm.ddl", string(content)),
		d.Text,
		say("mtm.ddlend", ""),
	}
}

func text(sql string) []string { return ddl(ddlMessage{Text: sql}) }

func join(lists ...[]string) (all []string) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func TestDDLThenRowsInOneTransaction(t *testing.T) {
	p := newPair(t)
	c := p.commit(join(text("CREATE TABLE t (id int PRIMARY KEY, v int)"), []string{"INSERT INTO t VALUES (1, 10)"},
		text("ALTER TABLE t ALTER v TYPE text USING 'x' || v, ADD w numeric DEFAULT 1.50"), []string{"INSERT INTO t VALUES (2, 'two')", "UPDATE t SET v = 'y', w = 0.1"},
		text("ALTER TABLE t DROP COLUMN v"), []string{"INSERT INTO t SELECT g, g FROM generate_series(3, 100) g"},
		text("CREATE TYPE mood AS ENUM ('a'); CREATE TABLE m (x mood PRIMARY KEY)"), []string{"INSERT INTO m VALUES ('a')"})...)
	require.True(t, c.p.Has(mtm.PayloadDDL))
	require.Equal(t, 100+1, p.same("t", "m"))
	// Statements that other workers prepared before the change still do right.
	p.commit("INSERT INTO t VALUES (200, 1)", "UPDATE t SET w = 2 WHERE id = 200")
	p.commit(text("ALTER TABLE t ALTER w TYPE float8, ADD j jsonb")...)
	p.commit("INSERT INTO t VALUES (201, 0.1, '{}')", "UPDATE t SET w = 1e-300 WHERE id = 200", "DELETE FROM t WHERE id < 50")
	p.same("t")
	p.commit(text("DROP TABLE t")...)
	require.Empty(t, p.b.rows("SELECT 1 FROM pg_class WHERE relname = 't'"))
}

func TestDDLRunsInTheSurroundingsOfItsClient(t *testing.T) {
	p := newPair(t, "DO $$ BEGIN CREATE ROLE ddl_owner; EXCEPTION WHEN duplicate_object THEN NULL; END $$", "CREATE SCHEMA s AUTHORIZATION ddl_owner")
	p.a.exec("SET search_path = s, public; SET check_function_bodies = off; SET DateStyle = 'German'")
	d := ddlMessage{Role: "ddl_owner", SessionUser: "postgres", SearchPath: "s, public",
		Settings: map[string]string{"check_function_bodies": "off", "DateStyle": "German, DMY", "session_replication_role": "origin", "my.own": "1", "not_in_this_version": "1"}}
	d.Text = "CREATE TABLE t (id int PRIMARY KEY, d date DEFAULT '02.03.2024')"
	f := d
	f.Text = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT nothing FROM nowhere'"
	p.a.exec("SET ROLE ddl_owner")
	p.commit(join(ddl(d), []string{"RESET DateStyle", "INSERT INTO t (id) VALUES (1)"}, ddl(f))...)
	p.a.exec("RESET ROLE; RESET DateStyle")
	require.Equal(t, 1, p.same("s.t"))
	sql := "SELECT pg_get_userbyid(relowner), (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = c.oid) FROM pg_class c WHERE relname = 't'"
	require.Equal(t, p.a.rows(sql), p.b.rows(sql))
	p.commit("INSERT INTO s.t VALUES (2)") // the worker is itself again
	p.same("s.t")
}

func TestTableAsExecute(t *testing.T) {
	p := newPair(t)
	p.a.exec("PREPARE q (int) AS SELECT random() AS r, $1 AS i")
	for i, sql := range []string{"CREATE TABLE e AS EXECUTE q(5)", "EXPLAIN (ANALYZE, COSTS OFF) CREATE TABLE f AS EXECUTE q(6)",
		"EXPLAIN ANALYZE VERBOSE CREATE TABLE g AS SELECT random() AS r"} {
		d := ddlMessage{Text: sql}
		if i < 2 {
			d.Prepared, d.Prepare = "q", "PREPARE q (int) AS SELECT random() AS r, $1 AS i;"
		}
		p.commit(ddl(d)...)
	}
	require.Equal(t, 3, p.same("e", "f", "g"))
}

func TestRowsThatDDLMadeAreEqual(t *testing.T) {
	p := newPair(t, "CREATE TABLE src (id int PRIMARY KEY); INSERT INTO src SELECT generate_series(1, 100)")
	for _, sql := range []string{
		"CREATE TABLE c1 AS SELECT id, random() r FROM src",
		"CREATE TABLE IF NOT EXISTS c2 (a, b) AS SELECT id, random() FROM src WITH DATA ; -- done",
		"CREATE TABLE c3 AS SELECT id, random() FROM src WITH NO DATA",
		"SELECT id, random() AS r INTO c4 FROM src WHERE id < 50",
		"WITH x AS (SELECT id, random() AS r FROM src) SELECT r, id INTO TABLE public.c5 FROM x /* ; */",
		"CREATE TABLE c6 (id int, r float8 GENERATED ALWAYS AS (id * 2) STORED)",
	} {
		p.commit(text(sql)...)
	}
	require.Equal(t, 100+100+49+100, p.same("c1", "c2", "c3", "c4", "c5", "c6"))
	// Row changes of a statement whose text runs here are not applied twice.
	p.commit(join(text("DO $$ BEGIN INSERT INTO src VALUES (1000); CREATE TABLE c7 (id int); END $$"), []string{"INSERT INTO c7 VALUES (1)"})...)
	require.Equal(t, 101+1, p.same("src", "c7"))
}

func TestDDLThatFailsIsTold(t *testing.T) {
	p := newPair(t)
	p.b.exec("CREATE TABLE t (id int)")
	c := p.prepare(text("CREATE TABLE t (id int)")...)
	err := p.apply(c)
	require.NotNil(t, err)
	require.Equal(t, "42P07", err.Code)
	p.finish(c.gid, false)
	c = p.prepare(say("mtm.ddl", `{"v": 2, "text": "SELECT 1"}`))
	require.Equal(t, mtm.CodeNotSupported, p.apply(c).Code)
	p.finish(c.gid, false)
	p.commit(text("CREATE TABLE x (id int)")...)
}

// Event triggers do not fire where rows are applied: what they write travels. Before the statement, after it, and beside one that is not sent.
func TestRowsThatEventTriggersWrite(t *testing.T) {
	p := newPair(t, "CREATE TABLE seen (n int PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY)")
	say := func(what, content string) string {
		return fmt.Sprintf("SELECT mtm.say('mtm.ddl%s', '%s')", what, content)
	}
	around := func(n int, sql, scope string) []string {
		steps := text(sql)
		return []string{
			steps[0], say("before", ""), fmt.Sprintf("INSERT INTO seen VALUES (%d)", n), say("run", ""), steps[1], say("end", scope),
			fmt.Sprintf("INSERT INTO seen VALUES (%d)", n+1), say("end", scope),
		}
	}
	p.commit(around(1, "DROP TABLE t", "permanent")...)
	for n, scope := range []string{"temporary", "nothing"} {
		steps := around(3+2*n, "DROP TABLE t", scope)
		steps[4] = "SELECT 'it was temporary, or there was none'"
		c := p.commit(steps...)
		require.False(t, c.p.Has(mtm.PayloadDDL))
	}
	require.Equal(t, 6, p.same("seen"))
	c := p.prepare(join(text("DROP TABLE t")[:1], []string{say("end", "nothing")})...)
	require.True(t, c.p.Has(mtm.PayloadEmpty), "else it would be an incident when it is committed plainly")
	p.finish(c.gid, false)
	require.Empty(t, p.b.rows("SELECT 1 FROM pg_class WHERE relname = 't'"))
}

func TestWithoutRows(t *testing.T) {
	for in, want := range map[string]string{
		"create table a as select 1":                            "create table a as select 1 WITH NO DATA",
		"CREATE UNLOGGED TABLE a AS TABLE b WITH DATA":          "CREATE UNLOGGED TABLE a AS TABLE b  WITH NO DATA",
		"CREATE TABLE a AS SELECT 1 -- x":                       "CREATE TABLE a AS SELECT 1 WITH NO DATA",
		"CREATE TABLE a (b int GENERATED ALWAYS AS (1) STORED)": "",
		"CREATE TEMP TABLE a AS SELECT 1":                       "",
		"CREATE VIEW a AS SELECT 1":                             "",
		"CREATE MATERIALIZED VIEW a AS SELECT 1 WITH DATA;":     "CREATE MATERIALIZED VIEW a AS SELECT 1  WITH NO DATA",
		"refresh materialized view concurrently a.b with data":  "refresh materialized view              a.b  WITH NO DATA",
		"CREATE TABLE a PARTITION OF b FOR VALUES IN (1)":       "",
		"SELECT 1":                                         "",
		"SELECT (SELECT 1 AS into_) FROM a":                "",
		"SELECT 1 INTO a; SELECT 2":                        "",
		"SELECT 1 AS x INTO UNLOGGED TABLE \"A\".b FROM c": "CREATE UNLOGGED TABLE \"A\".b AS SELECT 1 AS x  FROM c WITH NO DATA",
		"'unterminated":                                    "",
		"":                                                 "",
	} {
		got, ok := withoutRows(in)
		require.Equal(t, want != "", ok, in)
		if ok {
			require.Equal(t, want, got)
		}
	}
}
