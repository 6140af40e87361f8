package notify

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// pgPort is where the PostgreSQL listens that all tests share. Notifications stay in a database, so a database is a node here.
var pgPort int

func TestMain(m *testing.M) { os.Exit(withPostgres(m)) }

func withPostgres(m *testing.M) int {
	dir, err := os.MkdirTemp("/tmp", "mtm-notify-")
	check(err)
	defer os.RemoveAll(dir)
	var attr *syscall.SysProcAttr
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		check(err)
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		check(os.Chown(dir, uid, gid))
		attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	pgPort = l.Addr().(*net.TCPAddr).Port
	l.Close()
	initdb := exec.Command(program("initdb"), "-D", filepath.Join(dir, "data"), "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync")
	initdb.SysProcAttr = attr
	if out, err := initdb.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	server := exec.Command(program("postgres"), "-D", filepath.Join(dir, "data"), "-p", strconv.Itoa(pgPort),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+dir, "-c", "fsync=off")
	server.SysProcAttr = attr
	check(server.Start())
	defer func() {
		_ = server.Process.Signal(syscall.SIGINT)
		_ = server.Wait()
	}()
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := pgx.Connect(context.Background(), url("postgres"))
		if err == nil {
			for _, name := range []string{"n1", "n2", "n3"} {
				_, err := conn.Exec(context.Background(), "CREATE DATABASE "+name)
				check(err)
			}
			conn.Close(context.Background())
			break
		}
		if time.Now().After(deadline) {
			panic(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func program(name string) string {
	if dir := os.Getenv("MTM_PG_BIN"); dir != "" {
		return filepath.Join(dir, name)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		panic("no PostgreSQL found: set MTM_PG_BIN")
	}
	sort.Strings(found)
	return found[len(found)-1]
}

func url(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", pgPort, database)
}

func connect(t *testing.T, node int) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url(fmt.Sprintf("n%d", node)))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err, "%s", sql)
}
