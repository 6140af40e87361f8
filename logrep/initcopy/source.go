package initcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mtm/logrep"
)

// Section is a part of the schema, in pg_dump's words.
type Section string

// The sections: tables, types, functions and so on before the rows; indexes, constraints, triggers and so on behind them.
const (
	PreData  Section = "pre-data"
	PostData Section = "post-data"
)

// Source is the database that is copied.
type Source struct {
	dsn      string
	lock     *pgx.Conn // holds the tables as they are
	view     *pgx.Conn // has the snapshot
	locked   []string
	snapshot string
	print    string // of the schema, as the snapshot shows it
	pgDump   string
}

// lockPatience is how long a table's lock is waited for.
const lockPatience = 10 * time.Second

// ErrChanged: the schema was changed while it was being copied.
var ErrChanged = errors.New("the schema was changed while it was copied")

// OpenSource connects to a database, as a superuser, and keeps its tables from being altered; a session that has to alter one all the
// same may end the copy. Close releases everything.
func OpenSource(ctx context.Context, dsn string) (s *Source, err error) {
	s = &Source{dsn: dsn}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.lock, err = connect(ctx, dsn, ""); err != nil {
		return nil, err
	}
	if s.view, err = connect(ctx, dsn, ""); err != nil {
		return nil, err
	}
	var dir string
	if err := s.lock.QueryRow(ctx, `SELECT setting FROM pg_config WHERE name = 'BINDIR'`).Scan(&dir); err != nil {
		return nil, err
	}
	s.pgDump = filepath.Join(dir, "pg_dump")
	if _, err := os.Stat(s.pgDump); err != nil {
		if s.pgDump, err = exec.LookPath("pg_dump"); err != nil {
			return nil, fmt.Errorf("no pg_dump in %s nor in PATH: install PostgreSQL's client programs there: %w", dir, err)
		}
	}
	return s, s.lockTables(ctx)
}

func (s *Source) lockTables(ctx context.Context) error {
	tables, err := s.tables(ctx, s.lock)
	if err != nil {
		return err
	}
	sql := fmt.Sprintf("BEGIN; SET LOCAL lock_timeout = '%dms'", lockPatience.Milliseconds())
	for _, t := range tables {
		sql += "; LOCK TABLE ONLY " + t + " IN ACCESS SHARE MODE"
	}
	if _, err := s.lock.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("%w: lock the tables: %w", ErrChanged, err)
	}
	s.locked = tables
	return nil
}

// tables are those that can be locked.
func (s *Source) tables(ctx context.Context, conn *pgx.Conn) (names []string, err error) {
	err = each(ctx, conn, `SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND `+relations+` ORDER BY c.oid`,
		func(rows pgx.Rows) error {
			var name string
			err := rows.Scan(&name)
			names = append(names, name)
			return err
		})
	return names, err
}

// Export takes the snapshot: what is committed when it is called is in it, and what is not when it returns is not.
func (s *Source) Export(ctx context.Context) error {
	if _, err := s.view.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"); err != nil {
		return err
	}
	return s.view.QueryRow(ctx, "SELECT pg_export_snapshot()").Scan(&s.snapshot)
}

// Conn is the session that has the snapshot.
func (s *Source) Conn() *pgx.Conn { return s.view }

// Describe reads what there is. ErrChanged: tables came or went before the snapshot.
func (s *Source) Describe(ctx context.Context) (Description, error) {
	tables, err := s.tables(ctx, s.view)
	if err != nil {
		return Description{}, err
	}
	if !slices.Equal(tables, s.locked) {
		return Description{}, ErrChanged
	}
	if err := s.view.QueryRow(ctx, fingerprintSQL).Scan(&s.print); err != nil {
		return Description{}, err
	}
	return describe(ctx, s.view)
}

// catalogs are those whose rows change with the schema: of tables, which are locked, and of everything else.
const fingerprintSQL = `SELECT md5(concat(
	(SELECT string_agg(concat(oid, ':', xmin), ',' ORDER BY oid) FROM pg_class WHERE relpersistence <> 't' AND relkind NOT IN ('t', 'i', 'I')),
	(SELECT string_agg(concat(oid, ':', xmin), ',' ORDER BY oid) FROM pg_proc WHERE oid >= 16384),
	(SELECT string_agg(concat(oid, ':', xmin), ',' ORDER BY oid) FROM pg_rewrite WHERE oid >= 16384),
	(SELECT string_agg(concat(oid, ':', xmin), ',' ORDER BY oid) FROM pg_type WHERE oid >= 16384 AND typrelid = 0 AND typelem = 0),
	(SELECT string_agg(concat(oid, ':', xmin), ',' ORDER BY oid) FROM pg_constraint WHERE oid >= 16384),
	(SELECT string_agg(concat(oid, ':', xmin), ',' ORDER BY oid) FROM pg_trigger),
	(SELECT string_agg(concat(oid, ':', xmin), ',' ORDER BY oid) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'),
	(SELECT string_agg(concat(oid, ':', xmin), ',' ORDER BY oid) FROM pg_event_trigger)))`

