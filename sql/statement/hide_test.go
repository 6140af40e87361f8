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
