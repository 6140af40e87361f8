package gateway

import (
	"slices"
	"strconv"
	"strings"

	"mtm"
)

// injected names the statements that the gateway runs of its own accord. Each is prepared once per session, under a
// name that clients have no business with, so that it costs a Bind and an Execute, and disturbs neither the client's
// unnamed statement nor the text that pg_stat_activity shows of his own.
type injected uint8

const (
	injBegin injected = iota
	injBeginDefault
	injCommit
	injRollback
	injEmit
	injLocks
	injDDL
	injDDLUnlessTemp
	injDDLLike
	injDDLSeveral
	injDDLExecute
	injDDLEnd
	injNoteRoles
	injTellRoles
	injGuardOn
	injGuardOff
	injShowOff
	injNoBodies
	injCharacteristics
	injAdmin
	injOpen
	injImmediate
	injPatient
	injHold
	injPing
	injForbid
	injChannels
	injRole
	injSessionUser
	injSearchPath
	injReadOnly
	injFires
	injCount
)

// ddlSettings are the settings that change what a DDL statement means.
const ddlSettings = `'{check_function_bodies,default_tablespace,default_table_access_method,default_toast_compression,` +
	`default_with_oids,xmloption,DateStyle,IntervalStyle,TimeZone,standard_conforming_strings,array_nulls,` +
	`transform_null_equals,lo_compat_privileges,bytea_output,extra_float_digits,lc_monetary,lc_numeric,lc_time,` +
	`row_security,default_text_search_config,createrole_self_grant,quote_all_identifiers,` +
	`backslash_quote,escape_string_warning}'`

// ddlMessage tells the other nodes what statement comes, and what it needs to mean the same there. It is believed because of its token, its
// last parameter.
const ddlMessage = `SELECT pg_catalog.set_config('mtm.ddl_scope', '', true), ` +
	`pg_catalog.set_config('mtm.ddl_open', 'gateway', true), pg_catalog.set_config('mtm.ddl_depth', '0', true), ` +
	`pg_catalog.pg_logical_emit_message(true, 'mtm.ddl', $token::pg_catalog.text OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) pg_catalog.json_build_object(` +
	`'v', 1, 'text', $1::pg_catalog.text, 'role', current_user, 'session_user', session_user, ` +
	`'search_path', pg_catalog.current_setting('search_path'), 'settings', COALESCE((` +
	`SELECT pg_catalog.json_object_agg(name, setting) FROM (` +
	`SELECT 'mtm.sequence_mode' AS name, COALESCE(pg_catalog.current_setting('mtm.sequence_mode', true), '') AS setting ` + // not in pg_settings
	`UNION ALL SELECT name, setting FROM pg_catalog.pg_settings ` +
	`WHERE source OPERATOR(pg_catalog.=) ANY ('{session,client,user,database,"database user"}'::pg_catalog.text[]) ` +
	`AND name OPERATOR(pg_catalog.=) ANY (` + ddlSettings + `::pg_catalog.text[])) s), '{}'::pg_catalog.json))::pg_catalog.text)`

