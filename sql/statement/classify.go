package statement

import (
	"regexp"
	"strings"
	"unicode/utf8"

	t "github.com/pganalyze/pg_query_go/v6"
)

// words are the tokens of one statement, with what is often asked of them.
type words struct {
	text   string
	tokens []token
}

// at is the code of token i; NUL past the end.
func (w words) at(i int) t.Token {
	if i < 0 || i >= len(w.tokens) {
		return t.Token_NUL
	}
	return w.tokens[i].code
}

// is reports whether the tokens from i on are these.
func (w words) is(i int, codes ...t.Token) bool {
	for k, c := range codes {
		if w.at(i+k) != c {
			return false
		}
	}
	return true
}

// find is the index of the first of these codes, at any depth; -1 if there is none.
func (w words) find(codes ...t.Token) int {
	for i, tok := range w.tokens {
		for _, c := range codes {
			if tok.code == c {
				return i
			}
		}
	}
	return -1
}

func (w words) has(codes ...t.Token) bool { return w.find(codes...) >= 0 }

// word is token i as written.
func (w words) word(i int) string {
	if i < 0 || i >= len(w.tokens) {
		return ""
	}
	return w.text[w.tokens[i].start:w.tokens[i].end]
}

// classify says what the statement of these tokens, at least one, is.
func classify(text string, tokens []token) *Statement {
	w := words{text, tokens}
	s := &Statement{}
	first := 0
	for w.at(first) == '(' {
		first++
	}
	switch w.at(first) {
	case t.Token_SELECT, t.Token_VALUES, t.Token_TABLE, t.Token_WITH, t.Token_INSERT, t.Token_UPDATE, t.Token_DELETE_P,
		t.Token_MERGE, t.Token_EXPLAIN:
		classifyQuery(w, first, s)
	case t.Token_BEGIN_P, t.Token_START, t.Token_COMMIT, t.Token_END_P, t.Token_ROLLBACK, t.Token_ABORT_P,
		t.Token_SAVEPOINT, t.Token_RELEASE, t.Token_PREPARE:
		classifyTransaction(w, s)
	case t.Token_CREATE, t.Token_ALTER, t.Token_DROP, t.Token_COMMENT, t.Token_GRANT, t.Token_REVOKE, t.Token_SECURITY,
		t.Token_REASSIGN, t.Token_IMPORT_P, t.Token_REFRESH:
		classifyDDL(w, s)
	default:
		classifyOther(w, s)
	}
	mentions(w, s)
	hide(w, s)
	setval(w, s)
	return s
}

// rolesIn finds what a DO must name to change roles, in its text.
var rolesIn = regexp.MustCompile(`(?i)role|user|group|grant|revoke`)

// classifyOther is for statements known by their first word.
func classifyOther(w words, s *Statement) {
	switch w.at(0) {
	case t.Token_COPY:
		classifyCopy(w, s)
	case t.Token_CALL, t.Token_TRUNCATE:
		s.Kind = Write
		s.catalog(w, 1)
	case t.Token_DO:
		s.Kind = Write
		for _, tok := range w.tokens {
			text := w.text[tok.start:tok.end]
			if containsFold(text, "listen") {
				s.Flags |= MayListen
			}
			if rolesIn.MatchString(text) {
				s.Kind = DDL
				s.Flags |= Roles
			}
		}
		s.catalog(w, 1)
	case t.Token_LOCK_P:
		s.Kind = Read
		s.catalog(w, 1)
	case t.Token_EXECUTE, t.Token_FETCH, t.Token_MOVE:
		s.Kind = Read
	case t.Token_DECLARE:
		s.Kind = Read
		if i := w.find(t.Token_HOLD); i > 0 && w.at(i-1) == t.Token_WITH {
			s.Flags |= Temporary
		}
	case t.Token_CLOSE, t.Token_SHOW, t.Token_RESET, t.Token_DISCARD, t.Token_DEALLOCATE:
		s.Kind = Session
		switch w.at(0) {
		case t.Token_DEALLOCATE:
			s.Flags |= Lasting
		case t.Token_SHOW:
			s.Flags |= Show
		}
	case t.Token_LISTEN, t.Token_NOTIFY, t.Token_UNLISTEN:
		s.Kind, s.Flags = Session, Temporary
		if w.at(0) == t.Token_LISTEN {
			s.Channel = identifier(w.word(1))
		}
	case t.Token_SET:
		classifySet(w, s)
	case t.Token_VACUUM, t.Token_ANALYZE, t.Token_ANALYSE, t.Token_CHECKPOINT, t.Token_CLUSTER, t.Token_REINDEX, t.Token_LOAD:
		s.Kind = Local
		if w.at(0) == t.Token_REINDEX && w.has(t.Token_CONCURRENTLY) {
			s.Flags |= Everywhere
		}
		s.catalog(w, 1)
	}
}

