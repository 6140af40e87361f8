package verify

import (
	"context"
	"slices"
	"sort"
	"time"
)

// reading is what a node shows of one thing: version is compared, text is printed. The zero value: it is not there.
type reading struct {
	version string
	text    string
}

// watched is one thing that differed at the first look.
type watched struct {
	key   string
	nodes []history
}

// history is what one node has shown of it.
type history struct {
	now     reading
	since   time.Time       // when it was first seen as it is now
	changed bool            // it has ever changed
	seen    map[string]bool // its versions, the present one among them
}

// The pause between two readings grows from the first to the last.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 400 * time.Millisecond
	patience   = 3 // times Settle: then what still changes everywhere is undecided
)

func newWatched(key string, first []reading, now time.Time) *watched {
	w := &watched{key: key, nodes: make([]history, len(first))}
	for i, r := range first {
		w.nodes[i] = history{now: r, since: now, seen: map[string]bool{r.version: true}}
	}
	return w
}

func (w *watched) add(i int, r reading, now time.Time) {
	h := &w.nodes[i]
	if h.now.version != r.version {
		h.since, h.changed = now, true
		h.seen[r.version] = true
	}
	h.now = r
}

// travelled reports whether some version was seen on every node.
func (w *watched) travelled() bool {
	for version := range w.nodes[0].seen {
		if !slices.ContainsFunc(w.nodes, func(h history) bool { return !h.seen[version] }) {
			return true
		}
	}
	return false
}

// different reports whether the difference has stood for settle: nobody changes it any more, or one node does not, for
// twice as long, and the others, which do, never had what it has.
func (w *watched) different(settle time.Duration, now time.Time) bool {
	moving := slices.ContainsFunc(w.nodes, func(h history) bool { return now.Sub(h.since) < settle })
	if !moving {
		return true
	}
	return slices.ContainsFunc(w.nodes, func(stuck history) bool {
		return !stuck.changed && now.Sub(stuck.since) >= 2*settle &&
			!slices.ContainsFunc(w.nodes, func(h history) bool { return h.changed && h.seen[stuck.now.version] })
	})
}

func (w *watched) difference(kind string, undecided bool) Difference {
	d := Difference{Kind: kind, Name: w.key, Undecided: undecided}
	for _, h := range w.nodes {
		text := h.now.text
		if alike := slices.ContainsFunc(w.nodes, func(o history) bool {
			return o.now.text == text && o.now.version != h.now.version
		}); alike { // they differ behind what is shown
			text += "… (hash " + h.now.version + ")"
		}
		d.On = append(d.On, text)
	}
	return d
}

// settle reads what differs again and again until all of it is decided, and gives what is different, or undecided, in
// the order of keys. read gives what node i shows of the given keys; a key that it leaves out is not there.
func (v *verifier) settle(ctx context.Context, first []*watched, read func(i int, keys []string) (map[string]reading, error)) (different, undecided []*watched, err error) {
	open := first
	begin := time.Now()
	for pause := firstPause; len(open) > 0; pause = min(pause*3/2, lastPause) {
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(pause):
		}
		keys := make([]string, len(open))
		for k, w := range open {
			keys[k] = w.key
		}
		answers := make([]map[string]reading, len(v.conns))
		err := v.each(func(i int) (err error) { answers[i], err = read(i, keys); return err })
		if err != nil {
			return nil, nil, err
		}
		now := time.Now()
		open = slices.DeleteFunc(open, func(w *watched) bool {
			for i := range answers {
				w.add(i, answers[i][w.key], now)
			}
			switch {
			case w.travelled():
			case w.different(v.Settle, now):
				different = append(different, w)
			case now.Sub(begin) > patience*v.Settle:
				undecided = append(undecided, w)
			default:
				return false
			}
			return true
		})
	}
	for _, list := range [][]*watched{different, undecided} {
		sort.Slice(list, func(a, b int) bool { return list[a].key < list[b].key })
	}
	return different, undecided, nil
}
