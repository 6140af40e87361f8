package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"mtm"
	"mtm/cert"
	"mtm/coordinator"
	"mtm/coordinator/journal"
	"mtm/dmq"
	"mtm/logrep"
	"mtm/sql/gateway"
)

// daemon is one mtmd. It lives through two phases: waiting to be made a node (init-cluster), and being one.
type daemon struct {
	cfg        config
	log        *slog.Logger
	metrics    *metrics
	journal    *journal.Journal
	gate       *gate
	mail       *mailbox
	gateway    *gateway.Server
	joined     chan struct{} // a cluster was made: leave the first phase
	clientCert *certFile     // nil: no TLS to clients
	current    atomic.Pointer[life]
}

// life is the daemon as a member of its cluster.
type life struct {
	cluster *clusterState
	loop    *loop
	queue   *dmq.Queue
	status  atomic.Pointer[coordinator.Status]
}

func newDaemon(cfg config, log *slog.Logger) (*daemon, error) {
	j, err := journal.Open(cfg.DataDir, journal.Options{Logger: log})
	if err != nil {
		return nil, err
	}
	d := &daemon{cfg: cfg, log: log, metrics: newMetrics(), journal: j, mail: newMailbox(), joined: make(chan struct{}, 1)}
	d.gate = newGate(cfg.NodeID, d.mail.post, d.metrics, cfg.PermitTimeout, cfg.ResolveTimeout)
	return d, nil
}

func (d *daemon) close() {
	if err := d.journal.Close(); err != nil {
		d.log.Error("close the journal", keyError, err)
	}
}

