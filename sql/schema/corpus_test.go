package schema

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	pg_query "github.com/pganalyze/pg_query_go/v6"
	"github.com/stretchr/testify/require"
)

// The corpus gives the same whether schema mtm is installed or not: triggers, publication and replica identities do not show.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("../testdata/*.sql")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	stock := connectAs(t, newDatabase(t), "postgres")
	node := newNode(t, 2)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".sql"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			stmts, err := pg_query.SplitWithScanner(string(text), true)
			require.NoError(t, err)
			require.Contains(t, stmts[0], "CREATE SCHEMA corpus_"+strings.TrimSuffix(filepath.Base(file), ".sql"))
			if strings.HasSuffix(file, "block.sql") {
				mustExec(t, node, `SET mtm.gateway = on`) // numbers are given to clients only
			}
			failed := 0
			for _, sql := range stmts {
				want, got := outcome(stock, sql), outcome(node, sql)
				require.Equal(t, want, got, sql)
				if strings.HasPrefix(want, "error") {
					failed++
				}
			}
			require.Less(t, failed, len(stmts)/3, "most of the script fails")
			mustExec(t, stock, `RESET ALL`)
			mustExec(t, node, `RESET ALL`)
		})
	}
}

// outcome is all that a client sees of a statement: rows, tag, notices are left out, SQLSTATE and message of an error.
func outcome(conn *pgx.Conn, sql string) string {
	results, err := conn.PgConn().Exec(context.Background(), sql).ReadAll()
	if err != nil {
		return "error " + sqlState(err) + ": " + err.Error()
	}
	var b strings.Builder
	for _, r := range results {
		for _, row := range r.Rows {
			fmt.Fprintf(&b, "%q\n", row)
		}
		fmt.Fprintln(&b, r.CommandTag)
	}
	return b.String()
}
