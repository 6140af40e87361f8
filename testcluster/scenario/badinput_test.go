package scenario

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/cmd/mtmctl/admin"
	"mtm/testcluster"
	"mtm/testcluster/devcluster"
)

// catalogsSQL is all that an installation touches in one PostgreSQL, as text.
const catalogsSQL = `SELECT string_agg(x, E'\n' ORDER BY x) FROM (
	SELECT 'class ' || oid::regclass || ' ' || relkind::text FROM pg_class WHERE oid >= 16384 AND relkind <> 't' AND relnamespace <> 'pg_toast'::regnamespace
	UNION ALL SELECT 'proc ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384
	UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
	UNION ALL SELECT 'role ' || rolname FROM pg_roles
	UNION ALL SELECT 'publication ' || pubname FROM pg_publication
	UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
	UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots
	UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin
	UNION ALL SELECT 'setting ' || array_to_string(setconfig, ',') FROM pg_db_role_setting
	UNION ALL SELECT 'prepared ' || gid FROM pg_prepared_xacts
	UNION ALL SELECT 'type ' || typname FROM pg_type WHERE oid >= 16384 AND typtype IN ('e', 'd', 'r')
	UNION ALL SELECT 'extension ' || extname FROM pg_extension) s (x)`

// catalogs reads it from all nodes.
func catalogs(t testing.TB, c *testcluster.Cluster) (all []string) {
	t.Helper()
	for _, n := range c.Nodes() {
		db, err := n.ConnectPgErr(t.Context())
		require.NoError(t, err)
		all = append(all, one[string](t, db, catalogsSQL))
		require.NoError(t, db.Close(t.Context()))
	}
	return all
}

// TestInitClusterRefuses proves that init-cluster says what is wrong, where, and how to mend it, and changes nothing.
func TestInitClusterRefuses(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{NoInit: true, Settings: []string{"password_encryption=scram-sha-256"},
		HBA: []string{"host all stranger 127.0.0.1/32 scram-sha-256"}})
	before := catalogs(t, c)
	init := func(t *testing.T, code int, more ...string) string {
		t.Helper()
		out, got := mtmctl(t, append([]string{"init-cluster", "--dev", c.Dev().Dir(), "--cluster", c.Dev().Name()}, more...)...)
		require.Equal(t, code, got, out)
		require.Equal(t, before, catalogs(t, c), "something was changed")
		return out
	}
	restart := func(t *testing.T, env ...string) {
		t.Helper()
		n := c.For(t).Node(2)
		n.StopMtmd()
		n.StartMtmd(env...)
		awaitPort(t, c, n.Info().Peer)
	}
	t.Run("a dry run changes nothing", func(t *testing.T) {
		out := init(t, 0, "--dry-run")
		require.Contains(t, out, "nothing was changed")
		require.NotContains(t, out, "FAIL")
	})
	t.Run("unreachable peer", func(t *testing.T) {
		n := c.For(t).Node(3)
		n.KillMtmd()
		out := init(t, 3)
		require.Contains(t, out, n.Info().Peer)
		require.Contains(t, out, "node 3")
		require.Contains(t, out, "connection refused")
		n.StartMtmd()
		awaitPort(t, c, n.Info().Peer)
	})
	t.Run("wrong password", func(t *testing.T) {
		execSQL(t, c.For(t).Node(2).ConnectPg(), "CREATE ROLE stranger SUPERUSER LOGIN PASSWORD 'right'")
		defer func() {
			execSQL(t, c.For(t).Node(2).ConnectPg(), "DROP ROLE stranger")
			restart(t)
		}()
		pg := strings.Replace(c.For(t).Node(2).PgURL(), "postgres@", "stranger:wrong@", 1)
		restart(t, "MTM_POSTGRES="+pg)
		was := before
		before = catalogs(t, c)
		defer func() { before = was }()
		out := init(t, 4)
		requireFailure(t, out, 2, "connection", "password authentication failed", "set postgres in mtmd.toml")
		require.NotContains(t, out, "wrong@")
	})
	t.Run("PostgreSQL that does not answer", func(t *testing.T) {
		defer restart(t)
		restart(t, "MTM_POSTGRES=postgres://postgres@127.0.0.1:1/postgres")
		requireFailure(t, init(t, 4), 2, "connection", "connection refused", "look at PostgreSQL's log")
	})
	t.Run("unsupported version", func(t *testing.T) {
		old := olderPostgres(t, c.For(t).Node(2).PgURL())
		defer restart(t)
		restart(t, "MTM_POSTGRES="+old)
		requireFailure(t, init(t, 4), 2, "version", "PostgreSQL 14.", "Use PostgreSQL 15")
	})
	t.Run("a peer that is not empty", func(t *testing.T) {
		db := c.For(t).Node(2).ConnectPg()
		execSQL(t, db, "CREATE TABLE mine (id int PRIMARY KEY)")
		was := before
		before = catalogs(t, c)
		requireFailure(t, init(t, 4), 2, "empty", "mine", "must hold nothing")
		execSQL(t, db, "DROP TABLE mine")
		before = was
	})
	t.Run("wrong name of the cluster", func(t *testing.T) {
		out, code := mtmctl(t, "init-cluster", "--dev", c.Dev().Dir(), "--cluster", "other")
		require.Equal(t, 4, code, out)
		require.Contains(t, out, `mtmd serves cluster "dev", the command names "other"`)
	})
	t.Run("settings of PostgreSQL", func(t *testing.T) {
		n := c.For(t).Node(2)
		execSQL(t, n.ConnectPg(), "ALTER SYSTEM SET wal_level = replica")
		execSQL(t, n.ConnectPg(), "ALTER SYSTEM SET max_prepared_transactions = 0")
		execSQL(t, n.ConnectPg(), "ALTER SYSTEM SET fsync = off")
		n.StopPostgres()
		n.StartPostgres()
		out := init(t, 4)
		requireFailure(t, out, 2, "wal_level", "wal_level = replica", "ALTER SYSTEM SET wal_level = logical; then restart")
		requireFailure(t, out, 2, "max_prepared_transactions", "max_prepared_transactions = 0", "ALTER SYSTEM SET max_prepared_transactions")
		requireFailure(t, out, 2, "fsync", "fsync = off", "ALTER SYSTEM SET fsync = on")
		execSQL(t, n.ConnectPg(), "ALTER SYSTEM RESET ALL")
		n.StopPostgres()
		n.StartPostgres()
	})
	t.Run("a failure half-way leaves nothing behind", func(t *testing.T) { halfWay(t, c.For(t), before) })
	t.Run("and then it works", func(t *testing.T) {
		out, code := mtmctl(t, "init-cluster", "--dev", c.Dev().Dir(), "--cluster", c.Dev().Name())
		require.Equal(t, 0, code, out+logs(c))
		c.For(t).WaitOnline()
		execSQL(t, c.For(t).Node(1).Connect(), "CREATE TABLE works (id int PRIMARY KEY); INSERT INTO works VALUES (1)")
		require.Equal(t, 1, one[int](t, c.For(t).Node(3).Connect(), "SELECT count(*) FROM works"))
	})
}

