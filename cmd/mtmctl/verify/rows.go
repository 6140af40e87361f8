package verify

import (
	"context"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	keySeparator = "\x00" // which no text of PostgreSQL contains
	perBucket    = 512    // rows, about
	maxBuckets   = 1 << 16
	shownText    = 300 // characters of a row that a difference shows
)

// digest is what a node has in one bucket. The sum of the hashes does not depend on any order.
type digest struct {
	rows int64
	sum  string
}

// rowText is the expression of a row's text, in the "C" collation so that its hash depends on its bytes only.
func (t table) rowText() string { return textOf(t.Columns) }

func textOf(columns []string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = "t." + c
	}
	return `(ROW(` + strings.Join(list, ", ") + `)::text COLLATE "C")`
}

func hashOf(text string) string { return "hashtextextended(" + text + ", 0)" }

// keyHash is the expression by which rows fall into buckets.
func (t table) keyHash() string {
	if len(t.Key) == 0 {
		return hashOf(t.rowText())
	}
	return hashOf(textOf(t.Key))
}

// keyList is the list of expressions of the key's columns as text, with names k0, k1, ….
func (t table) keyList() string {
	list := make([]string, len(t.Key))
	for i, k := range t.Key {
		list[i] = fmt.Sprintf("t.%s::text AS k%d", k, i)
	}
	return strings.Join(list, ", ")
}

// bucket is the expression of the bucket of a row.
func (t table) bucket() string {
	n := min(maxBuckets, 1<<bits.Len64(uint64(max(t.Estimate, 1)/perBucket)))
	return fmt.Sprintf("(%s & %d)::int", t.keyHash(), n-1)
}

// digests gives what node i has in each bucket.
func (v *verifier) digests(ctx context.Context, i int, t table) (map[int32]digest, error) {
	rows, err := v.conns[i].Query(ctx, fmt.Sprintf(`SELECT %s, count(*), sum(%s)::text FROM ONLY %s t GROUP BY 1`,
		t.bucket(), hashOf(t.rowText()), t.Name))
	if err != nil {
		return nil, err
	}
	all := map[int32]digest{}
	var bucket int32
	var d digest
	_, err = pgx.ForEachRow(rows, []any{&bucket, &d.rows, &d.sum}, func() error { all[bucket] = d; return nil })
	return all, err
}

// stream is the keys of some buckets with the hashes of their rows, in the order of the keys' hashes.
type stream struct {
	rows pgx.Rows
	keys int
	ok   bool // there is a row that was not taken
	hash int64
	key  string
	now  reading
}

func openStream(ctx context.Context, conn *pgx.Conn, t table, buckets []int32) (*stream, error) {
	var sql string
	if len(t.Key) == 0 {
		sql = fmt.Sprintf(`SELECT %s, count(*)::text, min(left(%s, %d)) FROM ONLY %s t WHERE %s = ANY ($1) GROUP BY 1 ORDER BY 1`,
			t.keyHash(), t.rowText(), shownText, t.Name, t.bucket())
	} else {
		sql = fmt.Sprintf(`SELECT %s, %s::text, left(%s, %d), %s FROM ONLY %s t WHERE %s = ANY ($1) ORDER BY 1`,
			t.keyHash(), hashOf(t.rowText()), t.rowText(), shownText, t.keyList(), t.Name, t.bucket())
	}
	rows, err := conn.Query(ctx, sql, buckets)
	if err != nil {
		return nil, err
	}
	s := &stream{rows: rows, keys: len(t.Key)}
	return s, s.next()
}

// next reads a row.
func (s *stream) next() error {
	s.ok = s.rows.Next()
	if !s.ok {
		return s.rows.Err()
	}
	parts := make([]string, s.keys)
	to := []any{&s.hash, &s.now.version, &s.now.text}
	for i := range parts {
		to = append(to, &parts[i])
	}
	if err := s.rows.Scan(to...); err != nil {
		return err
	}
	if s.key = strings.Join(parts, keySeparator); s.keys == 0 {
		s.key = strconv.FormatInt(s.hash, 10)
		s.now.text = copies(s.now)
	}
	return nil
}

// copies is what is shown of a row of a table without a key; its version is how many there are.
func copies(r reading) string { return r.version + " × " + r.text }

func (s *stream) close() { s.rows.Close() }

// nextGroups takes from all streams the rows whose key has the smallest hash that any has.
func nextGroups(streams []*stream) (groups []map[string]reading, end bool, err error) {
	end = true
	var smallest int64
	for _, s := range streams {
		if s.ok && (end || s.hash < smallest) {
			smallest, end = s.hash, false
		}
	}
	groups = make([]map[string]reading, len(streams))
	for i, s := range streams {
		groups[i] = map[string]reading{}
		for s.ok && s.hash == smallest && !end {
			groups[i][s.key] = s.now
			if err := s.next(); err != nil {
				return nil, false, err
			}
		}
	}
	return groups, end, nil
}

// readRows gives what node i has under the given keys now.
func (v *verifier) readRows(ctx context.Context, i int, t table, keys []string) (map[string]reading, error) {
	var sql string
	var args []any
	if len(t.Key) == 0 {
		hashes := make([]int64, len(keys))
		for k, key := range keys {
			hashes[k], _ = strconv.ParseInt(key, 10, 64)
		}
		sql = fmt.Sprintf(`SELECT %s, count(*)::text, min(left(%s, %d)) FROM ONLY %s t WHERE %[1]s = ANY ($1) GROUP BY 1`,
			t.keyHash(), t.rowText(), shownText, t.Name)
		args = []any{hashes}
	} else {
		sql, args = t.lookUp(keys)
	}
	rows, err := v.conns[i].Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	s := &stream{rows: rows, keys: len(t.Key)}
	defer s.close()
	all := map[string]reading{}
	for {
		if err := s.next(); err != nil || !s.ok {
			return all, err
		}
		all[s.key] = s.now
	}
}

// lookUp is the query for rows by the text of their keys.
func (t table) lookUp(keys []string) (sql string, args []any) {
	columns := make([][]string, len(t.Key))
	for _, key := range keys {
		for c, part := range strings.Split(key, keySeparator) {
			columns[c] = append(columns[c], part)
		}
	}
	var arrays, names, equal []string
	for c := range t.Key {
		args = append(args, columns[c])
		arrays = append(arrays, fmt.Sprintf("$%d::text[]", c+1))
		names = append(names, fmt.Sprintf("w%d", c))
		if len(t.KeyTypes) > 0 {
			equal = append(equal, fmt.Sprintf("t.%s = w.w%d::%s", t.Key[c], c, t.KeyTypes[c]))
		} else {
			equal = append(equal, fmt.Sprintf(`t.%s::text COLLATE "C" = w.w%d COLLATE "C"`, t.Key[c], c))
		}
	}
	sql = fmt.Sprintf(`SELECT 0::int8, %s::text, left(%s, %d), %s FROM ONLY %s t JOIN unnest(%s) AS w (%s) ON %s`,
		hashOf(t.rowText()), t.rowText(), shownText, t.keyList(), t.Name,
		strings.Join(arrays, ", "), strings.Join(names, ", "), strings.Join(equal, " AND "))
	return sql, args
}
