package logrep

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
	"mtm/logrep/pgoutput"
)

// mtm.local_tables lists the tables that are not replicated (sql/schema's local.sql). PostgreSQL describes a table (relation message)
// before its first change in a stream, and again before the first after the table was listed: capture then looks. That is
// exact. Who lists a table locks it against writers until its commit, and marks it as altered. So a change that follows was made by who
// could see the list, and one that came before was captured, or it could not have ended.
const (
	localList     = "mtm.local_tables"
	localListed   = "SELECT 1 WHERE pg_catalog.to_regclass('" + localList + "') IS NOT NULL"
	localTableSQL = "SELECT 1 FROM " + localList + " WHERE relid = $1::pg_catalog.oid"
	localTable    = "mtm_local_table" // the prepared statement

	// prefixLocal is the prefix of the message to the other nodes that a table becomes local; its content is the table's name, quoted.
	prefixLocal = "mtm.local"
)

// openLists connects to where the list is looked up: the replication connection is busy. There is no such connection if there is no
// list.
func (s *captureStream) openLists(ctx context.Context) (close func(), err error) {
	conn, err := s.cfg.connect(ctx, "mtm_capture_aux", nil)
	if err != nil {
		return nil, err
	}
	close = func() { closeConn(conn) }
	rows, err := query(ctx, conn, localListed)
	if err != nil {
		return close, err
	}
	if len(rows) == 1 {
		if _, err = conn.Prepare(ctx, localTable, localTableSQL, nil); err == nil {
			s.lists = conn
		}
	}
	return close, err
}

// isLocal asks whether a table is local now.
func isLocal(ctx context.Context, lists *pgconn.PgConn, id uint32) (bool, error) {
	res := lists.ExecPrepared(ctx, localTable, [][]byte{strconv.AppendUint(nil, uint64(id), 10)}, nil, nil).Read()
	if res.Err != nil {
		return false, fmt.Errorf("%s: %w", localList, res.Err)
	}
	return len(res.Rows) > 0, nil
}

// isOwn reports whether the table belongs to mtm itself: those are never replicated.
func isOwn(name string) bool { return strings.HasPrefix(name, "mtm.") }

// becomesLocal tells the other nodes of a table that was listed. Clients cannot list what is not theirs.
func (t *capturedTxn) becomesLocal(subxid uint32, row pgoutput.Tuple) error {
	if len(row) != 1 || row[0].Kind != pgoutput.Text {
		return fmt.Errorf("row of %s: %w", localList, pgoutput.ErrMalformed)
	}
	if err := t.sendDDL(); err != nil {
		return err
	}
	t.flags |= mtm.PayloadDDL
	t.changes[subxid]++
	t.late = t.late || t.told
	if t.table == "" {
		t.table = localList
	}
	if t.out == nil {
		return nil
	}
	m := &pgoutput.Logical{Transactional: true, Prefix: prefixLocal, Content: row[0].Data}
	return t.out.frame(subxid, 'M', pgoutput.Append(nil, m, false, 0)[1:])
}

// makeLocal lists a table here.
func (t *applyTxn) makeLocal(name string) error {
	_, err := t.rows("INSERT INTO "+localList+" VALUES ($1::pg_catalog.regclass) ON CONFLICT DO NOTHING", name)
	return err
}
