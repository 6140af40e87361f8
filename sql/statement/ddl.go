package statement

import (
	"strings"

	t "github.com/pganalyze/pg_query_go/v6"
)

// classifyDDL is for statements on the catalog: which are for all nodes, which for this one, which for none.
func classifyDDL(w words, s *Statement) {
	s.Kind, s.Verb = DDL, strings.ToLower(w.word(0))
	i := 1
	if w.is(1, t.Token_OR, t.Token_REPLACE) {
		i = 3
	}
	switch w.at(i) {
	case t.Token_LOCAL, t.Token_GLOBAL:
		i++
	}
	switch w.at(i) {
	case t.Token_TEMP, t.Token_TEMPORARY:
		s.Kind, s.Flags = TempDDL, Temporary
		return
	case t.Token_SYSTEM_P:
		s.Kind = Local
		return
	case t.Token_DATABASE, t.Token_TABLESPACE, t.Token_SUBSCRIPTION:
		if w.at(0) != t.Token_COMMENT && w.at(0) != t.Token_GRANT && w.at(0) != t.Token_REVOKE {
			s.Kind, s.Flags = Local, Unguarded
			if w.at(i) == t.Token_SUBSCRIPTION {
				s.Flags |= Fires
			}
		}
		return
	}
	if k := w.find(t.Token_CONCURRENTLY); k > 0 {
		blank := []Patch{{w.tokens[k].start, w.tokens[k].end - w.tokens[k].start, strings.Repeat(" ", len("concurrently"))}}
		switch {
		case w.at(0) == t.Token_REFRESH:
			s.Without = blank
		case concurrently(w, k):
			s.Hide, s.Flags = blank, s.Flags|Concurrently
		}
	}
	if w.at(i) == t.Token_FUNCTION || w.at(i) == t.Token_PROCEDURE {
		s.Flags |= Routine
	}
	if k := w.find(t.Token_EXECUTE); k > 0 && w.at(k-1) == t.Token_AS {
		if s.Runs = w.word(k + 1); strings.HasPrefix(s.Runs, `"`) {
			s.Runs = strings.ReplaceAll(strings.Trim(s.Runs, `"`), `""`, `"`)
		} else {
			s.Runs = strings.ToLower(s.Runs)
		}
	}
	s.Target = target(w, i)
	if w.at(0) == t.Token_DROP && s.Target != "" {
		s.several(w, i+1)
	}
	if w.at(0) == t.Token_CREATE && (w.at(i) == t.Token_TABLE || w.at(i) == t.Token_UNLOGGED) {
		s.like(w)
	}
	if len(s.Target) > 8 && (hasTempSchema(s.Target)) {
		s.Kind, s.Flags = TempDDL, Temporary
	}
}

// several reads the names of a DROP, if there is more than one, from token i on.
func (s *Statement) several(w words, i int) {
	for w.at(i) == t.Token_IF_P || w.at(i) == t.Token_EXISTS || w.at(i) == t.Token_CONCURRENTLY {
		i++
	}
	first, last := i, i
	var names []string
	for ; i < len(w.tokens); i = last + 2 {
		for last = i; w.at(last+1) == '.' && last+2 < len(w.tokens); {
			last += 2
		}
		names = append(names, w.text[w.tokens[i].start:w.tokens[last].end])
		if w.at(last+1) != ',' {
			break
		}
	}
	if len(names) > 1 && last < len(w.tokens) {
		s.Several, s.SeveralAt = names, Patch{At: w.tokens[first].start, Len: w.tokens[last].end - w.tokens[first].start}
	}
}

// like finds the only LIKE of a CREATE TABLE.
func (s *Statement) like(w words) {
	depth, found := 0, -1
	for i := range w.tokens {
		switch w.at(i) {
		case '(':
			depth++
		case ')':
			depth--
		case t.Token_INCLUDING, t.Token_AS:
			return
		case t.Token_LIKE:
			if depth != 1 || w.at(i-1) != '(' && w.at(i-1) != ',' {
				continue
			}
			if found >= 0 {
				return
			}
			found = i
		}
	}
	if found < 0 {
		return
	}
	s.Target = name(w, found+1)
	start := w.tokens[found].start
	if n := strings.Index(w.text[start:], s.Target); s.Target != "" && n > 0 {
		s.Like = Patch{start, n + len(s.Target), w.text[start : start+n+len(s.Target)]}
	}
}

func hasTempSchema(name string) bool {
	return containsFold(name[:8], "pg_temp")
}

// concurrently reports whether the CONCURRENTLY at token i is that of CREATE INDEX, DROP INDEX or DETACH PARTITION, which need several
// transactions.
func concurrently(w words, i int) bool {
	return w.at(i-1) == t.Token_INDEX || w.at(0) == t.Token_ALTER && w.has(t.Token_DETACH)
}

// target is the name of the relation that the statement from token i on is about, for those that may be about a
// temporary one: DROP and ALTER TABLE, VIEW, SEQUENCE, INDEX; CREATE INDEX, TRIGGER, RULE … ON; COMMENT ON; GRANT and REVOKE … ON.
func target(w words, i int) string {
	switch w.at(0) {
	case t.Token_CREATE:
		switch w.at(i) {
		case t.Token_UNIQUE, t.Token_INDEX, t.Token_TRIGGER, t.Token_RULE, t.Token_STATISTICS:
			if i = w.find(t.Token_ON); i < 0 {
				return ""
			}
			return name(w, i+1)
		}
		return ""
	case t.Token_COMMENT:
		i = 2 // ON
	case t.Token_GRANT, t.Token_REVOKE:
		if i = w.find(t.Token_ON) + 1; i == 0 {
			return ""
		}
		if w.at(i) != t.Token_TABLE && w.at(i) != t.Token_SEQUENCE {
			return relation(w, i)
		}
	case t.Token_DROP, t.Token_ALTER:
	default:
		return ""
	}
	switch w.at(i) {
	case t.Token_TABLE, t.Token_VIEW, t.Token_SEQUENCE, t.Token_INDEX:
		return name(w, i+1)
	}
	return ""
}

// relation is the name of a table at token i, where GRANT may also say what kind of object is meant.
func relation(w words, i int) string {
	if next := w.at(i + 1); next != '.' && next != ',' && next != t.Token_TO && next != t.Token_FROM {
		return ""
	}
	return name(w, i)
}

// name reads [IF [NOT] EXISTS] [ONLY] a[.b[.c]] from token i on.
func name(w words, i int) string {
	for w.at(i) == t.Token_IF_P || w.at(i) == t.Token_NOT || w.at(i) == t.Token_EXISTS || w.at(i) == t.Token_ONLY {
		i++
	}
	if i >= len(w.tokens) {
		return ""
	}
	last := i
	for w.at(last+1) == '.' && last+2 < len(w.tokens) {
		last += 2
	}
	return w.text[w.tokens[i].start:w.tokens[last].end]
}
