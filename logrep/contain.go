package logrep

import (
	"fmt"
	"strings"
)

// This file has what clients wrote (DDL, and the functions that their tables' indexes, constraints and generated columns call) run in a
// worker with the rights of their role and no more.
//
// A worker has logged in as a superuser, and whatever runs in it can go back to that, by RESET SESSION AUTHORIZATION: but not inside a
// function that is SECURITY DEFINER, where PostgreSQL forbids it, at any depth. So each transaction makes itself such a function for
// each role that it needs, which runs the texts it is given, and drops it again.
//
// Code of a client's can change what the session does next: settings (search_path leads to operators of his, client_encoding changes where
// a literal ends), prepared statements, temporary objects, which come before PostgreSQL's. So after each text the settings are put
// right and temporary objects are an error (secure), statements are not prepared by name any more, and when the transaction
// is over everything is forgotten (cleanse).

// runner is the function by which texts run as role, made if it is not there.
func (t *applyTxn) runner(role string) string {
	if f, made := t.runners[role]; made {
		return f
	}
	f := quoteIdent("mtm", fmt.Sprintf("run %s %d", t.job.gid, t.nrunner))
	t.nrunner++
	if t.runners == nil {
		t.runners = map[string]string{}
	}
	t.runners[role] = f
	t.sendOnce("CREATE FUNCTION "+f+"(pg_catalog.text) RETURNS pg_catalog.void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN EXECUTE $1; END'", sentStmt{})
	t.sendOnce("REVOKE ALL ON FUNCTION "+f+"(pg_catalog.text) FROM PUBLIC", sentStmt{})
	t.sendOnce("ALTER FUNCTION "+f+"(pg_catalog.text) OWNER TO "+quoteIdent(role), sentStmt{})
	return f
}

// unaltered is an error if runner f is not what it was: its owner could have made it SECURITY INVOKER. It looks nothing up in search_path.
func unaltered(f, role string) string {
	return "DO " + quoteLiteral("BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure("+
		quoteLiteral(f+"(pg_catalog.text)")+") AND p.prosecdef AND p.proowner OPERATOR(pg_catalog.=) pg_catalog.to_regrole("+quoteLiteral(quoteIdent(role))+
		")) THEN RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'a function of mtm was altered'; END IF; END")
}

// through is rel, or, if a change of it is not to be trusted, a view of it that the table's owner may write: he may lack the right to write his own
// table, or row security may bind him too, and still he changes what somebody changed elsewhere. What is allowed through a view is what its
// own owner may, a superuser; but the functions that a change calls run as who makes it.
func (t *applyTxn) through(rel *applyRel) *applyRel {
	if !t.guarded(rel) {
		return rel
	}
	if v := t.views[rel]; v != nil {
		return v
	}
	v := newApplyRel(rel.Relation, rel.quirk)
	v.name = quoteIdent("mtm", fmt.Sprintf("rows %s %d", t.job.gid, t.nview))
	t.nview++
	if t.views == nil {
		t.views = map[*applyRel]*applyRel{}
	}
	t.views[rel] = v
	cols := make([]string, 0, len(rel.Columns)+1)
	for _, c := range rel.Columns {
		cols = append(cols, quoteIdent(c.Name))
	}
	t.sendOnce("CREATE VIEW "+v.name+" AS SELECT "+strings.Join(append(cols, "ctid"), ", ")+" FROM ONLY "+rel.name, sentStmt{rel: rel})
	t.sendOnce("GRANT SELECT, INSERT, UPDATE, DELETE ON "+v.name+" TO "+quoteIdent(rel.facts.Owner), sentStmt{})
	return v
}

// dropViews takes back what through has made: DDL is not to meet it.
func (t *applyTxn) dropViews() {
	for _, v := range t.views {
		t.sendOnce("DROP VIEW "+v.name, sentStmt{})
	}
	t.views = nil
}

// dropRunners takes back what runner has made.
func (t *applyTxn) dropRunners() {
	for _, f := range t.runners {
		t.sendOnce("DROP FUNCTION "+f+"(pg_catalog.text)", sentStmt{})
	}
	t.runners = nil
}

// guarded reports whether a change of rel runs code that is not to be trusted.
func (t *applyTxn) guarded(rel *applyRel) bool {
	return rel != nil && rel.facts != nil && rel.facts.Owner != "" && (rel.facts.Code || t.path)
}

