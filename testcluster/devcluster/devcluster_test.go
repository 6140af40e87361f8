package devcluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm/cert"
	"mtm/testcluster/faultproxy"
)

// planned is a cluster of three that was never started.
func planned(t *testing.T) *Cluster {
	t.Helper()
	c := &Cluster{dir: t.TempDir(), st: &state{Version: 1, Name: "dev", Database: "my db"}}
	for id := 1; id <= 3; id++ {
		c.st.Nodes = append(c.st.Nodes, &node{
			ID: id, PgPort: 1000 + id, Port: 2000 + id, PeerPort: 3000 + id, HTTPPort: 4000 + id,
			MtmdConf: filepath.Join(c.dir, "mtmd.toml"), MtmdData: filepath.Join(c.dir, "mtmd"),
		})
	}
	port := 5000
	c.planProxy(func() int { port++; return port })
	return c
}

func TestSides(t *testing.T) {
	c := planned(t)
	parts, err := c.parseSides("1, 2/3")
	require.NoError(t, err)
	require.Equal(t, [][]int{{1, 2}, {3}}, parts)
	for _, bad := range []string{"", "1", "1,2", "1/", "1/4", "1/1", "1,1/2", "a/b", "1/2/"} {
		_, err := c.parseSides(bad)
		require.Error(t, err, bad)
	}
}

func TestEachLinkGoesThroughTheProxy(t *testing.T) {
	c := planned(t)
	links := c.links()
	require.Len(t, links, 6)
	for _, l := range links {
		require.Equal(t, c.dialled(l.From)[l.To], l.Listen)
		require.Equal(t, addr(3000+l.To), l.Upstream)
	}
	c.st.Proxy = nil
	require.Equal(t, map[int]string{1: "127.0.0.1:3001", 3: "127.0.0.1:3003"}, c.dialled(2))
}

func TestPartitionAndSlowCombine(t *testing.T) {
	c := planned(t)
	ports, err := freePorts(7)
	require.NoError(t, err)
	c.planProxy(func() int { p := ports[0]; ports = ports[1:]; return p })
	require.NoError(t, c.proxyHere())
	defer c.stopProxy()
	ctx := t.Context()
	require.NoError(t, c.Slow(ctx, "1-3", 50, 0.1))
	require.NoError(t, c.Partition(ctx, "1/3", true))
	rules, err := c.faults().Rules(ctx)
	require.NoError(t, err)
	require.Equal(t, map[faultproxy.Direction]faultproxy.Rule{
		{From: 1, To: 3}: {Blocked: true, Delay: 50, Loss: 0.1}, {From: 3, To: 1}: {Delay: 50, Loss: 0.1},
	}, rules)
	require.NoError(t, c.Heal(ctx))
	require.NoError(t, c.Partition(ctx, "1,2/3", false))
	rules, err = c.faults().Rules(ctx)
	require.NoError(t, err)
	require.Len(t, rules, 4)
	require.ErrorContains(t, c.Partition(ctx, "1/2/3", true), "two sides")
	for _, bad := range []string{"1", "1-1", "1-9", "x-y"} {
		require.Error(t, c.Slow(ctx, bad, 0, 0), bad)
	}
}

func TestMtmdConf(t *testing.T) {
	c := planned(t)
	n := c.st.Nodes[1]
	extra := []string{"log_level=debug", "max_workers=5", `list=["a"]`, "on=true", "timeout=2s"}
	require.NoError(t, n.writeMtmdConf(c.st, cert.In("/c", "node-2"), c.dialled(2), extra))
	text, err := os.ReadFile(n.MtmdConf)
	require.NoError(t, err)
	for _, line := range []string{
		"node_id = 2", `postgres = "postgres://postgres@127.0.0.1:1002/my%20db"`, `listen = "127.0.0.1:2002"`,
		`tls_key = "/c/node-2.key"`, `log_level = "debug"`, "max_workers = 5", `list = ["a"]`, "on = true", `timeout = "2s"`,
		"[peers]", `1 = "127.0.0.1:5004"`, `3 = "127.0.0.1:5005"`,
	} {
		require.Contains(t, string(text), line+"\n")
	}
}

func TestProcKnowsItsOwn(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 100 & sleep 100")
	require.NoError(t, cmd.Start())
	st, err := readStat(cmd.Process.Pid)
	require.NoError(t, err)
	p := Proc{Pid: cmd.Process.Pid, Start: st.start}
	require.True(t, p.Alive())
	other := Proc{Pid: p.Pid, Start: p.Start + 1}
	require.False(t, other.Alive(), "the same id, another process")
	require.NoError(t, other.Signal(syscall.SIGKILL))
	require.NoError(t, p.freezeFamily())
	require.True(t, p.Stopped())
	require.NoError(t, p.thawFamily())
	all := p.family()
	require.NoError(t, p.killFamily(t.Context()))
	for _, one := range all {
		require.False(t, one.Alive())
	}
	cmd.Wait() //nolint:errcheck // killed
	require.NoError(t, p.killFamily(t.Context()), "again is nothing")
}

func TestSettingsWithQuotesReachPostgres(t *testing.T) {
	n := &node{PgPort: 1, PgMajor: 18}
	conf := n.pgConf([]string{"a.b=it's", "c='quoted'", "d="})
	require.Contains(t, conf, "a.b = 'it''s'\n")
	require.Contains(t, conf, "c = 'quoted'\n")
	require.Contains(t, conf, "d = ''\n")
	require.Contains(t, conf, "max_active_replication_origins")
}

func TestLogTailIsShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(path, []byte("one\ntwo\nthree\n"), 0o600))
	require.Equal(t, "two\nthree", tail(path, 2))
	require.Equal(t, "one\ntwo\nthree", tail(path, 9))
	require.Contains(t, tail(path+"x", 2), "no such file")
}
