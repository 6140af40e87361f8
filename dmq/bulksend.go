package dmq

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mtm/proto"
	"mtm/proto/mtmpb"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// bulkAttempts is how often a transfer is begun within one session before the link counts as broken.
const bulkAttempts = 5

// job is one large payload to send, and the session that it belongs to.
type job struct {
	largeItem
	mine, theirs end
	floor        uint64
}

// runBulk sends large payloads, one at a time, until ctx is done.
func (l *link) runBulk(ctx context.Context) error {
	for ctx.Err() == nil {
		jobCtx, cancel := context.WithCancel(ctx)
		if j, ok := l.takeJob(cancel); ok {
			l.runJob(jobCtx, j)
		} else {
			select {
			case <-l.bulk:
			case <-ctx.Done():
			}
		}
		cancel()
	}
	return nil
}

func (l *link) takeJob(cancel context.CancelFunc) (job, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	it, ok := l.large.take(cancel)
	if !ok {
		return job{}, false
	}
	if len(l.large.waiting) > 0 {
		signal(l.bulk) // for another worker
	}
	return job{largeItem: it, mine: l.mine, theirs: l.theirs, floor: l.large.floor()}, true
}

// runJob sends j, again if the connection breaks, until the peer has it or ctx, the session's, is done.
func (l *link) runJob(ctx context.Context, j job) {
	for n := 1; ctx.Err() == nil; n++ {
		err := l.sendBulk(ctx, j)
		switch code := status.Code(err); {
		case err == nil:
			l.jobDone(j)
			return
		case errors.Is(err, fs.ErrNotExist): // its owner has dropped it: nobody needs it any more
			l.logger().Info("large payload was dropped before it was sent", keyError, err)
			l.jobDone(j)
			return
		case ctx.Err() != nil:
			return
		case n == bulkAttempts || code == codes.ResourceExhausted || code == codes.DataLoss:
			l.downSession(j.mine, fmt.Errorf("large payload: %w", err))
			return
		}
		sleep(ctx, jitter(backoff(n)))
	}
}

// jobDone forgets j: the peer has it.
func (l *link) jobDone(j job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mine == j.mine {
		delete(l.large.active, j.seq)
		l.bytes -= j.size
	}
}

// downSession is down, if mine is still this end of the link.
func (l *link) downSession(mine end, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mine == mine {
		l.downLocked(err)
	}
}

// spilledIn is the payload that m carries, if it is a message that may carry a large one; else nil.
func spilledIn(m *mtmpb.Message) *mtmpb.Payload {
	if t := m.GetRecoverTxn(); t != nil {
		return t.GetPayload()
	}
	return m.GetPrepare().GetPayload()
}

// sendBulk makes one attempt, on a connection of its own.
func (l *link) sendBulk(ctx context.Context, j job) error {
	payload := spilledIn(j.message)
	if l.cfg.Spills == nil {
		return status.Error(codes.DataLoss, "dmq: no spill files are configured")
	}
	file, err := l.cfg.Spills.Open(payload.Spill)
	if err != nil {
		return err
	}
	defer file.Close()
	cc, closeConn, err := l.dial(ctx)
	if err != nil {
		return err
	}
	defer closeConn()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(bulkStall, func() { cancel(fmt.Errorf("no progress for %v", bulkStall)) })
	defer stall.Stop()
	rpc, err := mtmpb.NewPeerClient(cc).Bulk(ctx)
	if err != nil {
		return cause(ctx, err)
	}
	err = rpc.Send(&mtmpb.BulkChunk{Head: &mtmpb.BulkHead{
		Hello: &mtmpb.Hello{Version: proto.WireVersion, Cluster: l.cfg.Cluster, From: uint32(l.cfg.Node),
			To: uint32(l.node), End: j.mine.encode()},
		Peer: j.theirs.encode(), Seq: j.seq, Floor: j.floor, Message: j.message,
	}})
	if err == nil {
		err = sendChunks(rpc, file, payload.Size, func() { stall.Reset(bulkStall) })
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the receiver has refused, and CloseAndRecv says why
		return cause(ctx, err)
	}
	_, err = rpc.CloseAndRecv()
	return cause(ctx, err)
}

// sendChunks streams size bytes of file, then their checksum. A file of another size is data loss.
func sendChunks(rpc grpc.ClientStreamingClient[mtmpb.BulkChunk, mtmpb.BulkAck], file io.Reader, size int64,
	progress func()) error {
	buf, sum, left := make([]byte, bulkChunk), uint32(0), size
	for left > 0 {
		n, err := io.ReadFull(file, buf[:min(left, bulkChunk)])
		if err != nil {
			return status.Errorf(codes.DataLoss, "dmq: spill file: %v with %d bytes of %d to come", err, left, size)
		}
		left -= int64(n)
		sum = crc32.Update(sum, castagnoli, buf[:n])
		if err := rpc.Send(&mtmpb.BulkChunk{Data: buf[:n]}); err != nil {
			return err
		}
		progress()
	}
	return rpc.Send(&mtmpb.BulkChunk{Tail: &mtmpb.BulkTail{Crc32C: sum}})
}
