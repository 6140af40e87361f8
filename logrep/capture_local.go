package logrep

import (
	"context"
	"fmt"
	"strings"
)

// mtm.local_tables(rel_schema, rel_name) lists the tables that are not replicated. It is read when a stream starts and
// after each transaction that changed it.
const localTablesSQL = `SELECT rel_schema::text || '.' || rel_name::text FROM mtm.local_tables`

// localStale in the set of local tables means that it must be read again.
const localStale = ""

func localChanged(local map[string]bool, t *capturedTxn) map[string]bool {
	if t.local {
		local[localStale] = true
	}
	return local
}

func (s *captureStream) loadLocalIfChanged(ctx context.Context) error {
	if !s.local[localStale] {
		return nil
	}
	if err := s.loadLocal(ctx); err != nil {
		return err
	}
	for _, rel := range s.rels {
		rel.replicated = !s.local[rel.name] && !isOwn(rel.name)
	}
	return nil
}

// loadLocal reads the list over a connection of its own: the replication connection is busy.
func (s *captureStream) loadLocal(ctx context.Context) error {
	conn, err := s.cfg.connect(ctx, "mtm_capture_aux", nil)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	s.local = map[string]bool{}
	rows, err := query(ctx, conn, "SELECT 1 WHERE to_regclass('mtm.local_tables') IS NOT NULL")
	if err != nil || len(rows) == 0 {
		return err
	}
	if rows, err = query(ctx, conn, localTablesSQL); err != nil {
		return fmt.Errorf("mtm.local_tables: %w", err)
	}
	for _, row := range rows {
		s.local[string(row[0])] = true
	}
	return nil
}

// isOwn reports whether the table belongs to mtm itself: those are never replicated.
func isOwn(name string) bool { return strings.HasPrefix(name, "mtm.") }
