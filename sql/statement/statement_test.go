package statement

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKinds(t *testing.T) {
	for _, c := range []struct {
		text  string
		kind  Kind
		flags Flags
	}{
		{"begin", Begin, 0},
		{"BEGIN WORK ISOLATION LEVEL SERIALIZABLE", Begin, 0},
		{"begin read only", Begin, AccessMode | ReadOnly},
		{"start transaction isolation level repeatable read, read write", Begin, AccessMode},
		{"commit", Commit, 0},
		{"end transaction and chain", Commit, Chain},
		{"commit and no chain", Commit, 0},
		{"abort", Rollback, 0},
		{"rollback work and chain", Rollback, Chain},
		{"rollback to savepoint a", Savepoint, 0},
		{"release a", Savepoint, 0},
		{"prepare transaction 'x'", PrepareTx, 0},
		{"commit prepared 'x'", FinishPrepared, Commits},
		{"rollback prepared 'x'", FinishPrepared, 0},
		{"prepare p as select 1", Session, Lasting},
		{"deallocate p", Session, Lasting},
		{"prepare transaction as select 1", Session, Lasting},
		{"select 1", Read, 0},
		{"/* c */ (select 1) union (select 2)", Read, 0},
		{"values (1)", Read, 0},
		{"table t", Read, 0},
		{"select * into x from t", DDL, 0},
		{"select * into temp x from t", TempDDL, Temporary},
		{"select 1 as into", Read, 0},
		{"select * from t for update", Write, 0},
		{"select * from t for no key update of t", Write, 0},
		{"select substring('a' for 2)", Read, 0},
		{"with x as (insert into t values (1) returning a) select * from x", Write, PlainDML},
		{"with x as (select 1) delete from t", Write, PlainDML},
		{"with x as (select 1) select * from x", Read, 0},
		{"with x as (select 1) select update from t", Read, 0},
		{"insert into t values (1) returning a", Write, PlainDML},
		{"merge into t using s on true when matched then delete", Write, PlainDML},
		{"explain delete from t", Read, 0},
		{"explain analyze delete from t", Write, 0},
		{"explain (analyze, buffers) select 1", Read, 0},
		{"explain (costs off, analyze) update t set a = 1", Write, 0},
		{"copy t from stdin", CopyFrom, 0},
		{"copy t (a, b) from stdin with (format csv)", CopyFrom, 0},
		{"copy (select * from t) to stdout", Read, 0},
		{"copy (delete from t returning *) to stdout", Write, 0},
		{"copy t to '/tmp/x'", Read, 0},
		{"call f()", Write, 0},
		{"do $$ begin end $$", Write, 0},
		{"truncate t", Write, 0},
		{"lock pg_class in exclusive mode", Read, Exclusive},
		{"create table t (a int)", DDL, 0},
		{"create temp table t (a int)", TempDDL, Temporary},
		{"create or replace temporary view v as select 1", TempDDL, Temporary},
		{"create unlogged table t (a int)", DDL, 0},
		{"create index concurrently on t (a)", DDL, Concurrently},
		{"select lo_create(0)", Refused, 0},
		{"insert into t values (pg_catalog.lo_from_bytea(0, 'x'))", Refused, 0},
		{"select lo_get(5)", Read, 0},
		{"create or replace function f() returns int language sql as 'select 1'", DDL, Routine},
		{"create unique index concurrently i on t (a)", DDL, Concurrently},
		{"drop index concurrently i", DDL, Concurrently},
		{"refresh materialized view concurrently m", DDL, 0},
		{"create database d", Local, Unguarded},
		{"comment on database d is 'x'", DDL, 0},
		{"alter system set work_mem = '4MB'", Local, 0},
		{"vacuum full t", Local, 0},
		{"reindex table concurrently t", Local, Everywhere},
		{"reindex table t", Local, 0},
		{"set work_mem = '1MB'", Session, 0},
		{"set default_transaction_read_only = off", Session, ShowsReadOnly},
		{"set session characteristics as transaction read only", Session, AccessMode | ReadOnly | ShowsReadOnly},
		{"set transaction read only", Session, AccessMode | ReadOnly},
		{"show transaction_read_only", Session, ShowsReadOnly | Show},
		{"select current_setting('transaction_read_only')", Read, ShowsReadOnly},
		{"select * from pg_prepared_statements", Read, ShowsPrepared},
		{"listen x", Session, Temporary},
		{"notify x, 'y'", Session, Temporary},
		{"declare c cursor with hold for select 1", Read, Temporary},
		{"select * from mtm.status()", Read, OwnSchema},
		{"select * from mtm.status(), t", Read, 0},
		{"select mtm.outcome('x')", Read, OwnSchema},
		{"selekt 1", Unknown, 0},
	} {
		stmts, ok := Split(c.text)
		require.True(t, ok, c.text)
		require.Len(t, stmts, 1, c.text)
		require.Equal(t, c.kind, stmts[0].Kind, "%s: %v", c.text, stmts[0].Kind)
		require.Equal(t, c.flags, stmts[0].Flags, c.text)
	}
}

