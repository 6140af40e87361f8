package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm"
)

// network joins the relays of a test.
type network struct {
	t      *testing.T
	mu     sync.Mutex
	relays map[mtm.NodeID]*node
	cut    map[mtm.NodeID]bool
	answer func(to mtm.NodeID, m Message) error // after the message was received; nil: all is well
}

// node is one relay.
type node struct {
	*Relay
	id     mtm.NodeID
	clock  atomic.Uint64 // grows each time it is looked at
	lost   atomic.Int64
	late   atomic.Int64  // so often Have fails: a commit takes longer than it waits
	behind chan struct{} // Caught waits for it; nil: it does not wait
	stop   func()
}

func newNetwork(t *testing.T, ids ...mtm.NodeID) *network {
	net := &network{t: t, relays: map[mtm.NodeID]*node{}, cut: map[mtm.NodeID]bool{}}
	for _, id := range ids {
		net.add(id, uint64(id))
	}
	return net
}

func (net *network) add(id mtm.NodeID, life uint64) *node {
	n := &node{id: id}
	n.Relay = New(Config{
		Node: id, Life: life, Log: slog.New(slog.DiscardHandler), Lost: func(k int) { n.lost.Add(int64(k)) },
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			cfg, err := pgx.ParseConfig(url(fmt.Sprintf("n%d", id)))
			if err != nil {
				return nil, err
			}
			cfg.RuntimeParams["application_name"] = AppName
			return pgx.ConnectConfig(ctx, cfg)
		},
		Peers: func() mtm.NodeSet { return net.reach(id) },
		Call:  func(ctx context.Context, to mtm.NodeID, m Message) (Answer, error) { return net.call(ctx, id, to, m) },
		Have: func(context.Context) (Position, error) {
			if n.late.Add(-1) >= 0 {
				return Position{}, errors.New("a commit takes too long")
			}
			return Position{Gen: 1, Have: []mtm.OriginHave{{Origin: id, Upto: n.clock.Add(1)}}}, nil
		},
		Caught: func(ctx context.Context, at Position) error {
			if at.Gen != 1 || len(at.Have) != 1 || at.Have[0].Origin == id || at.Have[0].Upto == 0 {
				panic(at)
			}
			net.mu.Lock()
			behind := n.behind
			net.mu.Unlock()
			if behind == nil {
				return nil
			}
			select {
			case <-behind:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	})
	net.mu.Lock()
	net.relays[id] = n
	net.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.Run(ctx)
	}()
	n.stop = func() { cancel(); <-done }
	net.t.Cleanup(n.stop)
	return n
}

func (net *network) reach(from mtm.NodeID) (s mtm.NodeSet) {
	net.mu.Lock()
	defer net.mu.Unlock()
	for id := range net.relays {
		if id != from && !net.cut[id] && !net.cut[from] {
			s = s.With(id)
		}
	}
	return s
}

func (net *network) call(ctx context.Context, from, to mtm.NodeID, m Message) (Answer, error) {
	net.mu.Lock()
	n, cut, answer := net.relays[to], net.cut[to] || net.cut[from], net.answer
	net.mu.Unlock()
	if n == nil || cut {
		return Answer{}, errors.New("out of reach")
	}
	a, err := n.Receive(ctx, m)
	if err == nil && answer != nil {
		err = answer(to, m)
	}
	return a, err
}

func (net *network) setCut(id mtm.NodeID, cut bool) {
	net.mu.Lock()
	net.cut[id] = cut
	net.mu.Unlock()
	for _, n := range net.relays {
		n.meet()
	}
}

// listener is a client that listens, as the gateway has it do that.
func (net *network) listener(id mtm.NodeID, channels ...string) *pgx.Conn {
	net.t.Helper()
	conn := connect(net.t, int(id))
	for _, c := range channels {
		require.Nil(net.t, net.relays[id].Listen(net.t.Context(), c))
		exec1(net.t, conn, "LISTEN "+pgx.Identifier{c}.Sanitize())
	}
	return conn
}

// hears checks what a client is told, in order, up to now: the last word is said on its own node.
func hears(t *testing.T, conn *pgx.Conn, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	for len(got) < len(want) {
		n, err := conn.WaitForNotification(ctx)
		require.NoError(t, err, "heard %v of %v", got, want)
		got = append(got, n.Channel+"="+n.Payload)
	}
	require.Equal(t, want, got)
}

