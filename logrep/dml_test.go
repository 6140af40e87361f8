package logrep

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

func TestRowsTravel(t *testing.T) {
	p := newPair(t, `CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE "We ird"".T" ("a b" int PRIMARY KEY, "sel""ect" text);
		CREATE TABLE only_key (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE no_columns ()`)
	p.commit("INSERT INTO t VALUES (1, 'one'), (2, NULL), (3, E'tab\\t nl\\n bs\\\\ \\'')")
	p.commit("UPDATE t SET v = 'ONE' WHERE id = 1", "DELETE FROM t WHERE id = 2")
	p.commit("UPDATE t SET id = id + 10")
	p.commit(`INSERT INTO "We ird"".T" VALUES (1, 'x')`, `UPDATE "We ird"".T" SET "sel""ect" = 'y', "a b" = 2`)
	p.commit("INSERT INTO only_key VALUES (1, 1), (2, 2), (3, 3)", "UPDATE only_key SET a = a", "UPDATE only_key SET b = 9 WHERE a = 2",
		"DELETE FROM only_key WHERE a = 3", "INSERT INTO no_columns DEFAULT VALUES")
	p.commit("INSERT INTO t SELECT g, 'x' || g FROM generate_series(100, 300) g", "UPDATE t SET v = v || '!' WHERE id % 7 = 0")
	require.Equal(t, 203+1+2, p.same("t", `"We ird"".T"`, "only_key"))
	require.Equal(t, 1, p.same("no_columns"))
	p.commit("TRUNCATE t", "INSERT INTO t VALUES (1, 'again')")
	require.Equal(t, 1, p.same("t"))
}

