package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/jackc/pgx/v5"
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
	tokens     *tokens
	mail       *mailbox
	gateway    *gateway.Server
	relay      relay
	jobs       *jobs
	blocks     *blocks
	checks     *checks
	asked      chan struct{} // a session asks something
	joined     chan struct{} // a cluster was made: leave the first phase
	clientCert *certFile     // nil: no TLS to clients
	current    atomic.Pointer[life]
	stopping   atomic.Bool
	ending     pace                                  // of connections to PostgreSQL
	past       *pasts                                // of PostgreSQL; set when this is a member
	adding     sync.Mutex                            // while this node is being added
	copies     sync.Map                              // of this node that are under way: *heldCopy by name
	keeping    chan *heldCopy                        // on their way to keepCopies
	peers      atomic.Pointer[map[mtm.NodeID]string] // setting peers, which may be reloaded
}

// life is the daemon as a member of its cluster.
type life struct {
	loop     *loop
	queue    *dmq.Queue
	roster   *roster
	finishes *finishes
	status   atomic.Pointer[coordinator.Status]
	referee  *judge
	gone     chan struct{} // closed: the others do without this node
}

func newDaemon(cfg config, log *slog.Logger) (*daemon, error) {
	before, synced := diskFaults()
	j, err := journal.Open(cfg.DataDir, journal.Options{
		Retention: journal.Retention{Size: cfg.RetentionSize, Age: cfg.RetentionTime}, Logger: log, Before: before, Synced: synced,
	})
	if err != nil {
		return nil, err
	}
	d := &daemon{cfg: cfg, log: log, metrics: newMetrics(), tokens: newTokens(), journal: j, mail: newMailbox(), joined: make(chan struct{}, 1), asked: make(chan struct{}, 1), keeping: make(chan *heldCopy)}
	d.peers.Store(&cfg.Peers)
	d.relay, d.jobs, d.checks, d.blocks = d.newRelay(), newJobs(d), &checks{open: map[string]*check{}}, newBlocks(d)
	d.gate = newGate(cfg.NodeID, d.mail.post, d.metrics, newLease(newClock(), cfg.PermitTimeout), cfg.PermitTimeout, cfg.ResolveTimeout)
	return d, nil
}

func (d *daemon) close() {
	if err := d.journal.Close(); err != nil {
		d.log.Error("close the journal", keyError, err)
	}
}

// Run serves until ctx ends, or until it cannot go on. At the end of ctx it first leaves the others in an orderly way.
func (d *daemon) Run(ctx context.Context) error { return d.serve(d.outlive(ctx)) }

// outlive gives a context that ends when ctx has ended and this node has left the others.
func (d *daemon) outlive(ctx context.Context) context.Context {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		defer cancel()
		d.depart()
	})
	return inner
}

// departLimit bounds an orderly leave; the brain gives up earlier.
const departLimit = time.Second

// depart leaves the others: what is being committed is finished, the lease is given back, and they go on without this node.
func (d *daemon) depart() {
	l := d.current.Load()
	if l == nil {
		return
	}
	d.stopping.Store(true)
	d.gate.lease.refuse(stopping)
	d.mail.post(coordinator.Leave{})
	select {
	case <-l.gone:
	case <-time.After(departLimit):
		d.log.Warn("the other nodes have not gone on without this node yet; stopping all the same")
	}
}

// end is called before a connection to PostgreSQL is closed. Only a node that stops takes its time.
func (d *daemon) end() {
	if d.stopping.Load() {
		d.ending.wait()
	}
}

var stopping = &mtm.Error{Code: mtm.CodeAdminShutdown, Msg: "terminating connection due to administrator command"}

func (d *daemon) serve(ctx context.Context) error {
	cluster, err := d.loadCluster()
	if err != nil {
		return err
	}
	d.refuse(cluster)
	if d.gateway, err = d.newGateway(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { d.gate.lease.refuse(stopping) })()
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
		detail = "The node belongs to no cluster yet. Make one with: mtmctl init-cluster, or add the node to one with: mtmctl add-node"
	}
	d.gate.lease.refuse(mtm.NotOnline(mtm.StatusDisabled, detail))
}

