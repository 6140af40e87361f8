package dmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"mtm"
	"mtm/proto/mtmpb"
)

// end is one end of a link: which process, and which of its sessions with this peer.
type end struct {
	incarnation, session uint64
}

func (e end) encode() *mtmpb.End { return &mtmpb.End{Incarnation: e.incarnation, Session: e.session} }

func decodeEnd(p *mtmpb.End) end { return end{p.GetIncarnation(), p.GetSession()} }

// olderThan reports whether e is certainly a former state of f.
func (e end) olderThan(f end) bool { return e.incarnation == f.incarnation && e.session < f.session }

// stream is one direction of a link, once both sides have agreed on both ends.
type stream struct {
	cancel context.CancelCauseFunc
	done   <-chan struct{}
}

// item is a message that is queued, or sent and not acknowledged.
type item struct {
	message *mtmpb.Message
	size    int
}

// link is all that this node knows of one peer. The rule that makes delivery exact: every established stream was
// agreed on by the two ends as they are now; a change of either end cancels all streams.
type link struct {
	cfg  *Config
	node mtm.NodeID // the peer
	box  *inbox
	wake chan struct{} // capacity 1: the writer has something to send
	bulk chan struct{} // capacity bulkTransfers: there is a large payload to send
	rest *rest
	call chan struct{} // capacity 1: the peer lives, so it is worth dialing

	mu      sync.Mutex
	addr    string // where to dial it; empty: it is no peer any more
	mine    end
	theirs  end // as last heard; zero: never
	up      bool
	out, in *stream
	changed chan struct{} // closed, and made anew, when up or an end changes
	grace   *time.Timer   // runs while up and a direction is missing
	lastErr string

	urgent []*mtmpb.Message // overtake the queue, have no sequence, and are lost with the stream
	queue  []item           // from sequence first
	first  uint64
	sent   int // of queue, on the present stream
	bytes  int // of queue and large
	large  largeQueue
	inSeq  uint64          // highest received from theirs
	inBulk map[uint64]bool // large payloads of theirs: false: arriving, true: delivered

	lastAck   time.Time
	lastHeard time.Time
	rtt       time.Duration
	stats     counters
}

// counters only grow.
type counters struct {
	sent, acked, received, connects, downs uint64
}

func newLink(cfg *Config, node mtm.NodeID, addr string, r *rest) *link {
	l := &link{cfg: cfg, node: node, addr: addr, rest: r, box: newInbox(cfg.MaxQueueBytes), wake: make(chan struct{}, 1),
		call: make(chan struct{}, 1), bulk: make(chan struct{}, bulkTransfers), mine: end{cfg.Incarnation, 1}, changed: make(chan struct{}), first: 1}
	l.large.reset()
	l.inBulk = map[uint64]bool{}
	return l
}

func (l *link) logger() *slog.Logger { return l.cfg.Logger.With(keyPeer, int(l.node)) }

// send queues an encoded message; what cannot be sent now is dropped.
func (l *link) send(m *mtmpb.Message, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up {
		return
	}
	if len(l.queue)+l.large.len() >= l.cfg.MaxQueue || l.bytes+size > l.cfg.MaxQueueBytes {
		l.downLocked(fmt.Errorf("%d messages, %d bytes are queued and not acknowledged", len(l.queue), l.bytes))
		return
	}
	l.bytes += size
	l.stats.sent++
	if spilledIn(m).GetSpill() != "" {
		l.large.add(item{m, size})
		signal(l.bulk)
		return
	}
	l.queue = append(l.queue, item{m, size})
	signal(l.wake)
}

// hello is what a new stream to the peer begins with.
func (l *link) hello() (mine end, first uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mine, l.first
}

// errStale ends a stream whose ends are no longer what they were when it began; the next attempt knows better.
var errStale = errors.New("the link has changed meanwhile")

// welcomed makes s the stream to the peer, which has answered that it is at theirs and has everything up to received.
func (l *link) welcomed(s *stream, mine, theirs end, received uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mine != l.mine || theirs.olderThan(l.theirs) {
		return errStale
	}
	if theirs != l.theirs {
		wasUp := l.up
		l.newEndLocked(theirs)
		if wasUp {
			return errStale // our end has changed too
		}
	}
	if received+1 < l.first || received >= l.first+uint64(len(l.queue)) {
		err := fmt.Errorf("peer says that it has %d, but we are at %d", received, l.first)
		l.downLocked(err)
		return err
	}
	l.ackLocked(received)
	l.sent = 0
	l.out = s
	l.stats.connects++
	signal(l.wake)
	l.joinLocked()
	return nil
}