// sendRow sends a change of note.rel, as the table's owner if that must be; st names the table as through does.
func (t *applyTxn) sendRow(st *applyStmt, params [][]byte, note sentStmt) error {
	if !t.guarded(note.rel) {
		return t.send(st, params, note)
	}
	return t.sendAs(note.rel.facts.Owner, withLiterals(st.sql, params), note)
}

// sendAs runs a text as role.
func (t *applyTxn) sendAs(role, text string, note sentStmt) error {
	f := t.runner(role)
	t.tainted = true
	if t.path {
		t.sendOnce(pathOf(role), sentStmt{})
	}
	t.sendOnce("SELECT "+f+"("+quoteLiteral(text)+")", note)
	t.sendOnce(secure, sentStmt{})
	t.sendOnce(unaltered(f, role), sentStmt{})
	if t.path {
		t.sendOnce(learnPath, sentStmt{})
		t.sendOnce(usualPath, sentStmt{})
	}
	t.bytes += 2*len(text) + len(secure)
	if t.bytes >= batchBytes || len(t.sent) >= batchStmts {
		return t.drain()
	}
	return nil
}

// pathOf takes the search_path with which a session of role begins, if that is set for him; else it stays the usual one.
func pathOf(role string) string {
	return "SELECT pg_catalog.set_config('search_path', pg_catalog.substr(c, 13), true) FROM (SELECT c FROM pg_catalog.pg_db_role_setting s, " +
		"pg_catalog.unnest(s.setconfig) c WHERE s.setrole OPERATOR(pg_catalog.=) pg_catalog.to_regrole(" + quoteLiteral(quoteIdent(role)) + ") AND " +
		"(s.setdatabase OPERATOR(pg_catalog.=) 0 OR s.setdatabase OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) " +
		"pg_catalog.current_database())) AND pg_catalog.starts_with(c, 'search_path=') ORDER BY s.setdatabase DESC LIMIT 1) x"
}

// secure puts right what matters for the safety of the statements that follow. Nothing in it is looked up in search_path before that is right.
const secure = `DO 'BEGIN PERFORM pg_catalog.set_config(''search_path'', '''', true), pg_catalog.set_config(''client_encoding'', ''UTF8'', true), ` +
	`pg_catalog.set_config(''standard_conforming_strings'', ''on'', true), pg_catalog.set_config(''DateStyle'', ''ISO, MDY'', true), ` +
	`pg_catalog.set_config(''IntervalStyle'', ''postgres'', true), pg_catalog.set_config(''TimeZone'', ''UTC'', true), ` +
	`pg_catalog.set_config(''lc_monetary'', ''C'', true), pg_catalog.set_config(''row_security'', ''off'', true); ` +
	`IF pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 THEN RAISE EXCEPTION USING ERRCODE = ''0A000'', ` +
	`MESSAGE = ''what a statement calls where other nodes apply it has made temporary objects''; END IF; END'`

// withLiterals puts params into sql, which is ours, in place of $1, $2 and so on.
func withLiterals(sql string, params [][]byte) string {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(sql); i++ {
		c := sql[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '$':
			n, k := 0, i+1
			for ; k < len(sql) && sql[k] >= '0' && sql[k] <= '9'; k++ {
				n = 10*n + int(sql[k]-'0')
			}
			if n >= 1 && n <= len(params) {
				if p := params[n-1]; p == nil {
					b.WriteString("NULL")
				} else {
					b.WriteString(quoteLiteral(string(p)))
				}
				i = k - 1
				continue
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// cleanse gives a session that ran texts of clients its own state back. Nothing else may run in it before.
func (s *applySession) cleanse() error {
	if !s.tainted {
		return nil
	}
	if err := s.simple("DISCARD ALL"); err != nil {
		return &brokenError{err}
	}
	s.rels, s.fkStmts = map[string]*applyRel{}, map[string]*applyStmt{}
	s.fresh, s.nstmt, s.tainted = s.fresh[:0], 0, false
	for _, q := range s.quirks { // they stay: what is learned twice would be tried for ever
		if q&quirkPath != 0 {
			if err := s.simple(learnPath); err != nil {
				return &brokenError{err}
			}
			break
		}
	}
	return nil
}
