package logrep

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"mtm"
)

// Two PostgreSQL servers, origin and member, shared by all tests of the package. Each test makes databases of its own.
var pgA, pgB *pgServer

func TestMain(m *testing.M) {
	code := func() int {
		dir, err := os.MkdirTemp("/var/tmp", "logrep")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		if err := startServers(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer pgA.stop()
		defer pgB.stop()
		return m.Run()
	}()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

type pgServer struct {
	bin, dir string
	port     int
	cred     *syscall.Credential
	cmd      *exec.Cmd
	version  int
}

func pgBin() string {
	if dir := os.Getenv("MTM_PG_BIN"); dir != "" {
		return dir
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	sort.Slice(found, func(i, k int) bool {
		a, _ := strconv.Atoi(filepath.Base(filepath.Dir(found[i])))
		b, _ := strconv.Atoi(filepath.Base(filepath.Dir(found[k])))
		return a > b
	})
	if len(found) == 0 {
		return ""
	}
	return found[0]
}

func startServers(dir string) error {
	cred, err := pgUser(dir)
	if err != nil {
		return err
	}
	pgA = &pgServer{bin: pgBin(), dir: filepath.Join(dir, "a"), cred: cred}
	pgB = &pgServer{bin: pgBin(), dir: filepath.Join(dir, "b"), cred: cred}
	out, err := pgA.command("initdb", "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C", "-D", pgA.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	cp := exec.Command("cp", "-a", pgA.dir, pgB.dir)
	if out, err := cp.CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w\n%s", err, out)
	}
	for _, s := range []*pgServer{pgA, pgB} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		s.port = l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if err := s.start(); err != nil {
			return err
		}
	}
	return nil
}

// pgUser is whom PostgreSQL runs as: it refuses root.
func pgUser(dir string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (s *pgServer) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = filepath.Dir(s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Setpgid: true}
	return cmd
}

func (s *pgServer) start() error {
	s.cmd = s.command("postgres", "-D", s.dir, "-p", strconv.Itoa(s.port), "-k", filepath.Dir(s.dir),
		"-c", "listen_addresses=127.0.0.1", "-c", "wal_level=logical", "-c", "max_prepared_transactions=300",
		"-c", "max_connections=300", "-c", "max_replication_slots=150", "-c", "max_wal_senders=30", "-c", "shared_buffers=64MB",
		"-c", "max_wal_size=4GB", "-c", "logging_collector=off", "-c", "log_min_messages=fatal")
	if out, err := s.command("postgres", "--version").Output(); err != nil {
		return err
	} else if major, _ := strconv.Atoi(regexp.MustCompile(`\d+`).FindString(string(out))); major >= 18 { // before, max_replication_slots
		s.cmd.Args = append(s.cmd.Args, "-c", "max_active_replication_origins=150")
	}
	log, err := os.OpenFile(s.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := pgconn.Connect(context.Background(), s.dsn("postgres"))
		if err == nil {
			s.version = serverVersion(conn)
			return conn.Close(context.Background())
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop ends the server at once, as a crash would.
func (s *pgServer) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	_ = s.cmd.Wait()
}

func (s *pgServer) dsn(db string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=%s sslmode=disable", s.port, db)
}

// testToken is what the gateway's messages begin with.
const testToken = "mtm-token-test"

// ownSchema is of package schema what these tests need.
const ownSchema = "CREATE SCHEMA mtm; CREATE TABLE mtm.said (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), prefix text NOT NULL, content text NOT NULL); " +
	"CREATE TABLE mtm.recovered (id bool PRIMARY KEY DEFAULT true, at bigint NOT NULL); " +
	"CREATE FUNCTION mtm.say(prefix text, content text) RETURNS void LANGUAGE sql AS 'INSERT INTO mtm.said (prefix, content) VALUES ($1, $2)'"

// say is a message of the gateway.
func say(prefix, content string) string {
	return "SELECT pg_logical_emit_message(true, '" + prefix + "', " + quoteLiteral(testToken+" "+content) + ")"
}

// node is one database of a test with its session.
type node struct {
	t    testing.TB
	pg   *pgServer
	id   mtm.NodeID
	cfg  Config
	conn *pgconn.PgConn
}

var dbSeq int

func newNode(t testing.TB, pg *pgServer, id mtm.NodeID) *node {
	dbSeq++
	db := fmt.Sprintf("t%d_%d", id, dbSeq)
	root, err := pgconn.Connect(t.Context(), pg.dsn("postgres"))
	require.NoError(t, err)
	require.NoError(t, run(context.Background(), root, "CREATE DATABASE "+db))
	require.NoError(t, root.Close(t.Context()))
	n := &node{t: t, pg: pg, id: id}
	n.cfg = Config{
		DSN: pg.dsn(db), Node: id, StatusInterval: 50 * time.Millisecond, Slot: "mtm_" + db, RecoverOrigin: "mtm_r_" + db, Spills: newDirSpills(t), Catalog: NewCatalog(),
		Genuine: func(token string) bool { return token == testToken },
		Log:     slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	n.conn, err = pgconn.Connect(t.Context(), n.cfg.DSN)
	require.NoError(t, err)
	n.exec(ownSchema)
	t.Cleanup(func() {
		ctx := context.Background()
		_ = n.conn.Close(ctx)
		require.NoError(t, DropSlot(ctx, n.cfg))
		dropOrigin(t, n)
		root, err := pgconn.Connect(ctx, pg.dsn(db))
		require.NoError(t, err)
		gids, err := query(ctx, root, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
		require.NoError(t, err)
		for _, g := range gids {
			require.NoError(t, run(context.Background(), root, "ROLLBACK PREPARED '"+string(g[0])+"'"))
		}
		require.NoError(t, root.Close(ctx))
		root, err = pgconn.Connect(ctx, pg.dsn("postgres"))
		require.NoError(t, err)
		require.NoError(t, run(context.Background(), root, "DROP DATABASE "+db+" WITH (FORCE)"))
		require.NoError(t, root.Close(ctx))
	})
	return n
}

// dropOrigin: origins belong to the server, not to the database.
func dropOrigin(t testing.TB, n *node) {
	conn, err := n.cfg.connect(context.Background(), appMonitor, nil)
	require.NoError(t, err)
	defer closeConn(conn)
	require.NoError(t, endSessions(context.Background(), conn, "application_name = $1", appRecover))
	_, err = query(context.Background(), conn, "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = $1", n.cfg.RecoverOrigin)
	require.NoError(t, err)
}

func (n *node) exec(sql string) {
	n.t.Helper()
	require.NoError(n.t, run(context.Background(), n.conn, sql), sql)
}

// rows gives a query's result as text, a line per row.
func (n *node) rows(sql string) []string {
	n.t.Helper()
	res, err := n.conn.Exec(context.Background(), sql).ReadAll()
	require.NoError(n.t, err, sql)
	var out []string
	for _, row := range res[len(res)-1].Rows {
		line := ""
		for _, v := range row {
			if v == nil {
				line += "|NULL"
			} else {
				line += "|" + string(v)
			}
		}
		out = append(out, line)
	}
	return out
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(b[:len(b)-1]))
	return len(b), nil
}

// dirSpills keeps spill files in a directory.
type dirSpills struct {
	t   testing.TB
	dir string
}

func newDirSpills(t testing.TB) *dirSpills { return &dirSpills{t: t, dir: t.TempDir()} }

type dirSpill struct {
	*os.File
	owner *dirSpills
}

func (d *dirSpills) Create() (SpillWriter, error) {
	f, err := os.CreateTemp(d.dir, "spill")
	return &dirSpill{f, d}, err
}

func (d *dirSpills) Open(name string) (io.ReadSeekCloser, error) {
	return os.Open(filepath.Join(d.dir, name))
}

func (d *dirSpills) count() int {
	found, err := os.ReadDir(d.dir)
	require.NoError(d.t, err)
	return len(found)
}

func (s *dirSpill) Name() string  { return filepath.Base(s.File.Name()) }
func (s *dirSpill) Commit() error { return s.Close() }
func (s *dirSpill) Abort() error {
	_ = s.Close()
	return os.Remove(s.File.Name())
}
