package schema

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkDDL shows what the event triggers add to statements, in a transaction that is rolled back.
func BenchmarkDDL(b *testing.B) {
	for _, installed := range []bool{false, true} {
		conn, err := benchDatabase(b, installed)
		require.NoError(b, err)
		for name, sql := range map[string]string{
			"key":         `CREATE TABLE t (id int PRIMARY KEY)`,
			"nokey":       `CREATE TABLE t (id int)`,
			"serial":      `CREATE TABLE t (id serial PRIMARY KEY)`,
			"sequence":    `CREATE SEQUENCE t`,
			"alter table": `ALTER TABLE bench ALTER COLUMN id SET STATISTICS 100`,
			"other":       `CREATE VIEW t AS SELECT 1`,
		} {
			suffix := map[bool]string{false: "/stock", true: "/mtm"}[installed]
			b.Run(name+suffix, func(b *testing.B) {
				for b.Loop() {
					_, err := conn.PgConn().Exec(b.Context(), `BEGIN; `+sql+`; ROLLBACK`).ReadAll()
					require.NoError(b, err)
				}
			})
		}
	}
}