// requireFailure demands a failed check of one node, with what was found and what to do.
func requireFailure(t *testing.T, out string, node int, check, found, fix string) {
	t.Helper()
	_, part, ok := strings.Cut(out, fmt.Sprintf("node %d (", node))
	require.True(t, ok, out)
	part, _, _ = strings.Cut(part, "\nnode ")
	_, part, ok = strings.Cut(part, "\n  FAIL  "+check+": ")
	require.True(t, ok, "check %s of node %d did not fail:\n%s", check, node, out)
	for _, mark := range []string{"ok  ", "warn", "FAIL"} {
		part, _, _ = strings.Cut(part, "\n  "+mark+"  ")
	}
	detail, todo, ok := strings.Cut(part, "        fix: ")
	require.True(t, ok, "no fix is told:\n%s", part)
	require.Contains(t, detail, found)
	require.Contains(t, todo, fix)
}

// awaitPort waits until somebody listens: mtmd answers /status a moment before its other ports.
func awaitPort(t *testing.T, c *testcluster.Cluster, addr string) {
	t.Helper()
	await(t, c, "a listener at "+addr, func() error {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// halfWay: node 3 dies between the checks and its turn.
func halfWay(t *testing.T, c *testcluster.Cluster, before []string) {
	nodes, done, err := c.Dev().AdminNodes()
	require.NoError(t, err)
	defer done()
	all, err := admin.Precheck(t.Context(), c.Dev().Name(), nodes)
	require.NoError(t, err, admin.Failed(all))
	c.Node(3).KillMtmd()
	err = admin.Init(t.Context(), c.Dev().Name(), nodes)
	require.ErrorContains(t, err, "node 3")
	require.ErrorContains(t, err, "could not be made part of the cluster")
	require.Equal(t, before, catalogs(t, c))
	c.Node(3).StartMtmd()
	awaitPort(t, c, c.Node(3).Info().Peer)
	for _, n := range c.Nodes() {
		require.Equal(t, "disabled", n.Status().Status)
	}
}

// olderPostgres stands before a PostgreSQL and makes it say that it is version 14. No answer changes its length.
func olderPostgres(t *testing.T, url string) string {
	cfg, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	version := serverVersion(t, url)
	older := version%10000 + 140000
	value := func(v int) []byte { return binary.BigEndian.AppendUint32([]byte{0, 0, 0, 4}, uint32(v)) } // a binary int4 and its length
	return forge(t, cfg, func(b []byte) []byte {
		b = bytes.ReplaceAll(b, []byte(strconv.Itoa(version)), []byte(strconv.Itoa(older)))
		return bytes.ReplaceAll(b, value(version), value(older))
	})
}

func serverVersion(t *testing.T, url string) int {
	db, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer db.Close(t.Context())
	return one[int](t, db, "SELECT current_setting('server_version_num')::int")
}

// forge listens for clients of a PostgreSQL and changes its answers, piece by piece as they arrive.
func forge(t *testing.T, cfg *pgx.ConnConfig, change func([]byte) []byte) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port)))
			if err != nil {
				client.Close()
				return
			}
			context.AfterFunc(ctx, func() { client.Close(); server.Close() })
			go func() { io.Copy(server, client); server.Close() }() //nolint:errcheck // the end of either is the end
			go func() {
				defer client.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := server.Read(buf)
					if n > 0 {
						client.Write(change(buf[:n])) //nolint:errcheck // the next read fails then
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return fmt.Sprintf("postgres://%s@%s/%s", cfg.User, l.Addr(), cfg.Database)
}

// TestWrongConfigurationIsRefused proves that mtmd names the setting that is wrong and how to mend it, with exit code 2, and
// that --check-config starts nothing.
func TestWrongConfigurationIsRefused(t *testing.T) {
	mtmd, err := devcluster.FindMtmd(t.Context())
	require.NoError(t, err)
	dir := t.TempDir()
	pem := filepath.Join(dir, "x.pem")
	require.NoError(t, os.WriteFile(pem, nil, 0o600))
	good := fmt.Sprintf("data_dir = %q\npostgres = \"host=127.0.0.1 port=1 user=nobody password=secret\"\ntls_ca = %[2]q\ntls_cert = %[2]q\ntls_key = %[2]q\n",
		filepath.Join(dir, "data"), pem)
	for _, one := range []struct {
		file, want string
		code       int
	}{
		{"node_id = 1\n" + good, "configuration is valid", 0},
		{good, "setting node_id is 0: it must be 1 to 16", 2},
		{"node_id = 17\n" + good, "setting node_id is 17", 2},
		{"node_id = 1\n", "it is required", 2},
		{"node_id = 1\nlisen = \"127.0.0.1:1\"\n" + good, "unknown setting lisen (mtmd --help lists them)", 2},
		{"node_id = 1\nlisten = \"nowhere\"\n" + good, `setting listen is "nowhere": it must be host:port`, 2},
		{"node_id = 1\nlog_level = \"loud\"\n" + good, "it must be debug, info, warn or error", 2},
		{"node_id = 1\nmax_workers = 1\n" + good, "max_workers (at least 2)", 2},
		{"node_id = 1\nheartbeat_recv_timeout = \"1ms\"\n" + good, "at least twice heartbeat_send_timeout", 2},
		{"node_id = 1\nclient_tls_cert = \"x\"\n" + good, "client_tls_key", 2},
		{"node_id = \"one\"\n" + good, "node_id", 2},
		{"permit_timeout = \"soon\"\nnode_id = 1\n" + good, "permit_timeout", 2},
		{"this is not TOML", "mtmd.toml", 2},
		{"node_id = 1\n" + good + "[peers]\n99 = \"127.0.0.1:1\"\n", `setting peers: "99" is not a node number`, 2},
	} {
		file := filepath.Join(dir, "mtmd.toml")
		require.NoError(t, os.WriteFile(file, []byte(one.file), 0o600))
		cmd := exec.CommandContext(t.Context(), mtmd, "--config", file, "--check-config")
		out, _ := cmd.CombinedOutput()
		require.Equal(t, one.code, cmd.ProcessState.ExitCode(), "%s\n%s", one.file, out)
		require.Contains(t, string(out), one.want, one.file)
		require.NotContains(t, string(out), "secret")
	}
	require.NoDirExists(t, filepath.Join(dir, "data"))
}