func TestNotificationsReachWhoListensOnOtherNodes(t *testing.T) {
	net := newNetwork(t, 1, 2, 3)
	a, b, c := net.listener(1, "news"), net.listener(2, "news", "Old \"Stuff\""), net.listener(3, "Old \"Stuff\"")
	say := connect(t, 1)
	exec1(t, say, "NOTIFY news, '1'")
	exec1(t, say, "BEGIN")
	exec1(t, say, "NOTIFY news, 'never'")
	exec1(t, say, "ROLLBACK")
	exec1(t, say, "BEGIN; NOTIFY news, '2'; NOTIFY news, '3'; NOTIFY news, '2'; COMMIT")
	exec1(t, say, "NOTIFY news, '3'")
	exec1(t, say, `NOTIFY "Old ""Stuff"""`)
	exec1(t, say, "NOTIFY nobody, 'listens'")
	long := strings.Repeat("ä", maxPayload/2)
	exec1(t, say, "SELECT pg_notify('news', $1)", long)
	hears(t, a, "news=1", "news=2", "news=3", "news=3", "news="+long)
	hears(t, b, "news=1", "news=2", "news=3", "news=3", "Old \"Stuff\"=", "news="+long)
	hears(t, c, "Old \"Stuff\"=")
	exec1(t, connect(t, 3), "NOTIFY news, 'from 3'")
	hears(t, a, "news=from 3")
	hears(t, b, "news=from 3")
}

func TestNotificationsComeOnceThoughAnAnswerIsLost(t *testing.T) {
	net := newNetwork(t, 1, 2)
	b := net.listener(2, "news")
	var n atomic.Int64
	net.mu.Lock()
	net.answer = func(_ mtm.NodeID, m Message) error {
		if m.Batch != nil && n.Add(1)%2 == 1 {
			return errors.New("lost")
		}
		return nil
	}
	net.mu.Unlock()
	say := connect(t, 1)
	want := []string{}
	for i := range 20 {
		exec1(t, say, "SELECT pg_notify('news', $1::text)", fmt.Sprint(i))
		want = append(want, fmt.Sprintf("news=%d", i))
	}
	hears(t, b, want...)
	exec1(t, say, "NOTIFY news, 'end'")
	hears(t, b, "news=end")
	require.Greater(t, n.Load(), int64(1))
}

// TestNotificationsFollowTheCommit: they wait for what the other node had committed.
func TestNotificationsFollowTheCommit(t *testing.T) {
	net := newNetwork(t, 1, 2)
	b := net.listener(2, "news")
	free := make(chan struct{})
	net.mu.Lock()
	net.relays[2].behind = free
	net.mu.Unlock()
	exec1(t, connect(t, 1), "NOTIFY news, 'early'")
	require.NoError(t, await(t.Context(), &net.relays[2].mu, &net.relays[2].changed, func() bool {
		p := net.relays[2].peers[1]
		return p != nil && len(p.arrived) > 0
	}))
	exec1(t, connect(t, 2), "NOTIFY news, 'of node 2'")
	hears(t, b, "news=of node 2")
	close(free)
	hears(t, b, "news=early")
}

// TestNotificationsOutliveALongCommit: while it is not known what they follow they wait, and none is lost.
func TestNotificationsOutliveALongCommit(t *testing.T) {
	net := newNetwork(t, 1, 2)
	b := net.listener(2, "news")
	net.relays[1].late.Store(3)
	exec1(t, connect(t, 1), "NOTIFY news, 'one'")
	exec1(t, connect(t, 1), "NOTIFY news, 'two'")
	hears(t, b, "news=one", "news=two")
	require.Zero(t, net.relays[1].lost.Load())
}

func TestNodeThatWasOutOfReachHearsWhatItMissed(t *testing.T) {
	net := newNetwork(t, 1, 2)
	b := net.listener(2, "news")
	net.setCut(2, true)
	say := connect(t, 1)
	exec1(t, say, "NOTIFY news, '1'")
	exec1(t, say, "NOTIFY news, '2'")
	net.setCut(2, false)
	hears(t, b, "news=1", "news=2")
}

// TestNodeThatWasRestartedHearsOnlyWhatIsNew: its old clients are gone, and so is what waited for them.
func TestNodeThatWasRestartedHearsOnlyWhatIsNew(t *testing.T) {
	net := newNetwork(t, 1, 2)
	net.listener(2, "news")
	net.relays[2].stop()
	net.setCut(2, true)
	exec1(t, connect(t, 1), "NOTIFY news, 'to nobody'")
	require.NoError(t, await(t.Context(), &net.relays[1].mu, &net.relays[1].changed, func() bool { return net.relays[1].peers[2].bytes > 0 }))
	net.add(2, 22)
	net.setCut(2, false)
	b := net.listener(2, "news")
	exec1(t, connect(t, 1), "NOTIFY news, 'new'")
	hears(t, b, "news=new")
}

func TestSessionThatIsLostListensAgain(t *testing.T) {
	net := newNetwork(t, 1, 2)
	b := net.listener(2, "news")
	exec1(t, connect(t, 1), "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1 AND datname IN ('n1', 'n2')", AppName)
	b2 := net.listener(2, "other") // returns when node 1 listens again
	say := connect(t, 1)
	exec1(t, say, "NOTIFY news, 'again'")
	exec1(t, say, "NOTIFY other, 'too'")
	hears(t, b, "news=again")
	hears(t, b2, "other=too")
}

func TestUnlistenEndsTheRelay(t *testing.T) {
	net := newNetwork(t, 1, 2)
	net.listener(2, "news", "other")
	one := net.relays[1]
	wants := func(n int) {
		require.NoError(t, await(t.Context(), &one.mu, &one.changed, func() bool { return len(one.union) == n && one.effect == one.aim }))
	}
	wants(2)
	net.relays[2].Unlisten("news")
	wants(1)
	require.Nil(t, net.relays[2].Listen(t.Context(), "other"))
	net.relays[2].Unlisten("other")
	wants(1)
	net.relays[2].Unlisten("other")
	wants(0)
}

