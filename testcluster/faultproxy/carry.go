package faultproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What waits in one direction of one connection is at most queueLen pieces of at most pieceSize bytes: 2 MiB.
const (
	queueLen  = 64
	pieceSize = 32 << 10
)

// piece is what was read at once, or (data nil) how reading ended.
type piece struct {
	data []byte
	due  time.Time // when it may be delivered, if not blocked
	rst  bool      // reading ended by a reset, not by an orderly end
}

// carry moves bytes from src to dst under the rules of d until either ends, and reports whether all was delivered, the
// end included. While the network is good it writes what it has read itself; the queue and the goroutine that empties
// it are used from the first fault on.
func (p *Proxy) carry(src, dst *net.TCPConn, d Direction) (ok bool) {
	queue := make(chan piece, queueLen)
	var waiting atomic.Int64 // pieces in the queue or being delivered
	var g sync.WaitGroup
	started, late := false, time.Time{}
	delivered := true // by deliver; read after it has ended
	defer func() {
		close(queue)
		g.Wait()
		ok = ok && delivered
	}()
	enqueue := func(one piece) {
		if !started {
			started = true
			g.Go(func() { delivered = p.deliver(dst, queue, &waiting, d) })
		}
		waiting.Add(1)
		queue <- one // deliver always empties it, also after a failure
	}
	buf := make([]byte, pieceSize)
	for {
		n, err := src.Read(buf)
		rule, _ := p.book.get(d)
		now := time.Now()
		if due := now.Add(rule.lateness(n)); due.After(late) {
			late = due // what comes later never arrives earlier
		}
		if n > 0 {
			if rule == (Rule{}) && waiting.Load() == 0 {
				if _, err := dst.Write(buf[:n]); err != nil {
					return false
				}
			} else {
				enqueue(piece{data: append([]byte(nil), buf[:n]...), due: late})
			}
		}
		if err != nil {
			enqueue(piece{due: late, rst: !errors.Is(err, io.EOF)})
			return true
		}
	}
}

// deliver writes pieces when they are due and the way is open, and reports whether it wrote all. After a failure it
// only empties the queue.
func (p *Proxy) deliver(dst *net.TCPConn, queue <-chan piece, waiting *atomic.Int64, d Direction) bool {
	failed := false
	for one := range queue {
		if !failed {
			failed = !p.sleepUntil(one.due) || !p.book.waitOpen(p.stop, d) || !put(dst, one)
		}
		waiting.Add(-1)
	}
	return !failed
}

// put writes one piece, or ends the connection as its other half ended.
func put(dst *net.TCPConn, one piece) bool {
	switch {
	case one.data != nil:
		_, err := dst.Write(one.data)
		return err == nil
	case one.rst:
		dst.SetLinger(0) //nolint:errcheck
		dst.Close()
	default:
		dst.CloseWrite() //nolint:errcheck // it may be closed already
	}
	return true
}

// closedByPeer asks the kernel whether the other side has closed c, without reading from it.
func closedByPeer(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), syscall.SOL_TCP, unix.TCP_INFO)
		const established, synRecv = 1, 3 // include/net/tcp_states.h
		gone = err != nil || info.State != established && info.State != synRecv
	})
	return gone || err != nil
}
