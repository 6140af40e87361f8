package gateway

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// fakeNumbers draws for the sequence few.
type fakeNumbers struct {
	t       *testing.T
	refills atomic.Int64
}

func (f *fakeNumbers) Short(_ context.Context, message string) bool {
	return strings.Contains(message, `"few"`)
}

func (f *fakeNumbers) Refill(ctx context.Context) {
	f.refills.Add(1)
	conn, err := pgx.Connect(ctx, directURL("postgres"))
	require.NoError(f.t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "update pg_sequence set seqmax = seqmax + 2 where seqrelid = 'few'::regclass")
	require.NoError(f.t, err)
}

// TestNumbersThatAreUsedUp: a statement by itself waits for more; else the client is told to repeat.
func TestNumbersThatAreUsedUp(t *testing.T) {
	f := &fakeNumbers{t: t}
	h := start(t, func(c *Config) { c.Numbers = f })
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			fresh(t, h)
			conn := h.connect(t, mode)
			exec := func(sql string) error {
				_, err := conn.Exec(bg, sql)
				return err
			}
			require.NoError(t, exec("create sequence few maxvalue 2"))
			require.NoError(t, exec("create sequence fewer maxvalue 2"))
			defer exec("drop sequence few, fewer") //nolint:errcheck // the next would fail
			f.refills.Store(0)
			for range 5 {
				require.NoError(t, exec("insert into t select nextval('few'), 'x'"))
			}
			require.EqualValues(t, 2, f.refills.Load())
			require.NoError(t, exec("select nextval('few')"))
			require.NoError(t, exec("select nextval('few')"), "a read that turns out to write")
			require.EqualValues(t, 3, f.refills.Load())
			require.NoError(t, exec("begin"))
			require.NoError(t, exec("select nextval('few')"))
			err := exec("select nextval('few')")
			require.Equal(t, "40001", code(err))
			require.ErrorContains(t, err, "used up")
			require.Equal(t, "25P02", code(exec("select 1")))
			require.NoError(t, exec("rollback"))
			require.EqualValues(t, 3, f.refills.Load())
			require.NoError(t, exec("select nextval('fewer'), nextval('fewer')"))
			require.Equal(t, "2200H", code(exec("select nextval('fewer')")))
			require.Equal(t, "2200H", code(exec("insert into t select nextval('fewer'), 'x'")))
		})
	}
}
