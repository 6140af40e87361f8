package dmq

import (
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	protobuf "google.golang.org/protobuf/proto"

	"mtm"
	"mtm/proto/mtmpb"
)

// arrival is a large payload that is being received.
type arrival struct {
	l            *link
	mine, theirs end
	seq, floor   uint64
	message      mtm.Message
	size         int // of the message, in memory
}

// Bulk receives one large payload into a spill file of this node, then delivers its message.
func (s *server) Bulk(rpc grpc.ClientStreamingServer[mtmpb.BulkChunk, mtmpb.BulkAck]) error {
	a, err := s.q.bulkHead(rpc)
	if err != nil {
		return err
	}
	fresh, err := a.claim()
	if err != nil {
		return err
	}
	if fresh {
		if err := a.receive(rpc, s.q.cfg.Spills); err != nil {
			a.release()
			if !errors.Is(err, errStale) {
				a.l.logger().Warn("large payload was not received", keyError, err)
			}
			return refusal(err)
		}
	}
	return rpc.SendAndClose(&mtmpb.BulkAck{})
}

func (q *Queue) bulkHead(rpc grpc.ClientStreamingServer[mtmpb.BulkChunk, mtmpb.BulkAck]) (*arrival, error) {
	first, err := rpc.Recv()
	if err != nil {
		return nil, err
	}
	head := first.GetHead()
	l, err := q.hello(rpc.Context(), head.GetHello())
	if err != nil {
		return nil, err
	}
	m, err := l.decode(head.Message)
	if err != nil {
		return nil, status.Error(codes.DataLoss, err.Error())
	}
	if payloadOf(m.Body).Spill == "" || head.Seq == 0 {
		return nil, status.Error(codes.DataLoss, "dmq: no large payload")
	}
	if q.cfg.Spills == nil {
		return nil, status.Error(codes.DataLoss, "dmq: no spill files are configured")
	}
	return &arrival{l: l, mine: decodeEnd(head.Peer), theirs: decodeEnd(head.Hello.End), seq: head.Seq, floor: head.Floor,
		message: m, size: protobuf.Size(head.Message)}, nil
}

// claim makes sure that no other attempt brings the same payload. fresh is false if it has been delivered.
func (a *arrival) claim() (fresh bool, err error) {
	l := a.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if !a.current() {
		return false, status.Error(codes.Aborted, errStale.Error())
	}
	for seq, delivered := range l.inBulk {
		if delivered && seq < a.floor {
			delete(l.inBulk, seq)
		}
	}
	delivered, known := l.inBulk[a.seq]
	if known && !delivered {
		return false, status.Error(codes.Aborted, "dmq: the payload is arriving by another connection")
	}
	if !known && len(l.inBulk) > l.cfg.MaxQueue {
		return false, status.Error(codes.ResourceExhausted, "dmq: too many large payloads")
	}
	if !known {
		l.inBulk[a.seq] = false
	}
	return !known, nil
}

// current reports whether the link is up between the ends that a belongs to.
func (a *arrival) current() bool {
	return a.l.up && a.l.mine == a.mine && a.l.theirs == a.theirs
}

// release lets another attempt try.
func (a *arrival) release() {
	a.l.mu.Lock()
	defer a.l.mu.Unlock()
	if a.l.theirs == a.theirs && !a.l.inBulk[a.seq] {
		delete(a.l.inBulk, a.seq)
	}
}

// receive fills a spill file and delivers the message.
func (a *arrival) receive(rpc grpc.ClientStreamingServer[mtmpb.BulkChunk, mtmpb.BulkAck], spills Spills) error {
	payload := payloadOf(a.message.Body)
	w, err := spills.Create()
	if err != nil {
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	defer w.Abort() // nothing, after Commit
	if err := receiveChunks(rpc, w, payload.Size); err != nil {
		return err
	}
	if !a.stillCurrent() {
		return errStale
	}
	if err := w.Commit(); err != nil {
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	payload.Spill = w.Name()
	a.message.Body = withPayload(a.message.Body, payload)
	return a.deliver()
}

// payloadOf is the payload of a message that may carry a large one; else it is empty.
func payloadOf(b mtm.Body) mtm.Payload {
	switch b := b.(type) {
	case mtm.Prepare:
		return b.Payload
	case mtm.RecoverTxn:
		return b.Payload
	}
	return mtm.Payload{}
}

// withPayload is b, which carries a large payload, with p instead.
func withPayload(b mtm.Body, p mtm.Payload) mtm.Body {
	switch b := b.(type) {
	case mtm.Prepare:
		b.Payload = p
		return b
	case mtm.RecoverTxn:
		b.Payload = p
		return b
	}
	return b
}

func (a *arrival) stillCurrent() bool {
	a.l.mu.Lock()
	defer a.l.mu.Unlock()
	return a.current()
}

func (a *arrival) deliver() error {
	a.l.mu.Lock()
	defer a.l.mu.Unlock()
	if !a.current() {
		return errStale
	}
	a.l.inBulk[a.seq] = true
	a.l.stats.received++
	a.l.box.put(event{message: a.message, size: a.size})
	return nil
}

// receiveChunks takes exactly size bytes and compares their checksum.
func receiveChunks(rpc grpc.ClientStreamingServer[mtmpb.BulkChunk, mtmpb.BulkAck], w SpillWriter, size int64) error {
	sum, got := uint32(0), int64(0)
	for {
		chunk, err := rpc.Recv()
		if err != nil {
			return fmt.Errorf("large payload, %d bytes of %d: %w", got, size, err)
		}
		if t := chunk.Tail; t != nil {
			if got != size || t.Crc32C != sum {
				return status.Errorf(codes.DataLoss, "dmq: large payload of %d bytes: %d arrived, checksum %08x, not %08x",
					size, got, sum, t.Crc32C)
			}
			return nil
		}
		if got += int64(len(chunk.Data)); got > size {
			return status.Errorf(codes.DataLoss, "dmq: large payload is longer than its %d bytes", size)
		}
		sum = crc32.Update(sum, castagnoli, chunk.Data)
		if _, err := w.Write(chunk.Data); err != nil {
			return status.Error(codes.ResourceExhausted, err.Error())
		}
	}
}
