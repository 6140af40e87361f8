package verify

import (
	"context"
	_ "embed"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed catalog.sql
var catalogSQL string

// maxDefinitions bounds what is listed of definitions, and the memory that following them needs.
const maxDefinitions = 10000

// definitions compares the definitions of all objects.
func (v *verifier) definitions(ctx context.Context) error {
	v.Progress("comparing definitions")
	exact, err := v.sameMajor(ctx)
	if err != nil {
		return err
	}
	if !exact {
		v.Progress("the servers are of different major versions: expressions that they print are not compared")
	}
	all := func(i int, _ []string) (map[string]reading, error) { return v.readDefinitions(ctx, i, exact) }
	first := make([]map[string]reading, len(v.conns))
	if err := v.each(func(i int) (err error) { first[i], err = all(i, nil); return err }); err != nil {
		return err
	}
	now := time.Now()
	var open []*watched
	for key := range union(first) {
		if at := pick(first, key); !same(at) && len(open) < maxDefinitions {
			open = append(open, newWatched(key, at, now))
		}
	}
	different, undecided, err := v.settle(ctx, open, all)
	if err != nil {
		return err
	}
	for _, w := range different {
		v.result.Definitions = append(v.result.Definitions, definition(w, false))
	}
	for _, w := range undecided {
		v.result.Definitions = append(v.result.Definitions, definition(w, true))
	}
	return nil
}

func definition(w *watched, undecided bool) Difference {
	kind, name, _ := strings.Cut(w.key, "\x00")
	d := w.difference(kind, undecided)
	d.Name = name
	return d
}

// readDefinitions reads them all; one that is dropped meanwhile may make the server fail: then it is read again.
func (v *verifier) readDefinitions(ctx context.Context, i int, exact bool) (map[string]reading, error) {
	for try := 1; ; try++ {
		all, err := v.readDefinitionsOnce(ctx, i, exact)
		if err == nil || try == maxPasses || !changedUnderway(err) {
			return all, err
		}
	}
}

func (v *verifier) readDefinitionsOnce(ctx context.Context, i int, exact bool) (map[string]reading, error) {
	local, err := v.localTables(ctx, i)
	if err != nil {
		return nil, err
	}
	rows, err := v.conns[i].Query(ctx, catalogSQL, exact)
	if err != nil {
		return nil, err
	}
	all := map[string]reading{}
	for name := range local {
		all["local table\x00"+name] = reading{version: "=", text: orExists("")}
	}
	var kind, name string
	var definition *string // NULL: of what is dropped just now
	_, err = pgx.ForEachRow(rows, []any{&kind, &name, &definition}, func() error {
		key, text := kind+"\x00"+name, ""
		// Two objects of one name (rules, operators, …) count as one that has both definitions.
		if definition != nil {
			text = strings.TrimSpace(*definition)
		}
		if other, found := all[key]; found {
			both := []string{other.text, text}
			slices.Sort(both)
			text = strings.Join(both, "; ")
		}
		all[key] = reading{version: "=" + text, text: orExists(text)}
		return nil
	})
	return all, err
}

// orExists is what is printed of an object that has no more to it than its name.
func orExists(text string) string {
	if text == "" {
		return "exists"
	}
	return text
}

func (v *verifier) sameMajor(ctx context.Context) (bool, error) {
	majors := make([]int, len(v.conns))
	err := v.each(func(i int) error {
		return v.conns[i].QueryRow(ctx, `SELECT current_setting('server_version_num')::int / 10000`).Scan(&majors[i])
	})
	return slices.Max(majors) == slices.Min(majors), err
}

// union is the keys that any node has.
func union[T any](maps []map[string]T) map[string]bool {
	keys := map[string]bool{}
	for _, m := range maps {
		for key := range m {
			keys[key] = true
		}
	}
	return keys
}

// pick is what each node has under key.
func pick[T any](maps []map[string]T, key string) []T {
	at := make([]T, len(maps))
	for i, m := range maps {
		at[i] = m[key]
	}
	return at
}

func same(at []reading) bool {
	return !slices.ContainsFunc(at, func(r reading) bool { return r.version != at[0].version })
}
