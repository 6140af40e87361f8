package gateway

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm"
)

var bg = context.Background()

var modes = map[string]pgx.QueryExecMode{
	"cache statement": pgx.QueryExecModeCacheStatement,
	"cache describe":  pgx.QueryExecModeCacheDescribe,
	"describe exec":   pgx.QueryExecModeDescribeExec,
	"exec":            pgx.QueryExecModeExec,
	"simple":          pgx.QueryExecModeSimpleProtocol,
}

func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestEveryModeOfPgx(t *testing.T) {
	h := start(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			fresh(t, h)
			conn := h.connect(t, mode)
			prepared := h.Stats().Prepared
			for i := range 3 {
				tag, err := conn.Exec(bg, "insert into t values ($1, $2)", i, "x")
				require.NoError(t, err)
				require.Equal(t, "INSERT 0 1", tag.String())
			}
			require.Equal(t, prepared+3, h.Stats().Prepared)
			var n, v int
			for range 3 {
				require.NoError(t, conn.QueryRow(bg, "select count(*) from t where id < $1", 100).Scan(&n))
				require.Equal(t, 3, n)
			}
			require.NoError(t, conn.QueryRow(bg, "select nextval('seq')").Scan(&n))
			require.NoError(t, conn.QueryRow(bg, "select nextval('seq')").Scan(&v))
			require.Equal(t, n+1, v)
			_, err := conn.Exec(bg, "insert into t values ($1, $2)", 1, "x")
			require.Equal(t, "23505", code(err))
			_, err = conn.Exec(bg, "insert into child values ($1, $2)", 1, 77)
			require.Equal(t, "23503", code(err))
			_, err = conn.Exec(bg, "selekt $1", 1)
			require.Equal(t, "42601", code(err))

			tx, err := conn.Begin(bg)
			require.NoError(t, err)
			_, err = tx.Exec(bg, "update t set v = $1 where id = $2", "y", 1)
			require.NoError(t, err)
			require.NoError(t, tx.QueryRow(bg, "select count(*) from t where v = $1", "y").Scan(&n))
			require.Equal(t, 1, n)
			require.NoError(t, tx.Commit(bg))
			require.Equal(t, 1, h.direct(t, "select count(*) from t where v = 'y'"))

			tx, err = conn.Begin(bg)
			require.NoError(t, err)
			_, err = tx.Exec(bg, "delete from t")
			require.NoError(t, err)
			require.NoError(t, tx.Rollback(bg))
			require.Equal(t, 3, h.direct(t, "select count(*) from t"))

			before := h.Stats()
			tx, err = conn.Begin(bg)
			require.NoError(t, err)
			require.NoError(t, tx.QueryRow(bg, "select count(*) from t where id = $1", 1).Scan(&n))
			require.NoError(t, tx.Commit(bg))
			require.Equal(t, before.Prepared, h.Stats().Prepared)
			require.Equal(t, before.PlainCommits+1, h.Stats().PlainCommits)
		})
	}
}

func TestReadThatWritesIsRepeated(t *testing.T) {
	h := start(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			fresh(t, h)
			conn := h.connect(t, mode)
			var n int
			for range 3 {
				require.NoError(t, conn.QueryRow(bg, "select writes()").Scan(&n))
			}
			require.Equal(t, 1, h.direct(t, "select count(*) from t"))
		})
	}
}

func TestBatchesAndPipelines(t *testing.T) {
	h := start(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			fresh(t, h)
			conn := h.connect(t, mode)
			b := &pgx.Batch{}
			for i := range 10 {
				b.Queue("insert into t values ($1, $2)", i, "x")
				b.Queue("select count(*) from t where id <= $1", i)
			}
			res := conn.SendBatch(bg, b)
			for i := range 10 {
				_, err := res.Exec()
				require.NoError(t, err)
				var n int
				require.NoError(t, res.QueryRow().Scan(&n))
				require.Equal(t, i+1, n)
			}
			require.NoError(t, res.Close())
			require.Equal(t, 10, h.direct(t, "select count(*) from t"))

			b = &pgx.Batch{}
			b.Queue("insert into t values ($1, $2)", 50, "x")
			b.Queue("insert into t values ($1, $2)", 1, "duplicate")
			require.Equal(t, "23505", code(conn.SendBatch(bg, b).Close()))
			require.Equal(t, 10, h.direct(t, "select count(*) from t"))

			b = &pgx.Batch{}
			b.Queue("begin")
			b.Queue("insert into t values ($1, $2)", 60, "x")
			b.Queue("commit")
			b.Queue("select count(*) from t where id = $1", 60)
			require.NoError(t, conn.SendBatch(bg, b).Close())
			require.Equal(t, 1, h.direct(t, "select count(*) from t where id = 60"))
			require.Equal(t, byte('I'), conn.PgConn().TxStatus())
		})
	}
}

func TestCopyBothWays(t *testing.T) {
	h := start(t)
	fresh(t, h)
	conn := h.connect(t, pgx.QueryExecModeCacheStatement)
	rows := make([][]any, 20_000)
	for i := range rows {
		rows[i] = []any{i, "value"}
	}
	for _, block := range []bool{false, true} {
		if block {
			_, err := conn.Exec(bg, "begin")
			require.NoError(t, err)
			_, err = conn.Exec(bg, "delete from t")
			require.NoError(t, err)
		}
		n, err := conn.CopyFrom(bg, pgx.Identifier{"t"}, []string{"id", "v"}, pgx.CopyFromRows(rows))
		require.NoError(t, err)
		require.EqualValues(t, len(rows), n)
		if block {
			_, err := conn.Exec(bg, "commit")
			require.NoError(t, err)
		}
		require.Equal(t, len(rows), h.direct(t, "select count(*) from t"))
	}
	_, err := conn.CopyFrom(bg, pgx.Identifier{"t"}, []string{"id", "v"}, pgx.CopyFromRows(rows))
	require.Equal(t, "23505", code(err))
	require.Equal(t, byte('I'), conn.PgConn().TxStatus())
	var w counter
	_, err = conn.PgConn().CopyTo(bg, &w, "copy t to stdout")
	require.NoError(t, err)
	require.Greater(t, int(w), 200_000)
}

type counter int

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

// TestCommitWithoutPermitEndsTheBlock: as a COMMIT of PostgreSQL's that fails does, in both protocols.
func TestCommitWithoutPermitEndsTheBlock(t *testing.T) {
	h := start(t)
	conn := h.connect(t, pgx.QueryExecModeExec).PgConn()
	for _, extended := range []bool{false, true} {
		for _, commit := range []string{"commit", "commit and chain"} {
			fresh(t, h)
			h.fake.mu.Lock()
			h.fake.onPermit = func(context.Context) error { return &mtm.Error{Code: "57P03", Msg: "not online"} }
			h.fake.mu.Unlock()
			_, err := conn.Exec(bg, "begin; insert into t values (1, 'x')").ReadAll()
			require.NoError(t, err)
			if extended {
				err = conn.ExecParams(bg, commit, nil, nil, nil, nil).Read().Err
			} else {
				_, err = conn.Exec(bg, commit).ReadAll()
			}
			require.Equal(t, "57P03", code(err), commit)
			require.Equal(t, byte('I'), conn.TxStatus(), commit)
			h.fake.mu.Lock()
			h.fake.onPermit = nil
			h.fake.mu.Unlock()
			require.NoError(t, conn.ExecParams(bg, "insert into t values (1, 'y')", nil, nil, nil, nil).Read().Err)
			require.Equal(t, 1, h.direct(t, "select count(*) from t where v = 'y'"))
		}
	}
}
