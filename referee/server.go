package referee

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"mtm"
	"mtm/cert"
	"mtm/generations"
	"mtm/proto"
	"mtm/proto/mtmpb"
)

// Name is the referee's name in certificates.
const Name = "referee"

// ServerConfig is what a Server must be told. Every field is required, but for Logger.
type ServerConfig struct {
	Cluster  string
	Dir      string       // where state.db lies
	Listener net.Listener // nodes and mtmctl dial it; Run closes it
	TLS      *tls.Config  // must verify clients; package cert makes it
	Version  string       // of mtmd, for mtmctl
	Logger   *slog.Logger // nil: slog.Default()
}

// The bounds of what callers may cost.
const (
	maxConns   = 64
	maxMessage = 64 << 10
	maxStreams = 32
)

// The keys of what is logged.
const (
	keyNode   = "node"
	keyError  = "error"
	keyAsk    = "ask"
	keyWhy    = "why"
	keyHolder = "holder"
	keyGen    = "generation"
)

// Server is a referee.
type Server struct {
	mtmpb.UnimplementedRefereeServer
	mtmpb.UnimplementedAdminServer
	cfg    ServerConfig
	log    *slog.Logger
	failed chan error

	mu    sync.Mutex
	store *store
	rules *generations.Arbiter
	told  map[mtm.NodeID]string // why a node was refused last: told once
}

// Status is what a referee says of itself.
type Status struct {
	Cluster   string `json:"cluster"`
	Version   string `json:"version"`
	Status    string `json:"status"` // "new": grants nothing yet; "idle": would grant; "granted": one node may go on alone
	Nodes     []int  `json:"nodes"`
	Holder    int    `json:"holder"` // 0: nobody
	HolderGen uint64 `json:"holder_gen"`
	Cleared   uint64 `json:"cleared_gen"` // both nodes were online together in this generation
}

// NewServer opens the referee's file. Run must be called, and closes it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Listener == nil || cfg.TLS == nil || cfg.Cluster == "" {
		return nil, errors.New("referee: no listener, no certificates, or no cluster")
	}
	st, state, err := openStore(cfg.Dir, cfg.Cluster)
	if err != nil {
		return nil, err
	}
	return &Server{
		cfg: cfg, log: cfg.Logger, store: st, rules: generations.NewArbiter(state),
		failed: make(chan error, 1), told: map[mtm.NodeID]string{},
	}, nil
}

// Run answers until ctx ends, or the disk fails.
func (s *Server) Run(ctx context.Context) error {
	srv := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(s.cfg.TLS)), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(5*time.Second), grpc.UnaryInterceptor(s.admit),
		grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	mtmpb.RegisterRefereeServer(srv, s)
	mtmpb.RegisterAdminServer(srv, s)
	s.log.Info("referee is ready", "addr", s.cfg.Listener.Addr().String(), "row", s.Status())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(bounded(s.cfg.Listener, maxConns)) }()
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-s.failed:
	case err = <-served:
		served <- nil
	}
	srv.Stop() // waits for the handlers
	<-served
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(err, s.store.close())
}

// admit lets nodes ask, and the operator look.
func (s *Server) admit(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	name, err := s.caller(ctx)
	if err != nil {
		s.log.Warn("call refused", keyError, err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	if r, ok := req.(*mtmpb.RefereeRequest); ok && name != cert.NodeName(int(r.GetNode())) {
		return nil, status.Errorf(codes.PermissionDenied, "the certificate of %q does not speak for node %d", name, r.GetNode())
	}
	return next(ctx, req)
}

func (s *Server) caller(ctx context.Context) (string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", errors.New("nobody calls")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", errors.New("the caller uses no TLS")
	}
	return ofCluster(info.State, s.cfg.Cluster)
}

// ofCluster is the proven name of the other side, which must be of the cluster.
func ofCluster(cs tls.ConnectionState, cluster string) (string, error) {
	name, of, err := cert.PeerName(cs)
	if err == nil && of != "" && of != cluster {
		err = fmt.Errorf("%s has a certificate of cluster %q, this is %q", name, of, cluster)
	}
	return name, err
}

// Ask implements the Referee service.
func (s *Server) Ask(_ context.Context, p *mtmpb.RefereeRequest) (*mtmpb.RefereeAnswer, error) {
	r, err := proto.DecodeRefereeRequest(p)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	a, err := s.decide(r)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return proto.EncodeRefereeAnswer(a), nil
}

// decide answers one request at a time; what changed is durable before anybody hears of it.
func (s *Server) decide(r mtm.RefereeRequest) (mtm.RefereeAnswer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rules == nil {
		return mtm.RefereeAnswer{}, errors.New("the referee's disk has failed")
	}
	before := s.rules.State()
	a, changed := s.rules.Ask(r)
	if changed {
		if err := s.store.save(s.rules.State()); err != nil {
			s.rules = nil // nobody knows what is on the disk
			s.failed <- fmt.Errorf("referee: %w", err)
			return a, err
		}
	}
	s.tell(r, a, before)
	return a, nil
}

// tell logs what an operator wants to know.
func (s *Server) tell(r mtm.RefereeRequest, a mtm.RefereeAnswer, before mtm.RefereeState) {
	after := s.rules.State()
	switch {
	case !a.OK:
		if r.Kind != mtm.RefereeClear && r.Gen > 0 && s.told[r.Node] != a.Why {
			s.told[r.Node] = a.Why
			s.log.Warn("refused to let a node go on alone", keyNode, int(r.Node), keyAsk, r.Kind.String(), keyWhy, a.Why)
		}
		return
	case r.Kind == mtm.RefereeGrant:
		s.log.Info("a node may go on alone", keyNode, int(r.Node), keyGen, r.Gen)
	case before.Pair != after.Pair:
		s.log.Info("serving two nodes from now on", "nodes", after.Pair.String(), keyGen, r.Gen)
	case before.Holder != after.Holder:
		s.log.Info("both nodes are online again: the grant is cleared", keyHolder, int(before.Holder), keyGen, r.Gen)
	}
	delete(s.told, r.Node)
}

// Status describes the row now.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Cluster: s.cfg.Cluster, Version: s.cfg.Version, Status: "failed", Nodes: []int{}}
	if s.rules == nil {
		return st
	}
	row := s.rules.State()
	for _, id := range row.Pair.IDs() {
		st.Nodes = append(st.Nodes, int(id))
	}
	st.Holder, st.HolderGen, st.Cleared = int(row.Holder), row.Gen, row.Floor
	switch {
	case row.Pair == 0:
		st.Status = "new"
	case row.Holder != 0:
		st.Status = "granted"
	default:
		st.Status = "idle"
	}
	return st
}

// Call implements the Admin service.
func (s *Server) Call(_ context.Context, req *mtmpb.AdminRequest) (*mtmpb.AdminResponse, error) {
	if req.GetMethod() != "status" {
		return nil, status.Errorf(codes.Unimplemented, "a referee has no method %q", req.GetMethod())
	}
	text, err := json.Marshal(s.Status())
	if err != nil {
		return nil, err
	}
	return &mtmpb.AdminResponse{Json: text, Done: true}, nil
}

// boundedListener has at most so many connections open.
type boundedListener struct {
	net.Listener
	slots chan struct{}
}

func bounded(l net.Listener, n int) net.Listener { return &boundedListener{l, make(chan struct{}, n)} }

// Accept hangs up on whoever comes too many.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &boundedConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			c.Close()
		}
	}
}

type boundedConn struct {
	net.Conn
	free func()
}

func (c *boundedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