// greeted makes s the stream from the peer, which is at theirs, and says what to answer.
func (l *link) greeted(s *stream, theirs end) (mine end, received uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if theirs.olderThan(l.theirs) {
		return end{}, 0, errStale
	}
	if theirs != l.theirs {
		l.newEndLocked(theirs)
	}
	if l.in != nil {
		l.in.cancel(errors.New("the peer has connected again"))
	}
	l.in = s
	l.joinLocked()
	if l.out == nil {
		signal(l.call)
	}
	return l.mine, l.inSeq, nil
}

// address is where to dial the peer; empty: nowhere.
func (l *link) address() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addr
}

// move changes where the peer is dialled.
func (l *link) move(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.addr == addr {
		return
	}
	l.addr = addr
	l.downLocked(errors.New("the peer's address was changed"))
	signal(l.call)
}

// newEndLocked notes that the peer is not what it was: what we know of the old end is void.
func (l *link) newEndLocked(theirs end) {
	why := "the peer has dropped the link"
	if theirs.incarnation != l.theirs.incarnation {
		why = "the peer was restarted"
		l.lastAck = time.Time{} // the new process knows of no promise
	}
	l.downLocked(errors.New(why))
	l.theirs, l.inSeq, l.inBulk = theirs, 0, map[uint64]bool{}
}

// joinLocked reports the peer up once both directions are there.
func (l *link) joinLocked() {
	if l.out == nil || l.in == nil {
		return
	}
	if l.grace != nil {
		l.grace.Stop()
		l.grace = nil
	}
	l.lastErr = ""
	if l.up {
		return
	}
	l.up = true
	l.box.put(event{up: true, incarnation: l.theirs.incarnation})
	l.logger().Info("peer is up", keyIncarnation, l.theirs.incarnation)
	l.broadcastLocked()
}

// down takes the link down because of err: what is queued is lost, and both sinks will know.
func (l *link) down(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.downLocked(err)
}

// downIf is down, if s is still one of the link's streams.
func (l *link) downIf(s *stream, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s == l.in || s == l.out {
		l.downLocked(err)
	}
}

// downLocked also cancels streams of a link that is not up: they were agreed on with an end that is no more.
func (l *link) downLocked(err error) {
	for _, s := range []*stream{l.out, l.in} {
		if s != nil {
			s.cancel(err)
		}
	}
	l.out, l.in, l.urgent = nil, nil, nil
	if l.grace != nil {
		l.grace.Stop()
		l.grace = nil
	}
	if !l.up {
		return
	}
	l.up = false
	l.mine.session++
	l.queue, l.first, l.sent, l.bytes = nil, 1, 0, 0
	l.large.reset()
	l.stats.downs++
	l.lastErr = err.Error()
	l.box.put(event{down: true})
	l.logger().Warn("peer is down", keyError, err)
	l.broadcastLocked()
}

func (l *link) broadcastLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// ended notes that s is over. A link that is up has DownGrace to get another in its place.
func (l *link) ended(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch s {
	case l.out:
		l.out = nil
	case l.in:
		l.in = nil
	default:
		return
	}
	if !l.up || l.grace != nil {
		return
	}
	session := l.mine
	l.grace = time.AfterFunc(l.cfg.DownGrace, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.mine == session && l.grace != nil && (l.out == nil || l.in == nil) {
			l.downLocked(errors.New("the connection did not come back"))
		}
	})
}

// close stops what runs on its own; the queue has ended.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.grace != nil {
		l.grace.Stop()
		l.grace = nil
	}
}

// ackedCount is how many messages peers have acknowledged, ever.
func (l *link) ackedCount() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats.acked
}

// isUp reports whether the link is up, and gives a channel that is closed when that changes.
func (l *link) isUp() (bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up, l.changed
}

// failed notes why the peer cannot be reached. lost: nobody listens there any more.
func (l *link) failed(err error, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text := err.Error(); l.lastErr != text {
		l.lastErr = text
		l.logger().Info("cannot reach peer", keyAddr, l.addr, keyError, err)
	}
	if lost && l.up {
		l.downLocked(err)
	}
}
