package initcopy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Description is what a snapshot holds, but for the schema and the rows. Names are quoted, and have their schema.
type Description struct {
	Version   int // server_version_num of the source
	Roles     []Role
	Members   []Member
	Settings  []Setting
	Owner     string // role that owns the database
	Grants    []Grant
	Granted   bool // Grants replace what a new database has
	Pieces    []Piece
	Sequences []Sequence
	Bytes     int64 // of all tables, about
}

// Role is a role of the server; those that the target has too stay as they are.
type Role struct {
	Name string // not quoted
	SQL  string // CREATE ROLE …
}

// Member is a membership in a role, by names that are not quoted.
type Member struct {
	Role, Member string
	Admin        bool
	Inherit, Set *bool // from PostgreSQL 16 on
}

// Setting is a setting of a role (Database false), of the database (Role empty) or of a role in the database.
type Setting struct {
	Role     string // not quoted
	Database bool
	SQL      string // SET name TO value
}

// Grant is a privilege on the database.
type Grant struct {
	Privilege string
	To        string // quoted, or PUBLIC
	Option    bool
}

// Piece is a part of a table that is copied at once, or the whole of it.
type Piece struct {
	Table   string
	Columns string // quoted, separated; generated ones are left out
	From    int64  // page
	To      int64  // page behind; 0: to the end
	Bytes   int64  // about
	First   bool   // of its table
	Filled  bool   // CREATE EXTENSION may have put rows there
	View    bool   // a materialized view
}

// WithoutRows leaves the rows of these tables out.
func (d *Description) WithoutRows(tables []string) {
	d.Pieces = slices.DeleteFunc(d.Pieces, func(p Piece) bool {
		left := slices.Contains(tables, p.Table)
		if left {
			d.Bytes -= p.Bytes
		}
		return left
	})
}

// Sequence is where a sequence stands.
type Sequence struct {
	Name   string
	Last   int64
	Called bool
	Column string // what counts by it: "table.column", quoted; may be empty
	Table  string
	Up     bool
}

// piecePages is how much of a table is copied at once: 128 MiB.
const piecePages = 16384

// describe reads everything by a session with the snapshot and an empty search_path.
func describe(ctx context.Context, conn *pgx.Conn) (d Description, err error) {
	steps := []func(context.Context, *pgx.Conn, *Description) error{readRoles, readSettings, readDatabase, readTables, readSequences}
	for _, step := range steps {
		if err := step(ctx, conn, &d); err != nil {
			return d, fmt.Errorf("describe the database: %w", err)
		}
	}
	return d, nil
}

// userRoles are all but predefined ones and ours.
const userRoles = `rolname !~ '^pg_' AND rolname <> 'mtm_admin'`

func readRoles(ctx context.Context, conn *pgx.Conn, d *Description) error {
	err := each(ctx, conn, `SELECT rolname::text, format('CREATE ROLE %I WITH %s %s %s %s %s %s %s CONNECTION LIMIT %s', rolname,
			CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
			CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
			CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
			CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, rolconnlimit)
			|| coalesce(' PASSWORD ' || quote_literal(rolpassword), '') || coalesce(' VALID UNTIL ' || quote_literal(rolvaliduntil), '')
		FROM pg_authid WHERE `+userRoles+` ORDER BY oid`,
		func(rows pgx.Rows) error {
			var r Role
			err := rows.Scan(&r.Name, &r.SQL)
			d.Roles = append(d.Roles, r)
			return err
		})
	if err != nil {
		return err
	}
	return each(ctx, conn, `SELECT r.rolname::text, u.rolname::text, m.admin_option, (to_jsonb(m) ->> 'inherit_option')::boolean,
			(to_jsonb(m) ->> 'set_option')::boolean
		FROM pg_auth_members m JOIN pg_authid r ON r.oid = m.roleid JOIN pg_authid u ON u.oid = m.member
		WHERE u.rolname !~ '^pg_' ORDER BY m.admin_option DESC, 1, 2`,
		func(rows pgx.Rows) error {
			var m Member
			err := rows.Scan(&m.Role, &m.Member, &m.Admin, &m.Inherit, &m.Set)
			d.Members = append(d.Members, m)
			return err
		})
}

// lists are settings whose values are stored as they are written.
var lists = map[string]bool{"search_path": true, "local_preload_libraries": true, "session_preload_libraries": true, "temp_tablespaces": true}

