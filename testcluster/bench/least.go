package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// The least that any such system could cost on this machine. Both are measured only when -systems names them.
const (
	bare2pc   = "2pc"   // commits on three stock PostgreSQL at once, by nothing but a client: no journal, no vote, no gateway
	bareRelay = "relay" // stock PostgreSQL behind a program that copies bytes
)

// relay copies bytes between who connects to the address that it gives and target (host:port), until ctx ends.
func relay(ctx context.Context, target string) (addr string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			carry := func(to, from net.Conn) {
				// Plain reads and writes: io.Copy would splice, which mtmd cannot, because it looks at what passes.
				_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 16<<10))
				to.Close()
				from.Close()
			}
			go carry(server, client)
			go carry(client, server)
		}
	}()
	return l.Addr().String(), nil
}

// throughRelay is a URL of the same database behind a relay.
func throughRelay(ctx context.Context, to string) (string, error) {
	u, err := url.Parse(to)
	if err != nil {
		return "", err
	}
	u.Host, err = relay(ctx, u.Host)
	return u.String(), err
}

// runBare2PC does what pgbench -N does on urls[0], and its two changes on the others too: PREPARE TRANSACTION there, then on the
// others at once, then COMMIT PREPARED everywhere at once.
func runBare2PC(ctx context.Context, urls []string, clients, seconds, scale int) (result, error) {
	results := make([]result, clients)
	var g errgroup.Group
	start := time.Now()
	for i := range clients {
		g.Go(func() (err error) {
			results[i].latencies, err = bareClient(ctx, urls, i, start.Add(time.Duration(seconds)*time.Second), scale)
			return err
		})
	}
	err := g.Wait()
	var all result
	for _, r := range results {
		all.merge(r)
	}
	all.tps = float64(len(all.latencies)) / time.Since(start).Seconds()
	return all, err
}

// The statements of pgbench -N, prepared under these names.
var bareStatements = map[string]string{
	"begin": "BEGIN", "update": "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2",
	"select": "SELECT abalance FROM pgbench_accounts WHERE aid = $1",
	"insert": "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP)",
}

func bareClient(ctx context.Context, urls []string, number int, until time.Time, scale int) (latencies []int32, err error) {
	var nodes []*pgconn.PgConn
	defer func() {
		for _, n := range nodes {
			err = errors.Join(err, n.Close(ctx))
		}
	}()
	for _, u := range urls {
		n, err := pgconn.Connect(ctx, u)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
		for name, sql := range bareStatements {
			if _, err := n.Prepare(ctx, name, sql, nil); err != nil {
				return nil, err
			}
		}
	}
	text := func(upTo int) []byte { return strconv.AppendInt(nil, 1+rand.Int64N(int64(upTo)), 10) }
	for i := 0; time.Now().Before(until); i++ {
		start := time.Now()
		aid, delta := text(scale*100000), text(5000)
		update, insert := [][]byte{delta, aid}, [][]byte{text(scale * 10), text(scale), aid, delta}
		for _, step := range []struct {
			name string
			args [][]byte
		}{{"begin", nil}, {"update", update}, {"select", [][]byte{aid}}, {"insert", insert}} {
			if _, err := nodes[0].ExecPrepared(ctx, step.name, step.args, nil, nil).Close(); err != nil {
				return nil, err
			}
		}
		gid := fmt.Sprintf("'bare-%d-%d-%d'", start.UnixNano(), number, i)
		if _, err := nodes[0].Exec(ctx, "PREPARE TRANSACTION "+gid).ReadAll(); err != nil {
			return nil, err
		}
		err := each(nodes[1:], func(n *pgconn.PgConn) error {
			var b pgconn.Batch
			b.ExecPrepared("begin", nil, nil, nil)
			b.ExecPrepared("update", update, nil, nil)
			b.ExecPrepared("insert", insert, nil, nil)
			b.ExecParams("PREPARE TRANSACTION "+gid, nil, nil, nil, nil)
			_, err := n.ExecBatch(ctx, &b).ReadAll()
			return err
		})
		if err == nil {
			err = each(nodes, func(n *pgconn.PgConn) error {
				_, err := n.Exec(ctx, "COMMIT PREPARED "+gid).ReadAll()
				return err
			})
		}
		if err != nil {
			return nil, err
		}
		latencies = append(latencies, int32(time.Since(start).Microseconds()))
	}
	return latencies, nil
}

// each runs f for all nodes at the same time.
func each(nodes []*pgconn.PgConn, f func(*pgconn.PgConn) error) error {
	var g errgroup.Group
	for _, n := range nodes {
		g.Go(func() error { return f(n) })
	}
	return g.Wait()
}
