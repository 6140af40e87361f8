package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"mtm"
	"mtm/cert"
	"mtm/coordinator"
	"mtm/referee"
	"mtm/sql/schema"
)

// This file is mtmd as a referee, on a machine without PostgreSQL, and the client of a node that has one.

// beReferee is the value of the setting referee that makes this mtmd one.
const beReferee = "true"

// refereeHeap bounds the heap of a referee, in bytes: it shall fit into the smallest virtual machine.
const refereeHeap = 8 << 20

func (c config) isReferee() bool { return c.Referee == beReferee }

// checkReferee names the first thing that is wrong with the settings of a referee; the others do not matter.
func (c config) checkReferee() error {
	for _, s := range []struct{ key, val string }{
		{"cluster", c.Cluster}, {"data_dir", c.DataDir}, {"peer_listen", c.PeerListen},
		{"tls_ca", c.TLSCA}, {"tls_cert", c.TLSCert}, {"tls_key", c.TLSKey},
	} {
		if s.val == "" {
			return fmt.Errorf("setting %s is empty: a referee needs it (mtmd --help says what it means)", s.key)
		}
	}
	for _, s := range []struct{ key, addr string }{{"peer_listen", c.PeerListen}, {"http_listen", c.HTTPListen}} {
		if _, _, err := net.SplitHostPort(s.addr); err != nil && s.addr != "" {
			return fmt.Errorf("setting %s is %q: it must be host:port (%v)", s.key, s.addr, err)
		}
	}
	for _, s := range []struct{ key, path string }{{"tls_ca", c.TLSCA}, {"tls_cert", c.TLSCert}, {"tls_key", c.TLSKey}} {
		if _, err := os.Stat(s.path); err != nil {
			return fmt.Errorf("setting %s: %w (make it with: mtmctl cert issue --name referee)", s.key, err)
		}
	}
	_, err := c.level()
	return err
}

// runReferee serves until it is told to stop, or its disk fails.
func runReferee(cfg config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGHUP) // certificates are read again by themselves
	debug.SetMemoryLimit(refereeHeap)
	debug.SetGCPercent(30)
	level, err := cfg.level()
	if err != nil {
		return errUsage{err}
	}
	log := newLogger(cfg, level)
	tls, err := cert.ServerConfig(cert.Files{CA: cfg.TLSCA, Cert: cfg.TLSCert, Key: cfg.TLSKey})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", cfg.PeerListen)
	if err != nil {
		return fmt.Errorf("setting peer_listen: %w", err)
	}
	srv, err := referee.NewServer(referee.ServerConfig{
		Cluster: cfg.Cluster, Dir: cfg.DataDir, Listener: l, TLS: tls, Version: version, Logger: log,
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Run(ctx) })
	if cfg.HTTPListen != "" {
		g.Go(func() error { return refereeHTTP(ctx, cfg.HTTPListen, srv) })
	}
	_, _ = sd.SdNotify(false, sd.SdNotifyReady)
	debug.FreeOSMemory() // what starting took
	err = g.Wait()
	_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
	if errors.Is(err, context.Canceled) {
		log.Info("stopped")
		return nil
	}
	return err
}

// refereeHTTP answers /status and /healthz until ctx ends.
func refereeHTTP(ctx context.Context, addr string, srv *referee.Server) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("setting http_listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(srv.Status())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(srv.Status().Status + "\n"))
	})
	h := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 14}
	stopped := context.AfterFunc(ctx, func() { _ = h.Close() })
	defer stopped()
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}

// judge is a node's side of its referee; without one it does nothing.
type judge struct {
	addr   string
	client *referee.Client // nil: no referee
}

// newJudge prepares to ask the referee, if the node has one.
func (d *daemon) newJudge() (*judge, error) {
	if d.cfg.Referee == "" {
		return &judge{}, nil
	}
	cfg, err := d.refereeConfig()
	if err != nil {
		return nil, err
	}
	client, err := referee.NewClient(cfg)
	return &judge{addr: d.cfg.Referee, client: client}, err
}

func (d *daemon) refereeConfig() (referee.ClientConfig, error) {
	tls, err := cert.ClientConfig(cert.Files{CA: d.cfg.TLSCA, Cert: d.cfg.TLSCert, Key: d.cfg.TLSKey}, referee.Name)
	return referee.ClientConfig{
		Cluster: d.cfg.Cluster, Addr: d.cfg.Referee, TLS: tls, Logger: d.log,
		Answer: func(a mtm.RefereeAnswer) { d.mail.post(coordinator.RefereeSaid{Answer: a}) },
	}, err
}

func (j *judge) run(ctx context.Context) error {
	if j.client == nil {
		return nil
	}
	return j.client.Run(ctx)
}

func (j *judge) ask(r mtm.RefereeRequest) {
	if j.client != nil {
		j.client.Ask(r)
	}
}

// pause, with true: this node could not serve alone, for its PostgreSQL is away.
func (j *judge) pause(yes bool) {
	if j.client != nil {
		j.client.Pause(yes)
	}
}

// refereeReport is what a node's status says of its referee.
type refereeReport struct {
	Address   string `json:"address"`
	Reachable bool   `json:"reachable"`
	Holder    int    `json:"holder"` // who may go on alone, by its last answer; 0: nobody
}

func (j *judge) report() *refereeReport {
	if j == nil || j.client == nil {
		return nil
	}
	r := j.client.Reach()
	return &refereeReport{Address: j.addr, Reachable: r.Reachable, Holder: int(r.Answer.Holder)}
}

// precheckReferee is the prerequisite of init-cluster: two nodes, and a referee that answers. nil: there is nothing to say.
func (d *daemon) precheckReferee(ctx context.Context, nodes int) *schema.CheckResult {
	c := &schema.CheckResult{Name: "referee", Severity: schema.Fatal}
	if d.cfg.Referee == "" {
		if nodes != 2 {
			return nil
		}
		c.Severity, c.Detail = schema.Warning, "two nodes without a referee: when one is lost the other stops"
		c.Fix = "run mtmd --referee on a third machine, and set referee in mtmd.toml of both nodes"
		return c
	}
	cfg, err := d.refereeConfig()
	if err == nil {
		err = referee.Check(ctx, cfg, d.cfg.NodeID)
	}
	switch {
	case nodes != 2:
		c.Detail = fmt.Sprintf("a referee is for two nodes, and there are %d", nodes)
		c.Fix = "take referee out of mtmd.toml"
	case err != nil:
		c.Detail, c.Fix = err.Error(), "start mtmd --referee there, and let its peer port through the firewall"
	default:
		c.OK, c.Detail = true, d.cfg.Referee
	}
	return c
}
