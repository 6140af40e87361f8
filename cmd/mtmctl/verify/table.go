package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// table is a replicated table that all nodes have, with the same columns.
type table struct {
	Name     string   // quoted, with its schema
	Columns  []string // quoted, in order
	Key      []string // quoted; none: rows are compared as a bag
	KeyTypes []string // of Key, if the key can be looked up by its index; else none
	Estimate int64    // of rows
}

// tablesSQL lists tables and matviews with what a table needs. The key is the primary key, else the index of the
// replica identity, else any unique index of columns that cannot be NULL. The text form of a key is looked up by a
// cast to its type; that is done for types of pg_catalog only, where "=" is certainly the right one.
const tablesSQL = `SELECT format('%I.%I', n.nspname, c.relname),
	(SELECT array_agg(format('%I', attname) ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
	coalesce(k.names, '{}'), CASE WHEN k.simple THEN k.types ELSE '{}' END,
	greatest(c.reltuples::bigint, pg_relation_size(c.oid) / 500)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
	SELECT array_agg(format('%I', a.attname) ORDER BY p.n) AS names,
		array_agg(format('pg_catalog.%I', t.typname) ORDER BY p.n) AS types,
		bool_and(t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b') AS simple
	FROM pg_index i, LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS p (att, n), pg_attribute a, pg_type t
	WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
		AND p.n <= i.indnkeyatts AND a.attrelid = c.oid AND a.attnum = p.att AND t.oid = a.atttypid
	GROUP BY i.indexrelid, i.indisprimary, i.indisreplident
	HAVING bool_and(a.attnotnull)
	ORDER BY i.indisprimary DESC, i.indisreplident DESC, min(i.indexrelid::regclass::text)
	LIMIT 1
) k ON true
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated
	AND n.nspname NOT IN ('information_schema', 'mtm') AND n.nspname NOT LIKE 'pg\_%'`

// localSQL lists the tables that users have made local.
const localSQL = `SELECT format('%I.%I', n.nspname, c.relname)
	FROM mtm.local_tables l JOIN pg_class c ON c.oid = l.relid JOIN pg_namespace n ON n.oid = c.relnamespace`

// localTables are those of node i; none if that is not a node of a cluster.
func (v *verifier) localTables(ctx context.Context, i int) (map[string]bool, error) {
	local := map[string]bool{}
	var listed bool
	err := v.conns[i].QueryRow(ctx, `SELECT to_regclass('mtm.local_tables') IS NOT NULL`).Scan(&listed)
	if err != nil || !listed {
		return local, err
	}
	rows, err := v.conns[i].Query(ctx, localSQL)
	if err != nil {
		return nil, err
	}
	var name string
	_, err = pgx.ForEachRow(rows, []any{&name}, func() error { local[name] = true; return nil })
	return local, err
}

// readTables gives the tables of node i by name.
func (v *verifier) readTables(ctx context.Context, i int) (map[string]table, error) {
	local, err := v.localTables(ctx, i)
	if err != nil {
		return nil, err
	}
	rows, err := v.conns[i].Query(ctx, tablesSQL)
	if err != nil {
		return nil, err
	}
	all := map[string]table{}
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		err = row.Scan(&t.Name, &t.Columns, &t.Key, &t.KeyTypes, &t.Estimate)
		if !local[t.Name] {
			all[t.Name] = t
		}
		return t, err
	})
	return all, err
}

// commonTables gives the tables that can be compared, in the order of their names: those that every node has. That
// a table, or a column of one, is missing somewhere is found by definitions.
func (v *verifier) commonTables(ctx context.Context) ([]table, error) {
	each := make([]map[string]table, len(v.conns))
	if err := v.each(func(i int) (err error) { each[i], err = v.readTables(ctx, i); return err }); err != nil {
		return nil, err
	}
	var common []table
next:
	for name := range union(each) {
		t := each[0][name]
		for _, of := range each[1:] {
			other, found := of[name]
			if !found || !slices.Equal(other.Columns, t.Columns) {
				continue next
			}
			if !slices.Equal(other.Key, t.Key) || !slices.Equal(other.KeyTypes, t.KeyTypes) {
				t.Key, t.KeyTypes = nil, nil
			}
			t.Estimate = max(t.Estimate, other.Estimate)
		}
		common = append(common, t)
	}
	slices.SortFunc(common, func(a, b table) int { return strings.Compare(a.Name, b.Name) })
	return common, nil
}

