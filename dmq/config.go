package dmq

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"mtm"
)

// Sink takes what the queue brings. Calls about one peer come one at a time, in order; those about different peers may
// overlap. A call may take its time, up to a point: heartbeats do not wait for it, but what arrives meanwhile counts
// against MaxQueueBytes, and past that the link fails. When Run's context is done, a call must return: Run waits for it.
type Sink interface {
	Received(m mtm.Message)
	PeerUp(node mtm.NodeID, incarnation uint64)
	PeerDown(node mtm.NodeID)
	// Urgent brings what does not wait behind other messages (heartbeats, their answers, elections). It may be called
	// at any time beside the others, must be quick, and some of it may be lost though the link is never down.
	Urgent(m mtm.Message)
}

// SpillWriter is a spill file that is being written. Abort does nothing after Commit. It is an alias of its shape, so
// that an implementation need not import this package.
type SpillWriter = interface {
	io.Writer
	Name() string
	Commit() error // durable when it returns
	Abort() error
}

// Spills is where large payloads lie. Open of a file that is not there wraps fs.ErrNotExist.
type Spills interface {
	Open(name string) (io.ReadSeekCloser, error)
	Create() (SpillWriter, error)
}

// Config of a Queue. The first group is required.
type Config struct {
	Node      mtm.NodeID
	Cluster   string
	Listener  net.Listener          // peers dial it; Run closes it
	Peers     map[mtm.NodeID]string // where to dial each peer, "host:port"
	ServerTLS *tls.Config           // must verify clients; package cert makes it
	ClientTLS *tls.Config           // ServerName is set here, to "node-<id>"
	Sink      Sink

	Spills      Spills             // nil: large payloads are refused
	Incarnation uint64             // differs at each start of the process; 0: chosen at random
	Waits       bool               // this node is of no cluster yet: while it has no peers, any node of Cluster may do what the operator may
	Register    func(*grpc.Server) // adds services to the listener; nil: none
	Logger      *slog.Logger       // nil: slog.Default()

	HeartbeatInterval time.Duration // default 50 ms
	RecvTimeout       time.Duration // heartbeat_recv_timeout: silence that means PeerDown; default 700 ms
	DownGrace         time.Duration // how long a broken connection may take to come back unreported; default 300 ms
	MaxQueueBytes     int           // unacknowledged, or undelivered, per peer; default 64 MiB
	MaxQueue          int           // messages, likewise; default 1<<18

	known *atomic.Uint64 // the peers, as an mtm.NodeSet
}

// The keys of what is logged.
const (
	keyPeer        = "peer"
	keyError       = "error"
	keyAddr        = "addr"
	keyName        = "name"
	keyMethod      = "method"
	keyBody        = "body"
	keyIncarnation = "incarnation"
)

const (
	minBackoff     = 20 * time.Millisecond
	maxBackoff     = 500 * time.Millisecond
	maxState       = 16 << 10  // bytes of the urgent messages in a frame
	maxUrgent      = 64        // that wait; older ones are dropped
	maxGRPC        = 4 << 20   // bytes of one gRPC message
	frameBytes     = 64 << 10  // a frame takes no further message once it has as much: a heartbeat waits for all of it
	unsentBytes    = 128 << 10 // at most so much waits in the kernel, and so before a heartbeat
	ackEvery       = 256       // messages that may stay unacknowledged until the next heartbeat
	ackBytes       = 1 << 20
	bulkChunk      = 256 << 10
	bulkTransfers  = 2 // at a time, per peer
	bulkStall      = 20 * time.Second
	window         = 2 << 20                 // bytes in flight per stream
	connectTimeout = 1500 * time.Millisecond // short: after a partition nobody answers the packets sent during it
	longLived      = time.Second             // a stream that lasted so long is replaced at once
)

func (c *Config) check() error {
	switch {
	case !c.Node.Valid():
		return fmt.Errorf("dmq: node %d: ids are 1 to %d", c.Node, mtm.MaxNodes)
	case c.Listener == nil || c.Sink == nil:
		return errors.New("dmq: no listener, or no sink")
	case c.ServerTLS == nil || c.ClientTLS == nil:
		return errors.New("dmq: peers talk over mutual TLS only, and there are no certificates")
	}
	for id, addr := range c.Peers {
		if err := c.checkPeer(id, addr); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) checkPeer(id mtm.NodeID, addr string) error {
	if !id.Valid() || id == c.Node || addr == "" {
		return fmt.Errorf("dmq: node %d cannot be a peer at %q", id, addr)
	}
	return nil
}

func (c *Config) fill() {
	c.known = new(atomic.Uint64)
	if c.Incarnation == 0 {
		c.Incarnation = rand.Uint64() | 1
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	setDefault(&c.HeartbeatInterval, 50*time.Millisecond)
	setDefault(&c.RecvTimeout, 700*time.Millisecond)
	setDefault(&c.DownGrace, 300*time.Millisecond)
	setDefault(&c.MaxQueueBytes, 64<<20)
	setDefault(&c.MaxQueue, 1<<18)
}

// know lets a peer in.
func (c *Config) know(id mtm.NodeID) { c.known.Or(uint64(mtm.Nodes(id))) }

// unknow lets it in no more.
func (c *Config) unknow(id mtm.NodeID) { c.known.And(^uint64(mtm.Nodes(id))) }

func setDefault[T time.Duration | int](p *T, value T) {
	if *p == 0 {
		*p = value
	}
}