func TestSplitFindsEachStatement(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                   nil,
		" ; ;; -- nothing\n":                 nil,
		"select 1; select 2":                 {"select 1", "select 2"},
		"select ';'; select $$;$$ -- ; \n ;": {"select ';'", "select $$;$$"},
		"create rule r as on insert to t do (select 1; select 2); select 3": {
			"create rule r as on insert to t do (select 1; select 2)", "select 3"},
		"create function f() returns int begin atomic; select case when true then 1 end; end; select 3": {
			"create function f() returns int begin atomic; select case when true then 1 end; end", "select 3"},
		"begin; commit": {"begin", "commit"},
	} {
		stmts, ok := Split(text)
		require.True(t, ok, text)
		var got []string
		for _, s := range stmts {
			got = append(got, s.Text(text))
		}
		require.Equal(t, want, got, text)
	}
}

func TestMalformedTextIsLeftToPostgreSQL(t *testing.T) {
	for _, text := range []string{"select 'x", `select "x`, "select $a$ x", "/* x", strings.Repeat("1;", MaxText)} {
		_, ok := Split(text)
		require.False(t, ok)
	}
}

func TestDeepTextIsHarmless(t *testing.T) {
	_, ok := Split("select " + strings.Repeat("+", 100_000) + "1")
	require.False(t, ok)
	stmts, ok := Split("select " + strings.Repeat("+ ", 100_000) + "1" + strings.Repeat(" -- ====\n", 100))
	require.True(t, ok)
	require.Len(t, stmts, 1)
	_, ok = Split("explain " + strings.Repeat("explain analyze ", 1000) + "select 1")
	require.True(t, ok)
}

func TestTarget(t *testing.T) {
	for text, want := range map[string]string{
		"drop table if exists a.b, c":                   "a.b",
		`alter table only "T x" add b int`:              `"T x"`,
		"create index on only s.t (a)":                  "s.t",
		"create unique index i on t (a)":                "t",
		"comment on table t is 'x'":                     "t",
		"create table t (a int)":                        "",
		"create function f() returns int language sql ": "",
	} {
		stmts, ok := Split(text)
		require.True(t, ok)
		require.Equal(t, want, stmts[0].Target, text)
	}
}

