package logrep

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
)

// BenchmarkCapture: from the answer to PREPARE TRANSACTION to Captured; below zero when decoding was faster.
func BenchmarkCapture(b *testing.B) {
	p := newPair(b, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)")
	var took []time.Duration
	for b.Loop() {
		gid := p.gid()
		require.NoError(b, run(context.Background(), p.a.conn, "BEGIN; UPDATE t SET v = v + 1; "+gid.SQL("PREPARE TRANSACTION")))
		answered := time.Now()
		p.capture.Expect(gid)
		c := wait(b, p.sink.captured, "Captured")
		took = append(took, c.at.Sub(answered))
		p.finishA.Finish(gid, true)
		wait(b, p.sink.finished, "Finished")
		p.capture.Ack(c.lsn)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}

// updatePayload is one that updates row id of t.
func updatePayload(b *testing.B, p *pair) mtm.Payload {
	c := p.prepare("UPDATE t SET v = v + 1 WHERE id = 1")
	p.finishA.Finish(c.gid, true)
	wait(b, p.sink.finished, "Finished")
	return c.p
}

// BenchmarkApply: a single-row update, one at a time: the time of one apply and of one finish.
func BenchmarkApply(b *testing.B) {
	for _, mode := range []string{"one-write", "two-writes"} {
		b.Run(mode, func(b *testing.B) {
			p := newPair(b, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)")
			payload := updatePayload(b, p)
			if mode == "two-writes" {
				payload.Flags |= mtm.PayloadDDL // is not checked in SQL
			}
			var apply, finish time.Duration
			for b.Loop() {
				gid, start := p.gid(), time.Now()
				require.Nil(b, p.apply(captured{gid: gid, p: payload}))
				apply += time.Since(start)
				start = time.Now()
				p.finishB.Finish(gid, true)
				wait(b, p.sink.finished, "Finished")
				finish += time.Since(start)
			}
			b.ReportMetric(float64(apply.Microseconds())/float64(b.N), "µs-apply")
			b.ReportMetric(float64(finish.Microseconds())/float64(b.N), "µs-finish")
		})
	}
}

// BenchmarkApplyParallel: single-row updates of different rows, 32 at once.
func BenchmarkApplyParallel(b *testing.B) {
	for _, mode := range []string{"one-write", "two-writes"} {
		b.Run(mode, func(b *testing.B) {
			p := newPair(b, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 32) g")
			var payloads []mtm.Payload
			for i := range 32 {
				c := p.prepare(fmt.Sprintf("UPDATE t SET v = v + 1 WHERE id = %d", i+1))
				p.finishA.Finish(c.gid, true)
				wait(b, p.sink.finished, "Finished")
				if mode == "two-writes" {
					c.p.Flags |= mtm.PayloadDDL
				}
				payloads = append(payloads, c.p)
			}
			b.ResetTimer()
			sent := 0
			next := func() {
				if sent < b.N {
					p.applier.Apply(p.gid(), 0, payloads[sent%32])
					sent++
				}
			}
			for range 32 {
				next()
			}
			for done := 0; done < b.N; {
				select {
				case r := <-p.sink.applied:
					require.Nil(b, r.err)
					p.finishB.Finish(r.gid, true)
				case <-p.sink.finished:
					done++
					next()
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
		})
	}
}

// BenchmarkMillionRows: COPY of a million rows, captured and applied. The heap is what this process held at most.
func BenchmarkMillionRows(b *testing.B) {
	p := newPair(b, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	for b.Loop() {
		var peak atomic.Uint64
		var watch sync.WaitGroup
		stop := make(chan struct{})
		runtime.GC()
		watch.Go(func() {
			var m runtime.MemStats
			for {
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), m.HeapInuse))
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
		p.a.exec("TRUNCATE t")
		p.b.exec("TRUNCATE t")
		start := time.Now()
		gid := p.gid()
		p.a.exec("BEGIN; INSERT INTO t SELECT g, 'some text for row ' || g FROM generate_series(1, 1000000) g")
		p.a.exec(gid.SQL("PREPARE TRANSACTION"))
		prepared := time.Since(start)
		c := wait(b, p.sink.captured, "Captured")
		capturedAfter := time.Since(start) - prepared
		start = time.Now()
		require.Nil(b, p.apply(c))
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-apply")
		b.ReportMetric(float64(prepared.Milliseconds()), "ms-origin")
		b.ReportMetric(float64(capturedAfter.Milliseconds()), "ms-capture-after")
		p.finish(c.gid, true)
		p.capture.Ack(c.lsn)
		close(stop)
		watch.Wait()
		b.ReportMetric(float64(peak.Load())/(1<<20), "MiB-heap")
	}
}