// maxIdentifier is NAMEDATALEN less one, in bytes.
const maxIdentifier = 63

// identifier is what PostgreSQL makes of a name, if that does not depend on the locale; else empty.
func identifier(word string) string {
	switch {
	case len(word) > 2 && word[0] == '"' && word[len(word)-1] == '"':
		word = strings.ReplaceAll(word[1:len(word)-1], `""`, `"`)
	case strings.ContainsRune(word, '"'): // U&"…"
		return ""
	default:
		b := []byte(word)
		for i, c := range b {
			if c >= 'A' && c <= 'Z' {
				b[i] = c + 'a' - 'A'
			}
			if c >= 0x80 {
				return ""
			}
		}
		word = string(b)
	}
	if !utf8.ValidString(word) {
		return ""
	}
	for n := 0; n < len(word); { // cut between characters
		_, size := utf8.DecodeRuneInString(word[n:])
		if n+size > maxIdentifier {
			return word[:n]
		}
		n += size
	}
	return word
}

func classifySet(w words, s *Statement) {
	s.Kind = Session
	characteristics := w.has(t.Token_CHARACTERISTICS)
	if w.at(1) != t.Token_TRANSACTION && w.at(2) != t.Token_TRANSACTION && !characteristics {
		return
	}
	accessMode(w, s)
	if characteristics && s.Has(AccessMode) {
		s.Flags |= ShowsReadOnly
	}
}

func accessMode(w words, s *Statement) {
	for i := range w.tokens {
		switch {
		case w.is(i, t.Token_READ, t.Token_ONLY):
			s.Flags |= AccessMode | ReadOnly
		case w.is(i, t.Token_READ, t.Token_WRITE):
			s.Flags = s.Flags&^ReadOnly | AccessMode
		}
	}
}

func classifyTransaction(w words, s *Statement) {
	if w.is(len(w.tokens)-2, t.Token_AND, t.Token_CHAIN) {
		s.Flags |= Chain
	}
	prepared := w.at(1) == t.Token_PREPARED
	switch w.at(0) {
	case t.Token_BEGIN_P:
		s.Kind, s.Verb = Begin, "begin"
		accessMode(w, s)
	case t.Token_START:
		if w.at(1) == t.Token_TRANSACTION {
			s.Kind, s.Verb = Begin, "start transaction"
			accessMode(w, s)
		}
	case t.Token_COMMIT, t.Token_END_P:
		s.Kind = Commit
	case t.Token_ROLLBACK, t.Token_ABORT_P:
		s.Kind = Rollback
		if w.has(t.Token_TO) {
			s.Kind = Savepoint
		}
	case t.Token_SAVEPOINT, t.Token_RELEASE:
		s.Kind = Savepoint
	case t.Token_PREPARE:
		s.Kind, s.Flags = Session, Lasting
		if w.at(1) == t.Token_TRANSACTION && w.at(2) != t.Token_AS && w.at(2) != '(' {
			s.Kind, s.Flags = PrepareTx, 0
		}
	}
	if prepared && w.at(0) != t.Token_END_P && w.at(0) != t.Token_ABORT_P {
		s.Kind = FinishPrepared
	}
	if s.Kind == PrepareTx || s.Kind == FinishPrepared {
		gid, plain := plainLiteral(w.word(2))
		if s.GID = gid; !plain {
			s.Kind, s.Why = Refused, "the identifier of a prepared transaction must be a plain string"
		}
		if w.at(0) == t.Token_COMMIT {
			s.Flags |= Commits
		}
	}
}