// Unchanged compares the schema with what the snapshot shows: pg_dump asks PostgreSQL's functions for definitions, and they see the
// present. ErrChanged: what Schema wrote may be wrong.
func (s *Source) Unchanged(ctx context.Context) error {
	now, err := connect(ctx, s.dsn, "")
	if err != nil {
		return err
	}
	defer now.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost
	var today string
	if err := now.QueryRow(ctx, fingerprintSQL).Scan(&today); err != nil {
		return err
	}
	if s.print != today {
		return ErrChanged
	}
	return nil
}

// Wait returns when a session of the copy has ended, or ctx has.
func (s *Source) Wait(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := s.view.WaitForNotification(ctx) // there is none: it ends with the session, or with ctx
		cancel(err)
	}()
	_, err := s.lock.WaitForNotification(ctx)
	cancel(err)
	<-done
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: the session that held it ended: %w", ErrChanged, err)
	}
	return ctx.Err()
}

// Schema writes one section of the schema, as SQL. It may be called while Wait runs.
func (s *Source) Schema(ctx context.Context, section Section, w io.Writer) error {
	conf, err := pgx.ParseConfig(s.dsn)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.pgDump, "--schema-only", "--section", string(section), "--snapshot", s.snapshot, "--no-tablespaces",
		"--no-subscriptions", "--exclude-schema", "mtm", "--dbname", withoutPassword(s.dsn))
	cmd.Env = append(os.Environ(), "PGPASSWORD="+conf.Password)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("pg_dump: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// Rows writes the rows of a piece, as COPY writes them.
func (s *Source) Rows(ctx context.Context, p Piece, w io.Writer) error {
	conn, err := connect(ctx, s.dsn, "")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost
	sql := "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET TRANSACTION SNAPSHOT " + literal(s.snapshot)
	if _, err := conn.PgConn().Exec(ctx, sql+rawBytes).ReadAll(); err != nil {
		return err
	}
	_, err = conn.PgConn().CopyTo(ctx, w, p.copySQL())
	return err
}

// rawBytes keeps PostgreSQL from converting or judging text: both databases have the same encoding.
const rawBytes = "; SET client_encoding = 'SQL_ASCII'"

func (p Piece) copySQL() string {
	where := ""
	if p.From > 0 || p.To > 0 {
		where = fmt.Sprintf(" WHERE ctid >= '(%d,0)'", p.From)
	}
	if p.To > 0 {
		where += fmt.Sprintf(" AND ctid < '(%d,0)'", p.To)
	}
	return "COPY (SELECT " + p.Columns + " FROM ONLY " + p.Table + where + ") TO STDOUT"
}

// Close ends the copy.
func (s *Source) Close() {
	for _, c := range []*pgx.Conn{s.view, s.lock} {
		if c != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			c.Close(ctx) //nolint:errcheck // it ends either way
			cancel()
		}
	}
}

// connect opens a session with settings in which a value is written the same way everywhere; database empty: that of dsn.
func connect(ctx context.Context, dsn, database string) (*pgx.Conn, error) {
	conf, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if database != "" {
		conf.Database = database
	}
	conf.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	maps.Copy(conf.RuntimeParams, map[string]string{
		"application_name": "mtm_copy", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "extra_float_digits": "3", "TimeZone": "UTC",
		"bytea_output": "hex", "lc_monetary": "C", "xmloption": "content", "search_path": "", "row_security": "off", "default_transaction_read_only": "off",
		"default_transaction_isolation": "read committed", "client_min_messages": "error", "standard_conforming_strings": "on",
		"check_function_bodies": "off", "synchronous_commit": "off", "client_encoding": "UTF8",
	})
	if conf.ConnectTimeout == 0 {
		conf.ConnectTimeout = 10 * time.Second
	}
	return logrep.Own(&conf.Config, func() (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, conf) })
}

// withoutPassword is for a command line, which others can see.
func withoutPassword(dsn string) string {
	conf, err := pgconn.ParseConfig(dsn)
	if err != nil || conf.Password == "" {
		return dsn
	}
	return redact(dsn)
}

// password finds password=… in a keyword connection string, and :…@ in a URL.
var (
	passwordWord = regexp.MustCompile(`(?i)\bpassword\s*=\s*(?:'(?:[^'\\]|\\.)*'?|(?:[^\s\\&]|\\.)*)`)
	passwordURL  = regexp.MustCompile(`^(\w+://[^:/@?]*):[^@/]*@`)
)

func redact(dsn string) string {
	return passwordWord.ReplaceAllString(passwordURL.ReplaceAllString(dsn, "$1@"), "")
}