func TestRollbackLeavesNothing(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	c := p.prepare("INSERT INTO t VALUES (1, 'one')")
	require.Nil(t, p.apply(c))
	require.Equal(t, []string{"|" + c.gid.String()}, p.b.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"))
	p.finish(c.gid, false)
	require.Zero(t, p.same("t"))
	p.finish(c.gid, true) // unknown by now: counts as done
	require.Zero(t, p.same("t"))
}

// One column per built-in type, with values whose text form could get lost.
var typeValues = []string{
	"smallint -32768", "int 2147483647", "bigint -9223372036854775808", "numeric 'NaN'", "numeric(20,5) 12345.67800", "numeric '1e-300'",
	"real '1.1'", "real '-0'", "float8 '0.1'", "float8 'Infinity'", "float8 '1.7976931348623157e308'", "money '-1234.56'",
	"text E'a\\\\\\tb\\n\\r'", "text ''", "varchar(5) 'ab   '", "char(5) 'ab'", "name 'n'", "\"char\" 'x'", "bytea '\\x00ff5c27'", "boolean true",
	"date 'infinity'", "date '0044-03-15 BC'", "time '24:00'", "timetz '23:59:59.999999-15:59'", "timestamp '-infinity'",
	"timestamptz '2024-02-29 23:59:59.123456+05:30'", "interval '-1 mon +2 days -03:04:05.6'", "uuid 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
	"json '{\"b\": 1,  \"a\":[null]}'", "jsonb '{\"b\":1.50,\"a\":\"\\u0041\"}'", "jsonpath '$.a[*] ? (@ > 1)'", "xml '<a b=\"c\">&lt;</a>'",
	"point '(1.5,-2)'", "line '{1,2,3}'", "lseg '[(0,0),(1,1)]'", "box '((0,0),(1,1))'", "path '((0,0),(1,1))'", "path '[(0,0),(1,1)]'",
	"polygon '((0,0),(1,1),(1,0))'", "circle '<(0,0),1.1>'", "cidr '10.1.0.0/16'", "inet '10.1.2.3'", "inet '::1/64'", "macaddr '08:00:2b:01:02:03'",
	"macaddr8 '08:00:2b:01:02:03:04:05'", "bit(3) B'101'", "varbit(9) B'10101'", "tsvector 'a:1A b''c:2'", "tsquery 'a & !(b | c)'",
	"oid 4294967295", "xid '123'", "xid8 '12345678901'", "pg_lsn '16/B374D848'", "tid '(1,2)'", "cid '7'", "pg_snapshot '10:20:10,14'", "regclass 'public.keyed'",
	"regtype 'public.mood'", "regrole 'postgres'", "regnamespace 'public'", "regproc 'pg_catalog.now'", "regprocedure 'pg_catalog.abs(int)'",
	"int4range '[1,5)'", "numrange '(,3.5]'", "tstzrange '[2020-01-01 00:00+00,)'", "int4multirange '{[1,3),[7,9)}'", "daterange 'empty'",
	"int[] '{1,NULL,3}'", "int[] '[2:3]={1,2}'", "text[] E'{\"a,b\",\"\\\\\"\",NULL,\"NULL\"}'", "text[] '{{a,b},{c,d}}'", "json[] '{\"{}\"}'", "xml[] '{<a/>}'", "point[] '{\"(1,2)\"}'",
	"mood 'it''s ok'", "mood[] '{sad,\"it''s ok\"}'", "posint 5", "email 'A@b'", "pair_t ROW(1,'x,\"y')", "pair_t ROW(NULL,NULL)", "pair_t[] ARRAY[ROW(1,'a')::pair_t]", "pairdom ROW(2,'z')",
	"floatrange '[1.5,2.5)'", "char(3)[] '{ab,c}'", "interval day to second '1 02:03:04'", "refcursor 'c'", "int2vector '1 2 3'", "oidvector '1 2'", "boolean[] '{t,f}'",
}

const typeSetup = `
	CREATE TYPE mood AS ENUM ('sad', 'it''s ok'); CREATE DOMAIN posint AS int CHECK (VALUE > 0);
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE DOMAIN email AS text COLLATE nocase; CREATE TYPE pair_t AS (n int, s text); CREATE DOMAIN pairdom AS pair_t;
	CREATE TYPE floatrange AS RANGE (subtype = float8); CREATE TABLE keyed (id int PRIMARY KEY)`

// typeColumns makes "cN type" and "CAST(value AS type)".
func typeColumns() (defs, values []string) {
	for i, tv := range typeValues {
		cut := strings.LastIndex(tv, " ")
		if k := strings.IndexAny(tv, "'"); k > 0 {
			cut = strings.LastIndex(strings.TrimSuffix(strings.TrimSuffix(tv[:k], "E"), "B"), " ")
		}
		if k := strings.Index(tv, "ROW("); k > 0 {
			cut = k - 1
		}
		if k := strings.Index(tv, "ARRAY["); k > 0 {
			cut = k - 1
		}
		defs = append(defs, fmt.Sprintf("c%d %s", i, tv[:cut]))
		values = append(values, fmt.Sprintf("CAST(%s AS %s)", tv[cut+1:], tv[:cut]))
	}
	return defs, values
}

func TestAllTypes(t *testing.T) {
	defs, values := typeColumns()
	p := newPair(t, typeSetup,
		"CREATE TABLE ty (id int PRIMARY KEY, "+strings.Join(defs, ", ")+")",
		"CREATE TABLE tyfull ("+strings.Join(defs, ", ")+"); ALTER TABLE tyfull REPLICA IDENTITY FULL")
	// What a session says about notation must not matter.
	const notation = "SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'; SET extra_float_digits = -3; SET TimeZone = 'Asia/Kolkata'; SET bytea_output = 'escape'"
	p.a.exec(notation)
	row := strings.Join(values, ", ")
	p.commit("INSERT INTO ty VALUES (1, "+row+"), (2"+strings.Repeat(", NULL", len(defs))+")",
		"INSERT INTO tyfull VALUES ("+row+"), ("+row+"), (NULL"+strings.Repeat(", NULL", len(defs)-1)+")")
	p.a.exec("RESET ALL")
	require.Equal(t, 2+3, p.same("ty", "tyfull"))
	p.a.exec(notation)
	var sets []string
	for i, v := range values {
		sets = append(sets, fmt.Sprintf("c%d = %s", i, v))
	}
	p.commit("UPDATE ty SET "+strings.Join(sets, ", ")+" WHERE id = 2", "UPDATE ty SET c0 = NULL WHERE id = 1")
	p.commit("INSERT INTO ty SELECT g + 10, (SELECT 1) FROM generate_series(1, 100) g", "INSERT INTO ty SELECT 200 + g, "+row+" FROM generate_series(1, 60) g")
	// One of two equal rows changes, then one goes: found by content, types without equality among it.
	p.commit("UPDATE tyfull SET c1 = 5 WHERE ctid = (SELECT max(ctid) FROM tyfull WHERE c1 IS NOT NULL)")
	p.commit("UPDATE tyfull SET c1 = 7 WHERE c1 IS NULL", "DELETE FROM tyfull WHERE c1 = 5")
	p.a.exec("RESET ALL")
	require.Equal(t, 2+100+60+2, p.same("ty", "tyfull"))
	p.commit("DELETE FROM tyfull", "DELETE FROM ty")
	require.Zero(t, p.same("ty", "tyfull"))
}

func TestEveryTypeCanBeAKey(t *testing.T) {
	setup := []string{typeSetup}
	var names []string
	defs, values := typeColumns()
	for i, def := range defs {
		if strings.Contains(typeValues[i], "NULL,NULL") {
			continue
		}
		typ := strings.SplitN(def, " ", 2)[1]
		name := fmt.Sprintf("k%d", i)
		setup = append(setup, fmt.Sprintf(`DO $$ BEGIN
			CREATE TABLE %s (id %s PRIMARY KEY, v int); EXCEPTION WHEN undefined_object THEN NULL; END $$`, name, typ))
		names = append(names, fmt.Sprintf("%s\x00%s", name, values[i]))
	}
	p := newPair(t, setup...)
	var insert, update, del, tables []string
	for _, n := range names {
		name, value, _ := strings.Cut(n, "\x00")
		if len(p.a.rows("SELECT 1 WHERE to_regclass('"+name+"') IS NOT NULL")) == 0 {
			continue
		}
		tables = append(tables, name)
		insert = append(insert, fmt.Sprintf("INSERT INTO %s VALUES (%s, 1)", name, value))
		update = append(update, fmt.Sprintf("UPDATE %s SET v = 2", name))
		del = append(del, fmt.Sprintf("DELETE FROM %s", name))
	}
	require.Greater(t, len(tables), 50)
	p.commit(insert...)
	p.commit(update...)
	require.Equal(t, len(tables), p.same(tables...))
	for i, sql := range update { // small ones too, which are checked by SQL
		p.commit(strings.Replace(sql, "v = 2", "v = 3", 1))
		p.commit(del[i])
	}
	require.Zero(t, p.same(tables...))
}

func TestGeneratedIdentityAndToast(t *testing.T) {
	p := newPair(t, `CREATE TABLE g (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED, big text);
		CREATE TABLE i2 (k int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, big text, v int);
		CREATE TABLE d (k int PRIMARY KEY, n int GENERATED BY DEFAULT AS IDENTITY, v int);
		ALTER TABLE g ALTER big SET STORAGE EXTERNAL; ALTER TABLE i2 ALTER big SET STORAGE EXTERNAL`)
	p.commit("INSERT INTO g (a, big) SELECT x, repeat('x', 5000) FROM generate_series(1, 5) x", "INSERT INTO i2 (k, big) VALUES (1, repeat('y', 9000)), (2, 'z')",
		"INSERT INTO d (k) VALUES (1), (2)")
	p.commit("UPDATE g SET a = a + 1 WHERE id < 4") // big is not sent
	p.commit("UPDATE g SET id = DEFAULT WHERE id = 5", "UPDATE i2 SET v = 1", "UPDATE i2 SET n = DEFAULT, k = 7 WHERE k = 1", "UPDATE d SET n = 77")
	p.commit("UPDATE i2 SET v = 4", "UPDATE g SET big = 'small' WHERE id = 1")
	require.Equal(t, 5+2+2, p.same("g", "i2", "d"))
	require.Equal(t, []string{"|9000", "|1"}, p.b.rows("SELECT length(big) FROM i2 ORDER BY 1 DESC"))
	p.commit("UPDATE i2 SET v = k FROM generate_series(1, 3)", "INSERT INTO g (a, big) SELECT x, repeat('x', 500) FROM generate_series(1, 500) x", "UPDATE i2 SET v = 9")
	require.Equal(t, 505+2, p.same("g", "i2"))
}

func TestKeylessDuplicates(t *testing.T) {
	p := newPair(t, "CREATE TABLE k (a int, b json, c text); ALTER TABLE k REPLICA IDENTITY FULL; CREATE TABLE n (a int); CREATE INDEX ON k (a)")
	p.commit(`INSERT INTO k SELECT 1, '{"x": 1}', NULL FROM generate_series(1, 5)`, "INSERT INTO n VALUES (1), (1)")
	p.commit("UPDATE k SET a = 2 WHERE ctid IN (SELECT ctid FROM k LIMIT 2)")
	p.commit("DELETE FROM k WHERE ctid IN (SELECT ctid FROM k WHERE a = 1 LIMIT 2)")
	require.Equal(t, []string{"|1|1", "|2|2"}, p.b.rows("SELECT a, count(*) FROM k GROUP BY a ORDER BY a"))
	require.Equal(t, 3+2, p.same("k", "n"))
	p.commit(`INSERT INTO k SELECT g % 3, '[]', 'x' FROM generate_series(1, 2000) g`)
	p.commit("UPDATE k SET c = 'y' WHERE a = 1", "DELETE FROM k WHERE a = 2")
	require.Positive(t, p.same("k"))
	// Many at once, with equal rows, NULLs, and text that needs quoting.
	p.commit(`INSERT INTO k SELECT nullif(g % 5, 4), CASE WHEN g % 7 > 0 THEN '{"a": "\\"}'::json END, nullif(E'q"\\ä,' || g % 3, 'x') FROM generate_series(1, 3000) g`)
	p.commit("DELETE FROM k WHERE ctid IN (SELECT ctid FROM k WHERE b IS NULL OR a = 3 LIMIT 700)", "INSERT INTO n VALUES (77)",
		"DELETE FROM k WHERE a IS NULL", "INSERT INTO n VALUES (78)", "DELETE FROM k WHERE ctid IN (SELECT ctid FROM k LIMIT 20)")
	require.Positive(t, p.same("k", "n"))
	p.b.exec("DELETE FROM k WHERE ctid IN (SELECT ctid FROM k WHERE a = 0 LIMIT 1)")
	err := p.apply(p.prepare("DELETE FROM k WHERE a = 0"))
	require.NotNil(t, err)
	require.Equal(t, mtm.CodeSerialization, err.Code)
}

func TestPartitionsAndInheritance(t *testing.T) {
	p := newPair(t, `CREATE TABLE pt (id int, d text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
		CREATE TABLE pt1 PARTITION OF pt FOR VALUES FROM (0) TO (100);
		CREATE TABLE pt2 PARTITION OF pt FOR VALUES FROM (100) TO (1000) PARTITION BY LIST (id);
		CREATE TABLE pt2d PARTITION OF pt2 DEFAULT; CREATE TABLE pt_empty (id int) PARTITION BY HASH (id);
		CREATE TABLE par (id int PRIMARY KEY); CREATE TABLE chi (PRIMARY KEY (id)) INHERITS (par); CREATE TABLE ref (id int PRIMARY KEY REFERENCES pt);
		CREATE TABLE ref_pt (id int REFERENCES par PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE ref_pt1 PARTITION OF ref_pt DEFAULT`)
	p.commit("INSERT INTO pt SELECT g, 'x' FROM generate_series(0, 200, 10) g", "INSERT INTO par VALUES (1), (2)", "INSERT INTO chi VALUES (1), (3)")
	p.commit("UPDATE pt SET id = 155 + id WHERE id < 50 AND id > 0", "UPDATE par SET id = id + 10", "DELETE FROM ONLY par WHERE id = 11")
	require.Equal(t, 21+3, p.same("pt", "par"))
	p.commit("INSERT INTO ref_pt VALUES (12)", "TRUNCATE ONLY par, ref_pt")
	require.Equal(t, 2, p.same("par", "ref_pt"))
	p.commit("INSERT INTO ref VALUES (0)", "TRUNCATE pt, par, pt_empty RESTART IDENTITY CASCADE")
	require.Zero(t, p.same("pt", "par", "chi", "ref"))
	p.commit("INSERT INTO pt VALUES (7), (8)", "INSERT INTO ref VALUES (7)", "UPDATE ref SET id = 8", "DELETE FROM pt WHERE id = 7") // a reference that is gone asks for nothing
	require.Equal(t, 2, p.same("pt", "ref"))
}

func TestARowThatIsNotThereIsRefused(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY); INSERT INTO t VALUES (1, 'a')")
	p.b.exec("DELETE FROM t")
	for _, sql := range [][]string{
		{"UPDATE t SET v = 'b'"}, {"DELETE FROM t"}, {"UPDATE t SET id = 5"},
		{"INSERT INTO other SELECT generate_series(1, 3000)", "UPDATE t SET v = 'b'"}, // too large for one write
	} {
		c := p.prepare(sql...)
		err := p.apply(c)
		require.NotNil(t, err)
		require.Equal(t, mtm.CodeSerialization, err.Code)
		require.Contains(t, err.Detail, `node 2, table "public"."t"`)
		require.Empty(t, p.b.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"))
		p.finish(c.gid, false)
	}
}

func TestRealErrorsKeepTheirCode(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v > 0))")
	p.b.exec("INSERT INTO t VALUES (5, 5); CREATE UNIQUE INDEX ON t (v)")
	for _, sql := range []string{"INSERT INTO t VALUES (5, 7)", "INSERT INTO t VALUES (6, 5)",
		"INSERT INTO t SELECT g, 100 + g FROM generate_series(1, 200) g"} {
		c := p.prepare(sql)
		err := p.apply(c)
		require.NotNil(t, err, sql)
		require.Equal(t, "23505", err.Code, "%+v", err)
		require.Contains(t, err.Detail, "node 2, table")
		p.finish(c.gid, false)
	}
	p.commit("INSERT INTO t VALUES (1, 1)") // the worker goes on
}