// plainLiteral is the value of a string constant without escapes. That a backslash is none elsewhere is for who splits to know.
func plainLiteral(word string) (string, bool) {
	if len(word) > 0 && word[0]|0x20 == 'e' {
		if strings.Contains(word, `\`) {
			return "", false
		}
		word = word[1:]
	}
	if tag, _, dollar := strings.Cut(strings.TrimPrefix(word, "$"), "$"); dollar && strings.HasPrefix(word, "$") && len(word) >= 2*len(tag)+4 {
		return word[len(tag)+2 : len(word)-len(tag)-2], true
	}
	if len(word) < 2 || word[0] != '\'' {
		return "", false
	}
	inner := word[1 : len(word)-1]
	value := strings.ReplaceAll(inner, "''", "'")
	return value, 2*strings.Count(value, "'") == strings.Count(inner, "'")
}

// mentions looks for names of things that mtm must show otherwise than PostgreSQL has them.
func mentions(w words, s *Statement) {
	for i, tok := range w.tokens {
		if tok.code == t.Token_IDENT && w.at(i+1) == '(' && largeObject[strings.ToLower(w.word(i))] && (s.Kind == Read || s.Kind == Write) {
			s.Kind, s.Flags, s.Why, s.Hint = Refused, 0, LargeObjects, "Use a column of type bytea."
			return
		}
		if tok.code == t.Token_IDENT && w.at(i+1) == '(' && unpreparable[strings.ToLower(w.word(i))] {
			s.Flags |= Temporary
		}
		if s.Kind == Session && strings.HasPrefix(strings.ToLower(w.word(i)), `u&"`) { // whatever it spells
			s.Flags |= ShowsReadOnly
		}
		if tok.end-tok.start < len("transaction_read_only") {
			continue
		}
		if tok.end-tok.start > 64 {
			continue
		}
		switch word := w.text[tok.start:tok.end]; {
		case containsFold(word, "transaction_read_only"):
			s.Flags |= ShowsReadOnly
		case containsFold(word, "pg_prepared_statements"):
			s.Flags |= ShowsPrepared
		}
	}
	if w.is(0, t.Token_SHOW, t.Token_ALL) {
		s.Flags |= ShowsReadOnly
	}
}

// LargeObjects says why what writes large objects is refused.
const LargeObjects = "large objects cannot be replicated"

// largeObject has the functions that write large objects: logical decoding does not see what they do.
var largeObject = map[string]bool{
	"lo_creat": true, "lo_create": true, "lo_import": true, "lo_from_bytea": true, "lo_put": true, "lo_unlink": true, "lowrite": true,
	"lo_truncate": true, "lo_truncate64": true,
}

// unpreparable has the functions after which PostgreSQL does not prepare a transaction.
var unpreparable = map[string]bool{"pg_notify": true, "pg_export_snapshot": true}

// containsFold is strings.Contains for ASCII letters of any case; part is in lower case.
func containsFold(s, part string) bool { return strings.Contains(strings.ToLower(s), part) }

// catalog notes that the table named from token i on is one of PostgreSQL's own.
func (s *Statement) catalog(w words, i int) {
	for ; i < len(w.tokens); i++ {
		if word := strings.ToLower(w.word(i)); strings.HasPrefix(word, "pg_") || strings.HasPrefix(word, `"pg_`) {
			s.Flags |= Exclusive
			return
		}
	}
}
