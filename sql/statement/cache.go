package statement

import (
	"container/list"
	"strings"
	"sync"
)

// maxCached is the longest text that is remembered, in bytes.
const maxCached = 16 << 10

// entryCost is about what one remembered text takes beside itself, in bytes.
const entryCost = 400

// Cache remembers what Split said of a text, up to a number of bytes, and forgets what was used longest ago. Texts
// that differ in digits only share an entry where that is safe, so that literals do not fill it.
type Cache struct {
	mu      sync.Mutex
	limit   int
	used    int
	entries map[string]*list.Element
	order   list.List // of *entry, latest first
}

type entry struct {
	key   string
	stmts []*Statement
	ok    bool
}

func (e *entry) cost() int { return len(e.key) + entryCost*(1+len(e.stmts)) }

// NewCache makes a cache of at most limit bytes, about.
func NewCache(limit int) *Cache {
	return &Cache{limit: limit, entries: make(map[string]*list.Element)}
}

// Split is Split, remembered. For a sole Read or Write, a text that was seen before with other digits gives the same
// *Statement, whose Start and End are then those of the first.
func (c *Cache) Split(text string) (stmts []*Statement, ok bool) {
	if len(text) > maxCached {
		return Split(text)
	}
	var buf [512]byte
	key := fold(buf[:0], text)
	if e := c.get(key, text); e != nil {
		return e.stmts, e.ok
	}
	stmts, ok = Split(text)
	e := &entry{stmts: stmts, ok: ok}
	if ok && len(stmts) == 1 && foldable(stmts[0]) {
		e.key = string(key)
	} else {
		e.key = strings.Clone(text)
	}
	c.add(e)
	return stmts, ok
}

// get looks for a text, as folded first.
func (c *Cache) get(folded []byte, text string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[string(folded)]
	if el == nil {
		el = c.entries[text]
	}
	if el == nil {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*entry)
}

// foldable reports whether what was said of a text holds for all that differ from it in digits only: not where the
// place of a token or a literal matters.
func foldable(s *Statement) bool { return (s.Kind == Read || s.Kind == Write) && s.Hide == nil }

func (c *Cache) add(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[e.key] != nil {
		return
	}
	c.entries[e.key] = c.order.PushFront(e)
	c.used += e.cost()
	for c.used > c.limit && c.order.Len() > 1 {
		last := c.order.Back()
		old := last.Value.(*entry)
		c.order.Remove(last)
		delete(c.entries, old.key)
		c.used -= old.cost()
	}
}

// fold writes text to buf with each run of digits as one zero: the lexer finds the same tokens in all texts that fold
// to the same, but for the names of dollar quotes, escapes (\u0061) and numbers like 0b1, so a text with such is left as it is. Folded texts begin with a NUL,
// which no text from a client holds, so that they are not mistaken for others.
func fold(buf []byte, text string) []byte {
	buf = append(buf, 0)
	digits := false
	for i := 0; i < len(text); i++ {
		b := text[i]
		if b >= '0' && b <= '9' {
			if !digits {
				buf = append(buf, '0')
			}
			digits = true
			continue
		}
		if b == '$' && (i+1 == len(text) || text[i+1] < '0' || text[i+1] > '9') || b == '\\' || digits && strings.IndexByte("xXoObB", b) >= 0 {
			return append(buf[:0], text...)
		}
		digits = false
		buf = append(buf, b)
	}
	return buf
}
