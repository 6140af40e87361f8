package logrep

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"mtm"
	"mtm/logrep/pgoutput"
)

// ddlMessage is the content of a logical message "mtm.ddl": a statement and the surroundings in which it ran. Between
// it and "mtm.ddlend" come the row changes that PostgreSQL made for it; running the text makes them here, so they are
// left out, but for statements whose text runs without its rows (see withoutRows).
type ddlMessage struct {
	V           int               `json:"v"` // 1
	Text        string            `json:"text"`
	Role        string            `json:"role"`         // current_user; empty: as session_user
	SessionUser string            `json:"session_user"` // empty: ours
	SearchPath  string            `json:"search_path"`
	Settings    map[string]string `json:"settings"`
	// Of CREATE TABLE … AS EXECUTE: the name of the prepared statement, and the PREPARE that makes it.
	Prepared string `json:"prepared,omitempty"`
	Prepare  string `json:"prepare,omitempty"`
}

// These belong to the worker, whatever the client had.
var keptSettings = map[string]bool{
	"session_replication_role": true, "client_encoding": true, "role": true, "session_authorization": true,
	"application_name": true, "client_min_messages": true, "statement_timeout": true, "lock_timeout": true,
	"idle_in_transaction_session_timeout": true, "idle_session_timeout": true, "transaction_timeout": true,
	"default_transaction_read_only": true, "transaction_read_only": true, "transaction_isolation": true,
	"transaction_deferrable": true, "default_transaction_isolation": true, "search_path": true, "is_superuser": true,
}

func (t *applyTxn) logical(m *pgoutput.Logical) error {
	switch {
	case m.Prefix == prefixDDL && t.skip > 0: // nested: the outer text runs it
		t.skip++
	case m.Prefix == prefixDDL:
		return t.ddl(m.Content)
	case m.Prefix == prefixUserPrepare && t.skip == 0:
		return t.announce(m.Content)
	case m.Prefix == prefixUserFinish && t.skip == 0:
		return t.order(m.Content, t.fk != nil)
	case m.Prefix == prefixLocal && t.skip == 0:
		return t.makeLocal(string(m.Content))
	case m.Prefix == prefixDDLEnd && t.skip > 0:
		t.skip--
	case m.Prefix == prefixRows:
		return t.fill(m.Content)
	case m.Prefix == prefixMissing:
		return t.fillMissing(m.Content)
	case m.Prefix == prefixSetval:
		return t.followSetval(m.Content)
	case m.Prefix == prefixBlock:
		return t.followBlock(m.Content)
	}
	return nil
}

// ddl runs one statement in its surroundings, then puts the worker's own back.
func (t *applyTxn) ddl(content []byte) error {
	var d ddlMessage
	if err := json.Unmarshal(content, &d); err != nil {
		return fmt.Errorf("%w: mtm.ddl: %v", ErrPayload, err)
	}
	if d.V != 1 {
		return &mtm.Error{Code: mtm.CodeNotSupported, Msg: fmt.Sprintf("DDL message version %d is not known", d.V),
			Hint: "Upgrade mtmd on this node."}
	}
	text, bare := withoutRows(d.Text)
	if !bare {
		t.skip++
	}
	t.dropViews()
	if err := t.drain(); err != nil {
		return err
	}
	run := []string{text}
	if d.Prepare != "" {
		run = []string{d.deallocate(), d.Prepare, text, d.deallocate()}
	}
	trusted, err := t.trusts(d.SessionUser)
	if err != nil {
		return err
	}
	if trusted {
		run = slices.Concat([]string{d.enter() + d.enterRole()}, run, []string{d.leave()})
	} else {
		role := d.Role
		if role == "" {
			role = d.SessionUser
		}
		t.tainted = true
		run = d.contained(run, t.runner(role), role)
		delete(t.runners, role)
		if err := t.drain(); err != nil {
			return err
		}
	}
	run = append([]string{d.locks()}, run...)
	for _, sql := range run {
		t.fe.SendQuery(&pgproto3.Query{String: sql})
	}
	if err := t.flush(); err != nil {
		return err
	}
	var first error
	for range run {
		err := t.simpleAnswer()
		if _, broken := err.(*brokenError); broken {
			return err
		}
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return first
	}
	return t.relationsAgain()
}

// lockRoles makes transactions about roles meet, in one order on all nodes. PostgreSQL's own locks let GRANT, REVOKE and DROP OWNED pass a DROP ROLE of the
// role that they name; whoever recovers such transactions one after the other could then find the role gone, and never get on. At its origin each writes to one of
// these tables, mostly, and so holds a lock that this one waits for. Nobody who reads them, as every login does, waits for either.
const lockRoles = "LOCK TABLE pg_catalog.pg_authid, pg_catalog.pg_auth_members IN SHARE ROW EXCLUSIVE MODE"

// lockOne and lockMany make what GRANT ON ALL TABLES IN SCHEMA and ALTER DEFAULT PRIVILEGES come to the same on all nodes: a transaction that makes an object
// is before such a one everywhere, or behind it. Where they run, schema mtm's event trigger takes the same locks.
const (
	lockOne  = "LOCK TABLE pg_catalog.pg_default_acl IN ROW EXCLUSIVE MODE"
	lockMany = "LOCK TABLE pg_catalog.pg_default_acl IN SHARE ROW EXCLUSIVE MODE"
)

// locks is what must be locked before the statement runs, so that it is in the same order with others on all nodes.
func (d *ddlMessage) locks() string {
	sql := lockOne
	if d.aboutMany() {
		sql = lockMany
	}
	if d.aboutRoles() {
		sql += "; " + lockRoles
	}
	return sql
}

