package initcopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The databases of a target while it is filled. They are gone when all is done or undone.
const (
	filling = "mtm_filling" // what is being filled
	before  = "mtm_before"  // what was there, empty
)

// Target is the PostgreSQL that gets the copy.
type Target struct {
	dsn      string
	database string // which is replaced
	version  int
}

// NewTarget is about the database of dsn, a superuser's connection string.
func NewTarget(ctx context.Context, dsn string) (*Target, error) {
	conf, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	t := &Target{dsn: dsn, database: conf.Database}
	return t, t.elsewhere(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&t.version)
	})
}

// elsewhere runs f in a session with a database that is not being replaced.
func (t *Target) elsewhere(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := connect(ctx, t.dsn, "template1")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost
	return f(conn)
}

// Create makes the database that is filled, like the one that is there.
func (t *Target) Create(ctx context.Context) error {
	return t.elsewhere(ctx, func(conn *pgx.Conn) error {
		return t.alone(ctx, conn, t.database, "CREATE DATABASE "+ident(filling)+" TEMPLATE "+ident(t.database))
	})
}

// alone runs a statement that wants a database without sessions.
func (t *Target) alone(ctx context.Context, conn *pgx.Conn, database, sql string) error {
	for try := 1; ; try++ {
		_, err := conn.Exec(ctx, "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE datname = "+literal(database)+
			" AND pid <> pg_backend_pid()")
		if err == nil {
			_, err = conn.Exec(ctx, sql)
		}
		var pg *pgconn.PgError
		if err == nil || !errors.As(err, &pg) || pg.Code != "55006" || try == 10 { // object_in_use
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Roles makes the roles that are not there. It calls note with their names before it does; Undo wants to know them.
func (t *Target) Roles(ctx context.Context, d Description, note func(roles []string) error) error {
	return t.elsewhere(ctx, func(conn *pgx.Conn) error {
		var have []string
		err := each(ctx, conn, "SELECT rolname::text FROM pg_roles", func(rows pgx.Rows) error {
			var name string
			err := rows.Scan(&name)
			have = append(have, name)
			return err
		})
		if err != nil {
			return err
		}
		var fresh []string
		var sql []string
		for _, r := range d.Roles {
			if !slices.Contains(have, r.Name) {
				fresh = append(fresh, r.Name)
				sql = append(sql, r.SQL)
			}
		}
		if !slices.Contains(have, "mtm_admin") { // rights may have been granted to it
			fresh = append(fresh, "mtm_admin")
			sql = append(sql, "CREATE ROLE mtm_admin NOLOGIN")
		}
		if err := note(fresh); err != nil {
			return err
		}
		for _, m := range d.Members {
			if slices.Contains(fresh, m.Member) {
				sql = append(sql, t.memberSQL(m))
			}
		}
		for _, s := range d.Settings {
			if !s.Database && slices.Contains(fresh, s.Role) {
				sql = append(sql, "ALTER ROLE "+ident(s.Role)+" "+s.SQL)
			}
		}
		return run(ctx, conn, sql...)
	})
}

func (t *Target) memberSQL(m Member) string {
	sql := "GRANT " + ident(m.Role) + " TO " + ident(m.Member)
	if t.version >= 160000 && m.Inherit != nil && m.Set != nil {
		return fmt.Sprintf("%s WITH ADMIN %t, INHERIT %t, SET %t", sql, m.Admin, *m.Inherit, *m.Set)
	}
	if m.Admin {
		sql += " WITH ADMIN OPTION"
	}
	return sql
}

// entry is where pg_dump begins a new object.
var entry = regexp.MustCompile(`(?m)^--\n-- Name: (.*); Type: ([A-Z ]+); Schema: .*; Owner: ?.*\n--\n`)

// Schema runs one section of the schema. Objects of mtm are left out.
func (t *Target) Schema(ctx context.Context, script string) error {
	conn, err := connect(ctx, t.dsn, filling)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost
	for _, e := range split(script) {
		if ours(e.kind, e.name) {
			continue
		}
		if err := run(ctx, conn, e.sql); err != nil {
			return fmt.Errorf("%s %s: %w", strings.ToLower(e.kind), e.name, err)
		}
	}
	return nil
}

// object is one entry of pg_dump's script.
type object struct{ name, kind, sql string }

// split finds the objects. What is before the first, settings and commands of psql, is what connect sets, and left out.
func split(script string) (all []object) {
	if end := strings.LastIndex(script, "\n--\n-- PostgreSQL database dump complete\n--"); end >= 0 {
		script = script[:end]
	}
	starts := entry.FindAllStringSubmatchIndex(script, -1)
	for i, at := range starts {
		end := len(script)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		all = append(all, object{script[at[2]:at[3]], script[at[4]:at[5]], script[at[1]:end]})
	}
	return all
}

// ours reports whether an object belongs to mtm itself, which installs it anew.
func ours(kind, name string) bool {
	switch kind {
	case "PUBLICATION":
		return name == "mtm"
	case "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA":
		return strings.HasPrefix(name, "mtm ")
	case "EVENT TRIGGER":
		return strings.HasPrefix(name, "!mtm_") || strings.HasPrefix(name, "~mtm_")
	case "COMMENT", "ACL":
		return name == "PUBLICATION mtm" || strings.HasPrefix(name, `EVENT TRIGGER "!mtm_`) || strings.HasPrefix(name, `EVENT TRIGGER "~mtm_`)
	}
	return false
}

// copying is the schema in which the filled database remembers, until the rows are complete, which pieces it has, and what comes then.
const copying = "mtm_copying"

// Mark begins to remember which pieces are there, and rest.
func (t *Target) Mark(ctx context.Context, rest string) error {
	return t.inside(ctx, func(conn *pgx.Conn) error {
		return run(ctx, conn, "CREATE SCHEMA "+copying+" CREATE TABLE done (piece int PRIMARY KEY) CREATE TABLE rest (script text)",
			"INSERT INTO "+copying+".rest VALUES ("+literal(rest)+")")
	})
}

// Unmark forgets the pieces, and gives what Mark was told.
func (t *Target) Unmark(ctx context.Context) (rest string, err error) {
	return rest, t.inside(ctx, func(conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, "SELECT script FROM "+copying+".rest").Scan(&rest); err != nil {
			return err
		}
		return run(ctx, conn, "DROP SCHEMA "+copying+" CASCADE")
	})
}

// Done are the pieces that are there.
func (t *Target) Done(ctx context.Context) (map[int]bool, error) {
	done := map[int]bool{}
	err := t.inside(ctx, func(conn *pgx.Conn) error {
		return each(ctx, conn, "SELECT piece FROM "+copying+".done", func(rows pgx.Rows) error {
			var piece int
			err := rows.Scan(&piece)
			done[piece] = true
			return err
		})
	})
	return done, err
}

// Rows fills a piece, the nth of the description, with what Source.Rows wrote, and remembers it (Mark) in the same transaction.
func (t *Target) Rows(ctx context.Context, n int, p Piece, r io.Reader) error {
	conn, err := connect(ctx, t.dsn, filling)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost
	sql := "BEGIN" + rawBytes
	if p.Filled && p.First {
		sql += "; DELETE FROM ONLY " + p.Table
	}
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return err
	}
	columns := ""
	if p.Columns != "" {
		columns = " (" + p.Columns + ")"
	}
	if _, err := conn.PgConn().CopyFrom(ctx, r, "COPY "+p.Table+columns+" FROM STDIN"); err != nil {
		return fmt.Errorf("copy %s: %w", p.Table, err)
	}
	_, err = conn.PgConn().Exec(ctx, fmt.Sprintf("INSERT INTO %s.done VALUES (%d); COMMIT", copying, n)).ReadAll()
	return err
}

// Views makes materialized views tables, which can be filled, or views again: their rows are those of the source, however old they
// are there.
func (t *Target) Views(ctx context.Context, d Description, fill bool) error {
	was, becomes := "r", "m"
	if fill {
		was, becomes = becomes, was
	}
	var sql []string
	for _, p := range d.Pieces {
		if p.View && p.First {
			sql = append(sql, fmt.Sprintf("UPDATE pg_catalog.pg_class SET relkind = '%s', relispopulated = true WHERE oid = %s::regclass AND relkind = '%s'",
				becomes, literal(p.Table), was))
		}
	}
	return t.inside(ctx, func(conn *pgx.Conn) error { return run(ctx, conn, sql...) })
}

// inside runs f in a session with the database that is filled.
func (t *Target) inside(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := connect(ctx, t.dsn, filling)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost
	return f(conn)
}

// Complete does what is left when the rows are there: sequences, settings, rights, and statistics for the planner. past: sequences that
// tables count by go past what is in the tables, since this node's numbers may have been another's before.
func (t *Target) Complete(ctx context.Context, d Description, past bool) error {
	return t.inside(ctx, func(conn *pgx.Conn) error {
		sql := sequencesSQL(d, past)
		for _, s := range d.Settings {
			switch {
			case s.Database && s.Role == "":
				sql = append(sql, "ALTER DATABASE "+ident(filling)+" "+s.SQL)
			case s.Database:
				sql = append(sql, "ALTER ROLE "+ident(s.Role)+" IN DATABASE "+ident(filling)+" "+s.SQL)
			}
		}
		sql = append(sql, "ALTER DATABASE "+ident(filling)+" OWNER TO "+ident(d.Owner))
		if d.Granted {
			sql = append(sql, "REVOKE ALL ON DATABASE "+ident(filling)+" FROM PUBLIC, "+ident(d.Owner))
			for _, g := range d.Grants {
				grant := "GRANT " + g.Privilege + " ON DATABASE " + ident(filling) + " TO " + g.To
				if g.Option {
					grant += " WITH GRANT OPTION"
				}
				sql = append(sql, grant)
			}
		}
		return run(ctx, conn, append(sql, "ANALYZE")...)
	})
}

// SetSequences puts the sequences where they stand at the source, those in names only.
func (t *Target) SetSequences(ctx context.Context, d Description, names []string) error {
	some := Description{}
	for _, s := range d.Sequences {
		if slices.Contains(names, s.Name) {
			some.Sequences = append(some.Sequences, s)
		}
	}
	return t.inside(ctx, func(conn *pgx.Conn) error { return run(ctx, conn, sequencesSQL(some, false)...) })
}

func sequencesSQL(d Description, past bool) (sql []string) {
	for _, s := range d.Sequences {
		// Not if it is past the end: a sequence of mode block, which has an end of its own on each node, may have gone on meanwhile.
		within := fmt.Sprintf("BETWEEN seqmin AND seqmax FROM pg_sequence WHERE seqrelid = %s::regclass", literal(s.Name))
		sql = append(sql, fmt.Sprintf("SELECT setval(%s, %d, %t) WHERE (SELECT %[2]d %[4]s)", literal(s.Name), s.Last, s.Called, within))
		if past && s.Column != "" {
			extreme, order := "max", ">"
			if !s.Up {
				extreme, order = "min", "<"
			}
			sql = append(sql, fmt.Sprintf("SELECT setval(%s, v, true) FROM (SELECT %s(%s)::bigint FROM %s) x (v) WHERE v %s %d AND (SELECT v %s)",
				literal(s.Name), extreme, s.Column, s.Table, order, s.Last, within))
		}
	}
	return sql
}

// Inside runs f in a session with the filled database.
func (t *Target) Inside(ctx context.Context, f func(*pgx.Conn) error) error { return t.inside(ctx, f) }

// Swap puts the filled database in the place of what was there.
func (t *Target) Swap(ctx context.Context) error {
	return t.elsewhere(ctx, func(conn *pgx.Conn) error {
		err := t.alone(ctx, conn, t.database, rename(t.database, before))
		if err == nil {
			err = t.alone(ctx, conn, filling, rename(filling, t.database))
		}
		return err
	})
}

func rename(from, to string) string {
	return "ALTER DATABASE " + ident(from) + " RENAME TO " + ident(to)
}

// Clean removes what was there before: the copy stays. It may be repeated.
func (t *Target) Clean(ctx context.Context) error {
	return t.elsewhere(ctx, func(conn *pgx.Conn) error { return drop(ctx, conn, before) })
}

// Undo makes all as it was, however far the copy has come; no slot may be left in the database. It may be repeated.
func (t *Target) Undo(ctx context.Context, roles []string) error {
	return t.elsewhere(ctx, func(conn *pgx.Conn) error {
		var swapped bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = "+literal(before)+")").Scan(&swapped); err != nil {
			return err
		}
		if swapped {
			if err := drop(ctx, conn, t.database); err != nil {
				return err
			}
			if err := t.alone(ctx, conn, before, rename(before, t.database)); err != nil {
				return err
			}
		}
		if err := drop(ctx, conn, filling); err != nil {
			return err
		}
		for _, r := range slices.Backward(roles) {
			if err := run(ctx, conn, "DROP ROLE IF EXISTS "+ident(r)); err != nil {
				return err
			}
		}
		return nil
	})
}

func drop(ctx context.Context, conn *pgx.Conn, database string) error {
	return run(ctx, conn, "DROP DATABASE IF EXISTS "+ident(database)+" WITH (FORCE)")
}

// run runs scripts, one after the other, each in a transaction of its own.
func run(ctx context.Context, conn *pgx.Conn, scripts ...string) error {
	for _, sql := range scripts {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}
