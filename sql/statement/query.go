package statement

import (
	t "github.com/pganalyze/pg_query_go/v6"
)

// classifyQuery is for SELECT, VALUES, TABLE, WITH, the DML statements, and EXPLAIN of them; i is the first token that
// is no parenthesis.
func classifyQuery(w words, i int, s *Statement) {
	switch w.at(i) {
	case t.Token_INSERT, t.Token_UPDATE, t.Token_DELETE_P, t.Token_MERGE:
		s.Kind, s.Flags = Write, PlainDML
		return
	case t.Token_EXPLAIN:
		classifyExplain(w, s)
		return
	}
	s.Kind = Read
	with := w.has(t.Token_WITH)
	depth := 0
	for k, tok := range w.tokens {
		prev := w.at(k - 1)
		switch tok.code {
		case '(':
			depth++
		case ')':
			depth--
		case t.Token_INSERT, t.Token_UPDATE, t.Token_DELETE_P, t.Token_MERGE:
			if with && (prev == '(' || prev == ')') {
				s.Kind, s.Flags = Write, PlainDML
				return
			}
		case t.Token_INTO:
			if prev == t.Token_AS || prev == '.' || depth > i {
				continue
			}
			s.Kind = DDL
			if next := w.at(k + 1); next == t.Token_TEMP || next == t.Token_TEMPORARY ||
				next == t.Token_LOCAL || next == t.Token_GLOBAL {
				s.Kind, s.Flags = TempDDL, Temporary
			}
			return
		case t.Token_FOR:
			switch w.at(k + 1) {
			case t.Token_UPDATE, t.Token_SHARE, t.Token_NO, t.Token_KEY:
				s.Kind = Write
			}
		}
	}
	if s.Kind == Read && ownSchema(w) {
		s.Flags |= OwnSchema
	}
}

// ownSchema reports whether a query names schema mtm, and takes rows from there only. "mtm" must be spelled plainly.
func ownSchema(w words) bool {
	own, from := false, false
	for i := range w.tokens {
		switch w.at(i) {
		case t.Token_IDENT:
			own = own || w.word(i) == "mtm" && w.at(i+1) == '.'
		case t.Token_FROM, t.Token_JOIN:
			from = true
			if w.word(i+1) != "mtm" || w.at(i+2) != '.' {
				return false
			}
		case ',':
			if from {
				return false
			}
		case t.Token_TABLE, t.Token_UNION, t.Token_WITH:
			return false
		}
	}
	return own
}

// classifyExplain: EXPLAIN alone runs nothing; with ANALYZE it does what its statement does.
func classifyExplain(w words, s *Statement) {
	s.Kind = Read
	i, analyze := 1, false
	if w.at(1) == '(' {
		for ; i < len(w.tokens) && w.at(i) != ')'; i++ {
			analyze = analyze || w.at(i) == t.Token_ANALYZE || w.at(i) == t.Token_ANALYSE
		}
		i++
	}
	for ; w.at(i) == t.Token_ANALYZE || w.at(i) == t.Token_ANALYSE || w.at(i) == t.Token_VERBOSE; i++ {
		analyze = analyze || w.at(i) != t.Token_VERBOSE
	}
	if !analyze || i >= len(w.tokens) || w.at(i) == t.Token_EXPLAIN {
		return
	}
	inner := classify(w.text, w.tokens[i:])
	switch inner.Kind {
	case Read, Write, DDL, TempDDL:
		s.Kind, s.Flags, s.Runs = inner.Kind, inner.Flags&^(PlainDML|OwnSchema), inner.Runs
	}
}

// classifyCopy: FROM outside of parentheses writes; a query in parentheses does what it does.
func classifyCopy(w words, s *Statement) {
	s.Kind = Read
	depth := 0
	for i := 1; i < len(w.tokens); i++ {
		switch w.at(i) {
		case '(':
			depth++
			if i == 1 && len(w.tokens) > 2 && w.at(2) != t.Token_COPY && w.at(2) != t.Token_EXPLAIN {
				if classify(w.text, w.tokens[2:]).Kind == Write {
					s.Kind = Write
				}
			}
		case ')':
			depth--
		case t.Token_FROM:
			if depth == 0 {
				s.Kind = CopyFrom
				return
			}
		case t.Token_TO:
			if depth == 0 {
				return
			}
		}
	}
}
