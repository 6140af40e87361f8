package testcluster_test

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/cmd/mtmctl/admin"
	"mtm/testcluster"
	"mtm/testcluster/devcluster"
)

// TestGarbageOnBothPorts: nothing that is sent to a port may end mtmd, or grow it.
func TestGarbageOnBothPorts(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{Nodes: 1})
	n := c.Node(1)
	before := n.Info()
	huge := binary.BigEndian.AppendUint32(nil, 1<<30)
	startup := func(rest ...byte) []byte {
		body := append([]byte{0, 3, 0, 0}, "user\x00postgres\x00database\x00postgres\x00\x00"...)
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), append(body, rest...)...)
	}
	inputs := [][]byte{
		{}, {0}, {0, 0, 0, 0}, huge, append(append([]byte{}, huge...), make([]byte, 1<<16)...), {0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0},
		{0, 0, 0, 8, 0, 0, 0, 0}, {0, 0, 0, 9, 0, 3, 0, 0, 0}, startup('Q', 0x40, 0, 0, 0), startup('Q', 0, 0, 0, 0), startup('Q', 0, 0, 0, 4),
		startup('?', 0, 0, 0, 4), startup('B', 0, 0, 0, 5, 1), startup('P', 0, 0, 0, 6, 'x', 'y'), startup('d', 0x3f, 0xff, 0xff, 0xff),
		startup('p', 0, 0, 0, 5, 0), []byte("GET / HTTP/1.1\r\n\r\n"), []byte("\x16\x03\x01\x02\x00\x01\x00"), []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		noise := make([]byte, random.IntN(4096))
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		inputs = append(inputs, noise, startup(noise...))
	}
	_, gateway, _ := strings.Cut(before.URL, "@")
	gateway, _, _ = strings.Cut(gateway, "/")
	for _, address := range []string{gateway, before.Peer, strings.TrimPrefix(before.HTTP, "http://")} {
		for _, in := range inputs {
			conn, err := net.Dial("tcp", address)
			require.NoError(t, err)
			conn.SetDeadline(time.Now().Add(200 * time.Millisecond)) //nolint:errcheck
			conn.Write(in)                                           //nolint:errcheck // it may hang up first
			conn.(*net.TCPConn).CloseWrite()                         //nolint:errcheck
			io.Copy(io.Discard, io.LimitReader(conn, 1<<20))         //nolint:errcheck
			conn.Close()
		}
	}
	require.Equal(t, before.MtmdPid, n.Info().MtmdPid, "the same process still runs")
	require.Less(t, peakMemory(t, n), int64(256<<20))
	require.Equal(t, "1", n.Psql("SELECT 1"))
}

func TestWrongPasswordIsRefusedAsPostgresDoes(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{Nodes: 1, HBA: []string{"host all alice 127.0.0.1/32 scram-sha-256"}})
	n := c.Node(1)
	execute(t, n, "CREATE ROLE alice LOGIN PASSWORD 'right'")
	url := strings.Replace(n.URL(), "postgres@", "alice:PASSWORD@", 1)
	for password, want := range map[string]string{"wrong": "28P01", "right": ""} {
		conn, err := pgx.Connect(t.Context(), strings.Replace(url, "PASSWORD", password, 1))
		if want == "" {
			require.NoError(t, err)
			require.NoError(t, conn.Close(t.Context()))
		} else {
			require.ErrorContains(t, err, want)
		}
	}
}

// uninitialised starts nodes whose mtmd wait for init-cluster.
func uninitialised(t *testing.T, nodes int, set ...string) (*testcluster.Cluster, []admin.Node) {
	t.Helper()
	c := testcluster.Start(t, testcluster.Options{Nodes: nodes, NoInit: true, Settings: set})
	list, done, err := c.Dev().AdminNodes()
	require.NoError(t, err)
	t.Cleanup(done)
	return c, list
}

