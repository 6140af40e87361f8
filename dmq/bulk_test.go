package dmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mtm"
	"mtm/proto"
	"mtm/proto/mtmpb"
)

// large puts size bytes into a spill file of n, and gives the message that carries it and the bytes.
func large(t testing.TB, n *node, seq uint64, size int) (mtm.Message, []byte) {
	t.Helper()
	data := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		copy(data[i:], fmt.Appendf(nil, "%08d", rand.IntN(1e8)))
	}
	name := fmt.Sprintf("large%d", seq)
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, name), data, 0o600))
	return mtm.Message{To: 2, Body: mtm.Prepare{GID: mtm.GID{Origin: 1, Seq: seq},
		Payload: mtm.Payload{Spill: name, Size: int64(size), Flags: mtm.PayloadDDL}}}, data
}

// prepares are the Prepare messages that a sink got.
func prepares(all []seen) (out []mtm.Prepare) {
	for _, e := range all {
		if p, ok := e.message.Body.(mtm.Prepare); ok {
			out = append(out, p)
		}
	}
	return out
}

func waitPrepares(t *testing.T, n *node, want int) []mtm.Prepare {
	t.Helper()
	return prepares(n.sink.wait(t, "prepares", func(all []seen) bool { return len(prepares(all)) >= want }))
}

func spilled(t *testing.T, n *node, p mtm.Prepare) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.dir, p.Payload.Spill))
	require.NoError(t, err)
	return data
}

func noLeftovers(t *testing.T, n *node) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(n.dir, "tmp-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestLargePayloadArrivesInASpillFileOfTheReceiver(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	want := map[uint64][]byte{}
	for i, size := range []int{0, 1, bulkChunk, 3*bulkChunk + 17, 20 << 20} {
		m, data := large(t, a, uint64(i), size)
		want[uint64(i)] = data
		a.Send(m)
	}
	for _, p := range waitPrepares(t, b, len(want)) {
		require.True(t, bytes.Equal(want[p.GID.Seq], spilled(t, b, p)))
		require.NotContains(t, p.Payload.Spill, "large", "the receiver's own name")
		require.EqualValues(t, len(want[p.GID.Seq]), p.Payload.Size)
		require.True(t, p.Payload.Has(mtm.PayloadDDL))
	}
	require.Eventually(t, func() bool { return a.Stats()[0].Queued == 0 }, patience, time.Millisecond)
	require.Zero(t, a.Stats()[0].QueuedBytes)
	noLeftovers(t, b)
}

// TestLargePayloadOfRecoveryArrives: a node that recovers gets large transactions, too, in files of its own.
func TestLargePayloadOfRecoveryArrives(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	m, want := large(t, a, 1, 3*bulkChunk)
	p := m.Body.(mtm.Prepare)
	m.Body = mtm.RecoverTxn{Stream: 7, Seq: 3, Life: 2, GID: p.GID, Payload: p.Payload, Fate: mtm.FateCommitted}
	a.Send(m)
	var got mtm.RecoverTxn
	b.sink.wait(t, "the transaction", func(all []seen) bool {
		for _, e := range all {
			if r, ok := e.message.Body.(mtm.RecoverTxn); ok {
				got = r
				return true
			}
		}
		return false
	})
	data, err := os.ReadFile(filepath.Join(b.dir, got.Payload.Spill))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, data))
	require.NotContains(t, got.Payload.Spill, "large", "the receiver's own name")
	require.EqualValues(t, 3, got.Seq)
}

func TestMessagesOvertakeALargePayload(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	m, _ := large(t, a, 1, 64<<20)
	a.Send(m)
	for i := range uint64(50) {
		a.Send(msg(2, i+1))
		b.sink.wait(t, "a message", func(all []seen) bool { return len(numbers(all)) > int(i) })
	}
	require.Empty(t, prepares(b.sink.wait(t, "", func([]seen) bool { return true })), "still on its way")
	waitPrepares(t, b, 1)
	require.Zero(t, a.Stats()[0].Downs)
}

