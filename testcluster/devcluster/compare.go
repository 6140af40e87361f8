package devcluster

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// digest is what a table holds: how many rows, and a sum over hashes of all rows, which no order changes.
type digest struct {
	rows int64
	sum  string
}

// CompareTables checks that every ordinary table of every user schema has the same rows on all given nodes, and that
// no node has a prepared transaction of mtm left. It reads PostgreSQL straight; load must have ended, but it need
// not be settled: call it until it gives nil.
func (c *Cluster) CompareTables(ctx context.Context, ids ...int) error {
	all := make([]map[string]digest, len(ids))
	for i, id := range ids {
		n, err := c.node(id)
		if err != nil {
			return err
		}
		if all[i], err = n.digests(ctx, c.st.Database); err != nil {
			return fmt.Errorf("node %d: %w", id, err)
		}
	}
	var wrong []string
	for i := 1; i < len(ids); i++ {
		wrong = append(wrong, diff(ids[0], ids[i], all[0], all[i])...)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("nodes differ:\n%s", strings.Join(wrong, "\n"))
	}
	return nil
}

func diff(a, b int, of, on map[string]digest) (wrong []string) {
	names := map[string]bool{}
	for name := range of {
		names[name] = true
	}
	for name := range on {
		names[name] = true
	}
	for name := range names {
		x, inA := of[name]
		y, inB := on[name]
		switch {
		case !inA:
			wrong = append(wrong, fmt.Sprintf("  table %s is on node %d and not on %d", name, b, a))
		case !inB:
			wrong = append(wrong, fmt.Sprintf("  table %s is on node %d and not on %d", name, a, b))
		case x.rows != y.rows:
			wrong = append(wrong, fmt.Sprintf("  table %s has %d rows on node %d and %d on %d", name, x.rows, a, y.rows, b))
		case x != y:
			wrong = append(wrong, fmt.Sprintf("  table %s has different rows (%d) on nodes %d and %d", name, x.rows, a, b))
		}
	}
	sort.Strings(wrong)
	return wrong
}

// digests reads all tables of one node. Local ones, unlogged and temporary too, are left out.
func (n *node) digests(ctx context.Context, database string) (map[string]digest, error) {
	conn, err := pgx.Connect(ctx, n.pgURL(database))
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	var left []string
	var listed bool
	err = conn.QueryRow(ctx, `SELECT coalesce(array_agg(gid), '{}') FROM pg_prepared_xacts WHERE gid LIKE 'mtm-%'`).Scan(&left)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("%d prepared transactions are left: %s", len(left), strings.Join(left[:min(5, len(left))], ", "))
	}
	local := []uint32{}
	if err := conn.QueryRow(ctx, `SELECT to_regclass('mtm.local_tables') IS NOT NULL`).Scan(&listed); err != nil {
		return nil, err
	}
	if listed {
		if err := conn.QueryRow(ctx, `SELECT coalesce(array_agg(relid::oid), '{}') FROM mtm.local_tables`).Scan(&local); err != nil {
			return nil, err
		}
	}
	rows, err := conn.Query(ctx, `SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'mtm')
		AND n.nspname NOT LIKE 'pg\_%' AND c.oid <> ALL ($1)`, local)
	if err != nil {
		return nil, err
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (id pgx.Identifier, err error) {
		id = make(pgx.Identifier, 2)
		return id, row.Scan(&id[0], &id[1])
	})
	if err != nil {
		return nil, err
	}
	all := map[string]digest{}
	for _, table := range tables {
		name := table.Sanitize()
		var d digest
		err := conn.QueryRow(ctx, `SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM ONLY `+
			name+` t`).Scan(&d.rows, &d.sum)
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
		all[name] = d
	}
	return all, nil
}

// WaitEqual calls CompareTables until it gives nil or patience is over, and gives the last error then.
func (c *Cluster) WaitEqual(ctx context.Context, patience time.Duration, ids ...int) error {
	end := time.Now().Add(patience)
	for {
		err := c.CompareTables(ctx, ids...)
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * pollEvery):
		}
	}
}
