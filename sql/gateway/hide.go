package gateway

import (
	"slices"

	"mtm/sql/statement"
)

// hidden is a text in which catalogs were replaced by what they hold without rows of mtm's own.
type hidden struct {
	text    string // as the client sent it
	patches []statement.Patch
}

func newHidden(text string, patches []statement.Patch) *hidden { return &hidden{text, patches} }

// hideOurs makes the Query in session.batch one that shows nothing of mtm in the catalog.
func (s *session) hideOurs(stmts []*statement.Statement, text string) {
	var h *hidden
	for _, st := range stmts {
		if len(st.Hide) > 0 && h == nil {
			h = newHidden(text, nil)
		}
		if h != nil {
			h.patches = append(h.patches, st.Hide...)
		}
	}
	if h != nil {
		s.batch = appendQuery(s.batch[:0], statement.Apply(text, h.patches))
	}
	s.mu.Lock()
	s.hide = h
	s.mu.Unlock()
}

// hidePiece is the text of one statement of several, which is run by itself.
func (s *session) hidePiece(st *statement.Statement, text string) string {
	piece := st.Text(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hide = nil
	if st.Kind != statement.Write || len(st.Hide) == 0 {
		return piece
	}
	patches := slices.Clone(st.Hide)
	for i := range patches {
		patches[i].At -= st.Start
	}
	s.hide = newHidden(piece, patches)
	return statement.Apply(piece, patches)
}

// ddlText is what the other nodes are told of a DDL statement.
func ddlText(st *statement.Statement, text string) string {
	return statement.Apply(text, st.Hide)[st.Start:st.End]
}

// position says where in the client's text that is what PostgreSQL calls position n, both in characters from 1.
func (h *hidden) position(n int) int {
	before, done := 0, 0 // characters of the text sent, bytes of the client's
	for _, p := range h.patches {
		before += characters(h.text[done:p.At])
		if n-1 < before {
			break
		}
		long, short := characters(p.Text), characters(h.text[p.At:p.At+p.Len])
		if n-1 < before+long {
			return n - (n - 1 - before) // the name itself
		}
		n -= long - short
		before += short
		done = p.At + p.Len
	}
	return n
}

// asSent gives the position in an error in terms of what the client sent; mu is held.
func (s *session) asSent(e expect, msg []byte) []byte {
	switch {
	case e.op == 'Q':
		if s.hide != nil && e.role == roleClient {
			msg = mapPosition(msg, s.hide.position)
		}
		if e.shift != 0 {
			msg = shiftPosition(msg, e.shift)
		}
	case e.op == 'P' && e.parse != nil && e.parse.hide != nil:
		return mapPosition(msg, e.parse.hide.position)
	}
	return msg
}