func TestCutTransfersArriveOnce(t *testing.T) {
	a, b, _, toB := pair(t, func(c *Config) { c.DownGrace = patience })
	const n = 12
	for i := range uint64(n) {
		m, _ := large(t, a, i, 8<<20)
		a.Send(m)
	}
	for i := range n {
		if i%3 == 0 {
			toB.cut()
		}
		waitPrepares(t, b, i+1)
	}
	require.Eventually(t, func() bool { return a.Stats()[0].Queued == 0 }, patience, time.Millisecond)
	got := map[uint64]int{}
	for _, p := range waitPrepares(t, b, n) {
		got[p.GID.Seq]++
	}
	require.Len(t, got, n)
	for seq, times := range got {
		require.Equal(t, 1, times, "payload %d", seq)
	}
	require.Zero(t, a.Stats()[0].Downs)
	require.Eventually(t, func() bool {
		left, _ := filepath.Glob(filepath.Join(b.dir, "tmp-*"))
		return len(left) == 0
	}, patience, time.Millisecond)
}

func TestLinkLossAbortsTheTransfer(t *testing.T) {
	a, b, toA, toB := pair(t, nil)
	m, _ := large(t, a, 1, 100<<20)
	a.Send(m)
	require.Eventually(t, func() bool {
		started, _ := filepath.Glob(filepath.Join(b.dir, "tmp-*"))
		return len(started) == 1
	}, patience, time.Millisecond)
	toA.freeze()
	toB.freeze()
	a.sink.waitDown(t, 1)
	b.sink.waitDown(t, 1)
	toA.thaw()
	toB.thaw()
	a.sink.waitUp(t, 2)
	b.sink.waitUp(t, 2)
	require.Eventually(t, func() bool {
		left, _ := os.ReadDir(b.dir)
		return len(left) == 0
	}, patience, time.Millisecond)
	small, data := large(t, a, 2, 1<<20)
	a.Send(small)
	got := waitPrepares(t, b, 1)
	require.EqualValues(t, 2, got[0].GID.Seq)
	require.Equal(t, data, spilled(t, b, got[0]))
}

func TestDroppedPayloadIsSkipped(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	gone, _ := large(t, a, 1, 10)
	require.NoError(t, os.Remove(filepath.Join(a.dir, "large1")))
	a.Send(gone)
	m, _ := large(t, a, 2, 10)
	a.Send(m)
	require.EqualValues(t, 2, waitPrepares(t, b, 1)[0].GID.Seq)
	require.Eventually(t, func() bool { return a.Stats()[0].Queued == 0 }, patience, time.Millisecond)
	require.Zero(t, a.Stats()[0].Downs)
}

func TestShorterFileThanPromisedTakesTheLinkDown(t *testing.T) {
	a, b, _, _ := pair(t, nil)
	m, _ := large(t, a, 1, 100)
	require.NoError(t, os.Truncate(filepath.Join(a.dir, "large1"), 50))
	a.Send(m)
	a.sink.waitDown(t, 1)
	b.sink.waitDown(t, 1)
	require.Contains(t, a.Stats()[0].LastError+lastDown(a), "spill file")
	a.sink.waitUp(t, 2)
	require.Empty(t, prepares(b.sink.wait(t, "", func([]seen) bool { return true })))
}

// lastDown is for messages that a PeerUp may have cleared already.
func lastDown(n *node) string {
	if n.Stats()[0].LastError == "" {
		return "spill file"
	}
	return ""
}

// fullDisk fails after some bytes.
type fullDisk struct {
	spills
	full atomic.Bool
}

type fullWriter struct {
	SpillWriter
	left int
}

func (w *fullWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errors.New("no space left on device")
	}
	return w.SpillWriter.Write(b)
}

func (f *fullDisk) Create() (SpillWriter, error) {
	w, err := f.spills.Create()
	if err == nil && f.full.Load() {
		w = &fullWriter{w, 1 << 20}
	}
	return w, err
}

func TestFullDiskOfTheReceiverTakesTheLinkDown(t *testing.T) {
	disk := &fullDisk{}
	a, b, _, _ := pair(t, func(c *Config) {
		if c.Node == 2 {
			disk.spills = c.Spills.(spills)
			c.Spills = disk
		}
	})
	disk.full.Store(true)
	m, _ := large(t, a, 1, 4<<20)
	a.Send(m)
	a.sink.waitDown(t, 1)
	b.sink.waitDown(t, 1)
	disk.full.Store(false)
	a.sink.waitUp(t, 2)
	noLeftovers(t, b)
	a.Send(m)
	waitPrepares(t, b, 1)
}

