package dmq

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// run keeps the stream to the peer until ctx is done.
func (l *link) run(ctx context.Context) error {
	wait, fails, short := time.Duration(0), 0, 0
	for l.rest.over(ctx) {
		if l.address() == "" {
			if !pause(ctx, maxBackoff, l.call) {
				break
			}
			continue
		}
		began, acked := time.Now(), l.ackedCount()
		established, err := l.connect(ctx)
		if ctx.Err() != nil {
			break
		}
		switch {
		case established:
			// What broke may be the connection alone: again, at once. But not for ever at once, if it leads nowhere.
			if fails, short = 0, short+1; time.Since(began) > longLived || l.ackedCount() > acked {
				short = 0
			}
			if wait = 0; short > 2 {
				wait = min(backoff(short-2), maxBackoff/5)
			}
		case errors.Is(err, errStale):
			wait = minBackoff
		default:
			fails++
			l.failed(err, lost(err, fails))
			wait = backoff(fails)
		}
		if !pause(ctx, jitter(wait), l.call) {
			break
		}
	}
	return nil
}

// backoff is how long to wait after the nth failure in a row: 20 ms, doubled each time, up to 500 ms.
func backoff(n int) time.Duration { return min(minBackoff<<min(n-1, 10), maxBackoff) }

// jitter spreads d over 75 to 125 %.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}

func sleep(ctx context.Context, d time.Duration) bool { return pause(ctx, d, nil) }

// pause waits for d, or until early says that it is over; false: ctx ended first.
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-early:
		return true
	case <-ctx.Done():
		return false
	}
}

// lost reports whether err, the nth failure in a row, says that the peer's process is gone: nobody listens, or a proxy
// that listens for it cannot reach it and hangs up, or it says that it cannot work. Hanging up once may also be a network in trouble.
func lost(err error, n int) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || status.Code(err) == codes.FailedPrecondition ||
		n > 1 && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF))
}

// dial connects to the peer: TCP, then TLS, then nothing is said yet. The connection is made here and not by gRPC, so
// that errors are what the system said, and reconnecting is ours to time.
func (l *link) dial(ctx context.Context) (cc *grpc.ClientConn, closeConn func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	dialer := net.Dialer{Control: limitUnsent}
	raw, err := dialer.DialContext(ctx, "tcp", l.address())
	if err != nil {
		return nil, nil, err
	}
	conn := tls.Client(raw, l.cfg.clientTLS(l.node))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, nil, err
	}
	once := &oneConn{conn: conn}
	cc, err = grpc.NewClient("passthrough:///"+nodeName(l.node),
		grpc.WithContextDialer(once.dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // conn is TLS already
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithDisableHealthCheck(), grpc.WithNoProxy(),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(2*window),
		grpc.WithWriteBufferSize(64<<10), grpc.WithReadBufferSize(64<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxGRPC), grpc.MaxCallSendMsgSize(maxGRPC)),
	)
	if err != nil {
		raw.Close()
		return nil, nil, err
	}
	return cc, func() { cc.Close(); raw.Close() }, nil
}

// limitUnsent sets TCP_NOTSENT_LOWAT: data that the network does not take yet shall wait with us and not in the kernel,
// where a heartbeat would queue up behind it. A kernel that has no such option works all the same.
func limitUnsent(_, _ string, c syscall.RawConn) error {
	const tcpNotsentLowat = 0x19 // linux/tcp.h
	return c.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat, unsentBytes)
	})
}

// oneConn lends gRPC one connection, once.
type oneConn struct {
	mu   sync.Mutex
	conn net.Conn
}

func (o *oneConn) dial(context.Context, string) (net.Conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn == nil {
		return nil, net.ErrClosed
	}
	conn := o.conn
	o.conn = nil
	return conn, nil
}
