package referee

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"mtm"
	"mtm/proto"
	"mtm/proto/mtmpb"
)

// ClientConfig is what a Client must be told. Every field is required, but for Logger.
type ClientConfig struct {
	Cluster string
	Addr    string      // host:port of the referee
	TLS     *tls.Config // package cert makes it, for the server name Name
	Answer  func(mtm.RefereeAnswer)
	Logger  *slog.Logger // nil: slog.Default()
}

const (
	askTimeout  = 1500 * time.Millisecond // an answer that comes later is void for the brain too
	askParallel = 4                       // what comes on top is dropped: the brain asks again
)

// Client asks a referee.
type Client struct {
	cfg   ClientConfig
	log   *slog.Logger
	queue chan mtm.RefereeRequest

	mu      sync.Mutex
	conn    *grpc.ClientConn
	paused  bool
	reached bool
	asked   bool
	last    mtm.RefereeAnswer
}

// Reach is what a Client knows of its referee.
type Reach struct {
	Reachable bool
	Answer    mtm.RefereeAnswer // the last one
}

// NewClient prepares to ask. Run does it.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Addr == "" || cfg.TLS == nil || cfg.Answer == nil {
		return nil, errors.New("referee: no address, no certificates, or nobody to answer to")
	}
	c := &Client{cfg: cfg, log: cfg.Logger, queue: make(chan mtm.RefereeRequest, askParallel)}
	conn, err := cfg.dial()
	c.conn = conn
	return c, err
}

// dial makes a connection, which connects when it is first used, and again by itself.
func (c *ClientConfig) dial() (*grpc.ClientConn, error) {
	conf := c.TLS.Clone()
	before := conf.VerifyConnection
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		if before != nil {
			if err := before(cs); err != nil {
				return err
			}
		}
		_, err := ofCluster(cs, c.Cluster)
		return err
	}
	return grpc.NewClient("passthrough:///"+c.Addr, grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}),
	)
}

// Check finds out whether the referee answers node. Nothing is stored anywhere.
func Check(ctx context.Context, cfg ClientConfig, node mtm.NodeID) error {
	conn, err := cfg.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	_, err = mtmpb.NewRefereeClient(conn).Ask(ctx, proto.EncodeRefereeRequest(mtm.RefereeRequest{Node: node, Configured: mtm.Nodes(node)}))
	return err
}

// Ask queues a request, without waiting; when too many wait it is dropped.
func (c *Client) Ask(r mtm.RefereeRequest) {
	if r.Kind != mtm.RefereeClear && c.isPaused() {
		return
	}
	select {
	case c.queue <- r:
	default:
	}
}

// Pause, with true, keeps the client from asking for a grant: a node that could not use it must leave it to its peer.
func (c *Client) Pause(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = yes
}

func (c *Client) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

// Run asks what is queued until ctx ends. Answers may come in another order.
func (c *Client) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askParallel)
	for {
		select {
		case <-ctx.Done():
			err := g.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			return errors.Join(ctx.Err(), err, c.conn.Close())
		case r := <-c.queue:
			g.TryGo(func() error {
				c.ask(ctx, r)
				return nil
			})
		}
	}
}

func (c *Client) ask(ctx context.Context, r mtm.RefereeRequest) {
	if r.Kind != mtm.RefereeClear && c.isPaused() {
		return // since it was queued
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	var a mtm.RefereeAnswer
	p, err := mtmpb.NewRefereeClient(conn).Ask(ctx, proto.EncodeRefereeRequest(r))
	if err == nil {
		a, err = proto.DecodeRefereeAnswer(r, p)
	}
	if c.note(conn, a, err); err == nil {
		c.cfg.Answer(a)
	}
}

// note remembers whether the referee answers, and tells the operator when that changes.
func (c *Client) note(conn *grpc.ClientConn, a mtm.RefereeAnswer, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, asked := c.reached, c.asked
	c.asked, c.reached = true, err == nil
	switch {
	case err == nil:
		c.last = a
		if !was {
			c.log.Info("the referee answers", "addr", c.cfg.Addr)
		}
		return
	case status.Code(err) == codes.Canceled:
		c.asked, c.reached = asked, was // we stop
		return
	case was || !asked:
		c.log.Warn("the referee does not answer", "addr", c.cfg.Addr, keyError, err)
	}
	if status.Code(err) == codes.DeadlineExceeded && conn == c.conn {
		// Nothing came back: the connection may be dead, and the system would notice late.
		if fresh, derr := c.cfg.dial(); derr == nil {
			c.conn = fresh
			conn.Close()
		}
	}
}

// Reach tells whether the referee answered last time.
func (c *Client) Reach() Reach {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Reach{Reachable: c.reached, Answer: c.last}
}
