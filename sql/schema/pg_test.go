package schema

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"mtm"
)

// One PostgreSQL serves all tests of the package; each test has databases of its own.
var (
	pgPort  int
	pgCount atomic.Int64
)

func TestMain(m *testing.M) {
	stop, err := startPostgres()
	if err != nil {
		fmt.Fprintln(os.Stderr, "start PostgreSQL:", err)
		os.Exit(1)
	}
	code := m.Run()
	stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// pgBin finds the programs of PostgreSQL: $MTM_PG_BIN, else the newest of Debian's.
func pgBin() (string, error) {
	if dir := os.Getenv("MTM_PG_BIN"); dir != "" {
		return dir, nil
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	sort.Slice(dirs, func(i, j int) bool { return pgMajor(dirs[i]) > pgMajor(dirs[j]) })
	if len(dirs) == 0 {
		return "", fmt.Errorf("no PostgreSQL in /usr/lib/postgresql; set MTM_PG_BIN")
	}
	return filepath.Dir(dirs[0]), nil
}

func pgMajor(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

func startPostgres() (stop func(), err error) {
	bin, err := pgBin()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "mtm-schema-")
	if err != nil {
		return nil, err
	}
	cred, err := postgresUser(dir)
	if err != nil {
		return nil, err
	}
	run := func(name string, args ...string) error {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Credential: cred}, dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	}
	data := filepath.Join(dir, "data")
	if err := run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-N", "-D", data); err != nil {
		return nil, err
	}
	if pgPort, err = freePort(); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("port=%d\nlisten_addresses='127.0.0.1'\nunix_socket_directories='%s'\nwal_level=logical\n"+
		"max_prepared_transactions=300\nmax_replication_slots=50\nmax_wal_senders=20\nautovacuum=off\nsynchronous_commit=off\nshared_buffers=32MB\n", pgPort, dir)
	if version, err := os.ReadFile(filepath.Join(data, "PG_VERSION")); err == nil && strings.TrimSpace(string(version)) >= "18" {
		conf += "max_active_replication_origins=50\n"
	}
	f, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteString(conf); err != nil {
		return nil, err
	}
	f.Close()
	if err := run("pg_ctl", "-w", "-D", data, "-l", filepath.Join(dir, "log"), "start"); err != nil {
		return nil, err
	}
	return func() {
		if err := run("pg_ctl", "-w", "-m", "immediate", "-D", data, "stop"); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.RemoveAll(dir)
	}, nil
}

// postgresUser gives whom PostgreSQL runs as: nobody special, or "postgres" if we are root, whom it refuses.
func postgresUser(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, uid, gid)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// free are databases that tests have used and cleaned: making one anew takes longer than most tests.
var free []string

// newDatabase gives an empty database.
func newDatabase(t *testing.T) string {
	var name string
	if len(free) > 0 {
		name, free = free[0], free[1:]
	} else {
		name = fmt.Sprintf("db%d", pgCount.Add(1))
		mustExec(t, connectAs(t, "postgres", "postgres"), `CREATE DATABASE `+name+` TEMPLATE template0`)
	}
	t.Cleanup(func() {
		if err := clean(name); err == nil {
			free = append(free, name)
		} else {
			t.Logf("database %s is not used again: %v", name, err)
		}
	})
	return name
}

// clean takes everything out of a database.
func clean(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg, err := pgx.ParseConfig(dsn(name, "postgres"))
	if err != nil {
		return err
	}
	cfg.RuntimeParams["default_transaction_read_only"] = "off"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	uninstalled := Uninstall(ctx, conn)
	_, err = conn.Exec(ctx, `DO $$ DECLARE cmd text; BEGIN
		FOR cmd IN SELECT format('DROP EVENT TRIGGER %I', evtname) FROM pg_event_trigger
			UNION ALL SELECT format('DROP FOREIGN DATA WRAPPER %I CASCADE', fdwname) FROM pg_foreign_data_wrapper
			UNION ALL SELECT format('DROP PUBLICATION %I', pubname) FROM pg_publication
			UNION ALL SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace
				WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
			UNION ALL SELECT 'CREATE SCHEMA public'
			UNION ALL SELECT 'GRANT ALL ON SCHEMA public TO public'
			UNION ALL SELECT format('SELECT lo_unlink(%s)', oid) FROM pg_largeobject_metadata
			UNION ALL SELECT format('ALTER DATABASE %I RESET ALL', current_database())
		LOOP EXECUTE cmd; END LOOP; END $$`)
	if err != nil {
		return err
	}
	var e *mtm.Error
	if errors.As(uninstalled, &e) && e.Code == "42P06" {
		return nil // a test's own schema mtm, gone by now
	}
	return uninstalled
}

func dsn(db, role string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s default_query_exec_mode=exec", pgPort, role, db)
}

// connectAs opens a session as the gateway would: free to write.
func connectAs(t *testing.T, db, role string) *pgx.Conn {
	return connectWith(t, db, role, "default_transaction_read_only=off")
}

func connectWith(t *testing.T, db, role string, settings ...string) *pgx.Conn {
	t.Helper()
	ctx := testContext(t)
	cfg, err := pgx.ParseConfig(dsn(db, role))
	require.NoError(t, err)
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		cfg.RuntimeParams[name] = value
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn.Close(ctx)
	})
	return conn
}

// newNode makes a database that is node id of a cluster of three.
func newNode(t *testing.T, id int) *pgx.Conn {
	conn := connectAs(t, newDatabase(t), "postgres")
	require.NoError(t, Install(testContext(t), conn, threeNodes(id)))
	return conn
}

func mustExec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.PgConn().Exec(testContext(t), sql).ReadAll()
	require.NoError(t, err, sql)
}

// query returns the rows of a statement as text, columns joined by a bar.
func query(t *testing.T, conn *pgx.Conn, sql string) []string {
	t.Helper()
	results, err := conn.PgConn().Exec(testContext(t), sql).ReadAll()
	require.NoError(t, err, sql)
	rows := []string{}
	for _, r := range results {
		for _, row := range r.Rows {
			cols := make([]string, len(row))
			for i, c := range row {
				cols[i] = string(c)
			}
			rows = append(rows, strings.Join(cols, "|"))
		}
	}
	return rows
}

// sqlState is the code of PostgreSQL's error, "" if err is none.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// benchDatabase makes a database with a table "bench" in it, node 1 of a cluster if installed.
func benchDatabase(b *testing.B, installed bool) (*pgx.Conn, error) {
	conn, err := pgx.Connect(b.Context(), dsn("postgres", "postgres"))
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("bench%d", pgCount.Add(1))
	_, err = conn.Exec(b.Context(), `CREATE DATABASE `+name+` TEMPLATE template0`)
	conn.Close(b.Context())
	if err != nil {
		return nil, err
	}
	if conn, err = pgx.Connect(b.Context(), dsn(name, "postgres")); err != nil {
		return nil, err
	}
	b.Cleanup(func() { conn.Close(context.Background()) })
	if installed {
		if err := Install(b.Context(), conn, threeNodes(1)); err != nil {
			return nil, err
		}
	}
	_, err = conn.Exec(b.Context(), `CREATE TABLE bench (id int PRIMARY KEY)`)
	return conn, err
}
