package statement

import (
	"regexp"
	"slices"
	"strings"

	t "github.com/pganalyze/pg_query_go/v6"
)

// Patch replaces Len bytes of a text, from At on, by Text.
type Patch struct {
	At, Len int
	Text    string
}

// Apply carries out patches that are in the order of their places and do not overlap.
func Apply(text string, patches []Patch) string {
	var b strings.Builder
	done := 0
	for _, p := range patches {
		b.WriteString(text[done:p.At])
		b.WriteString(p.Text)
		done = p.At + p.Len
	}
	b.WriteString(text[done:])
	return b.String()
}

// ownNamespace is true of what is not in schema mtm, whose objects hidden keeps from who reads the catalog.
const ownNamespace = ` OPERATOR(pg_catalog.<>) 'mtm'::pg_catalog.regnamespace)`

// hidden says, for each catalog that has rows of ours, what a client sees instead of it: all columns, in their order, without those
// rows. %s is where tableoid goes if it is asked for.
var hidden = map[string]string{
	"pg_class":      `(SELECT %s* FROM pg_catalog.pg_class WHERE relnamespace` + ownNamespace,
	"pg_proc":       `(SELECT %s* FROM pg_catalog.pg_proc WHERE pronamespace` + ownNamespace,
	"pg_type":       `(SELECT %s* FROM pg_catalog.pg_type WHERE typnamespace` + ownNamespace,
	"pg_constraint": `(SELECT %s* FROM pg_catalog.pg_constraint WHERE connamespace` + ownNamespace,
	"pg_rewrite": `(SELECT %s* FROM pg_catalog.pg_rewrite WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c ` +
		`WHERE c.oid OPERATOR(pg_catalog.=) ev_class AND c.relnamespace OPERATOR(pg_catalog.=) 'mtm'::pg_catalog.regnamespace))`,
	"pg_namespace":          `(SELECT %s* FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.<>) 'mtm')`,
	"pg_publication":        `(SELECT %s* FROM pg_catalog.pg_publication WHERE pubname OPERATOR(pg_catalog.<>) 'mtm')`,
	"pg_publication_tables": `(SELECT %s* FROM pg_catalog.pg_publication_tables WHERE pubname OPERATOR(pg_catalog.<>) 'mtm')`,
	"pg_event_trigger":      `(SELECT %s* FROM pg_catalog.pg_event_trigger WHERE evtname OPERATOR(pg_catalog.!~) '^[!~]mtm_')`,
	// What users prepared shows by their names.
	"pg_prepared_xacts": `(SELECT %s* FROM (SELECT x.transaction, COALESCE(p.name, x.gid) AS gid, COALESCE(p.prepared, x.prepared) AS prepared, ` +
		`COALESCE(p.owner, x.owner) AS owner, x.database FROM pg_catalog.pg_prepared_xacts x LEFT JOIN mtm.prepared p ` +
		`ON p.gid OPERATOR(pg_catalog.=) x.gid) x WHERE gid OPERATOR(pg_catalog.!~~) 'mtm-%%')`,
	"pg_replication_slots": `(SELECT %s* FROM pg_catalog.pg_replication_slots ` +
		`WHERE slot_name OPERATOR(pg_catalog.!~) '^mtm(_|$)')`,
	// The daemon of this database lives while it holds this lock (schema's status.sql).
	"pg_locks":   `(SELECT %s* FROM pg_catalog.pg_locks WHERE classid OPERATOR(pg_catalog.<>) 1836346733 OR classid IS NULL)`,
	"pg_tables":  `(SELECT %s* FROM pg_catalog.pg_tables WHERE schemaname OPERATOR(pg_catalog.<>) 'mtm')`,
	"pg_views":   `(SELECT %s* FROM pg_catalog.pg_views WHERE schemaname OPERATOR(pg_catalog.<>) 'mtm')`,
	"pg_indexes": `(SELECT %s* FROM pg_catalog.pg_indexes WHERE schemaname OPERATOR(pg_catalog.<>) 'mtm')`,
	"pg_sequence": `(SELECT %sseqrelid, seqtypid, COALESCE(user_start, seqstart) AS seqstart, ` +
		`COALESCE(user_increment, seqincrement) AS seqincrement, COALESCE(user_max, seqmax) AS seqmax, ` +
		`COALESCE(user_min, seqmin) AS seqmin, seqcache, seqcycle FROM pg_catalog.pg_sequence p LEFT JOIN mtm.sequences m ` +
		`ON m.seqid OPERATOR(pg_catalog.=) p.seqrelid AND m.stepped)`,
	"pg_sequences": `(SELECT %ss.schemaname, s.sequencename, s.sequenceowner, s.data_type, COALESCE(m.user_start, s.start_value) AS start_value, ` +
		`COALESCE(m.user_min, s.min_value) AS min_value, COALESCE(m.user_max, s.max_value) AS max_value, ` +
		`COALESCE(m.user_increment, s.increment_by) AS increment_by, s.cycle, s.cache_size, s.last_value FROM pg_catalog.pg_sequences s LEFT JOIN ` +
		stepped + ` ON m.nspname OPERATOR(pg_catalog.=) s.schemaname AND m.relname OPERATOR(pg_catalog.=) s.sequencename)`,
	// What Hibernate compares with its own idea of the increment.
	sequencesView: `(SELECT %ss.sequence_catalog, s.sequence_schema, s.sequence_name, s.data_type, s.numeric_precision, s.numeric_precision_radix, s.numeric_scale, ` +
		`COALESCE(m.user_start::pg_catalog.text, s.start_value)::information_schema.character_data AS start_value, ` +
		`COALESCE(m.user_min::pg_catalog.text, s.minimum_value)::information_schema.character_data AS minimum_value, ` +
		`COALESCE(m.user_max::pg_catalog.text, s.maximum_value)::information_schema.character_data AS maximum_value, ` +
		`COALESCE(m.user_increment::pg_catalog.text, s.increment)::information_schema.character_data AS increment, s.cycle_option ` +
		`FROM information_schema.sequences s LEFT JOIN ` + stepped + ` ON m.nspname OPERATOR(pg_catalog.=) s.sequence_schema::pg_catalog.name ` +
		`AND m.relname OPERATOR(pg_catalog.=) s.sequence_name::pg_catalog.name)`,
}

