package statement

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHide says where a catalog is replaced. In what is wanted, {c} stands for what catalog c is replaced by.
func TestHide(t *testing.T) {
	for text, want := range map[string]string{
		"select * from pg_publication":                            "select * from {pg_publication} AS pg_publication",
		"select p.oid from pg_catalog.pg_publication p":           "select p.oid from {pg_publication} p",
		"SELECT oid FROM pg_rewrite ORDER BY oid":                 "SELECT oid FROM {pg_rewrite} AS pg_rewrite ORDER BY oid",
		"select * from PG_CLASS as c, pg_namespace n":             "select * from {pg_class} as c, {pg_namespace} n",
		"select pg_class.oid, pg_class from pg_class":             "select pg_class.oid, pg_class from {pg_class} AS pg_class",
		"select 1 from a join pg_proc p on p.oid = pg_class":      "select 1 from a join {pg_proc} p on p.oid = pg_class",
		"select 1 from (a cross join pg_proc) where pg_type":      "select 1 from (a cross join {pg_proc} AS pg_proc) where pg_type",
		"select (select count(*) from pg_class), pg_class from t": "select (select count(*) from {pg_class} AS pg_class), pg_class from t",
		"select 1 from lateral (select 1) x, only pg_type name":   "select 1 from lateral (select 1) x, only {pg_type} name",
		"select 'pg_class'::regclass, 1::pg_class":                "",
		"select * from information_schema.sequences":              "select * from {information_schema.sequences} AS sequences",
		"select increment from Information_Schema . SEQUENCES s":  "select increment from {information_schema.sequences} s",
		"select * from sequences, s.sequences, pg_sequences":      "select * from sequences, s.sequences, {pg_sequences} AS pg_sequences",
		"select * from s.pg_class":                                "",
		"select * from pg_class('x')":                             "",
		"select a is distinct from pg_class from b":               "",
		"select count(*) from pg_class group by relkind":          "",
		"select * from pg_class where relname = 'mtm'":            "",
		"explain select * from pg_class":                          "",
		"create view v as select * from pg_class":                 "",
		"select * from pg_class for update":                       "",
		"delete from pg_class":                                    "",
	} {
		stmts, ok := Split(text)
		require.True(t, ok, text)
		got := Apply(text, stmts[0].Hide)
		if want == "" {
			want = text
		}
		for name, sub := range hidden {
			sub = strings.ReplaceAll(strings.Replace(sub, "%s", "", 1), "%%", "%")
			want = strings.ReplaceAll(want, "{"+name+"}", sub)
		}
		require.Equal(t, want, got, text)
	}
}

func TestHideGivesTableoid(t *testing.T) {
	stmts, _ := Split("select tableoid, oid from pg_type; select tableoid from pg_sequence; select relreplident, tableoid from pg_class, pg_locks")
	require.Contains(t, stmts[0].Hide[0].Text, "SELECT tableoid, *")
	require.Contains(t, stmts[1].Hide[0].Text, "SELECT p.tableoid, seqrelid")
	require.Contains(t, stmts[2].Hide[0].Text, "SELECT tableoid, oid")
	require.Contains(t, stmts[2].Hide[0].Text, "full_identity")
	require.NotContains(t, stmts[2].Hide[1].Text, "tableoid")
}

// TestSetval says which calls of setval() run as mtm.setval(), marked by @.
func TestSetval(t *testing.T) {
	for _, want := range []string{
		"select @('s', 5)", "SELECT @ ( 's', max(id), true) FROM t", "insert into t select @('s', 1)", "select @('s', 1) from t group by 1",
		"prepare p as select @('s', $1)", "copy (select @('s', 1)) to stdout", "explain analyze select @('s', 1)", "call p(@('s', 1))",
		"select s.setval('s', 1), setval, 'setval(', nextval('s'), @('t', 1)", "do $$ begin perform @('s', 1); x.setval(2); my_setval(3); @ (4); end $$",
		"do 'begin execute ''select @(1)''; end'",
		"explain select setval('s', 5)", "create function f() returns bigint language sql as 'select setval(1)'", "select 'setval(1)'",
	} {
		for _, written := range []string{"setval", "pg_catalog.setval", "SetVal", "pg_catalog . setval"} {
			stmts, ok := Split(strings.ReplaceAll(want, "@", written))
			require.True(t, ok, want)
			require.Equal(t, strings.ReplaceAll(want, "@", "mtm.setval"), Apply(strings.ReplaceAll(want, "@", written), stmts[0].Hide))
			if strings.HasPrefix(want, "select @") {
				require.Equal(t, Write, stmts[0].Kind)
			}
		}
	}
	stmts, _ := Split(`select "setval"('s', 1), pg_catalog."setval"('s', 1), relname from pg_class`)
	require.Len(t, stmts[0].Hide, 3)
}
