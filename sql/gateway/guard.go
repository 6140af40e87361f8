package gateway

import (
	"context"
	"slices"
	"strings"

	"mtm/sql/statement"
)

// Sessions run with default_transaction_read_only = on, so that nothing can commit outside of a block that the gateway
// knows of. The client must not notice.

// aboutReadOnly deals with SHOW and SET of what the guard uses.
func (s *session) aboutReadOnly(ctx context.Context, u *unit, tx byte) error {
	st := u.stmts[0]
	if st.Has(statement.Show) {
		u.show = !s.clientReadOnly
		if s.clientReadOnly {
			return s.forward(true)
		}
		if tx == 'T' {
			return s.inBlock(u)
		}
		return s.runWrapped(ctx, u)
	}
	defer s.noteDefault(st, st.Text(u.text))
	return s.forward(true)
}

// noteDefault notes what SET or RESET makes of the client's own default_transaction_read_only. PostgreSQL runs it, and settle puts the guard up
// again.
func (s *session) noteDefault(st *statement.Statement, text string) {
	text = strings.ToUpper(text)
	if (st.Has(statement.AccessMode) || strings.Contains(text, "DEFAULT_TRANSACTION_READ_ONLY")) && !strings.HasPrefix(text, "SET LOCAL") {
		s.clientReadOnly = meansOn(st, text)
	}
}

// noteDefaults is noteDefault for a Query of several statements, when they have run.
func (s *session) noteDefaults(stmts []*statement.Statement, text string) {
	for _, st := range stmts {
		if st.SetsMode() && st.Has(statement.ShowsReadOnly) {
			s.noteDefault(st, st.Text(text))
		}
	}
}

// meansOn reports whether a SET of default_transaction_read_only turns it on.
func meansOn(st *statement.Statement, text string) bool {
	if st.Has(statement.AccessMode) {
		return st.Has(statement.ReadOnly)
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n='\";", r) })
	if len(words) < 2 {
		return false
	}
	switch words[len(words)-1] {
	case "ON", "TRUE", "YES", "1", "T", "Y":
		return true
	}
	return false
}

// unguarded runs a statement that PostgreSQL refuses in a read-only transaction and also in a block: CREATE DATABASE.
func (s *session) unguarded(ctx context.Context, u *unit) error {
	if fires, err := s.fires(u.stmts[0]); err != nil {
		return err
	} else if fires {
		return s.runWrapped(ctx, u)
	}
	s.turnGuardOff()
	s.toBackend = append(s.toBackend, s.batch...)
	s.mu.Lock()
	s.push(expect{op: 'Q'})
	s.mu.Unlock()
	return s.turnGuardOn()
}

// unguardedBatch is unguarded, for a batch that executes nothing else.
func (s *session) unguardedBatch(ctx context.Context, metas []meta) error {
	i := slices.IndexFunc(metas, func(m meta) bool { return m.typ == 'E' })
	if fires, err := s.fires(metas[i].def.stmt); err != nil {
		return err
	} else if fires {
		s.ext.metas = nil
		err := s.runWrapped(ctx, &unit{stmts: []*statement.Statement{metas[i].def.stmt}, metas: metas, ext: true})
		s.ext.metas = metas[:0]
		return err
	}
	s.turnGuardOff()
	s.appendBatch(metas, false)
	s.ext.metas = metas[:0]
	s.sync(false)
	return s.turnGuardOn()
}

// fires reports whether somebody's event trigger may fire at st, and write. (At databases and tablespaces none does.)
func (s *session) fires(st *statement.Statement) (bool, error) {
	if !st.Has(statement.Fires) {
		return false, nil
	}
	res, err := s.do(roleAsk, injFires)
	return res.value != "f", err
}

func (s *session) turnGuardOff() {
	s.resetStep(false)
	s.inject(injGuardOff, roleOurs)
	s.sync(true)
}

func (s *session) turnGuardOn() error {
	s.inject(injGuardOn, roleOurs)
	s.sync(true)
	return s.send()
}

// guardAgain puts the guard up again that the client took down. Without it nothing of his may run: a read that writes would commit here alone.
func (s *session) guardAgain() error {
	var st step
	for range oursTries {
		var err error
		if st, err = s.do(roleOurs, injGuardOn); err != nil || st.err == nil {
			return err
		}
		if s.status() == 'E' { // the SET is undone with his block, and he is told why it failed
			s.mu.Lock()
			s.told = st.err
			s.mu.Unlock()
			return nil
		}
	}
	return st.err
}

// oursTries is how often a statement of ours is sent that a cancel request of the client's, or his statement_timeout, can hit, and that
// must not be missing.
const oursTries = 10

// guardOption is what is added to a client's startup options: the guard, and a sign for the event triggers of schema mtm.
const guardOption = "-c default_transaction_read_only=on -c mtm.gateway=on"

// startsReadOnly reports whether a client asks in his startup packet for read-only transactions.
func startsReadOnly(params [][2]string) bool {
	on := false
	for _, p := range params {
		switch strings.ToLower(p[0]) {
		case "default_transaction_read_only":
			on = meansOnValue(p[1])
		case "options":
			for _, word := range strings.Fields(strings.ReplaceAll(p[1], "--", "-c ")) {
				name, value, _ := strings.Cut(strings.TrimPrefix(word, "-c"), "=")
				if strings.ToLower(strings.ReplaceAll(name, "-", "_")) == "default_transaction_read_only" {
					on = meansOnValue(value)
				}
			}
		}
	}
	return on
}

func meansOnValue(v string) bool {
	switch strings.ToLower(v) {
	case "on", "true", "yes", "1", "t", "y":
		return true
	}
	return false
}
