package gateway

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
	"sync"
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

// pg is the PostgreSQL that all tests of this package share.
var pg struct {
	dir  string
	port int
}

func TestMain(m *testing.M) {
	os.Exit(withPostgres(m))
}

func withPostgres(m *testing.M) int {
	dir, err := os.MkdirTemp("/tmp", "mtm-gateway-")
	check(err)
	defer os.RemoveAll(dir)
	cred := postgresUser(dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	pg.dir, pg.port = dir, l.Addr().(*net.TCPAddr).Port
	l.Close()
	data := filepath.Join(dir, "data")
	run(cred, program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync")
	conf := fmt.Sprintf("port=%d\nlisten_addresses='127.0.0.1'\nunix_socket_directories='%s'\nwal_level=logical\n"+
		"max_prepared_transactions=100\nmax_connections=150\npassword_encryption='scram-sha-256'\nshared_buffers='64MB'\n",
		pg.port, dir)
	check(os.WriteFile(filepath.Join(data, "mtm.conf"), []byte(conf), 0o644))
	f, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	check(err)
	_, err = f.WriteString("include 'mtm.conf'\n")
	check(err)
	check(f.Close())
	hba := "host all scrammer all scram-sha-256\nhost all md5er all md5\nhost all plainer all password\n" +
		"host all all all trust\nlocal all all trust\nhost replication all all trust\n"
	check(os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o644))
	server := exec.Command(program("postgres"), "-D", data)
	server.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	log, err := os.Create(filepath.Join(dir, "log"))
	check(err)
	server.Stdout, server.Stderr = log, log
	check(server.Start())
	defer func() {
		_ = server.Process.Signal(syscall.SIGINT)
		_ = server.Wait()
	}()
	waitForPostgres()
	setUp()
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code != 0 && os.Getenv("MTM_PG_LOG") != "" {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		os.Stderr.Write(text)
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
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil || name != "psql" && name != "pgbench" { // which any version has, and not all packages
			return path
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		panic("no PostgreSQL found: set MTM_PG_BIN")
	}
	sort.Strings(found)
	return found[len(found)-1]
}

// postgresUser is whom PostgreSQL runs as when the tests run as root; nil otherwise.
func postgresUser(dir string) *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	check(err)
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	check(os.Chown(dir, uid, gid))
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func run(cred *syscall.Credential, name string, args ...string) {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%s: %v\n%s", name, err, out))
	}
}

func directURL(user string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/postgres?sslmode=disable", user, pg.port)
}

func waitForPostgres() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, directURL("postgres"))
		if err == nil {
			conn.Close(ctx)
			return
		}
		select {
		case <-ctx.Done():
			panic(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func setUp() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, directURL("postgres"))
	check(err)
	defer conn.Close(ctx)
	for _, text := range []string{
		"create role scrammer login superuser password 'secret'",
		"set password_encryption = 'md5'", "create role md5er login password 'secret'", "reset password_encryption",
		"create role plainer login password 'secret'",
		"create table t (id int primary key, v text)",
		"create table child (id int primary key, parent int references t deferrable initially deferred)",
		"create sequence seq",
		"create schema mtm; create table mtm.full_identity (relid oid); create publication mtm; grant usage on schema mtm to public",
		"create table mtm.sequences (seqid oid, stepped bool, user_start int8, user_increment int8, user_min int8, user_max int8)",
		"create table keyless (a int); alter table keyless replica identity full; insert into mtm.full_identity values ('keyless'::regclass)",
		"create function writes() returns int language sql volatile as $$ insert into t values (1000, 'f') on conflict do nothing; select 1 $$",
	} {
		_, err := conn.Exec(ctx, text)
		check(err)
	}
}

// fakeCommits is the rest of mtm: every prepared transaction is committed at once, unless a test wants it otherwise.
type fakeCommits struct {
	pool     *side
	seq      atomic.Uint64
	permits  atomic.Int64 // out
	mu       sync.Mutex
	refuse   *mtm.Error    // of Admit
	yields   []mtm.GID     // asked for
	calm     bool          // what Yield answers
	conflict int           // how many of the next Waits say 40001
	hold     chan struct{} // if not nil, Wait blocks until it is closed or Cancel comes
	waits    chan mtm.GID  // if not nil, told when Wait begins
	failed   []*mtm.Error  // of Prepared
	unknown  int           // of Prepared
	held     sync.Map      // gids of Held
	waited   []string
	canceled map[mtm.GID]chan struct{}   // of Cancel
	ages     []uint64                    // of Permit
	onPermit func(context.Context) error // if not nil, asked first
}

func (f *fakeCommits) Admit(context.Context, bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	return nil
}

func (f *fakeCommits) Refused() *mtm.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refuse
}

func (f *fakeCommits) setRefuse(e *mtm.Error) {
	f.mu.Lock()
	f.refuse = e
	f.mu.Unlock()
}

func (f *fakeCommits) Permit(ctx context.Context, age uint64) (mtm.GID, error) {
	f.mu.Lock()
	f.ages = append(f.ages, age)
	ask := f.onPermit
	f.mu.Unlock()
	if ask != nil {
		if err := ask(ctx); err != nil {
			return mtm.GID{}, err
		}
	}
	f.permits.Add(1)
	return mtm.GID{Origin: 1, Gen: 1, Seq: f.seq.Add(1)}, nil
}

func (f *fakeCommits) Announce(mtm.GID) {}

func (f *fakeCommits) Prepared(gid mtm.GID, err *mtm.Error, unknown bool) {
	f.permits.Add(-1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.failed = append(f.failed, err)
	}
	if unknown {
		f.unknown++
	}
}