var injectedText = [injCount]string{
	injBegin:        "BEGIN READ WRITE",
	injBeginDefault: "BEGIN",
	injCommit:       "COMMIT",
	injRollback:     "ROLLBACK",
	// Without it, a transaction that only locks would never be seen by logical decoding.
	// Its first column is for warnSerializable.
	injEmit: "SELECT pg_catalog.current_setting('transaction_isolation'), pg_catalog.pg_logical_emit_message(true, 'mtm', 'wait=' OPERATOR(pg_catalog.||) " +
		"COALESCE(pg_catalog.current_setting('mtm.wait_peer_commits', true), '') OPERATOR(pg_catalog.||) " +
		"CASE pg_catalog.current_setting('transaction_isolation') WHEN 'serializable' THEN ' isolation=serializable' ELSE '' END)",
	// What the transaction did, as session.fate takes it: nothing that has an id; or it ran DDL in a function, or has a lock, on a table that is replicated, that
	// only writing takes (a temporary child of such a table takes ShareUpdateExclusiveLock, and DML never does); or it holds cursors past its end;
	// or something else. Whether a table is replicated is asked of PostgreSQL's caches: the snapshot may be older than the table.
	injLocks: "SELECT CASE WHEN COALESCE(pg_catalog.current_setting('mtm.ddl_nested', true), '') OPERATOR(pg_catalog.=) 'on' AND pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL " +
		"OR pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL AND EXISTS (SELECT FROM pg_catalog.pg_locks l " +
		"WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() AND l.locktype OPERATOR(pg_catalog.=) 'relation' " +
		"AND l.mode OPERATOR(pg_catalog.<>) ALL ('{AccessShareLock,RowShareLock,ShareUpdateExclusiveLock}'::pg_catalog.text[]) " +
		"AND pg_catalog.pg_relation_is_publishable(l.relation) AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c " +
		"JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace WHERE c.oid OPERATOR(pg_catalog.=) l.relation AND n.nspname OPERATOR(pg_catalog.=) 'mtm')) THEN '" + wroteTable + "' " +
		"WHEN EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable AND creation_time OPERATOR(pg_catalog.>=) pg_catalog.transaction_timestamp()) THEN '" + wroteHolds + "' " +
		"WHEN pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL THEN '" + wroteElse + "' ELSE '" + wroteNothing + "' END",
	injReadOnly: "SET TRANSACTION READ ONLY",
	injFires:    "SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname OPERATOR(pg_catalog.!~) '^[!~]mtm_' AND evtenabled OPERATOR(pg_catalog.<>) 'D')",
	injDDL:      ddlMessage,
	// Something may be temporary that the event triggers do not speak of.
	// If the target is temporary, the event triggers need only say whether anything else is not.
	injDDLUnlessTemp: strings.Replace(ddlMessage, "'mtm.ddl_scope', ''", "'mtm.ddl_scope', CASE WHEN EXISTS ("+
		"SELECT FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($2::pg_catalog.text) "+
		"AND relpersistence OPERATOR(pg_catalog.=) 't') THEN 'temporary' ELSE '' END", 1),
	// CREATE TABLE (… LIKE $2 …): what stands for LIKE goes between $1 and $3; of a temporary table the other nodes are told the columns.
	injDDLLike: strings.Replace(ddlMessage, "$1::pg_catalog.text", "$1::pg_catalog.text OPERATOR(pg_catalog.||) COALESCE("+
		"(SELECT pg_catalog.string_agg(pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)) "+
		"OPERATOR(pg_catalog.||) CASE WHEN a.attcollation OPERATOR(pg_catalog.<>) t.typcollation THEN "+
		"(SELECT pg_catalog.format(' COLLATE %I.%I', n.nspname, l.collname) FROM pg_catalog.pg_collation l "+
		"JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) l.collnamespace WHERE l.oid OPERATOR(pg_catalog.=) a.attcollation) "+
		"ELSE '' END OPERATOR(pg_catalog.||) CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY a.attnum) "+
		"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid "+
		"JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid "+
		"WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($2::pg_catalog.text) AND c.relpersistence OPERATOR(pg_catalog.=) 't' "+
		"AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped), $4::pg_catalog.text) OPERATOR(pg_catalog.||) $3::pg_catalog.text", 1),
	// DROP of several, whose names $3 go between $1 and $2: the other nodes are told those that are not temporary.
	injDDLSeveral: strings.Replace(ddlMessage, "$1::pg_catalog.text", "$1::pg_catalog.text OPERATOR(pg_catalog.||) COALESCE("+
		"(SELECT pg_catalog.string_agg(n, ', ' ORDER BY i) FROM pg_catalog.unnest($3::pg_catalog.text[]) WITH ORDINALITY x (n, i) "+
		"WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(x.n) "+
		"AND c.relpersistence OPERATOR(pg_catalog.=) 't')), pg_catalog.array_to_string($3, ', ')) OPERATOR(pg_catalog.||) $2::pg_catalog.text", 1),
	injDDLExecute: strings.Replace(ddlMessage, "'v', 1,", "'v', 1, 'prepared', $2::pg_catalog.text, 'prepare', ("+
		"SELECT CASE WHEN from_sql THEN statement ELSE pg_catalog.format('PREPARE %I %s AS %s', name, CASE WHEN "+
		"pg_catalog.cardinality(parameter_types) OPERATOR(pg_catalog.>) 0 THEN pg_catalog.format('(%s)', "+
		"pg_catalog.array_to_string(parameter_types, ',')) END, statement) END "+
		"FROM pg_catalog.pg_prepared_statements WHERE name OPERATOR(pg_catalog.=) $2),", 1),
	// The event triggers of schema mtm say what the statement was about.
	injDDLEnd: "SELECT pg_catalog.current_setting('mtm.ddl_scope', true), pg_catalog.pg_logical_emit_message(true, 'mtm.ddlend', $token::pg_catalog.text OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) " +
		"COALESCE(pg_catalog.current_setting('mtm.ddl_scope', true), '')), pg_catalog.set_config('mtm.ddl_open', '', true)",
	injNoteRoles: "SELECT mtm.note_roles()",
	injTellRoles: "SELECT mtm.tell_roles(true)",
	injGuardOn:   "SET default_transaction_read_only = on",
	injGuardOff:  "SET default_transaction_read_only = off",
	injShowOff:   "SET LOCAL default_transaction_read_only = off",
	injAdmin: "SELECT pg_catalog.pg_has_role(session_user, oid, 'MEMBER') FROM pg_catalog.pg_roles " +
		"WHERE rolname OPERATOR(pg_catalog.=) '" + adminName + "'",
	injOpen:      openProbe,
	injImmediate: "SET CONSTRAINTS ALL IMMEDIATE",
	injPatient: "SELECT pg_catalog.count(pg_catalog.set_config(name, CASE name WHEN 'synchronous_commit' THEN 'local' ELSE '0' END, true)) " +
		"FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY ('{statement_timeout,lock_timeout," +
		"idle_in_transaction_session_timeout,transaction_timeout}'::pg_catalog.text[]) AND setting OPERATOR(pg_catalog.<>) '0' " +
		"OR name OPERATOR(pg_catalog.=) 'synchronous_commit' AND setting OPERATOR(pg_catalog.=) 'off'",
	// Its first column is the transaction id.
	injHold: "SELECT pg_catalog.pg_current_xact_id(), pg_catalog.pg_logical_emit_message(true, '" + mtm.OpenPrefix + "', pg_catalog.rpad($token::pg_catalog.text OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) $1::pg_catalog.text " +
		"OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) pg_catalog.pg_current_xact_id()::pg_catalog.text, " + strconv.Itoa(mtm.OpenPad) + "))",
	injPing: "SELECT 'here'",
	injRole: "SELECT current_user", injSessionUser: "SELECT session_user", injSearchPath: "SELECT pg_catalog.current_setting('search_path')",
	injForbid: "SELECT pg_catalog.pg_notify('mtm', '')",
	injChannels: "SELECT pg_catalog.encode(pg_catalog.convert_to(c, 'UTF8'), 'hex') FROM pg_catalog.pg_listening_channels() AS c LIMIT " +
		strconv.Itoa(2*maxSessionChannels),
	injNoBodies: "SET LOCAL check_function_bodies = off",
	injCharacteristics: "SELECT ' ISOLATION LEVEL ' OPERATOR(pg_catalog.||) pg_catalog.current_setting('transaction_isolation') " +
		"OPERATOR(pg_catalog.||) CASE pg_catalog.current_setting('transaction_deferrable') WHEN 'on' THEN ' DEFERRABLE' ELSE '' END",
}