func TestCacheSharesWhatDiffersInDigits(t *testing.T) {
	c := NewCache(1 << 20)
	a, _ := c.Split("update t set a = 12 where b = 345")
	b, _ := c.Split("update t set a = 1 where b = 2")
	require.Same(t, a[0], b[0])
	a, _ = c.Split("select $a1$ ; $a1$")
	b, _ = c.Split("select $a1$ ; $a2$")
	require.NotEqual(t, a, b)
	a, _ = c.Split("prepare transaction 'x1'")
	b, _ = c.Split("prepare transaction 'x22'")
	require.Equal(t, "x1", a[0].GID)
	require.Equal(t, "x22", b[0].GID)
	for _, pair := range [][2]string{{"select 0b1", "select 0b2"}, {"select 0b1", "select 1b1"}, {`select E'\u0061'`, `select E'\u006'`}} {
		_, ok := c.Split(pair[0])
		_, cached := c.Split(pair[1])
		_, fresh := Split(pair[1])
		require.True(t, ok, pair[0])
		require.Equal(t, fresh, cached, pair[1])
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := NewCache(10_000)
	for i := range 1000 {
		c.Split(strings.Repeat("x", i))
	}
	require.LessOrEqual(t, c.used, 10_000)
	require.Equal(t, len(c.entries), c.order.Len())
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{"select 1; commit", "create function f() begin atomic select 1; end", "'", "$$", "((", "begin;;end",
		"explain analyze explain (analyze) select 1", "copy (", "copy", "drop table a.", "create index on"} {
		f.Add(s)
	}
	c := NewCache(1 << 16)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsRune(text, 0) {
			return
		}
		stmts, ok := Split(text)
		last := 0
		for _, s := range stmts {
			if s.Start < last || s.End <= s.Start || s.End > len(text) {
				t.Fatalf("%q: %d..%d after %d", text, s.Start, s.End, last)
			}
			last = s.End
		}
		cached, cok := c.Split(text)
		if ok != cok || len(cached) != len(stmts) {
			t.Fatalf("%q: the cache says otherwise", text)
		}
		for i := range stmts {
			if stmts[i].Kind != cached[i].Kind || stmts[i].Flags != cached[i].Flags {
				t.Fatalf("%q: the cache says otherwise of statement %d", text, i)
			}
		}
	})
}

func BenchmarkCached(b *testing.B) {
	c := NewCache(1 << 20)
	for b.Loop() {
		c.Split("UPDATE pgbench_accounts SET abalance = abalance + 17 WHERE aid = 123456;")
	}
}

func BenchmarkSplit(b *testing.B) {
	for b.Loop() {
		Split("UPDATE pgbench_accounts SET abalance = abalance + 17 WHERE aid = 123456;")
	}
}

func TestDDLThatNeedsMore(t *testing.T) {
	stmts, _ := Split("create index concurrently i on t (a); refresh materialized view concurrently m; " +
		"create table x as execute \"P\"(1); explain analyze create table y as execute Q")
	text := "create index concurrently i on t (a)"
	require.Equal(t, "create index              i on t (a)", Apply(text, stmts[0].Hide))
	require.Empty(t, stmts[1].Hide)
	require.Len(t, stmts[1].Without, 1)
	require.Equal(t, "P", stmts[2].Runs)
	require.Equal(t, "q", stmts[3].Runs)
}

func TestLike(t *testing.T) {
	for text, want := range map[string]string{
		"select 1; create table a (like b)":                                         "like b",
		`CREATE UNLOGGED TABLE IF NOT EXISTS a (x int, LIKE /* c */ "S".b, y text)`: `LIKE /* c */ "S".b`,
		"create table a (like b excluding all)":                                     "like b",
		"create table a (like b including defaults)":                                "",
		"create table a (like b, like c)":                                           "",
		"create table a (x text check (x like 'b'))":                                "",
		"create table a as select 1 like 2":                                         "",
		"create table a (x int, like":                                               "",
	} {
		stmts, ok := Split(text)
		require.True(t, ok)
		s := stmts[len(stmts)-1]
		require.Equal(t, want, text[s.Like.At:s.Like.At+s.Like.Len], text)
		require.Equal(t, want, s.Like.Text)
	}
}

func TestTargetOfGrant(t *testing.T) {
	for text, want := range map[string]string{
		"grant select on t to u":                             "t",
		"grant select (a), insert on table s.t to u":         "s.t",
		"revoke all on t, v from u":                          "t",
		"revoke grant option for usage on sequence q from u": "q",
		"grant all on all tables in schema s to u":           "",
		"grant execute on function f() to u":                 "",
		"grant r to u":                                       "",
	} {
		stmts, _ := Split(text)
		require.Equal(t, want, stmts[0].Target, text)
	}
}

func TestChannelOfListen(t *testing.T) {
	long := strings.Repeat("ä", 40)
	for text, want := range map[string]string{
		"listen News": "news", `LISTEN "News"`: "News", `listen "a""b" ;`: `a"b`, "listen begin_": "begin_", "LISTEN off": "off",
		`listen U&"d\0061t"`: "", "notify x": "", "unlisten x": "", "listen ünder": "", "listen": "", "select 1": "",
		`listen "` + long + `"`: long[:62], "listen " + strings.Repeat("x", 70): strings.Repeat("x", 63), "listen \"\xff\"": "",
	} {
		stmts, ok := Split(text)
		require.True(t, ok, text)
		require.Equal(t, want, stmts[0].Channel, text)
		require.False(t, stmts[0].Has(MayListen))
	}
	stmts, _ := Split("DO $$ begin LISTEN x; end $$")
	require.True(t, stmts[0].Has(MayListen))
}