// aboutMany reports whether what the statement does depends on which objects there are.
func (d *ddlMessage) aboutMany() bool {
	words := strings.Fields(strings.ToLower(d.Text))
	if len(words) < 2 {
		return false
	}
	switch words[0] {
	case "alter":
		return words[1] == "default"
	case "drop":
		return words[1] == "owned"
	case "reassign":
		return true
	case "grant", "revoke":
		all := slices.Index(words, "all")
		return all > 0 && slices.Contains(words[all:], "schema")
	}
	return false
}

// aboutRoles reports whether the statement names roles without a lock on them.
func (d *ddlMessage) aboutRoles() bool {
	words := strings.Fields(strings.ToLower(d.Text))
	if len(words) < 2 {
		return false
	}
	switch words[0] {
	case "create", "alter":
		return words[1] == "role" || words[1] == "user" || words[1] == "group"
	case "drop":
		return words[1] == "role" || words[1] == "user" || words[1] == "group" || words[1] == "owned"
	case "reassign":
		return true
	case "grant", "revoke":
		return !slices.Contains(words, "on") // of membership
	}
	return false
}

// relationsAgain drops the prepared statements, which the DDL may have made wrong, but not what the payload said of
// its relations: PostgreSQL repeats that only for those that changed.
func (t *applyTxn) relationsAgain() error {
	old := t.known
	t.rels, t.state = map[uint32]*applyRel{}, newCatalogState()
	if err := t.forget(); err != nil {
		return err
	}
	t.known, t.path = map[uint32][]byte{}, false
	for _, body := range old {
		rel, id, err := t.relation(body)
		if err != nil {
			return err
		}
		t.rels[id], t.known[id] = rel, body
		t.findPath(rel)
	}
	return t.referencesAgain()
}

func (d *ddlMessage) names() []string {
	names := []string{"search_path"}
	for name := range d.Settings {
		if !keptSettings[strings.ToLower(name)] {
			names = append(names, name)
		}
	}
	slices.Sort(names[1:])
	return names
}

// enter sets everything as the client had it, until leave or the end of the transaction. What this version of PostgreSQL
// does not have is passed over. Planning is for whatever the text does, not for finding rows by key.
func (d *ddlMessage) enter() string {
	var b strings.Builder
	b.WriteString("SELECT pg_catalog.set_config(n, v, true) FROM (VALUES ('enable_seqscan', 'on')")
	for _, name := range d.names() {
		value := d.Settings[name]
		if name == "search_path" {
			value = d.SearchPath
		}
		fmt.Fprintf(&b, ", (%s, %s)", quoteLiteral(name), quoteLiteral(value))
	}
	b.WriteString(") s (n, v) WHERE pg_catalog.strpos(n, '.') > 0 " +
		"OR pg_catalog.lower(n) IN (SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings);")
	if d.SessionUser != "" {
		fmt.Fprintf(&b, "SET LOCAL SESSION AUTHORIZATION %s;", quoteIdent(d.SessionUser))
	}
	return b.String()
}

func (d *ddlMessage) enterRole() string {
	if d.Role == "" || d.Role == d.SessionUser {
		return ""
	}
	return "SET LOCAL ROLE " + quoteIdent(d.Role)
}

// deallocate forgets the client's prepared statement, if there is one: a transaction that failed may have left it.
func (d *ddlMessage) deallocate() string {
	return "DO " + quoteLiteral("BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE name = "+
		quoteLiteral(d.Prepared)+") THEN DEALLOCATE "+quoteIdent(d.Prepared)+"; END IF; END")
}

// leave undoes enter: reset_val is what the worker's connection started with.
func (d *ddlMessage) leave() string {
	quoted := []string{"'enable_seqscan'"}
	for _, name := range d.names() {
		quoted = append(quoted, quoteLiteral(strings.ToLower(name)))
	}
	return "SET LOCAL search_path = ''; SET LOCAL ROLE none; SET LOCAL SESSION AUTHORIZATION DEFAULT;" + // his "=" is not ours
		"SELECT pg_catalog.set_config(name, reset_val, true) FROM pg_catalog.pg_settings WHERE pg_catalog.lower(name) IN (" +
		strings.Join(quoted, ", ") + ")"
}

// trusts reports whether a session of user may do here what it likes: there is none, or he is a superuser.
func (t *applyTxn) trusts(user string) (bool, error) {
	if user == "" {
		return true, nil
	}
	super, err := t.rows("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = $1", user)
	return len(super) == 1 && super[0] == "t", err
}

// contained has texts run with the rights of role, by a runner of his, which goes afterwards if it has not gone with DROP OWNED.
func (d *ddlMessage) contained(texts []string, runner, role string) []string {
	run := []string{"GRANT EXECUTE ON FUNCTION " + runner + "(pg_catalog.text) TO " + quoteIdent(d.SessionUser), d.enter()}
	for i, text := range texts {
		if i > 0 {
			run = append(run, unaltered(runner, role))
		}
		run = append(run, "SELECT "+runner+"("+quoteLiteral(text)+")")
	}
	return append(run, d.leave(), "DROP FUNCTION IF EXISTS "+runner+"(pg_catalog.text)", secure,
		"SELECT pg_catalog.set_config(name, reset_val, true) FROM pg_catalog.pg_settings WHERE setting IS DISTINCT FROM reset_val "+
			"AND context IN ('user', 'superuser') AND NOT pg_catalog.starts_with(name, 'transaction_') AND name <> 'seed'",
		learnPath)
}

// quoteLiteral quotes for standard_conforming_strings = on as well as off.
func quoteLiteral(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
