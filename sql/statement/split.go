package statement

import (
	"sync/atomic"

	pgquery "github.com/pganalyze/pg_query_go/v6"
)

// Statement is one statement of a string.
type Statement struct {
	Kind  Kind
	Flags Flags
	Start int // byte where its first token begins
	End   int // byte after its last token; the semicolon is not part of it

	Target string // DDL: the table or view it is about, as written; empty if that is not plain
	GID    string // PrepareTx, FinishPrepared: the name, if it is a plain literal
	Why    string // Refused: what the client is told
	Hint   string // … and what he can do
	Runs   string // DDL: CREATE TABLE … AS EXECUTE: the name of the prepared statement
	Verb   string // DDL: the first word, in lower case; Begin: its tag, in lower case

	Channel string // LISTEN: its channel, as PostgreSQL reads it in UTF-8; empty: not known

	// Hide changes the text that the statement was found in. Read: so that what is ours does not show in the catalog. DDL: CONCURRENTLY
	// becomes blanks.
	Hide []Patch
	// Like is where CREATE TABLE says LIKE and the name of a table, which Target is, and no INCLUDING; its Text is that. Len is 0 otherwise.
	Like Patch
	// Several are the names in a DROP TABLE, VIEW, SEQUENCE or INDEX of more than one, as written, and SeveralAt is where they stand.
	Several   []string
	SeveralAt Patch
	// Without is such a change for REFRESH MATERIALIZED VIEW CONCURRENTLY, which uses a temporary table: it is needed if that
	// cannot be prepared.
	Without []Patch

	seen  atomic.Bool
	wrote atomic.Bool  // a Read that PostgreSQL refused with 25006
	slow  atomic.Int32 // executions left for which Slow is true
}

// slowFor is for how many executions a statement that took long is expected to take long again.
const slowFor = 64

// Text is the statement itself, out of the text that it was found in.
func (s *Statement) Text(text string) string { return text[s.Start:s.End] }

// Wrote reports whether MarkWrote was called: the statement looks like a read and is none.
func (s *Statement) Wrote() bool { return s.wrote.Load() }

// MarkWrote remembers that PostgreSQL would not run the statement in a read-only transaction.
func (s *Statement) MarkWrote() { s.wrote.Store(true) }

// Seen reports whether it was asked before: how long a statement takes is not known the first time.
func (s *Statement) Seen() bool { return s.seen.Swap(true) }

// Slow reports whether the statement took long lately, and counts that one execution down.
func (s *Statement) Slow() bool { return s.slow.Load() > 0 && s.slow.Add(-1) >= 0 }

// MarkSlow remembers that the statement took long.
func (s *Statement) MarkSlow() { s.slow.Store(slowFor) }

// Split finds the statements of text. ok is false when the lexer refuses it, or it is longer than MaxText: it may then
// hold any number of statements, of any kind. Empty statements are left out.
func Split(text string) (stmts []*Statement, ok bool) {
	tokens, ok := scan(text)
	if !ok {
		return nil, false
	}
	for len(tokens) > 0 {
		n := length(tokens)
		if n > 0 {
			s := classify(text, tokens[:n])
			s.Start, s.End = tokens[0].start, tokens[n-1].end
			stmts = append(stmts, s)
		}
		if n < len(tokens) {
			n++ // the semicolon
		}
		tokens = tokens[n:]
	}
	return stmts, true
}

// length counts the tokens before the semicolon that ends the first statement: one that is not inside parentheses
// (CREATE RULE) nor inside the body of a routine (BEGIN ATOMIC … END, counted as psql counts it).
func length(tokens []token) int {
	routine := isRoutine(tokens)
	parens, blocks := 0, 0
	for i, t := range tokens {
		switch t.code {
		case '(':
			parens++
		case ')':
			parens = max(parens-1, 0)
		case pgquery.Token_BEGIN_P:
			if routine && (blocks > 0 || i+1 < len(tokens) && tokens[i+1].code == pgquery.Token_ATOMIC) {
				blocks++
			}
		case pgquery.Token_CASE:
			if blocks > 0 {
				blocks++
			}
		case pgquery.Token_END_P:
			blocks = max(blocks-1, 0)
		case ';':
			if parens == 0 && blocks == 0 {
				return i
			}
		}
	}
	return len(tokens)
}

// isRoutine reports whether the tokens begin with CREATE [OR REPLACE] FUNCTION or PROCEDURE.
func isRoutine(tokens []token) bool {
	for i := 0; i < len(tokens) && i < 4; i++ {
		switch tokens[i].code {
		case pgquery.Token_CREATE:
			if i != 0 {
				return false
			}
		case pgquery.Token_OR, pgquery.Token_REPLACE:
		case pgquery.Token_FUNCTION, pgquery.Token_PROCEDURE:
			return i > 0
		default:
			return false
		}
	}
	return false
}