// tokenAt is the parameter in which those have their token that the other nodes, or capture, are to believe.
var tokenAt = map[injected]int{
	injDDL: 2, injDDLUnlessTemp: 3, injDDLLike: 5, injDDLSeveral: 4, injDDLExecute: 3, injDDLEnd: 1, injHold: 2,
}

func init() {
	for which, at := range tokenAt {
		injectedText[which] = strings.Replace(injectedText[which], "$token", "$"+strconv.Itoa(at), 1)
	}
}

var injectedName = [injCount]string{
	"_mtm_begin", "_mtm_begin_default", "_mtm_commit", "_mtm_rollback", "_mtm_emit", "_mtm_locks", "_mtm_ddl", "_mtm_ddl_unless_temp", "_mtm_ddl_like", "_mtm_ddl_several", "_mtm_ddl_execute",
	"_mtm_ddl_end", "_mtm_note_roles", "_mtm_tell_roles", "_mtm_guard_on", "_mtm_guard_off", "_mtm_show_off", "_mtm_no_bodies", "_mtm_characteristics", "_mtm_admin",
	"_mtm_open", "_mtm_immediate", "_mtm_patient", "_mtm_hold", "_mtm_ping", "_mtm_forbid", "_mtm_channels",
	"_mtm_role", "_mtm_session_user", "_mtm_search_path", "_mtm_read_only", "_mtm_fires",
}