// live goes through the phases.
func (d *daemon) live(ctx context.Context, cluster *clusterState) error {
	if err := d.tidy(ctx, cluster); err != nil {
		return err
	}
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
	d.log.Info("waiting for mtmctl init-cluster or add-node", "peer_listen", d.cfg.PeerListen)
	_, _ = sd.SdNotify(false, sd.SdNotifyReady)
	queue, err := d.newQueue(nil, nopSink{})
	if err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	g, inner := errgroup.WithContext(inner)
	g.Go(func() error { return queue.Run(inner) })
	g.Go(func() error { return d.undoLater(inner) })
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
func (nopSink) Urgent(mtm.Message)        {}
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
		HeartbeatInterval: d.cfg.HeartbeatSend, RecvTimeout: d.cfg.HeartbeatRecv, Waits: cluster == nil,
	}
	if cluster != nil {
		for _, n := range cluster.Nodes {
			if n.ID != d.cfg.NodeID && !n.gone() {
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
	if addr := (*d.peers.Load())[n.ID]; addr != "" {
		return addr
	}
	return n.Peer
}

// serveMember runs this node's life in its cluster.
func (d *daemon) serveMember(ctx context.Context, cluster *clusterState) error {
	var err error
	if d.past, err = d.loadPasts(); err != nil {
		return err
	}
	pg, err := d.meetPostgres(ctx, cluster)
	if err != nil {
		return err
	}
	if err := d.sow(cluster); err != nil {
		return err
	}
	incarnation, err := d.nextIncarnation()
	if err != nil {
		return err
	}
	lr := d.logrepConfig()
	recovered, err := logrep.RecoveredPosition(ctx, lr)
	if err != nil {
		return err
	}
	gen := mtm.Generation{Num: 1, Members: cluster.members(), Configured: cluster.members()}
	node := coordinator.New(coordinator.Config{
		ID: d.cfg.NodeID, Generation: gen, MaxPrepared: pg.maxPrepared * 9 / 10,
		Elections: true, Incarnation: incarnation, Recovered: recovered, Heartbeat: millis(d.cfg.HeartbeatSend), Lease: millis(leaseTime),
		Silence: millis(min(d.cfg.HeartbeatRecv, maxSilence)), RecoverAfter: millis(recoverAfter), Referee: d.cfg.Referee != "",
	})
	if err := d.journal.Replay(0, func(_ uint64, r mtm.Record) error { node.Replay(r); return nil }); err != nil {
		return err
	}
	if made, err := logrep.EnsureSlot(ctx, lr); err != nil {
		d.log.Error("what this node commits waits until its slot is made", keyError, err)
	} else if made {
		d.log.Warn("the slot was missing, and is made again")
	}
	held, err := logrep.Prepared(ctx, lr)
	if err != nil {
		return err
	}
	gids := make([]mtm.GID, 0, len(held))
	for _, x := range held {
		gids = append(gids, x.GID)
	}
	var committed []mtm.GID // of what sessions of an earlier life held open
	for _, o := range node.Open() {
		if done, err := logrep.Committed(ctx, lr, o.XID); err != nil {
			return fmt.Errorf("transaction %v: %w", o.GID, err)
		} else if done {
			committed = append(committed, o.GID)
		}
	}
	node.Step(coordinator.Tick{Now: d.gate.lease.clock.now()}) // what an earlier life promised counts from here
	node.Start(gids, committed...)
	paused, err := d.holds()
	if err != nil {
		return err
	}
	node.Step(coordinator.Hold{On: paused})
	if err := d.journal.SweepSpills(node.Spills()); err != nil {
		return err
	}
	err = d.runParts(ctx, cluster, node, lr)
	if d.stopping.Load() {
		d.noteEnd(context.WithoutCancel(ctx))
	}
	return err
}

// noteEnd: this node has done what it does in PostgreSQL. Where that cannot be noted, the next start takes it for a crash.
func (d *daemon) noteEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, departLimit)
	defer cancel()
	conn, err := d.connect(ctx, "mtm_stop")
	if err == nil {
		err = d.past.stopped(ctx, conn)
		closeNow(conn)
	}
	if err != nil {
		d.log.Warn("how far PostgreSQL is could not be noted", keyError, err)
	}
}

func (d *daemon) logrepConfig() logrep.Config {
	return logrep.Config{
		DSN: d.cfg.Postgres, Node: d.cfg.NodeID, Spills: logrepSpills{d.journal.Spills()}, Log: d.log,
		MaxWorkers: d.cfg.MaxWorkers, Catalog: logrep.NewCatalog(), Genuine: d.tokens.genuine, Ending: d.end,
	}
}