// TestGeneratedColumnsAreComputedHere: PostgreSQL 18 sends generated columns.
func TestGeneratedColumnsAreComputedHere(t *testing.T) {
	p := newPair(t, "CREATE TABLE kept (id int PRIMARY KEY, g int, v text); CREATE TABLE loose (g int, v text, h text); ALTER TABLE loose REPLICA IDENTITY FULL")
	p.b.exec("ALTER TABLE kept DROP g, ADD g int GENERATED ALWAYS AS (2 * id) STORED; ALTER TABLE loose DROP g, DROP h, " +
		"ADD g int GENERATED ALWAYS AS (length(v)) STORED, ADD h text GENERATED ALWAYS AS (upper(v)) STORED")
	p.commit("INSERT INTO kept VALUES (1, 2, 'a'), (2, 4, 'b'), (3, 6, 'c')", "UPDATE kept SET v = 'd' WHERE id = 1", "UPDATE kept SET id = 4, g = 8 WHERE id = 2", "DELETE FROM kept WHERE id = 3",
		"INSERT INTO loose VALUES (1, 'a', 'A'), (1, 'a', 'A'), (2, 'bb', 'BB')", "UPDATE loose SET (g, v, h) = (3, 'ccc', 'CCC') WHERE v = 'bb'", "DELETE FROM loose WHERE ctid = '(0,1)'")
	p.commit("INSERT INTO kept SELECT g, 2 * g, 'many' FROM generate_series(10, 90) g", "INSERT INTO loose SELECT 3, 'v' || g, 'V' || g FROM generate_series(10, 90) g", "DELETE FROM loose WHERE v > 'v20'")
	for _, q := range []string{"SELECT id, g, v FROM kept ORDER BY 1", "SELECT g, v, h FROM loose ORDER BY 2"} {
		require.Equal(t, p.a.rows(q), p.b.rows(q))
	}
	p.b.exec("ALTER TABLE kept ALTER g DROP EXPRESSION") // and then it is not left out any more
	p.b.cfg.Catalog.changed()
	p.commit("INSERT INTO kept VALUES (200, 7, 'own')")
	require.Equal(t, []string{"|7"}, p.b.rows("SELECT g FROM kept WHERE id = 200"))
}