// readSettings leaves out the guard against direct writes, which is ours.
func readSettings(ctx context.Context, conn *pgx.Conn, d *Description) error {
	return each(ctx, conn, `SELECT coalesce(r.rolname::text, ''), s.setdatabase <> 0, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
		FROM pg_db_role_setting s LEFT JOIN pg_authid r ON r.oid = s.setrole, unnest(s.setconfig) c
		WHERE (s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) OR s.setdatabase = 0 AND s.setrole <> 0)
			AND NOT (s.setrole = 0 AND c LIKE 'default_transaction_read_only=%') ORDER BY 1, 2, 3`,
		func(rows pgx.Rows) error {
			var s Setting
			var name, value string
			if err := rows.Scan(&s.Role, &s.Database, &name, &value); err != nil {
				return err
			}
			if !lists[name] || value == "" {
				value = literal(value)
			}
			s.SQL = "SET " + ident(strings.Split(name, ".")...) + " TO " + value
			d.Settings = append(d.Settings, s)
			return nil
		})
}

func readDatabase(ctx context.Context, conn *pgx.Conn, d *Description) error {
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, pg_get_userbyid(datdba)::text, datacl IS NOT NULL
		FROM pg_database WHERE datname = current_database()`).Scan(&d.Version, &d.Owner, &d.Granted)
	if err != nil {
		return err
	}
	return each(ctx, conn, `SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, is_grantable
		FROM pg_database, aclexplode(datacl) WHERE datname = current_database()`,
		func(rows pgx.Rows) error {
			var g Grant
			err := rows.Scan(&g.Privilege, &g.To, &g.Option)
			d.Grants = append(d.Grants, g)
			return err
		})
}

// relations is the condition that c is a relation of the user, in a schema of his.
const relations = `c.oid >= 16384 AND c.relnamespace NOT IN (SELECT oid FROM pg_namespace
	WHERE nspname IN ('pg_catalog', 'information_schema', 'mtm') OR nspname ~ '^pg_(toast|temp)')`

const tablesSQL = `SELECT c.oid::regclass::text, c.relkind = 'm', EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
		AND d.objid = c.oid AND d.deptype = 'e'),
	coalesce((SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute a
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), ''),
	coalesce(pg_relation_size(c.oid), 0), coalesce(pg_table_size(c.oid), 0)
FROM pg_class c WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated) AND c.relpersistence = 'p' AND ` + relations + `
ORDER BY 6 DESC`

func readTables(ctx context.Context, conn *pgx.Conn, d *Description) error {
	return each(ctx, conn, tablesSQL, func(rows pgx.Rows) error {
		var p Piece
		var heap, all int64
		if err := rows.Scan(&p.Table, &p.View, &p.Filled, &p.Columns, &heap, &all); err != nil {
			return err
		}
		d.Bytes += all
		pages := heap / 8192
		for from := int64(0); from == 0 || from < pages; from += piecePages {
			p.From, p.To, p.First = from, from+piecePages, from == 0
			p.Bytes = all
			if pages > piecePages {
				p.Bytes = int64(float64(all) * float64(min(piecePages, pages-from)) / float64(pages))
			}
			if p.To >= pages {
				p.To = 0
			}
			d.Pieces = append(d.Pieces, p)
		}
		return nil
	})
}

func readSequences(ctx context.Context, conn *pgx.Conn, d *Description) error {
	err := each(ctx, conn, `SELECT c.oid::regclass::text, coalesce(t.oid::regclass::text, ''), coalesce(quote_ident(a.attname), ''), s.seqincrement > 0
		FROM pg_class c JOIN pg_sequence s ON s.seqrelid = c.oid
		LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
			AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
		LEFT JOIN pg_class t ON t.oid = d.refobjid
		LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
		WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND `+relations+` ORDER BY 1`,
		func(rows pgx.Rows) error {
			var s Sequence
			err := rows.Scan(&s.Name, &s.Table, &s.Column, &s.Up)
			d.Sequences = append(d.Sequences, s)
			return err
		})
	for i := range d.Sequences {
		s := &d.Sequences[i]
		if err == nil {
			err = conn.QueryRow(ctx, "SELECT last_value, is_called FROM "+s.Name).Scan(&s.Last, &s.Called)
		}
	}
	return err
}

// each calls f for each row. The query has no parameters, and is sent as it is.
func each(ctx context.Context, conn *pgx.Conn, sql string, f func(pgx.Rows) error) error {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// literal quotes a string constant, with standard_conforming_strings on.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
