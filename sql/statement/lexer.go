package statement

import (
	"sync"

	pgquery "github.com/pganalyze/pg_query_go/v6"
	"github.com/pganalyze/pg_query_go/v6/parser"
	"google.golang.org/protobuf/encoding/protowire"
)

// MaxText is the longest text, in bytes, that is given to the lexer. Its answer takes several times that.
const MaxText = 4 << 20

// largeText is from where lexing is done by one goroutine at a time, for the memory that it takes.
const largeText = 256 << 10

var largeGate sync.Mutex

// token is one lexical element; start and end are bytes of the text.
type token struct {
	start, end int
	code       pgquery.Token
	alias      bool // behind a table's name it is an alias: an identifier, or a keyword that is not reserved
}

// scan lexes text, comments left out. ok is false when the lexer refuses it.
func scan(text string) (tokens []token, ok bool) {
	if len(text) > MaxText || longOperator(text) {
		return nil, false
	}
	if len(text) > largeText {
		largeGate.Lock()
		defer largeGate.Unlock()
	}
	wire, err := parser.ScanToProtobuf(text)
	if err != nil {
		return nil, false
	}
	tokens = make([]token, 0, len(wire)/12+1)
	for len(wire) > 0 {
		num, typ, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return nil, false
		}
		wire = wire[n:]
		if num != 2 || typ != protowire.BytesType { // ScanResult.version
			n = protowire.ConsumeFieldValue(num, typ, wire)
			if n < 0 {
				return nil, false
			}
			wire = wire[n:]
			continue
		}
		body, n := protowire.ConsumeBytes(wire)
		if n < 0 {
			return nil, false
		}
		wire = wire[n:]
		tok, good := scanToken(body)
		if !good || tok.end > len(text) || tok.start > tok.end {
			return nil, false
		}
		if tok.code != pgquery.Token_SQL_COMMENT && tok.code != pgquery.Token_C_COMMENT {
			tokens = append(tokens, tok)
		}
	}
	return tokens, true
}

// scanToken reads one ScanToken: start = 1, end = 2, token = 4, keyword_kind = 5, all varints.
func scanToken(body []byte) (tok token, ok bool) {
	for len(body) > 0 {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 || typ != protowire.VarintType {
			return tok, false
		}
		body = body[n:]
		v, n := protowire.ConsumeVarint(body)
		if n < 0 {
			return tok, false
		}
		body = body[n:]
		switch num {
		case 1:
			tok.start = int(int32(v))
		case 2:
			tok.end = int(int32(v))
		case 4:
			tok.code = pgquery.Token(v)
		case 5:
			kind := pgquery.KeywordKind(v)
			tok.alias = kind == pgquery.KeywordKind_UNRESERVED_KEYWORD || kind == pgquery.KeywordKind_COL_NAME_KEYWORD
		}
	}
	tok.alias = tok.alias || tok.code == pgquery.Token_IDENT
	return tok, tok.start >= 0
}

// maxOperator is the longest run of operator characters that is lexed. PostgreSQL's lexer gives the pluses and minuses
// at the end of such a run back one by one and reads the rest again: 100,000 of them take it half a minute.
const maxOperator = 256

// longOperator reports whether text has a run that is longer. A run ends where a comment begins or ends in it.
func longOperator(text string) bool {
	run := 0
	for i := 0; i < len(text); i++ {
		switch b := text[i]; b {
		case '+', '-', '*', '/', '<', '>', '=', '~', '!', '@', '#', '%', '^', '&', '|', '`', '?':
			run++
			if i > 0 && (b == '-' && text[i-1] == '-' || b == '*' && text[i-1] == '/' || b == '/' && text[i-1] == '*') {
				run = 0
			}
			if run > maxOperator {
				return true
			}
		default:
			run = 0
		}
	}
	return false
}