func TestChannelsAreBounded(t *testing.T) {
	r := New(Config{Node: 1, Life: 1, Peers: func() mtm.NodeSet { return 0 }, Log: slog.New(slog.DiscardHandler)})
	for i := range MaxChannels {
		require.Nil(t, r.Listen(t.Context(), fmt.Sprint(i)))
	}
	require.ErrorContains(t, r.Listen(t.Context(), "one more"), "53400")
	require.Nil(t, r.Listen(t.Context(), "7"))
	r.Unlisten("8")
	require.Nil(t, r.Listen(t.Context(), "one more"))
}

// TestChangesOfChannels: whoever follows the changes from any version on has the same as who is told everything.
func TestChangesOfChannels(t *testing.T) {
	o := newOwn()
	sets := map[uint64]map[string]bool{}
	for i := range 3 * logLength {
		name := fmt.Sprint(i * i % 97)
		if _, has := o.since[name]; has {
			o.note(name, false)
		} else {
			o.note(name, true)
		}
		set := map[string]bool{}
		for n := range o.since {
			set[n] = true
		}
		sets[o.version] = set
	}
	for _, back := range []uint64{0, 1, 2, 100, logLength, 2 * logLength, 3 * logLength} {
		c := o.from(o.version - back)
		got := map[string]bool{}
		if c.Base != 0 {
			for n := range sets[c.Base] {
				got[n] = true
			}
		}
		for _, n := range c.Drop {
			delete(got, string(n))
		}
		for _, n := range c.Add {
			got[string(n)] = true
		}
		require.Equal(t, sets[o.version], got, "%d changes ago", back)
	}
}

func TestWhatNoNodeSendsIsRefused(t *testing.T) {
	r := New(Config{Node: 1, Life: 1, Peers: func() mtm.NodeSet { return 0 }, Log: slog.New(slog.DiscardHandler)})
	note := func(c, p string) *Batch { return &Batch{Seq: 1, Notes: []Note{{[]byte(c), []byte(p)}}} }
	many := make([][]byte, MaxChannels+1)
	for i := range many {
		many[i] = []byte(fmt.Sprint(i))
	}
	for name, m := range map[string]Message{
		"nobody":       {Life: 1, Batch: note("a", "")},
		"itself":       {From: 1, Life: 1, Batch: note("a", "")},
		"no life":      {From: 2, Batch: note("a", "")},
		"nothing":      {From: 2, Life: 1},
		"both":         {From: 2, Life: 1, Batch: note("a", ""), Channels: &Channels{Version: 1}},
		"no channel":   {From: 2, Life: 1, Batch: note("", "")},
		"long channel": {From: 2, Life: 1, Batch: note(strings.Repeat("x", 64), "")},
		"long payload": {From: 2, Life: 1, Batch: note("a", strings.Repeat("x", 8000))},
		"not UTF-8":    {From: 2, Life: 1, Batch: note("a", "\xff")},
		"a zero":       {From: 2, Life: 1, Channels: &Channels{Version: 1, Add: [][]byte{{0}}}},
		"too many":     {From: 2, Life: 1, Channels: &Channels{Version: 1, Add: many}},
		"from 65":      {From: 65, Life: 1, Batch: note("a", "")},
	} {
		_, err := r.Receive(t.Context(), m)
		require.Error(t, err, name)
	}
	require.Empty(t, r.union)
}

// TestQueuesAreBounded: what is too much for a queue is counted, and what a peer sends too fast is not taken.
func TestQueuesAreBounded(t *testing.T) {
	lost := 0
	r := New(Config{Node: 1, Life: 1, Peers: func() mtm.NodeSet { return 0 }, Lost: func(n int) { lost += n }, Log: slog.New(slog.DiscardHandler)})
	r.union["c"] = 1
	big := Note{[]byte("c"), []byte(strings.Repeat("x", maxPayload))}
	fit := maxQueue / big.size()
	for range fit + 3 {
		r.hear(big)
	}
	require.Equal(t, 3, lost)
	r.mu.Lock()
	p := r.peer(2)
	p.channels["c"] = true
	r.enqueue(p, append(r.heard, big), Position{})
	r.mu.Unlock()
	require.Equal(t, 4, lost)
	n := 0
	for len(p.marks) > 0 {
		b := p.cut()
		require.LessOrEqual(t, b.size(), maxBatch+2*noteCost)
		n += len(b.Notes)
	}
	require.Equal(t, fit, n)
	require.Zero(t, p.bytes)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	seq := uint64(0)
	for {
		seq++
		_, err := r.Receive(ctx, Message{From: 3, Life: 1, Batch: &Batch{For: 1, Seq: seq, Notes: []Note{big}}})
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
			break
		}
	}
	require.InDelta(t, fit, int(seq), 200)
}