// Held has the session commit at once.
func (f *fakeCommits) Held(gid mtm.GID, _ uint64, obey func(Order)) {
	f.Prepared(gid, nil, false)
	f.held.Store(gid, true)
	obey(OrderConfirm)
	obey(OrderCommit)
}

func (f *fakeCommits) Obeyed(gid mtm.GID, done Order) {}

func (f *fakeCommits) Gone(gid mtm.GID, xid uint64, rolledBack bool) {}

func (f *fakeCommits) cancelOf(gid mtm.GID) chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.canceled[gid] == nil {
		f.canceled[gid] = make(chan struct{})
	}
	return f.canceled[gid]
}

func (f *fakeCommits) Yield(_ context.Context, gid mtm.GID, _, _ time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.yields = append(f.yields, gid)
	return f.calm
}

func (f *fakeCommits) Cancel(gid mtm.GID) {
	c := f.cancelOf(gid)
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-c:
	default:
		close(c)
	}
}

func (f *fakeCommits) Wait(ctx context.Context, gid mtm.GID) *mtm.Error {
	f.mu.Lock()
	conflict := f.conflict > 0
	if conflict {
		f.conflict--
	}
	hold, waits := f.hold, f.waits
	f.waited = append(f.waited, gid.String())
	f.mu.Unlock()
	verb := "COMMIT PREPARED"
	var failure *mtm.Error
	if waits != nil {
		waits <- gid
	}
	if hold != nil {
		select {
		case <-hold:
		case <-f.cancelOf(gid):
			verb, failure = "ROLLBACK PREPARED", &mtm.Error{Code: mtm.CodeQueryCanceled, Msg: "canceling statement due to user request"}
		case <-ctx.Done():
			return mtm.Unknown(gid, "shutdown")
		}
	}
	if conflict {
		verb, failure = "ROLLBACK PREPARED", mtm.Conflict("node 2 said so")
	}
	if _, open := f.held.Load(gid); open {
		return failure
	}
	if _, err := f.pool.Exec(context.Background(), gid.SQL(verb)); err != nil {
		return &mtm.Error{Code: "XX000", Msg: err.Error()}
	}
	return failure
}

// harness is a gateway in front of the shared PostgreSQL.
type harness struct {
	*Server
	fake *fakeCommits
	addr string
	port int
}

var gens atomic.Uint64

// side is a few connections straight to PostgreSQL.
type side struct{ conns chan *pgx.Conn }

func newSide(t testing.TB, n int) *side {
	s := &side{conns: make(chan *pgx.Conn, n)}
	for range n {
		conf, err := pgx.ParseConfig(directURL("postgres"))
		require.NoError(t, err)
		conf.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		conn, err := pgx.ConnectConfig(context.Background(), conf)
		require.NoError(t, err)
		s.conns <- conn
	}
	return s
}

func (s *side) Exec(ctx context.Context, text string) (pgconn.CommandTag, error) {
	conn := <-s.conns
	defer func() { s.conns <- conn }()
	return conn.Exec(ctx, text)
}

func (s *side) number(ctx context.Context, text string) (n int, err error) {
	conn := <-s.conns
	defer func() { s.conns <- conn }()
	err = conn.QueryRow(ctx, text).Scan(&n)
	return n, err
}

func (s *side) close() {
	for range cap(s.conns) {
		(<-s.conns).Close(context.Background())
	}
}

func start(t testing.TB, change ...func(*Config)) *harness {
	pool := newSide(t, 8)
	fake := &fakeCommits{pool: pool, canceled: make(map[mtm.GID]chan struct{})}
	fake.seq.Store(gens.Add(1) << 32)
	c := Config{
		Listen: []string{"127.0.0.1:0"}, Backend: fmt.Sprintf("127.0.0.1:%d", pg.port), Database: "postgres",
		Commits: fake, RetryAutocommit: DefaultRetryAutocommit,
	}
	for _, f := range change {
		f(&c)
	}
	srv, err := New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.Zero(t, fake.permits.Load(), "a permit was not given back")
		left, err := pool.number(context.Background(), "select count(*) from pg_prepared_xacts")
		require.NoError(t, err)
		if left != 0 {
			conn := <-pool.conns
			rows, _ := conn.Query(context.Background(), "select gid || ' ' || prepared || ' now ' || now() from pg_prepared_xacts")
			gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
			t.Errorf("prepared transactions are left: %v %v; failed: %v; waited: %v", gids, err, fake.failed, fake.waited)
			pool.conns <- conn
		}
		pool.close()
	})
	addr := srv.Addrs()[0].(*net.TCPAddr)
	return &harness{Server: srv, fake: fake, addr: addr.String(), port: addr.Port}
}

func (h *harness) url(user string) string {
	return fmt.Sprintf("postgres://%s@%s/postgres?sslmode=disable", user, h.addr)
}

// connect opens a session through the gateway. mode is one of pgx's.
func (h *harness) connect(t testing.TB, mode pgx.QueryExecMode) *pgx.Conn {
	conf, err := pgx.ParseConfig(h.url("postgres"))
	require.NoError(t, err)
	conf.DefaultQueryExecMode = mode
	conn, err := pgx.ConnectConfig(context.Background(), conf)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// fresh empties the tables.
func fresh(t testing.TB, h *harness) {
	_, err := h.fake.pool.Exec(context.Background(), "truncate t, child")
	require.NoError(t, err)
}

// direct asks PostgreSQL itself for one number.
func (h *harness) direct(t testing.TB, text string) int {
	n, err := h.fake.pool.number(context.Background(), text)
	require.NoError(t, err)
	return n
}
