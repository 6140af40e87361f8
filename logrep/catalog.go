package logrep

import (
	"sync"
	"sync/atomic"

	"mtm"
)

// Catalog is what Capture, Applier, Finisher and Recoverer of one node know together: of its tables, which are asked for again
// after each DDL, and of the rows that transactions in flight change. Give all of them the same one.
type Catalog struct {
	now    atomic.Pointer[catalogState]
	rivals rivals
	mu     sync.Mutex
	ddl    map[mtm.GID]bool // prepared here, and may change tables
	user   map[mtm.GID]bool // see Announces
}

// catalogState is what is known between two DDLs.
type catalogState struct {
	mu     sync.Mutex
	tables map[string]*tableFacts // by quoted name
}

// NewCatalog makes a Catalog that knows nothing yet.
func NewCatalog() *Catalog {
	c := &Catalog{ddl: map[mtm.GID]bool{}, user: map[mtm.GID]bool{}}
	c.changed()
	return c
}

func newCatalogState() *catalogState { return &catalogState{tables: map[string]*tableFacts{}} }

// changed: the tables may be different from now on.
func (c *Catalog) changed() { c.now.Store(newCatalogState()) }

// prepared: gid, prepared here, may change tables when it is committed.
func (c *Catalog) prepared(gid mtm.GID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ddl[gid] = true
}

// finished: PostgreSQL has committed gid or rolled it back. It is called before anybody hears of that: who depends on gid
// asks again.
func (c *Catalog) finished(gid mtm.GID) {
	c.rivals.leave(gid)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ddl[gid] {
		delete(c.ddl, gid)
		c.changed()
	}
}

func (s *catalogState) get(name string) *tableFacts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tables[name]
}

func (s *catalogState) put(name string, f *tableFacts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables[name] = f
}