// Run serves until ctx ends, or until it cannot go on.
func (d *daemon) Run(ctx context.Context) error {
	cluster, err := d.loadCluster()
	if err != nil {
		return err
	}
	d.refuse(cluster)
	if d.gateway, err = d.newGateway(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if d.cfg.HTTPListen != "" {
		l, err := net.Listen("tcp", d.cfg.HTTPListen)
		if err != nil {
			return fmt.Errorf("setting http_listen: %w", err)
		}
		g.Go(func() error { return d.serveHTTP(ctx, l) })
	}
	g.Go(func() error { return d.gateway.Run(ctx) })
	g.Go(func() error { return d.live(ctx, cluster) })
	return g.Wait()
}

// refuse makes the gateway turn clients away until the node is a member that serves.
func (d *daemon) refuse(cluster *clusterState) {
	detail := "The node is starting."
	if cluster == nil {
		detail = "The node belongs to no cluster yet. Make one with: mtmctl init-cluster"
	}
	d.gate.refusal.Store(mtm.NotOnline(mtm.StatusDisabled, detail))
}

// live goes through the phases.
func (d *daemon) live(ctx context.Context, cluster *clusterState) error {
	for cluster == nil {
		if err := d.waitForCluster(ctx); err != nil {
			return err
		}
		var err error
		if cluster, err = d.loadCluster(); err != nil {
			return err
		}
	}
	return d.serveMember(ctx, cluster)
}

// waitForCluster serves the admin service only, until somebody makes this a node.
func (d *daemon) waitForCluster(ctx context.Context) error {
	d.log.Info("waiting for mtmctl init-cluster", "peer_listen", d.cfg.PeerListen)
	_, _ = sd.SdNotify(false, sd.SdNotifyReady)
	queue, err := d.newQueue(nil, nopSink{})
	if err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	g, inner := errgroup.WithContext(inner)
	g.Go(func() error { return queue.Run(inner) })
	g.Go(func() error {
		select {
		case <-d.joined:
			cancel()
			return nil
		case <-inner.Done():
			return inner.Err()
		}
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return ctx.Err()
}

// nopSink is the sink of a queue without peers.
type nopSink struct{}

func (nopSink) Received(mtm.Message)      {}
func (nopSink) PeerUp(mtm.NodeID, uint64) {}
func (nopSink) PeerDown(mtm.NodeID)       {}

func (d *daemon) newQueue(cluster *clusterState, sink dmq.Sink) (*dmq.Queue, error) {
	files := cert.Files{CA: d.cfg.TLSCA, Cert: d.cfg.TLSCert, Key: d.cfg.TLSKey}
	server, err := cert.ServerConfig(files)
	if err != nil {
		return nil, err
	}
	client, err := cert.ClientConfig(files, "")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", d.cfg.PeerListen)
	if err != nil {
		return nil, fmt.Errorf("setting peer_listen: %w", err)
	}
	cfg := dmq.Config{
		Node: d.cfg.NodeID, Cluster: d.cfg.Cluster, Listener: l, Peers: map[mtm.NodeID]string{}, ServerTLS: server,
		ClientTLS: client, Sink: sink, Spills: d.journal.Spills(), Register: d.registerAdmin, Logger: d.log,
		HeartbeatInterval: d.cfg.HeartbeatSend, RecvTimeout: d.cfg.HeartbeatRecv,
	}
	if cluster != nil {
		for _, n := range cluster.Nodes {
			if n.ID != d.cfg.NodeID {
				cfg.Peers[n.ID] = d.peerAddress(n)
			}
		}
	}
	q, err := dmq.New(cfg)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return q, nil
}

func (d *daemon) peerAddress(n nodeState) string {
	if addr := d.cfg.Peers[n.ID]; addr != "" {
		return addr
	}
	return n.Peer
}

// serveMember runs this node's life in its cluster.
func (d *daemon) serveMember(ctx context.Context, cluster *clusterState) error {
	pg, err := d.meetPostgres(ctx, cluster)
	if err != nil {
		return err
	}
	gen := mtm.Generation{Num: 1, Members: cluster.members(), Configured: cluster.members()}
	node := coordinator.New(coordinator.Config{
		ID: d.cfg.NodeID, Generation: gen, MaxInFlight: max(1, pg.maxPrepared*9/10/gen.Members.Len()),
	})
	if err := d.journal.Replay(0, func(_ uint64, r mtm.Record) error { node.Replay(r); return nil }); err != nil {
		return err
	}
	lr := d.logrepConfig()
	held, err := logrep.Prepared(ctx, lr)
	if err != nil {
		return err
	}
	gids := make([]mtm.GID, 0, len(held))
	for _, x := range held {
		gids = append(gids, x.GID)
	}
	node.Start(gids)
	if err := d.sweepSpills(node.Spills()); err != nil {
		return err
	}
	return d.runParts(ctx, cluster, node, lr)
}

func (d *daemon) logrepConfig() logrep.Config {
	return logrep.Config{
		DSN: d.cfg.Postgres, Node: d.cfg.NodeID, Spills: logrepSpills{d.journal.Spills()}, Log: d.log,
		MaxWorkers: d.cfg.MaxWorkers, Catalog: logrep.NewCatalog(),
	}
}

// runParts starts everything that makes up a member, and waits for all of it.
func (d *daemon) runParts(ctx context.Context, cluster *clusterState, node *coordinator.Node, lr logrep.Config) error {
	sink := &sink{mail: d.mail, gateway: d.gateway, metrics: d.metrics, log: d.log}
	capture := logrep.NewCapture(lr, sink)
	applier := logrep.NewApplier(lr, sink)
	finisher := logrep.NewFinisher(lr, sink)
	queue, err := d.newQueue(cluster, sink)
	if err != nil {
		return err
	}
	expect := capture.Expect
	d.gate.expect.Store(&expect)
	l := &life{cluster: cluster, queue: queue}
	acts := &actor{capture: capture, applier: applier, finisher: finisher, gate: d.gate, spills: d.journal.Spills(), log: d.log}
	status := newPublisher(d, cluster)
	l.loop = newLoop(node, d.mail, d.journal, hands{send: queue.Send, act: acts.act, reply: d.gate.reply, mark: d.gate.mark}, d.metrics, d.log,
		func(s coordinator.Status) { l.status.Store(&s); d.onStatus(s); status.changed(s) })
	d.current.Store(l)
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{
		l.loop.Run, queue.Run, capture.Run, applier.Run, finisher.Run, status.Run,
	} {
		g.Go(func() error { return run(ctx) })
	}
	_, _ = sd.SdNotify(false, sd.SdNotifyReady)
	return g.Wait()
}

// onStatus tells operators, and lets clients in or turns them away.
func (d *daemon) onStatus(s coordinator.Status) {
	d.log.Info("node status", keyStatus, s.Status, "connected", s.Connected.String(), "generation", s.Generation.String())
	switch s.Status {
	case mtm.StatusOnline, mtm.StatusIsolated:
		d.gate.refusal.Store(nil)
	default:
		d.gate.refusal.Store(mtm.NotOnline(s.Status, ""))
	}
}

// sweepSpills removes spill files that no transaction needs: what a crash left behind.
func (d *daemon) sweepSpills(needed map[string]bool) error {
	names, err := d.journal.Spills().Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !needed[name] {
			if err := d.journal.Spills().Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

const startupRetry = 500 * time.Millisecond