// tables compares the rows of all tables. A table that was altered or dropped in the midst is looked at again.
func (v *verifier) tables(ctx context.Context) error {
	done := map[string]bool{}
	for pass := 1; ; pass++ {
		list, err := v.commonTables(ctx)
		if err != nil {
			return err
		}
		var again error
		for _, t := range list {
			if done[t.Name] {
				continue
			}
			err := v.table(ctx, t)
			if err != nil && changedUnderway(err) {
				again = fmt.Errorf("table %s: %w", t.Name, err)
				continue
			}
			if err != nil {
				return fmt.Errorf("table %s: %w", t.Name, err)
			}
			done[t.Name] = true
		}
		if again == nil {
			return nil
		}
		if pass == maxPasses {
			return again
		}
	}
}

// table compares the rows of one table. Rows that differ at the first look are followed; if there are more than can be
// followed at once and all of them settle, the table is looked at once more.
func (v *verifier) table(ctx context.Context, t table) error {
	v.Progress("comparing %s", t.Name)
	for pass := 1; ; pass++ {
		buckets, rows, err := v.differingBuckets(ctx, t)
		if err != nil {
			return err
		}
		var open []*watched
		more := false
		if len(buckets) > 0 {
			if open, more, err = v.differingRows(ctx, t, buckets); err != nil {
				return err
			}
		}
		different, undecided, err := v.settle(ctx, open, func(i int, keys []string) (map[string]reading, error) {
			return v.readRows(ctx, i, t, keys)
		})
		if err != nil {
			return err
		}
		if more && len(different) == 0 && pass < maxPasses {
			continue
		}
		v.result.Tables++
		v.result.Rows += rows
		if more || len(different) > 0 || len(undecided) > 0 {
			v.result.Differing = append(v.result.Differing, t.found(different, undecided, more))
		}
		return nil
	}
}

func (t table) found(different, undecided []*watched, more bool) Table {
	out := Table{Name: t.Name, More: more}
	add := func(list []*watched, open bool) {
		for _, w := range list {
			d := w.difference("row", open)
			d.Name = t.keyText(w.key)
			out.Rows = append(out.Rows, d)
		}
	}
	add(different, false)
	add(undecided, true)
	return out
}

// keyText prints a key as (a, b) = (1, 2); a row without a key by its hash.
func (t table) keyText(key string) string {
	if len(t.Key) == 0 {
		return "of hash " + key
	}
	return fmt.Sprintf("(%s) = (%s)", strings.Join(t.Key, ", "), strings.Join(strings.Split(key, keySeparator), ", "))
}

// differingBuckets gives the buckets of keys whose digests are not the same on all nodes, and how many rows the first
// node has.
func (v *verifier) differingBuckets(ctx context.Context, t table) (differ []int32, rows int64, err error) {
	each := make([]map[int32]digest, len(v.conns))
	err = v.each(func(i int) (err error) { each[i], err = v.digests(ctx, i, t); return err })
	if err != nil {
		return nil, 0, err
	}
	all := map[int32]bool{}
	for i := range each {
		for b := range each[i] {
			all[b] = true
		}
	}
	for b := range all {
		if slices.ContainsFunc(each, func(of map[int32]digest) bool { return of[b] != each[0][b] }) {
			differ = append(differ, b)
		}
	}
	for _, d := range each[0] {
		rows += d.rows
	}
	slices.Sort(differ)
	return differ, rows, nil
}

// differingRows gives the rows of these buckets that are not the same everywhere, at most Rows of them.
func (v *verifier) differingRows(ctx context.Context, t table, buckets []int32) (open []*watched, more bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	streams := make([]*stream, len(v.conns))
	err = v.each(func(i int) (err error) { streams[i], err = openStream(ctx, v.conns[i], t, buckets); return err })
	defer func() {
		for _, s := range streams {
			if s != nil {
				s.close()
			}
		}
	}()
	now := time.Now()
	for err == nil {
		groups, end, e := nextGroups(streams)
		if e != nil || end {
			err = e
			break
		}
		for key := range union(groups) {
			at := pick(groups, key)
			if same(at) {
				continue
			}
			if more = len(open) == v.Rows; more {
				return open, more, nil
			}
			open = append(open, newWatched(key, at, now))
		}
	}
	return open, more, err
}