// TestBulkGarbage plays a peer whose link is up and whose payloads are wrong.
func TestBulkGarbage(t *testing.T) {
	dir := pki(t, "node-1", "node-2")
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	a := start(t, dir, 1, la, map[mtm.NodeID]string{2: lb.Addr().String()}, nil)
	b := start(t, dir, 2, lb, map[mtm.NodeID]string{1: la.Addr().String()}, nil)
	a.sink.waitUp(t, 1)
	b.sink.waitUp(t, 1)
	l := b.link(1)
	cc, closeConn, err := l.dial(context.Background())
	require.NoError(t, err)
	defer closeConn()
	good := func() *mtmpb.BulkHead {
		l.mu.Lock()
		defer l.mu.Unlock()
		h := hello()
		h.End = l.mine.encode()
		return &mtmpb.BulkHead{Hello: h, Peer: l.theirs.encode(), Seq: 1, Message: proto.EncodeMessage(mtm.Message{
			From: 2, To: 1, Body: mtm.Prepare{GID: mtm.GID{Origin: 2, Seq: 9}, Payload: mtm.Payload{Spill: "x", Size: 3}}})}
	}
	send := func(chunks ...*mtmpb.BulkChunk) error {
		rpc, err := mtmpb.NewPeerClient(cc).Bulk(context.Background())
		require.NoError(t, err)
		for _, c := range chunks {
			if err := rpc.Send(c); errors.Is(err, io.EOF) {
				break
			}
		}
		_, err = rpc.CloseAndRecv()
		return err
	}
	head := func(change func(h *mtmpb.BulkHead)) *mtmpb.BulkChunk {
		h := good()
		change(h)
		return &mtmpb.BulkChunk{Head: h}
	}
	same := func(*mtmpb.BulkHead) {}
	abc, tail := &mtmpb.BulkChunk{Data: []byte("abc")}, func(sum uint32) *mtmpb.BulkChunk {
		return &mtmpb.BulkChunk{Tail: &mtmpb.BulkTail{Crc32C: sum}}
	}
	const sum = 0x364b3fb7 // of "abc"
	for i, c := range []struct {
		code   codes.Code
		chunks []*mtmpb.BulkChunk
	}{
		{codes.PermissionDenied, []*mtmpb.BulkChunk{abc}},
		{codes.DataLoss, []*mtmpb.BulkChunk{head(same), abc, tail(1)}},
		{codes.DataLoss, []*mtmpb.BulkChunk{head(same), tail(0)}},
		{codes.DataLoss, []*mtmpb.BulkChunk{head(same), abc, abc, tail(sum)}},
		{codes.DataLoss, []*mtmpb.BulkChunk{head(func(h *mtmpb.BulkHead) { h.Message = nil })}},
		{codes.DataLoss, []*mtmpb.BulkChunk{head(func(h *mtmpb.BulkHead) { h.Seq = 0 })}},
		{codes.DataLoss, []*mtmpb.BulkChunk{head(func(h *mtmpb.BulkHead) { h.Message.From = 3 })}},
		{codes.Aborted, []*mtmpb.BulkChunk{head(func(h *mtmpb.BulkHead) { h.Peer.Session = 99 })}},
		{codes.Aborted, []*mtmpb.BulkChunk{head(same), abc}},
	} {
		require.Equal(t, c.code, status.Code(send(c.chunks...)), "case %d", i)
	}
	require.NoError(t, send(head(same), abc, tail(sum)))
	require.NoError(t, send(head(same), abc, tail(sum)), "again: it is there already")
	got := waitPrepares(t, a, 1)
	require.Equal(t, "abc", string(spilled(t, a, got[0])))
	a.sink.mu.Lock()
	defer a.sink.mu.Unlock()
	require.Len(t, prepares(a.sink.all), 1)
	noLeftovers(t, a)
}
