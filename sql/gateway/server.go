package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mtm/sql/statement"
)

// Server listens for clients and serves each with a connection of its own to PostgreSQL.
type Server struct {
	conf      Config
	tls       *tls.Config
	listeners []net.Listener
	cache     *statement.Cache
	pace      pace
	count     counters
	notifies  atomic.Bool    // a transaction was refused by PREPARE because of NOTIFY, perhaps by a trigger
	work      sync.WaitGroup // what runs beside sessions: cancel requests

	serializable atomic.Int64 // when another node committed a SERIALIZABLE transaction, in nanoseconds since 1970; 0: never

	mu       sync.Mutex
	sessions map[int32]*session // by the process id of their PostgreSQL
}

// New binds the addresses, so that a wrong one is told at once. Run serves them; Close gives them up instead.
func New(conf Config) (*Server, error) {
	conf.defaults()
	if len(conf.Listen) == 0 || conf.Backend == "" || conf.Commits == nil {
		return nil, errors.New("gateway: Listen, Backend and Commits are required")
	}
	if conf.Ending == nil {
		conf.Ending = func() {}
	}
	s := &Server{conf: conf, cache: statement.NewCache(conf.CacheBytes), sessions: make(map[int32]*session)}
	if conf.TLS != nil {
		s.tls = conf.TLS.Clone()
		s.tls.NextProtos = []string{alpn}
	}
	for _, addr := range conf.Listen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("gateway: %w", err)
		}
		s.listeners = append(s.listeners, l)
	}
	return s, nil
}

// Addrs are the addresses that the server listens on; a port 0 in Config.Listen has become a real one.
func (s *Server) Addrs() []net.Addr {
	var addrs []net.Addr
	for _, l := range s.listeners {
		addrs = append(addrs, l.Addr())
	}
	return addrs
}

// Close gives up the addresses of a server that is not run.
func (s *Server) Close() {
	for _, l := range s.listeners {
		l.Close()
	}
}

// Run serves until ctx ends, then tells each client 57P01 and returns when all sessions have ended.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	var conns sync.WaitGroup
	for _, l := range s.listeners {
		g.Go(func() error { return s.accept(ctx, l, &conns) })
	}
	err := g.Wait()
	conns.Wait()
	s.work.Wait()
	if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// acceptPause is how long accepting rests after a failure, such as too many open files.
const acceptPause = 50 * time.Millisecond

func (s *Server) accept(ctx context.Context, l net.Listener, conns *sync.WaitGroup) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.conf.Log.Warn("cannot accept a client", keyError, err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		s.count.accepted.Add(1)
		conns.Go(func() { s.connection(ctx, conn) })
	}
}

// background runs f beside the sessions; Run waits for it.
func (s *Server) background(f func()) { s.work.Go(f) }

// dialBackend opens a plain connection to PostgreSQL.
func (s *Server) dialBackend() (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(s.conf.Backend, "/") {
		network = "unix"
	}
	return net.DialTimeout(network, s.conf.Backend, cancelTimeout)
}

// register makes a session known to cancel requests and to Doom.
func (s *Server) register(sess *session) {
	s.mu.Lock()
	s.sessions[sess.pid] = sess
	s.mu.Unlock()
	s.count.sessions.Add(1)
}

func (s *Server) unregister(sess *session) {
	s.mu.Lock()
	if s.sessions[sess.pid] == sess {
		delete(s.sessions, sess.pid)
	}
	s.mu.Unlock()
	s.count.sessions.Add(-1)
}
