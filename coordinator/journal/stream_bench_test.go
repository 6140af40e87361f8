package journal

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/coordinator"
)

// BenchmarkStream: what a donor's journal gives to a node that lacks all of it, and to one that lacks nothing but the last
// transaction. Transactions have payloads of 400 bytes, and the records that a member writes of them.
func BenchmarkStream(b *testing.B) {
	j, err := Open(b.TempDir(), Options{Logger: quiet})
	require.NoError(b, err)
	defer j.Close()
	const n = 300_000
	var batch []mtm.Record
	for seq := uint64(1); seq <= n; seq++ {
		gid := gidOf(1, seq)
		p := prepare(gid)
		p.Payload.Data = make([]byte, 400)
		batch = append(batch, p, mtm.RecAccept{GID: gid, Ballot: mtm.Ballot{Node: 1}, Commit: true}, commit(gid))
		if seq%100 == 0 {
			_, err := j.Append(batch, false)
			require.NoError(b, err)
			batch = batch[:0]
		}
	}
	j.fill(b, true, markOf(2, mtm.Nodes(1, 3)))
	bytes := float64(len(j.segments)-1)*float64(j.size) + float64(j.offset)
	for name, have := range map[string]uint64{"all": 0, "last": n - 1} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				done := make(chan struct{})
				var s *Streamer
				acks := make(chan uint64, 1<<20)
				s = NewStreamer(j, StreamConfig{Log: quiet, Send: func(m mtm.Message) {
					switch body := m.Body.(type) {
					case mtm.RecoverTxn:
						if body.Seq%64 == 0 {
							acks <- body.Seq
						}
					case mtm.RecoverDone:
						if body.Gen > 0 {
							close(acks)
							close(done)
						}
					}
				}})
				r := &receiver{t: b, s: s}
				go func() {
					for seq := range acks {
						s.Acked(coordinator.StreamAcked{To: 3, Stream: 1, Seq: seq})
					}
				}()
				stop := r.serve()
				began := time.Now()
				req := request(1, 2)
				req.Have = []mtm.OriginHave{{Origin: 1, Upto: have}}
				s.Stream(coordinator.StreamJournal{To: 3, Request: req})
				<-done
				took := time.Since(began).Seconds()
				stop()
				b.ReportMetric(bytes/(1<<20)/took, "MiB/s")
				b.ReportMetric(float64(n)/took, "tx/s")
			}
		})
	}
}
