package logrep

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRowsTravel(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	p.commit("INSERT INTO t VALUES (1, 'one'), (2, NULL), (3, E'tab\\t nl\\n bs\\\\ \\'')")
	p.commit("UPDATE t SET v = 'ONE' WHERE id = 1", "DELETE FROM t WHERE id = 2")
	p.commit("UPDATE t SET id = id + 10")
	p.commit("INSERT INTO t SELECT g, 'x' || g FROM generate_series(100, 300) g", "UPDATE t SET v = v || '!' WHERE id % 7 = 0")
	require.Equal(t, 203, p.same("t"))
	p.commit("TRUNCATE t", "INSERT INTO t VALUES (1, 'again')")
	require.Equal(t, 1, p.same("t"))
}