// runParts starts everything that makes up a member, and waits for all of it.
func (d *daemon) runParts(ctx context.Context, cluster *clusterState, node *coordinator.Node, lr logrep.Config) error {
	sink := &sink{mail: d.mail, gateway: d.gateway, metrics: d.metrics, log: d.log}
	queue, err := d.newQueue(cluster, sink)
	if err != nil {
		return err
	}
	sink.streams = journal.NewStreamer(d.journal, journal.StreamConfig{Send: queue.Send, Large: queue.Large, Every: recoverAfter / 3, Log: d.log})
	capture := logrep.NewCapture(lr, sink)
	applier := logrep.NewApplier(lr, sink)
	finisher := logrep.NewFinisher(lr, sink)
	recoverer := logrep.NewRecoverer(lr, sink)
	expect, expectOpen := capture.Expect, capture.ExpectOpen
	d.gate.expect.Store(&expect)
	yield := func(ctx context.Context, gid mtm.GID, quiet, limit time.Duration) bool {
		return lr.Catalog.Yield(ctx, d.cfg.NodeID, gid, quiet, limit)
	}
	d.gate.yield.Store(&yield)
	announce := func(gid mtm.GID, does bool) {
		if does {
			lr.Catalog.Announces(gid)
		} else {
			lr.Catalog.AnnouncesNot(gid)
		}
	}
	d.gate.announce.Store(&announce)
	d.gate.expectOpen.Store(&expectOpen)
	d.gate.holds.catalog.Store(lr.Catalog)
	fates := &fates{gate: d.gate, log: d.log, ask: func(ctx context.Context, xid uint64) (bool, error) { return logrep.Committed(ctx, lr, xid) }}
	judge, err := d.newJudge()
	if err != nil {
		return err
	}
	l := &life{gone: make(chan struct{}), queue: queue, referee: judge, finishes: &finishes{to: finisher, open: d.gate.end}}
	sink.finishes = l.finishes
	d.gate.holds.finished = l.finishes.finished
	l.roster = newRoster(d, cluster, queue, l.status.Load)
	sink.roster = l.roster
	renew := newRenewer(capture.Renew, d.mail.post, d.log)
	acts := &actor{renew: renew, gone: sync.OnceFunc(func() { close(l.gone) }), capture: capture, applier: applier, finishes: l.finishes, recoverer: recoverer, gate: d.gate, gateway: d.gateway, journal: d.journal, streams: sink.streams, referee: judge, log: d.log}
	status := newPublisher(d, l.roster.now.Load)
	watch := &pgWatch{
		connect: func(ctx context.Context) (*pgx.Conn, error) { return d.connectKnown(ctx, "mtm_watch") },
		suspend: func(err error) {
			judge.pause(true)
			queue.Suspend(err)
			if err := d.past.away(); err != nil {
				d.log.Warn("how far PostgreSQL was could not be noted", keyError, err)
			}
		},
		resume: func() { judge.pause(false); queue.Resume() },
		ping: func(ctx context.Context, conn *pgx.Conn) error {
			if err := d.past.met(ctx, conn); err != nil {
				return err
			}
			return capture.Unblock(ctx, conn.PgConn())
		},
		log: d.log,
	}
	l.loop = newLoop(node, d.mail, d.journal, hands{send: queue.Send, act: acts.act, reply: d.gate.reply, mark: d.gate.mark},
		d.metrics, d.log, d.gate.lease.clock)
	l.loop.lease = d.gate.lease.extend
	l.loop.status = func(s coordinator.Status) { d.onStatus(l.status.Swap(&s), s); status.changed(s) }
	d.current.Store(l)
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{
		l.loop.Run, queue.Run, capture.Run, applier.Run, finisher.Run, recoverer.Run, status.Run, watch.Run, l.roster.Run, sink.streams.Run, judge.run, fates.run, d.relay.Run, d.blocks.Run, renew.run, d.jobs.Run, d.keepCopies,
	} {
		g.Go(func() error { return run(ctx) })
	}
	_, _ = sd.SdNotify(false, sd.SdNotifyReady)
	return g.Wait()
}

// onStatus tells operators, and lets clients in or turns them away. was is nil at first.
func (d *daemon) onStatus(was *coordinator.Status, s coordinator.Status) {
	if !d.stopping.Load() {
		d.gate.lease.refuse(refusalOf(s, d.cfg.Referee != ""))
	}
	progress := s
	progress.Behind, progress.InDoubt = 0, nil
	if was != nil {
		before := *was
		before.Behind, before.InDoubt = 0, nil
		if sameStatus(before, progress) {
			return
		}
	}
	d.relay.Look()
	d.log.Info("node status", keyStatus, s.Status, "connected", s.Connected.String(), "generation", s.Generation.String())
}

// refusalOf is what clients are told by a node without a lease; nil: they wait, for it is a matter of a moment.
// With a referee one of two that lost each other may serve in a moment; the other one hears from it that it may not.
func refusalOf(s coordinator.Status, referee bool) *mtm.Error {
	switch s.Status {
	case mtm.StatusOnline:
		return nil
	case mtm.StatusIsolated:
		if s.Connected.IsMajorityOf(s.Generation.Configured) || referee && s.Generation.Configured.Len() == 2 {
			return nil
		}
		return mtm.NotOnline(s.Status, fmt.Sprintf("Nodes %v are out of reach: it is not in touch with a majority.",
			s.Generation.Configured.Minus(s.Connected)))
	case mtm.StatusRecovery:
		if s.Donor == 0 && !s.Dropped && s.Generation.Members.Has(s.ID) && s.Connected.IsMajorityOf(s.Generation.Configured) {
			return nil // it changes from one generation to the next, and needs nothing from anybody
		}
	}
	if s.Dropped {
		return droppedError()
	}
	detail := ""
	if s.Behind > 0 {
		detail = fmt.Sprintf("It is %d bytes behind.", s.Behind)
	}
	return mtm.NotOnline(s.Status, detail)
}

const (
	startupRetry = 500 * time.Millisecond
	// leaseTime is how long an acknowledged heartbeat lets a node answer reads. It is no setting: it must be the same
	// on all nodes.
	leaseTime = 170 * time.Millisecond
	// maxSilence is what elections can use of heartbeat_recv_timeout: under four leases.
	maxSilence   = 4*leaseTime - time.Millisecond
	recoverAfter = time.Second // silence of a donor after which another is asked
)

func millis(d time.Duration) uint64 { return uint64(d.Milliseconds()) }
