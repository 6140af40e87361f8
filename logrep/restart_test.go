package logrep

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
)

func TestExpectWakesTheWalsender(t *testing.T) {
	c := NewCapture(Config{DSN: "unused"}, newTestSink())
	gid := mtm.GID{Origin: 1, Gen: 1, Seq: 1}
	start := time.Now()
	require.Equal(t, start.Add(time.Second), c.due(start), "nothing expected: the usual interval")
	c.Expect(gid)
	require.LessOrEqual(t, c.due(start).Sub(start), 100*time.Millisecond)
	now := start
	var waits []time.Duration
	for range 12 { // each update doubles the wait
		due := c.expected[gid].due
		c.postpone(due)
		waits = append(waits, c.expected[gid].due.Sub(due))
		now = due
	}
	require.Equal(t, 2*expectFirst, waits[0])
	require.Equal(t, expectMax, waits[11])
	c.postpone(now.Add(2 * expectGiveUp))
	require.Empty(t, c.expected)
	c.decoded(gid)
	c.Expect(gid) // came after the fact
	require.Empty(t, c.expected)
	for i := range uint64(3 * recentGIDs) { // memory is bounded
		c.decoded(mtm.GID{Origin: 1, Gen: 1, Seq: i})
	}
	require.Len(t, c.recent, recentGIDs)
}

func TestPostgresRestarts(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int)")
	p.commit("INSERT INTO t VALUES (1, 1)")
	c := p.prepare("INSERT INTO t VALUES (2, 2)")
	require.Nil(t, p.apply(c))
	for _, n := range []*node{p.a, p.b} {
		require.NoError(t, n.conn.Close(context.Background()))
		n.pg.stop()
	}
	p.finishA.Finish(c.gid, true)
	p.finishB.Finish(c.gid, true)
	for _, n := range []*node{p.a, p.b} {
		require.NoError(t, n.pg.start())
		n.conn = n.session()
	}
	wait(t, p.sink.finished, "Finished")
	wait(t, p.sink.finished, "Finished")
	p.capture.Ack(c.lsn)
	p.commit("INSERT INTO t VALUES (3, 3)")
	require.Equal(t, 3, p.same("t"))
}

// cutter is a proxy to PostgreSQL that cuts the first connection on which PREPARE TRANSACTION passes.
type cutter struct {
	net.Listener
	server  string
	forward bool // PostgreSQL still gets it

	mu  sync.Mutex
	cut int
}

func newCutter(t *testing.T, server string, forward bool) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{Listener: l, server: server, forward: forward}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { c.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
	return c
}

func (c *cutter) serve(client net.Conn) {
	server, err := net.Dial("tcp", c.server)
	if err != nil {
		_ = client.Close()
		return
	}
	var down sync.WaitGroup
	down.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	buf := make([]byte, 1<<20)
	for {
		n, err := client.Read(buf)
		if bytes.Contains(buf[:n], []byte("PREPARE TRANSACTION")) && c.first() {
			_ = client.Close()
			if c.forward {
				_, _ = server.Write(buf[:n])
			}
			break
		}
		if n > 0 {
			_, _ = server.Write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	if tcp := server.(*net.TCPConn); c.forward {
		_ = tcp.CloseWrite() // PostgreSQL finishes what it has
	} else {
		_ = tcp.Close()
	}
	down.Wait()
	_ = server.Close()
}

func (c *cutter) first() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut++
	return c.cut == 1
}

func TestConnectionLostAroundPrepare(t *testing.T) {
	for _, forward := range []bool{true, false} {
		t.Run(fmt.Sprintf("forward=%t", forward), func(t *testing.T) {
			p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY, v int)")
			c := p.prepare("INSERT INTO t VALUES (1, 1)")
			proxy := newCutter(t, fmt.Sprintf("127.0.0.1:%d", p.b.pg.port), forward)
			cfg := p.b.cfg
			cfg.DSN = strings.Replace(cfg.DSN, fmt.Sprintf("port=%d", p.b.pg.port), fmt.Sprintf("port=%d", proxy.Addr().(*net.TCPAddr).Port), 1)
			sink := newTestSink()
			applier := NewApplier(cfg, sink)
			p.run(applier.Run)
			applier.Apply(c.gid, 0, c.p)
			require.Equal(t, applied{gid: c.gid}, wait(t, sink.applied, "Applied"))
			require.Equal(t, []string{"|" + c.gid.String()}, p.b.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"))
			p.finish(c.gid, true)
			require.Equal(t, 1, p.same("t"))
			require.Equal(t, 1, sink.seen[c.gid])
		})
	}
}
