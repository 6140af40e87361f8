package faultproxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an echo server (node 2) behind one link from node 1.
type world struct {
	Client
	listen string
	served chan net.Conn // each connection that reached the server, before it is echoed
}

func newWorld(t *testing.T) *world {
	t.Helper()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan net.Conn, 16)
	echoDone := make(chan struct{})
	go func() {
		defer close(echoDone)
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			served <- c
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	p, err := New("127.0.0.1:0", []Link{{Direction{1, 2}, "127.0.0.1:0", echo.Addr().String()}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		echo.Close()
		<-echoDone
	})
	return &world{Client{p.control.Addr().String()}, p.listeners[0].Addr().String(), served}
}

func (w *world) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", w.listen)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c
}

func (w *world) set(t *testing.T, d Direction, r Rule) {
	t.Helper()
	require.NoError(t, w.Set(t.Context(), map[Direction]Rule{d: r}))
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(c, text+"\n")
	require.NoError(t, err)
}

func hear(t *testing.T, c net.Conn) string {
	t.Helper()
	line, err := bufio.NewReader(c).ReadString('\n')
	require.NoError(t, err)
	return line[:len(line)-1]
}

func requireSilence(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(d)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
}

func TestGoodNetworkCarriesAndCloses(t *testing.T) {
	w := newWorld(t)
	c := w.dial(t)
	say(t, c, "hello")
	require.Equal(t, "hello", hear(t, c))
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestManyBytesArriveInOrder(t *testing.T) {
	w := newWorld(t)
	w.set(t, Direction{1, 2}, Rule{Delay: time.Millisecond})
	c := w.dial(t)
	const size = 4 << 20
	go func() {
		buf := make([]byte, size)
		for i := range buf {
			buf[i] = byte(i % 251)
		}
		c.Write(buf)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Len(t, got, size)
	for i, b := range got {
		if b != byte(i%251) {
			t.Fatalf("byte %d is %d", i, b)
		}
	}
}

func TestBlockedBytesArriveAfterHeal(t *testing.T) {
	for _, d := range []Direction{{1, 2}, {2, 1}} {
		t.Run(d.String(), func(t *testing.T) {
			w := newWorld(t)
			c := w.dial(t)
			say(t, c, "before")
			require.Equal(t, "before", hear(t, c))
			w.set(t, d, Rule{Blocked: true})
			say(t, c, "during")
			requireSilence(t, c, 100*time.Millisecond)
			require.NoError(t, w.Heal(t.Context()))
			require.Equal(t, "during", hear(t, c))
		})
	}
}

func TestBlockedDirectionHidesTheEnd(t *testing.T) {
	w := newWorld(t)
	c := w.dial(t)
	say(t, c, "before")
	require.Equal(t, "before", hear(t, c))
	server := <-w.served
	w.set(t, Direction{2, 1}, Rule{Blocked: true})
	require.NoError(t, server.(*net.TCPConn).SetLinger(0))
	require.NoError(t, server.Close())
	requireSilence(t, c, 100*time.Millisecond)
	require.NoError(t, w.Heal(t.Context()))
	_, err := c.Read(make([]byte, 1))
	require.True(t, errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF), "%v", err)
}

func TestBlockedConnectionReachesNobody(t *testing.T) {
	w := newWorld(t)
	w.set(t, Direction{2, 1}, Rule{Blocked: true}) // the way back is enough: no handshake without it
	c := w.dial(t)
	say(t, c, "hello")
	gaveUp := w.dial(t)
	gaveUp.Close()
	requireSilence(t, c, 300*time.Millisecond)
	require.Empty(t, w.served)
	require.NoError(t, w.Heal(t.Context()))
	require.Equal(t, "hello", hear(t, c))
	<-w.served
	require.Empty(t, w.served, "who gave up during the partition must not arrive after it")
}

func TestDelayAndLossComeLate(t *testing.T) {
	w := newWorld(t)
	c := w.dial(t)
	say(t, c, "warm")
	hear(t, c)
	w.set(t, Direction{1, 2}, Rule{Delay: 60 * time.Millisecond})
	start := time.Now()
	say(t, c, "late")
	require.Equal(t, "late", hear(t, c))
	require.GreaterOrEqual(t, time.Since(start), 60*time.Millisecond)

	var lost, total time.Duration
	for range 10000 {
		late := Rule{Loss: 0.05}.lateness(100)
		if total += late; late > 0 {
			lost++
		}
	}
	require.InDelta(t, 500, int(lost), 200)
	require.Greater(t, total, lost*rto-1)
}

func TestRefusedUpstreamIsReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := l.Addr().String()
	l.Close()
	p, err := New("127.0.0.1:0", []Link{{Direction{1, 2}, "127.0.0.1:0", nobody}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	c, err := net.Dial("tcp", p.listeners[0].Addr().String())
	if err == nil { // the reset may be there before the dialler looks
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
	cancel()
	require.NoError(t, <-done)
}

func TestControlRefusesNonsense(t *testing.T) {
	w := newWorld(t)
	require.ErrorContains(t, w.Set(t.Context(), map[Direction]Rule{{1, 2}: {Loss: 2}}), "loss")
	require.ErrorContains(t, w.Set(t.Context(), map[Direction]Rule{{1, 2}: {Delay: time.Hour}}), "delay")
	w.set(t, Direction{1, 2}, Rule{Loss: 0.1})
	rules, err := w.Rules(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[Direction]Rule{{1, 2}: {Loss: 0.1}}, rules)
}

func TestResetBreaksWhatIsOpenAndLetsNewOnesIn(t *testing.T) {
	w := newWorld(t)
	c := w.dial(t)
	defer c.Close()
	<-w.served
	require.NoError(t, w.Reset(t.Context(), Direction{2, 1}))
	echoed(t, c)
	require.NoError(t, w.Reset(t.Context(), Direction{1, 2}))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	again := w.dial(t)
	defer again.Close()
	<-w.served
	echoed(t, again)
}

// echoed sends a byte and gets it back.
func echoed(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := c.Write([]byte{'x'})
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err)
}

func TestResetLateDeliversOldBytesBehindNewOnes(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer server.Close()
	p, err := New("127.0.0.1:0", []Link{{Direction{1, 2}, "127.0.0.1:0", server.Addr().String()}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	w := &world{Client{p.control.Addr().String()}, p.listeners[0].Addr().String(), nil}
	old := w.dial(t)
	oldEnd, err := server.Accept()
	require.NoError(t, err)
	defer oldEnd.Close()
	w.set(t, Direction{1, 2}, Rule{Delay: time.Second})
	say(t, old, "old")
	requireSilence(t, oldEnd, 10*time.Millisecond) // it is on its way
	w.set(t, Direction{1, 2}, Rule{})
	require.NoError(t, w.ResetLate(t.Context(), Direction{1, 2}))
	_, err = old.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	again := w.dial(t)
	say(t, again, "new")
	newEnd, err := server.Accept()
	require.NoError(t, err)
	defer newEnd.Close()
	require.Equal(t, "new", hear(t, newEnd))
	requireSilence(t, oldEnd, 10*time.Millisecond)
	require.Equal(t, "old", hear(t, oldEnd))
	_, err = oldEnd.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	cancel()
	require.NoError(t, <-done)
}
