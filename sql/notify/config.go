package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"mtm"
)

// Config is what a Relay needs. All of it is required, but for Lost.
type Config struct {
	Node mtm.NodeID
	Life uint64 // differs at each start of the process, and is not 0
	// Connect opens a session to this node's PostgreSQL, in the database that is replicated.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Peers are the other nodes that are in reach.
	Peers func() mtm.NodeSet
	// Call hands a message to Receive of another node. It must end within a few seconds.
	Call func(ctx context.Context, to mtm.NodeID, m Message) (Answer, error)
	// Have is what is committed on this node: at least all that was committed when it was called.
	Have func(ctx context.Context) (Position, error)
	// Caught blocks until this node is online and has committed all of another's Have.
	Caught func(ctx context.Context, at Position) error
	Lost   func(notifications int) // counts those that will not arrive somewhere; nil: nobody does
	Log    *slog.Logger
}

// Message is what one node tells another: the channels that its clients listen to, or notifications.
type Message struct {
	From     mtm.NodeID `json:"from"`
	Life     uint64     `json:"life"` // of the sender
	Channels *Channels  `json:"channels,omitempty"`
	Batch    *Batch     `json:"batch,omitempty"`
}

// Channels changes what the sender's clients listen to from version Base to Version. Base 0: Add is all of it.
type Channels struct {
	Base    uint64   `json:"base"`
	Version uint64   `json:"version"`
	Add     [][]byte `json:"add,omitempty"`
	Drop    [][]byte `json:"drop,omitempty"`
}

// Position is what a node has committed, and in which generation.
type Position struct {
	Gen  uint64           `json:"gen"`
	Have []mtm.OriginHave `json:"have,omitempty"`
}

// Batch is notifications, in their order, of which all tell of nothing later than At. Seq grows by one. It is for the clients
// of the receiver's life For, and dropped by another.
type Batch struct {
	For   uint64   `json:"for"`
	Seq   uint64   `json:"seq"`
	At    Position `json:"at"`
	Notes []Note   `json:"notes"`
}

// Note is one notification.
type Note struct {
	Channel []byte `json:"c"`
	Payload []byte `json:"p,omitempty"`
}

// Answer tells which version of the sender's channels the receiver listens to; 0: none.
type Answer struct {
	Version uint64 `json:"version,omitempty"`
}

// Bounds. A channel's name has 1 to 63 bytes, a payload less than 8000: PostgreSQL's own.
const (
	MaxChannels = 10_000   // that the clients of one node listen to
	maxName     = 63       // bytes
	maxPayload  = 7999     // bytes
	maxQueue    = 16 << 20 // bytes of notifications that wait: for one other node, of one, or to be passed on
	maxBatch    = 256 << 10
	noteCost    = 64 // bytes that a notification takes beside its own
	chunk       = 500
	maxStale    = 8 * MaxChannels
	maxFails    = 10 // nobody waits for a node that does not answer any more; it may be of an older version
)

const (
	listenWait  = 3 * time.Second        // how long LISTEN waits for the other nodes
	effectWait  = 2 * time.Second        // how long another node's channels may take to be listened to
	retryAfter  = 200 * time.Millisecond // a call that failed is repeated
	lookEvery   = time.Second
	forgetAfter = 30 * time.Second // out of reach: what waits for a node is dropped
)

// The keys of the log.
const (
	keyNode    = "node"
	keyError   = "error"
	keyChannel = "channel"
	keyCount   = "notifications"
)

func (n Note) size() int { return noteCost + len(n.Channel) + len(n.Payload) }

// size is what a batch takes, about, in bytes.
func (b Batch) size() int {
	sum := noteCost
	for _, n := range b.Notes {
		sum += n.size()
	}
	for _, h := range b.At.Have {
		sum += noteCost + 16*len(h.Above)
	}
	return sum
}

func (n Note) check() error {
	if err := checkName(n.Channel); err != nil {
		return err
	}
	if len(n.Payload) > maxPayload {
		return fmt.Errorf("a payload of %d bytes: at most %d may be", len(n.Payload), maxPayload)
	}
	return checkText(n.Payload)
}

func checkName(name []byte) error {
	if len(name) == 0 || len(name) > maxName {
		return fmt.Errorf("a channel's name of %d bytes: 1 to %d may be", len(name), maxName)
	}
	return checkText(name)
}

func checkText(text []byte) error {
	if !utf8.Valid(text) || strings.IndexByte(string(text), 0) >= 0 {
		return errors.New("text that is not UTF-8")
	}
	return nil
}

// check refuses what no node sends.
func (m *Message) check() error {
	switch {
	case !m.From.Valid():
		return fmt.Errorf("from node %d: a number must be 1 to %d", m.From, mtm.MaxNodes)
	case m.Life == 0 || (m.Channels == nil) == (m.Batch == nil):
		return errors.New("neither channels nor notifications")
	case m.Batch != nil:
		for _, n := range m.Batch.Notes {
			if err := n.check(); err != nil {
				return err
			}
		}
		return nil
	}
	for _, names := range [][][]byte{m.Channels.Add, m.Channels.Drop} {
		if len(names) > MaxChannels {
			return fmt.Errorf("%d channels: at most %d may be", len(names), MaxChannels)
		}
		for _, name := range names {
			if err := checkName(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// signal wakes everybody who waits for a change. It is guarded by its owner's lock.
type signal struct{ c chan struct{} }

func (s *signal) wait() <-chan struct{} {
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) tell() {
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

// await waits until done, called under mu, is true. changed is told under mu.
func await(ctx context.Context, mu *sync.Mutex, changed *signal, done func() bool) error {
	for {
		mu.Lock()
		if done() {
			mu.Unlock()
			return nil
		}
		c := changed.wait()
		mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rest waits, unless ctx ends first.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