const sequencesView = "information_schema.sequences"

// stepped are the sequences that count in steps of ours, by their names.
const stepped = `(SELECT n.nspname, c.relname, q.* FROM mtm.sequences q JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) q.seqid ` +
	`JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace WHERE q.stepped) m`

// views are those of hidden that have no tableoid.
var views = map[string]bool{
	"pg_publication_tables": true, "pg_prepared_xacts": true, "pg_replication_slots": true, "pg_locks": true, "pg_tables": true,
	"pg_views": true, "pg_indexes": true, "pg_sequences": true, sequencesView: true,
}

// hiddenIdentity is hidden["pg_class"] for who asks for the replica identity: that FULL is our doing does not show. The columns
// are those of PostgreSQL 15; none was taken away since.
const hiddenIdentity = `(SELECT %soid, relname, relnamespace, reltype, reloftype, relowner, relam, relfilenode, reltablespace, ` +
	`relpages, reltuples, relallvisible, reltoastrelid, relhasindex, relisshared, relpersistence, relkind, relnatts, relchecks, ` +
	`relhasrules, relhastriggers, relhassubclass, relrowsecurity, relforcerowsecurity, relispopulated, ` +
	`CASE WHEN relreplident OPERATOR(pg_catalog.=) 'f' AND EXISTS (SELECT FROM mtm.full_identity f ` +
	`WHERE f.relid OPERATOR(pg_catalog.=) pg_class.oid) THEN 'd' ELSE relreplident END AS relreplident, ` +
	`relispartition, relrewrite, relfrozenxid, relminmxid, relacl, reloptions, relpartbound ` +
	`FROM pg_catalog.pg_class WHERE relnamespace` + ownNamespace

// hide finds the catalogs that a query reads in which rows of ours would show. Who names mtm asks for them. A query with GROUP BY
// is left alone: it may rest on the primary key of a catalog.
func hide(w words, s *Statement) {
	if s.Kind != Read || s.Has(OwnSchema) || w.at(0) == t.Token_EXPLAIN {
		return
	}
	found := false
	for i, tok := range w.tokens {
		if tok.code == t.Token_GROUP_P || tok.code == t.Token_GROUPING {
			return
		}
		if tok.end-tok.start <= maxHidden {
			_, ok := hidden[strings.ToLower(w.word(i))]
			found = found || ok || w.sequencesView(i)
		}
	}
	if !found || containsFold(w.text[w.tokens[0].start:w.tokens[len(w.tokens)-1].end], "mtm") {
		return
	}
	s.Hide = catalogsRead(w)
}

// setvalCall finds calls of setval() in a text: a name as PostgreSQL has it, behind nothing that would make it another's.
var setvalCall = regexp.MustCompile(`(?i)(^|[^\w$."])((?:pg_catalog\s*\.\s*)?setval)\s*\(`)

