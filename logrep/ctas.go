package logrep

import (
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// withoutRows turns CREATE TABLE … AS, SELECT … INTO, CREATE and REFRESH MATERIALIZED VIEW into statements that make the table and
// leave it empty: the rows follow, so that what a volatile expression computed is the same everywhere. ok is false for all
// other statements, whose text is returned as it is.
//
// It reads PostgreSQL's tokens (a lexer, which needs no bound on nesting), never the grammar.
func withoutRows(text string) (sql string, ok bool) {
	scanned, err := pg_query.Scan(text)
	if err != nil {
		return text, false
	}
	tokens := topLevel(text, scanned.Tokens)
	if len(tokens) > 0 && tokens[0].Token == pg_query.Token_EXPLAIN { // ANALYZE, or it would not be here
		for k, tok := range tokens {
			switch tok.Token {
			case pg_query.Token_CREATE, pg_query.Token_SELECT, pg_query.Token_WITH, pg_query.Token_VALUES:
				return withoutRows(text[tok.Start:])
			case pg_query.Token_EXPLAIN, pg_query.Token_ANALYZE, pg_query.Token_ANALYSE, pg_query.Token_VERBOSE:
				if k < 3 {
					continue
				}
			}
			break
		}
	}
	if len(tokens) == 0 {
		return text, false
	}
	switch tokens[0].Token {
	case pg_query.Token_CREATE:
		return ctasWithoutRows(text, tokens)
	case pg_query.Token_SELECT, pg_query.Token_WITH, pg_query.Token_VALUES:
		return intoWithoutRows(text, tokens)
	case pg_query.Token_REFRESH:
		return refreshWithoutRows(text, tokens)
	}
	return text, false
}

// refreshWithoutRows handles REFRESH MATERIALIZED VIEW [CONCURRENTLY] name [WITH [NO] DATA].
func refreshWithoutRows(text string, tokens []*pg_query.ScanToken) (string, bool) {
	if len(tokens) > 3 && tokens[3].Token == pg_query.Token_CONCURRENTLY {
		text = text[:tokens[3].Start] + strings.Repeat(" ", int(tokens[3].End-tokens[3].Start)) + text[tokens[3].End:]
	}
	return text[:cutWithData(text, tokens)] + " WITH NO DATA", true
}

// topLevel lists the tokens outside all parentheses, without comments and a final semicolon; nil if there is a second
// statement.
func topLevel(text string, all []*pg_query.ScanToken) []*pg_query.ScanToken {
	var tokens []*pg_query.ScanToken
	depth := 0
	for _, tok := range all {
		switch tok.Token {
		case pg_query.Token_SQL_COMMENT, pg_query.Token_C_COMMENT:
			continue
		case pg_query.Token_ASCII_40, pg_query.Token_ASCII_91:
			depth++
			continue
		case pg_query.Token_ASCII_41, pg_query.Token_ASCII_93:
			depth--
			continue
		}
		if depth == 0 {
			tokens = append(tokens, tok)
		}
	}
	for i, tok := range tokens {
		if tok.Token == pg_query.Token_ASCII_59 {
			if i != len(tokens)-1 {
				return nil
			}
			return tokens[:i]
		}
	}
	return tokens
}

// ctasWithoutRows handles CREATE [TEMP …|UNLOGGED] TABLE and CREATE MATERIALIZED VIEW … AS query [WITH [NO] DATA]. A temporary table is not ours.
func ctasWithoutRows(text string, tokens []*pg_query.ScanToken) (string, bool) {
	i := 1
	for i < len(tokens) && tokens[i].Token == pg_query.Token_UNLOGGED {
		i++
	}
	if i >= len(tokens) || tokens[i].Token != pg_query.Token_TABLE && tokens[i].Token != pg_query.Token_MATERIALIZED {
		return text, false
	}
	for ; i < len(tokens); i++ {
		switch tokens[i].Token {
		case pg_query.Token_PARTITION, pg_query.Token_INHERITS:
			return text, false
		case pg_query.Token_AS:
			return text[:cutWithData(text, tokens)] + " WITH NO DATA", true
		}
	}
	return text, false
}

// cutWithData is where the statement ends, less WITH [NO] DATA.
func cutWithData(text string, tokens []*pg_query.ScanToken) int {
	n := len(tokens)
	end := textEnd(text)
	if n >= 2 && tokens[n-1].Token == pg_query.Token_DATA_P {
		k := n - 2
		if tokens[k].Token == pg_query.Token_NO {
			k--
		}
		if k >= 0 && isWith(text, tokens[k]) {
			return int(tokens[k].Start)
		}
	}
	return end
}

func isWith(text string, tok *pg_query.ScanToken) bool {
	return strings.EqualFold(text[tok.Start:tok.End], "with")
}

// textEnd is the end of the last token of text that is not a comment or the final semicolon.
func textEnd(text string) int {
	scanned, err := pg_query.Scan(text)
	if err != nil {
		return len(text)
	}
	end := 0
	for _, tok := range scanned.Tokens {
		switch tok.Token {
		case pg_query.Token_SQL_COMMENT, pg_query.Token_C_COMMENT, pg_query.Token_ASCII_59:
		default:
			end = int(tok.End)
		}
	}
	return end
}

// intoWithoutRows turns SELECT … INTO [UNLOGGED] [TABLE] name … into CREATE TABLE name AS SELECT … WITH NO DATA.
func intoWithoutRows(text string, tokens []*pg_query.ScanToken) (string, bool) {
	for i, tok := range tokens {
		if tok.Token != pg_query.Token_INTO {
			continue
		}
		k := i + 1
		unlogged := ""
		if k < len(tokens) && tokens[k].Token == pg_query.Token_UNLOGGED {
			unlogged = "UNLOGGED "
			k++
		}
		if k < len(tokens) && tokens[k].Token == pg_query.Token_TABLE {
			k++
		}
		first := k
		for k+2 < len(tokens) && tokens[k+1].Token == pg_query.Token_ASCII_46 {
			k += 2
		}
		if k >= len(tokens) {
			return text, false
		}
		name := text[tokens[first].Start:tokens[k].End]
		rest := text[:tok.Start] + text[tokens[k].End:textEnd(text)]
		return "CREATE " + unlogged + "TABLE " + name + " AS " + rest + " WITH NO DATA", true
	}
	return text, false
}