// requireNothingLeft: a PostgreSQL that init-cluster did not take knows nothing of mtm.
func requireNothingLeft(t *testing.T, c *testcluster.Cluster) {
	t.Helper()
	for _, n := range c.Nodes() {
		var slots, origins, schemas, publications int
		err := n.ConnectPg().QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_replication_origin),
			(SELECT count(*) FROM pg_namespace WHERE nspname = 'mtm'), (SELECT count(*) FROM pg_publication)`).Scan(&slots, &origins, &schemas, &publications)
		require.NoError(t, err)
		require.Zero(t, slots+origins+schemas+publications, "node %d: %d slots, %d origins, %d schemas, %d publications", n.ID, slots, origins, schemas, publications)
	}
}

func TestInitRefusesWhatCannotWork(t *testing.T) {
	c, nodes := uninitialised(t, 2, "wal_level=replica")
	all, err := admin.Precheck(t.Context(), c.Dev().Name(), nodes)
	require.ErrorIs(t, err, admin.ErrPrecheck)
	require.Contains(t, admin.Failed(all), "wal_level")
	requireNothingLeft(t, c)
}

func TestInitRefusesPeerThatIsNotEmpty(t *testing.T) {
	c, nodes := uninitialised(t, 2)
	_, err := c.Node(2).ConnectPg().Exec(t.Context(), "CREATE TABLE theirs (x int)")
	require.NoError(t, err)
	all, err := admin.Precheck(t.Context(), c.Dev().Name(), nodes)
	require.ErrorIs(t, err, admin.ErrPrecheck)
	require.Contains(t, admin.Failed(all), "node 2")
	requireNothingLeft(t, c)

	_, err = c.Node(2).ConnectPg().Exec(t.Context(), "DROP TABLE theirs")
	require.NoError(t, err)
	require.NoError(t, c.Dev().Init(t.Context()), "and once that is mended it works")
	all, err = admin.Precheck(t.Context(), c.Dev().Name(), nodes)
	require.ErrorIs(t, err, admin.ErrPrecheck, "a node belongs to one cluster")
	require.Contains(t, admin.Failed(all), "cluster already")
	require.Error(t, admin.Init(t.Context(), c.Dev().Name(), nodes))
	c.WaitOnline()
	execute(t, c.Node(1), "CREATE TABLE t (x int PRIMARY KEY)")
	c.RequireEqual()
}

func TestInitWithUnreachablePeerChangesNothing(t *testing.T) {
	c, nodes := uninitialised(t, 2)
	c.Node(2).KillMtmd()
	all, err := admin.Precheck(t.Context(), c.Dev().Name(), nodes)
	require.ErrorIs(t, err, admin.ErrNotReachable)
	require.Contains(t, admin.Failed(all), "node 2")
	require.Error(t, admin.Init(t.Context(), c.Dev().Name(), nodes), "and who does not check first is rolled back")
	requireNothingLeft(t, c)
}

// TestWrongConfigIsToldPlainly runs mtmd --check-config on files with one mistake each.
func TestWrongConfigIsToldPlainly(t *testing.T) {
	c, _ := uninitialised(t, 1)
	good, err := os.ReadFile(c.Node(1).Info().MtmdConf)
	require.NoError(t, err)
	mtmd, err := devcluster.BuildMtmd(t.Context())
	require.NoError(t, err)
	check := func(text string) (string, error) {
		path := t.TempDir() + "/mtmd.toml"
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, mtmd, "--config", path, "--check-config").CombinedOutput()
		return string(out), err
	}
	out, err := check(string(good))
	require.NoError(t, err, out)
	for mistake, change := range map[string][2]string{
		"node_id":     {"node_id = 1", "node_id = 99"},
		"nonsense":    {"node_id = 1", "node_id = 1\nnonsense = 1"},
		"listen":      {`listen = "127.0.0.1:`, `listen = "nowhere`},
		"tls_cert":    {"node-1.crt", "node-7.crt"},
		"data_dir":    {"data_dir", "# data_dir"},
		"log_level":   {"node_id = 1", "node_id = 1\nlog_level = \"loud\""},
		"config":      {"node_id = 1", "node_id = = 1"},
		"max_workers": {"node_id = 1", "node_id = 1\nmax_workers = 0"},
	} {
		out, err := check(strings.Replace(string(good), change[0], change[1], 1))
		require.Error(t, err, mistake)
		require.Contains(t, out, mistake)
		require.NotContains(t, out, "goroutine ", mistake)
	}
}
