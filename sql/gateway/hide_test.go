package gateway

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// TestOwnObjectsDoNotShow asks PostgreSQL's catalogs for what mtm keeps there, by both protocols.
func TestOwnObjectsDoNotShow(t *testing.T) {
	h := start(t)
	out := psql(t, h.port, "\\dn\n\\dRp\n\\d+ keyless\nselect oid from pg_class where nope;\n")
	require.NotContains(t, out, "mtm")
	require.NotContains(t, out, "Replica Identity")
	require.Contains(t, out, "LINE 1: select oid from pg_class where nope;\n                                       ^")
	require.Contains(t, psql(t, h.port, "\\dn mtm\n"), "mtm")
	conn := h.connect(t, pgx.QueryExecModeDescribeExec)
	ctx := context.Background()
	var n int
	require.NoError(t, conn.QueryRow(ctx, "select count(*) from pg_namespace where nspname like $1", "mt%").Scan(&n))
	require.Zero(t, n)
	err := conn.QueryRow(ctx, "select count(*) from pg_publication where nope = $1", 1).Scan(&n)
	var e *pgconn.PgError
	require.ErrorAs(t, err, &e)
	require.EqualValues(t, 43, e.Position)
}