func TestDoThatMayChangeRoles(t *testing.T) {
	for text, want := range map[string]bool{
		"do $$ begin create Role x; end $$": true, "DO LANGUAGE plpgsql 'begin execute ''GRANT a TO b''; end'": true, "do $$ begin perform 1; end $$": false,
	} {
		stmts, ok := Split(text)
		require.True(t, ok)
		require.Equal(t, want, stmts[0].Has(Roles), text)
		require.Equal(t, want, stmts[0].Kind == DDL, text)
	}
}

// The names of prepared transactions are read here, so they must be read as PostgreSQL does, or not at all.
func TestNamesOfPreparedTransactions(t *testing.T) {
	cache := NewCache(16)
	for text, want := range map[string]string{
		"prepare transaction 'x'":         "x",
		"prepare transaction 'it''s'":     "it's",
		"commit prepared ''":              "",
		"rollback prepared $$a'b$$":       "a'b",
		"rollback prepared $t$a$$b$t$":    "a$$b",
		"commit prepared E'plain'":        "plain",
		`commit prepared 'a\b'`:           `a\b`,
		"prepare transaction /* c */ 'y'": "y",
	} {
		stmts, ok := cache.Split(text)
		require.True(t, ok, text)
		require.NotEqual(t, Refused, stmts[0].Kind, text)
		require.Equal(t, want, stmts[0].GID, text)
	}
	for _, text := range []string{`prepare transaction E'a\'b'`, `commit prepared U&'d\0061t'`, "prepare transaction 'a'\n'b'"} {
		stmts, ok := cache.Split(text)
		require.True(t, ok, text)
		require.Equal(t, Refused, stmts[0].Kind, text)
	}
	stmts, ok := cache.Split("prepare transaction as select 1")
	require.True(t, ok)
	require.Equal(t, Session, stmts[0].Kind)
}

func TestSeveral(t *testing.T) {
	for text, want := range map[string][]string{
		`select 1; drop table if exists a, "B,""c" , s.t cascade`: {"a", `"B,""c"`, "s.t"},
		"DROP INDEX CONCURRENTLY a,b":                             {"a", "b"},
		"drop table a":                                            nil,
		"drop table a,":                                           nil,
		"drop table":                                              nil,
		"drop function f(a, b), g":                                nil,
	} {
		stmts, _ := Split(text)
		s := stmts[len(stmts)-1]
		require.Equal(t, want, s.Several, text)
		if want != nil {
			require.Regexp(t, `^(drop|DROP) [a-zA-Z ]* $`, text[s.Start:s.SeveralAt.At])
			require.Regexp(t, `^( cascade)?$`, text[s.SeveralAt.At+s.SeveralAt.Len:])
		}
	}
}

func TestControl(t *testing.T) {
	long := "/* " + strings.Repeat("=", 300) + " */"
	for text, want := range map[string]string{
		"commit " + long: "commit  ",
		";; " + long + "-- x\n  End/* a /* b */ c */":       ";;   \n  End ",
		"rollback and chain -- " + strings.Repeat("*", 300): "rollback and chain  ",
		"prepare transaction 'x' " + long:                   "",
		"commit prepared 'x' " + long:                       "",
		long:                                                " ",
		"/* never ends ":                                    " ",
		"BEGIN":                                             "BEGIN",
	} {
		bare, control := Control(text)
		require.True(t, control, text)
		require.Equal(t, want, bare, text)
	}
	for _, text := range []string{"select 1" + long, "/* commit */ set x = 1", "committed", "'commit'", "\xff commit", "(commit"} {
		_, control := Control(text)
		require.False(t, control, text)
	}
	stmts, ok := Split(`set U&"transaction\005fread_only" = off`)
	require.True(t, ok && stmts[0].SetsMode())
}