// setval has calls of setval() run as mtm.setval(), which leads the other nodes' sequences along: those of the statement itself, and in a DO
// those of its code.
func setval(w words, s *Statement) {
	code := w.at(0) == t.Token_DO
	if len(w.tokens) == 0 || s.Kind == DDL || w.at(0) == t.Token_EXPLAIN && s.Kind == Read && !code {
		return
	}
	start, end := w.tokens[0].start, w.tokens[len(w.tokens)-1].end
	if !containsFold(w.text[start:end], "setval") {
		return
	}
	for i, tok := range w.tokens {
		word := w.word(i)
		switch {
		case code && tok.code == t.Token_SCONST:
			for _, at := range setvalCall.FindAllStringSubmatchIndex(word, -1) {
				s.Hide = append(s.Hide, Patch{At: tok.start + at[4], Len: at[5] - at[4], Text: ownSetval})
			}
		case tok.code == t.Token_IDENT && strings.EqualFold(strings.Trim(word, `"`), "setval") && w.at(i+1) == '(':
			from := tok.start
			if w.at(i-1) == '.' {
				if w.word(i-2) != "pg_catalog" {
					continue
				}
				from = w.tokens[i-2].start
			}
			s.Hide = append(s.Hide, Patch{At: from, Len: tok.end - from, Text: ownSetval})
		default:
			continue
		}
		if s.Kind == Read && len(s.Hide) > 0 {
			s.Kind = Write
		}
	}
	slices.SortFunc(s.Hide, func(a, b Patch) int { return a.At - b.At })
}

const ownSetval = "mtm.setval"

// maxHidden is how long the names of hidden are, at most, in bytes.
const maxHidden = len("pg_publication_tables")

// catalogsRead makes the patches: of names that stand where FROM expects a table.
func catalogsRead(w words) (patches []Patch) {
	oids, identity := w.mentions("tableoid"), w.mentions("relreplident")
	var from []bool // per depth of parentheses: in a FROM list
	from = append(from, false)
	table := false // a table may come
	for i := 0; i < len(w.tokens); i++ {
		top := len(from) - 1
		switch w.at(i) {
		case '(':
			from = append(from, table)
			continue
		case ')':
			if top > 0 {
				from = from[:top]
			}
		case t.Token_FROM:
			from[top] = w.at(i-1) != t.Token_DISTINCT
			table = from[top]
			continue
		case t.Token_JOIN:
			table = true
			continue
		case ',':
			table = from[top]
			continue
		case t.Token_ONLY, t.Token_LATERAL_P:
			continue
		case t.Token_SELECT, t.Token_WHERE, t.Token_ORDER, t.Token_LIMIT, t.Token_HAVING, t.Token_UNION, t.Token_INTERSECT,
			t.Token_EXCEPT, t.Token_WINDOW, t.Token_OFFSET, t.Token_FETCH:
			from[top] = false
		case t.Token_IDENT:
			if table {
				first := i
				if w.word(i) == "pg_catalog" && w.at(i+1) == '.' || w.sequencesView(i) {
					i += 2
				}
				if p, ok := w.hiddenAt(first, i, oids, identity); ok {
					patches = append(patches, p)
				}
			}
		}
		table = false
	}
	return patches
}

// hiddenAt is the patch for the table whose name is tokens first to last, if it is one of hidden.
func (w words) hiddenAt(first, last int, oids, identity bool) (p Patch, ok bool) {
	name := strings.ToLower(w.word(last))
	key := name
	if w.sequencesView(first) {
		key = sequencesView
	}
	sub, ok := hidden[key]
	if !ok || w.at(last+1) == '.' || w.at(last+1) == '(' {
		return p, false
	}
	if name == "pg_class" && identity {
		sub = hiddenIdentity
	}
	column := ""
	if oids && !views[key] {
		column = "tableoid, "
		if name == "pg_sequence" {
			column = "p.tableoid, "
		}
	}
	sub = strings.ReplaceAll(strings.Replace(sub, "%s", column, 1), "%%", "%")
	if next := last + 1; w.at(next) != t.Token_AS && !(next < len(w.tokens) && w.tokens[next].alias) {
		sub += " AS " + name
	}
	at := w.tokens[first].start
	return Patch{At: at, Len: w.tokens[last].end - at, Text: sub}, true
}

// sequencesView reports whether tokens i to i+2 are information_schema.sequences.
func (w words) sequencesView(i int) bool {
	return i+2 < len(w.tokens) && w.at(i) == t.Token_IDENT && w.at(i+1) == '.' && strings.EqualFold(w.word(i)+"."+w.word(i+2), sequencesView)
}

// mentions reports whether some token is this word, which is in lower case.
func (w words) mentions(word string) bool {
	for i, tok := range w.tokens {
		if tok.end-tok.start == len(word) && strings.ToLower(w.word(i)) == word {
			return true
		}
	}
	return false
}
