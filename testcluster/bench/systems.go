package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"mtm/testcluster"
	"mtm/testcluster/devcluster"
)

// The systems that are compared.
const (
	stock  = "stock"
	sync2  = "sync"
	mtmOne = "mtm-one"
	mtm3   = "mtm-spread"
)

var systemNames = []string{stock, sync2, mtmOne, mtm3}

var systemTitles = map[string]string{
	bare2pc: "bare 2PC on three stock", bareRelay: "stock behind a bare relay",
	stock: "stock, single", sync2: "stock, ANY 2 remote_apply", mtmOne: "mtm, clients on one node", mtm3: "mtm, clients on three nodes",
}

// common is set on every PostgreSQL: memory, and no checkpoint in the middle of a turn.
var common = []string{"shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=30min", "autovacuum_naptime=10min"}

// bench holds what runs.
type bench struct {
	plan
	dir      string
	log      func(string, ...any)
	clusters map[string]*devcluster.Cluster // by "stock", "sync" and "mtm"
	urls     map[string][]string            // by system: where clients go
	pgbench  string
	http     string // node 1's mtmd
}

// cell is one system under one workload with one number of clients.
type cell struct {
	system   string
	workload string
	clients  int
	result
	phases phases // of mtmOne
}

func clusterOf(system string) string {
	switch system {
	case mtmOne, mtm3:
		return "mtm"
	case bareRelay:
		return stock
	}
	return system
}

// start makes the systems and fills them.
func (b *bench) start(ctx context.Context) error {
	b.clusters, b.urls = map[string]*devcluster.Cluster{}, map[string][]string{}
	bin, err := devcluster.FindPgBin()
	if err != nil {
		return err
	}
	b.pgbench = testcluster.Program(bin, "pgbench")
	for _, system := range b.systems {
		name := clusterOf(system)
		if b.clusters[name] == nil {
			b.log("starting %s", name)
			if err := b.startCluster(ctx, name); err != nil {
				return err
			}
		}
		for _, n := range b.clusters[name].Info(ctx).Nodes {
			switch {
			case system == bare2pc:
				b.urls[system] = append(b.urls[system], n.PgURL)
			case system == bareRelay:
				behind, err := throughRelay(ctx, n.PgURL)
				if err != nil {
					return err
				}
				b.urls[system] = []string{behind}
			case name != "mtm" && n.ID == 1:
				b.urls[system] = []string{n.PgURL}
			case system == mtmOne && n.ID == 1:
				b.urls[system] = []string{n.URL}
			case system == mtm3:
				b.urls[system] = append(b.urls[system], n.URL)
			}
		}
	}
	return nil
}

func (b *bench) startCluster(ctx context.Context, name string) error {
	o := devcluster.Options{Nodes: 1, PostgresOnly: true, DieWithParent: true, Settings: append(append([]string{}, common...), b.settings...)}
	switch name {
	case "mtm":
		o.Nodes, o.PostgresOnly, o.NoProxy, o.Socket, o.MtmdSettings = 3, false, true, true, b.mtmdSet
		var err error
		if o.Mtmd, err = devcluster.FindMtmd(ctx); err != nil {
			return err
		}
	case bare2pc:
		o.Nodes = 3
	default:
		o.Settings = append(o.Settings, "wal_level=replica")
	}
	c, err := devcluster.Start(ctx, filepath.Join(b.dir, name), o)
	if err != nil {
		return err
	}
	b.clusters[name] = c
	first := c.Info(ctx).Nodes[0]
	url := first.PgURL
	if name == "mtm" {
		url, b.http = first.URL, first.HTTP
	}
	if name == sync2 {
		if err := b.addStandbys(ctx, c, url); err != nil {
			return err
		}
	}
	b.log("filling %s, scale %d", name, b.scale)
	filled := []string{url}
	if name == bare2pc {
		for _, n := range c.Info(ctx).Nodes[1:] {
			filled = append(filled, n.PgURL)
		}
	}
	for _, url := range filled {
		out, err := exec.CommandContext(ctx, b.pgbench, "-i", "-q", "-s", strconv.Itoa(b.scale), url).CombinedOutput()
		if err != nil {
			return fmt.Errorf("pgbench -i on %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// addStandbys makes the synchronous pair.
func (b *bench) addStandbys(ctx context.Context, c *devcluster.Cluster, url string) error {
	for range 2 {
		if err := c.AddStandby(ctx); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range []string{
		"ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (standby2, standby3)'",
		"ALTER SYSTEM SET synchronous_commit = 'remote_apply'", "SELECT pg_reload_conf()",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		var quorum int
		err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'").Scan(&quorum)
		if err != nil || quorum == 2 {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the standbys did not become synchronous")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// run measures every cell, all systems in turn.
func (b *bench) run(ctx context.Context) ([]cell, error) {
	var cells []cell
	for _, w := range b.workloads {
		for _, clients := range b.clients {
			group := make([]cell, len(b.systems))
			for round := range b.rounds {
				for i, system := range b.systems {
					one := &group[i]
					one.system, one.workload, one.clients = system, w.name, clients
					if system == mtm3 && clients < len(b.urls[system]) || system == bare2pc && w.name != "N" {
						continue // nothing to spread, or not what it does
					}
					if err := b.turn(ctx, one, w); err != nil {
						return nil, fmt.Errorf("%s, %s, %d clients: %w", system, w.title, clients, err)
					}
					b.log("%-6s %2d clients, round %d: %-10s %8.0f tps on average so far", w.name, clients, round+1, system, one.tps/float64(round+1))
				}
			}
			for _, one := range group {
				one.tps /= float64(b.rounds)
				cells = append(cells, one)
			}
		}
	}
	return cells, nil
}

// turn runs one system once and adds what it gave to its cell.
func (b *bench) turn(ctx context.Context, one *cell, w workload) error {
	var before phases
	var err error
	if one.system == mtmOne && w.writes {
		if before, err = readPhases(ctx, b.http); err != nil {
			return err
		}
	}
	urls := b.urls[one.system]
	if one.system == bare2pc {
		r, err := runBare2PC(ctx, urls, one.clients, b.seconds, b.scale)
		one.add(r)
		return err
	}
	results := make([]result, len(urls))
	var g errgroup.Group
	for i, url := range urls {
		share := one.clients / len(urls)
		if i < one.clients%len(urls) {
			share++
		}
		g.Go(func() (err error) {
			results[i], err = pgbench(ctx, b.pgbench, b.dir, url, w, share, b.seconds, b.scale)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, r := range results {
		one.add(r)
	}
	if before != nil {
		after, err := readPhases(ctx, b.http)
		if err != nil {
			return err
		}
		one.phases = one.phases.plus(after.minus(before))
	}
	return nil
}

// compare checks that load left mtm's nodes equal.
func (b *bench) compare(ctx context.Context) error {
	c := b.clusters["mtm"]
	if c == nil {
		return nil
	}
	return c.WaitEqual(ctx, 30*time.Second, c.IDs()...)
}

// stop ends everything.
func (b *bench) stop() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, c := range b.clusters {
		err = errors.Join(err, c.KillAll(ctx))
	}
	return err
}

func titles(systems []string) string {
	var all []string
	for _, s := range systems {
		all = append(all, systemTitles[s])
	}
	return strings.Join(all, " | ")
}