// ownPortal is for what is injected into the middle of a client's transaction, where his unnamed portal may be alive.
const ownPortal = "_mtm_portal"

// missing is a statement that does not exist: to bind it is how an error of ours is raised in PostgreSQL, so that the
// state of the transaction, and the skipping up to Sync, are PostgreSQL's own.
const missing = "_mtm_error"

// inject appends the run of an injected statement to what is to be sent.
func (s *session) inject(which injected, r role, params ...string) {
	portal := ""
	switch which {
	case injDDL, injDDLUnlessTemp, injDDLLike, injDDLSeveral, injDDLExecute, injDDLEnd, injNoteRoles, injTellRoles, injLocks, injShowOff, injNoBodies, injCharacteristics, injEmit, injOpen, injImmediate, injPatient, injHold, injPing, injForbid, injChannels, injRole, injSessionUser, injSearchPath, injReadOnly, injFires, injBeginDefault:
		portal = ownPortal
	}
	if tokenAt[which] > 0 {
		params = append(slices.Clip(params), s.srv.conf.Token())
	}
	name := injectedName[which]
	s.mu.Lock()
	if !s.have[which] {
		s.have[which] = true
		s.toBackend = appendClose(s.toBackend, 'S', name) // what an error left in doubt may be there all the same
		s.toBackend = appendParse(s.toBackend, name, injectedText[which])
		s.push(expect{op: 'C', role: roleOurs, his: s.asHis}, expect{op: 'P', role: roleOurs, inj: which, his: s.asHis})
	}
	s.toBackend = appendBind(s.toBackend, portal, name, params...)
	s.toBackend = appendExecute(s.toBackend, portal)
	s.push(expect{op: 'B', role: roleOurs, his: s.asHis}, expect{op: 'E', role: r, his: s.asHis})
	if portal != "" {
		s.toBackend = appendClose(s.toBackend, 'P', portal)
		s.push(expect{op: 'C', role: roleOurs, his: s.asHis})
	}
	s.mu.Unlock()
}

// injectBegin begins a block of the gateway's, in which the client's statement may do what it may outside of one.
func (s *session) injectBegin() {
	which := injBegin
	if s.clientReadOnly {
		which = injBeginDefault
	}
	s.inject(which, roleOurs)
}

// injectText runs a text of ours once, without touching the client's unnamed statement if there is one.
func (s *session) injectText(text string, r role) {
	name := ""
	s.mu.Lock()
	if s.stmts[""] != nil {
		name = "_mtm_once"
		s.toBackend = appendClose(s.toBackend, 'S', name)
		s.push(expect{op: 'C', role: roleOurs})
	}
	s.toBackend = appendParse(s.toBackend, name, text)
	s.toBackend = appendBind(s.toBackend, "", name)
	s.toBackend = appendExecute(s.toBackend, "")
	s.push(expect{op: 'P', role: roleOurs, inj: injCount, his: s.asHis}, expect{op: 'B', role: roleOurs, his: s.asHis}, expect{op: 'E', role: r, his: s.asHis})
	s.mu.Unlock()
}

// inPipeline injects what stands among messages of the client: should it fail, PostgreSQL skips his, so that error is the answer that he waits for.
func (s *session) inPipeline(inject func()) {
	s.asHis = true
	inject()
	s.asHis = false
}

// provoke makes PostgreSQL fail where it stands; the client is told cause. With quiet he is told nothing.
func (s *session) provoke(cause error, quiet bool) {
	s.mu.Lock()
	e := expect{op: 'B', role: roleClient, err: asError(cause)}
	if quiet {
		e.role = roleOurs
	}
	s.toBackend = appendBind(s.toBackend, ownPortal, missing)
	s.push(e)
	s.mu.Unlock()
}

// sync appends a Sync; quiet: its ReadyForQuery is not for the client.
func (s *session) sync(quiet bool) {
	s.mu.Lock()
	s.toBackend = appendSync(s.toBackend)
	s.push(expect{op: 'S', quiet: quiet})
	s.mu.Unlock()
}
