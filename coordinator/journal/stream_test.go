package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"mtm"
	"mtm/coordinator"
)

// small is a journal with segments of 8 KiB.
func small(t testing.TB, dir string, r Retention) *Journal {
	t.Helper()
	j, err := Open(dir, Options{SegmentSize: minSegment, Logger: quiet, Retention: r})
	require.NoError(t, err)
	j.size = 8 << 10
	t.Cleanup(func() { j.Close() })
	return j
}

// receiver is the node that recovers: it keeps what came with a place in the order, and acknowledges it.
type receiver struct {
	t     testing.TB
	s     *Streamer
	stop  func()
	mu    sync.Mutex
	got   map[uint64][]mtm.Body // by stream
	alive int
	lazy  bool // acknowledges nothing by itself
	bytes int  // of the payloads that were not acknowledged
	most  int
	came  chan struct{}
	fails chan error
	other chan mtm.Message
}

func newReceiver(t testing.TB, j *Journal, cfg StreamConfig) *receiver {
	r := &receiver{t: t, got: map[uint64][]mtm.Body{}, came: make(chan struct{}, 1), fails: make(chan error, 10), other: make(chan mtm.Message, 10)}
	cfg.Log, cfg.Send = quiet, r.send
	cfg.Failed = func(_ mtm.NodeID, err error) { r.fails <- err }
	r.s = NewStreamer(j, cfg)
	r.stop = r.serve()
	t.Cleanup(r.stop)
	return r
}

// serve runs the streamer until the function that it returns is called.
func (r *receiver) serve() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return r.s.Run(ctx) })
	return sync.OnceFunc(func() {
		cancel()
		require.ErrorIs(r.t, g.Wait(), context.Canceled)
	})
}

func (r *receiver) send(m mtm.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var stream, seq uint64
	switch b := m.Body.(type) {
	case mtm.RecoverTxn:
		stream, seq = b.Stream, b.Seq
		r.bytes += len(b.Payload.Data)
		r.most = max(r.most, r.bytes)
	case mtm.RecoverDone:
		stream, seq = b.Stream, b.Seq
		if b.Seq == 0 {
			r.alive++
			r.signal()
			return
		}
	default:
		r.other <- m
		return
	}
	r.got[stream] = append(r.got[stream], m.Body)
	if len(r.got[stream]) != int(seq) {
		r.t.Errorf("stream %d: number %d in place %d", stream, seq, len(r.got[stream]))
	}
	if !r.lazy {
		go r.ack(m.To, stream, seq)
	}
	r.signal()
}

func (r *receiver) ack(to mtm.NodeID, stream, seq uint64) {
	r.mu.Lock()
	if n := int(seq); n <= len(r.got[stream]) {
		if b, ok := r.got[stream][n-1].(mtm.RecoverTxn); ok {
			r.bytes -= len(b.Payload.Data)
		}
	}
	r.mu.Unlock()
	r.s.Acked(coordinator.StreamAcked{To: to, Stream: stream, Seq: seq})
}

func (r *receiver) signal() {
	select {
	case r.came <- struct{}{}:
	default:
	}
}

// until waits for what came to satisfy ok.
func (r *receiver) until(stream uint64, ok func([]mtm.Body) bool) []mtm.Body {
	r.t.Helper()
	late := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		got := slices.Clone(r.got[stream])
		r.mu.Unlock()
		if ok(got) {
			return got
		}
		select {
		case <-r.came:
		case err := <-r.fails:
			require.NoError(r.t, err)
		case <-late:
			require.Fail(r.t, "it does not come", "%v", words(got))
		}
	}
}

// livedPast: more signs of life than n came.
func (r *receiver) livedPast(n int) func([]mtm.Body) bool {
	return func([]mtm.Body) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.alive > n
	}
}

// words is what a stream said, without its repeated ends.
func words(got []mtm.Body) []string {
	var all []string
	for _, b := range got {
		word := ""
		switch b := b.(type) {
		case mtm.RecoverTxn:
			word = fmt.Sprintf("%s %s %q", []string{"undecided", "commit", "abort"}[b.Fate], b.GID, strings.Trim(string(b.Payload.Data), "x"))
			if b.Payload.Spill != "" {
				word += " in " + b.Payload.Spill
			}
		case mtm.RecoverDone:
			word = "end"
			if b.Gen > 0 {
				word = fmt.Sprintf("mark %d", b.Gen)
			}
		}
		if word != "end" || len(all) == 0 || all[len(all)-1] != "end" {
			all = append(all, word)
		}
	}
	return all
}

func ended(got []mtm.Body) bool {
	if len(got) == 0 {
		return false
	}
	_, ok := got[len(got)-1].(mtm.RecoverDone)
	return ok
}

func marked(got []mtm.Body) bool {
	if len(got) == 0 {
		return false
	}
	d, ok := got[len(got)-1].(mtm.RecoverDone)
	return ok && d.Gen > 0
}

func gidOf(origin mtm.NodeID, seq uint64) mtm.GID { return mtm.GID{Origin: origin, Gen: 1, Seq: seq} }

func prepare(gid mtm.GID) mtm.RecPrepare {
	data := []byte(gid.String())
	return mtm.RecPrepare{GID: gid, Age: gid.Seq, Acceptors: mtm.Nodes(1, gid.Origin+1), Payload: mtm.Payload{Data: data, Size: int64(len(data))}}
}

func again(gid mtm.GID) mtm.RecPrepare { // as a checkpoint repeats it
	p := prepare(gid)
	p.Payload.Data = nil
	return p
}

func commit(gid mtm.GID) mtm.Record { return mtm.RecDecide{GID: gid, Commit: true, Firm: true} }
func abort(gid mtm.GID) mtm.Record  { return mtm.RecDecide{GID: gid, Firm: true} }

func markOf(gen uint64, members mtm.NodeSet, prepared ...mtm.GID) mtm.Record {
	return mtm.RecMark{Gen: mtm.Generation{Num: gen, Members: members, Configured: mtm.Nodes(1, 2, 3)}, Prepared: prepared,
		Forgotten: mtm.Deps{{Origin: 1, Upto: gen}}}
}

func (j *Journal) fill(t testing.TB, sync bool, recs ...mtm.Record) {
	t.Helper()
	_, err := j.Append(recs, sync)
	require.NoError(t, err)
}

func request(stream, gen uint64) mtm.Recover { return mtm.Recover{Stream: stream, Gen: gen} }

func TestAStreamSaysWhatTheJournalSays(t *testing.T) {
	j := small(t, t.TempDir(), Retention{})
	g := func(seq uint64) mtm.GID { return gidOf(1, seq) }
	j.fill(t, true,
		markOf(1, mtm.Nodes(1, 2, 3)),
		prepare(g(1)), prepare(g(2)), prepare(g(3)), prepare(g(4)), prepare(g(5)), prepare(g(6)),
		commit(g(2)), commit(g(1)), abort(g(3)), abort(g(6)),
		mtm.RecCheckpoint{}, again(g(4)), commit(g(1)), mtm.RecCheckpointEnd{},
		markOf(2, mtm.Nodes(1, 2), g(4), g(5)), // not of node 3
		commit(g(4)),
		mtm.RecRecover{GID: gidOf(2, 9), At: 1, Payload: mtm.Payload{Data: []byte("r"), Size: 1}},
		prepare(g(7)), prepare(g(8)), commit(g(8)),
		markOf(3, mtm.Nodes(1, 2, 3), g(5), g(7)),
		prepare(g(9)), commit(g(9)), // after the mark
	)
	r := newReceiver(t, j, StreamConfig{Every: 10 * time.Millisecond})
	req := request(7, 2)
	req.Have = []mtm.OriginHave{{Origin: 1, Upto: 1, Above: []mtm.Span{{First: 8, Last: 8}}}}
	req.Undecided = []mtm.GID{g(3), g(8), gidOf(2, 1), gidOf(2, 2)}
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: req, Life: 5, Aborted: []mtm.GID{gidOf(2, 1)}, LookUp: []mtm.GID{gidOf(2, 2), g(8)}})
	got := r.until(7, marked)
	require.Equal(t, []string{
		`abort mtm-2-1-1 ""`, `abort mtm-2-1-2 ""`, `commit mtm-1-1-2 "mtm-1-1-2"`, `abort mtm-1-1-3 ""`, `commit mtm-1-1-4 "mtm-1-1-4"`,
		`commit mtm-2-1-9 "r"`, `commit mtm-1-1-8 "mtm-1-1-8"`, `undecided mtm-1-1-5 "mtm-1-1-5"`, `undecided mtm-1-1-7 "mtm-1-1-7"`, "mark 3",
	}, words(got))
	last := got[len(got)-1].(mtm.RecoverDone)
	require.EqualValues(t, 5, last.Life)
	require.Equal(t, mtm.Deps{{Origin: 1, Upto: 3}}, last.Forgotten)
	txn := got[2].(mtm.RecoverTxn)
	require.EqualValues(t, 2, txn.Age)
	require.EqualValues(t, 5, txn.Life)
	require.Equal(t, mtm.Nodes(1, 2), txn.Acceptors)
}

func TestAStreamFollowsWhatIsDurable(t *testing.T) {
	j := small(t, t.TempDir(), Retention{})
	j.fill(t, true, prepare(gidOf(1, 1)), commit(gidOf(1, 1)))
	r := newReceiver(t, j, StreamConfig{Every: 10 * time.Millisecond})
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(1, 2)})
	require.Equal(t, []string{`commit mtm-1-1-1 "mtm-1-1-1"`, "end"}, words(r.until(1, ended)))
	// What is written and not synced may be lost: it is not said.
	j.fill(t, false, prepare(gidOf(1, 2)), mtm.RecDecide{GID: gidOf(1, 2), Commit: true})
	require.NoError(t, j.Flush())
	alive := 0
	r.until(1, func([]mtm.Body) bool { alive++; return alive > 5 })
	require.NotContains(t, words(r.until(1, ended)), `commit mtm-1-1-2 "mtm-1-1-2"`)
	for seq := uint64(3); seq < 400; seq++ { // over several segments
		j.fill(t, seq%7 == 0, prepare(gidOf(1, seq)), commit(gidOf(1, seq)))
	}
	j.fill(t, true, markOf(2, mtm.Nodes(1, 3)))
	got := r.until(1, marked)
	n := 0
	for _, b := range got {
		if txn, ok := b.(mtm.RecoverTxn); ok {
			n++
			require.EqualValues(t, n, txn.GID.Seq)
		}
	}
	require.Equal(t, 399, n)
}

func TestOnlySoMuchIsUnderWay(t *testing.T) {
	j := small(t, t.TempDir(), Retention{})
	for seq := uint64(1); seq <= 200; seq++ {
		p := prepare(gidOf(1, seq))
		p.Payload.Data = make([]byte, 500)
		p.Payload.Size = 500
		j.fill(t, true, p, commit(gidOf(1, seq)))
	}
	j.fill(t, true, markOf(2, mtm.Nodes(3)))
	r := newReceiver(t, j, StreamConfig{Every: 5 * time.Millisecond, Window: 5000})
	r.lazy = true
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(1, 2)})
	full := r.until(1, func(got []mtm.Body) bool { return len(got) == 5000/(500+messageBytes) })
	r.mu.Lock()
	seen := r.alive
	r.mu.Unlock()
	r.until(1, r.livedPast(seen+3)) // it shows that it lives, and sends no more
	require.Equal(t, len(full), len(r.until(1, func([]mtm.Body) bool { return true })))
	for n := len(full); !marked(r.until(1, func([]mtm.Body) bool { return true })); n++ {
		r.ack(3, 1, uint64(n-len(full)+1))
		r.until(1, func(got []mtm.Body) bool { return len(got) > n || marked(got) })
	}
	require.LessOrEqual(t, r.most, 5000)
}

func TestANewRequestEndsTheOldStream(t *testing.T) {
	j := small(t, t.TempDir(), Retention{})
	j.fill(t, true, prepare(gidOf(1, 1)), commit(gidOf(1, 1)))
	r := newReceiver(t, j, StreamConfig{Every: time.Hour})
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(1, 2)})
	r.until(1, ended)
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(2, 2)})
	r.until(2, ended)
	r.s.Stream(coordinator.StreamJournal{To: 2, Request: request(3, 2)})
	r.until(3, ended)
	r.s.PeerDown(2)
	j.fill(t, true, markOf(2, mtm.Nodes(2, 3)))
	r.until(2, marked)
	r.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.False(t, marked(r.got[1]))
	require.False(t, marked(r.got[3]))
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	require.Empty(t, r.s.streams)
	require.Empty(t, j.watchers)
}

func TestOutcomesAreLookedUp(t *testing.T) {
	dir := t.TempDir()
	j := small(t, dir, Retention{Size: -1})
	for seq := uint64(1); seq <= 300; seq++ {
		outcome := commit(gidOf(1, seq))
		if seq%10 == 0 {
			outcome = abort(gidOf(1, seq))
		}
		j.fill(t, true, prepare(gidOf(1, seq)), outcome, mtm.RecRecover{GID: gidOf(2, seq), At: seq})
	}
	require.Greater(t, len(j.segments), 3)
	check := func() {
		found, err := j.Lookup(gidOf(1, 1), gidOf(1, 10), gidOf(1, 300), gidOf(2, 7), gidOf(3, 1), gidOf(1, 301))
		require.NoError(t, err)
		require.Equal(t, map[mtm.GID]Outcome{gidOf(1, 1): Committed, gidOf(1, 10): NoCommit, gidOf(1, 300): NoCommit,
			gidOf(2, 7): Committed, gidOf(3, 1): NoCommit, gidOf(1, 301): NoCommit}, found)
	}
	check()
	fate := func(gid mtm.GID, want Outcome) {
		t.Helper()
		got, err := j.Fate(gid)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	fate(gidOf(1, 1), Committed)
	fate(gidOf(1, 10), NoCommit)
	fate(gidOf(2, 7), Committed)
	fate(gidOf(3, 1), Unknown) // it may have been committed on its origin alone
	r := newReceiver(t, j, StreamConfig{})
	tell := func(gid mtm.GID) mtm.Message {
		r.s.TellOutcome(coordinator.TellOutcome{To: 2, GID: gid})
		return <-r.other
	}
	require.Equal(t, mtm.Message{To: 2, Body: mtm.Decided{GID: gidOf(1, 10)}}, tell(gidOf(1, 10)))
	r.stop()
	require.NoError(t, j.Close())
	sums, err := filepath.Glob(filepath.Join(dir, "sum", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, sums)
	require.NoError(t, os.Remove(sums[0])) // lost, and damaged: made again
	require.NoError(t, os.WriteFile(sums[1], []byte("mtmsum\x00\x01...."), 0o600))
	j = small(t, dir, Retention{Size: -1})
	check()

	// What is given up is unknown, unless it is newer than all that was.
	require.NoError(t, j.Checkpoint(j.Last()))
	require.Greater(t, j.First(), uint64(3))
	found, err := j.Lookup(gidOf(1, 1), gidOf(2, 7), gidOf(1, 300), gidOf(3, 1))
	require.NoError(t, err)
	require.Equal(t, map[mtm.GID]Outcome{gidOf(1, 300): NoCommit, gidOf(3, 1): NoCommit}, found)
	fate(gidOf(1, 10), Unknown)
	fate(gidOf(1, 300), NoCommit)
	r = newReceiver(t, j, StreamConfig{})
	r.s.TellOutcome(coordinator.TellOutcome{To: 2, GID: gidOf(1, 10)})
	require.Equal(t, mtm.Message{To: 2, Body: mtm.Decided{GID: gidOf(1, 300)}}, func() mtm.Message {
		r.s.TellOutcome(coordinator.TellOutcome{To: 2, GID: gidOf(1, 300)})
		return <-r.other
	}())
}

func TestWhoWasAwayTooLongIsTold(t *testing.T) {
	j := small(t, t.TempDir(), Retention{Size: -1})
	for seq := uint64(1); seq <= 300; seq++ {
		outcome := commit(gidOf(1, seq))
		if seq%10 == 5 {
			outcome = abort(gidOf(1, seq))
		}
		j.fill(t, true, prepare(gidOf(1, seq)), outcome)
	}
	j.fill(t, true, mtm.RecCheckpoint{}, mtm.RecCheckpointEnd{}, markOf(2, mtm.Nodes(1, 3)))
	require.NoError(t, j.Checkpoint(601))
	require.EqualValues(t, 601, j.ReplayFrom())
	first := j.gone.Highest[1] + 1
	require.Greater(t, first, uint64(100))
	r := newReceiver(t, j, StreamConfig{})
	ask := func(stream uint64, req mtm.Recover) error {
		req.Stream, req.Gen = stream, 2
		select { // left over from the stream before, which has ended
		case <-r.came:
		default:
		}
		r.s.Stream(coordinator.StreamJournal{To: 3, Request: req})
		select {
		case err := <-r.fails:
			return err
		case <-r.came:
		}
		r.until(stream, marked)
		return nil
	}
	require.NoError(t, ask(1, mtm.Recover{Have: []mtm.OriginHave{{Origin: 1, Upto: first}}}))
	// Aborted ones need not be there; committed ones need.
	above := func(without uint64) []mtm.OriginHave {
		h := mtm.OriginHave{Origin: 1}
		for seq := uint64(1); seq <= first; seq++ {
			if seq%10 != 5 && seq != without {
				h.Above = append(h.Above, mtm.Span{First: seq, Last: seq})
			}
		}
		return []mtm.OriginHave{h}
	}
	require.NoError(t, ask(2, mtm.Recover{Have: above(0)}))
	require.ErrorIs(t, ask(3, mtm.Recover{Have: above(7)}), ErrTruncated)
	require.ErrorIs(t, ask(4, mtm.Recover{Have: above(0), Undecided: []mtm.GID{gidOf(1, 7)}}), ErrTruncated)
	require.ErrorIs(t, ask(5, mtm.Recover{}), ErrTruncated)
}

func TestRetentionKeepsWhatItSays(t *testing.T) {
	for name, c := range map[string]struct {
		r    Retention
		kept bool
	}{
		"by default": {Retention{}, true}, "nothing": {Retention{Size: -1}, false}, "size": {Retention{Size: 24 << 10}, false},
		"age": {Retention{Age: time.Nanosecond}, false}, "free": {Retention{Free: 1 << 60}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := small(t, dir, c.r)
			for seq := uint64(1); seq <= 300; seq++ {
				j.fill(t, true, prepare(gidOf(1, seq)), commit(gidOf(1, seq)))
			}
			at, err := j.Append([]mtm.Record{mtm.RecCheckpoint{}, mtm.RecCheckpointEnd{}}, true)
			require.NoError(t, err)
			require.NoError(t, j.Checkpoint(at))
			require.Equal(t, c.kept, j.First() == 1)
			require.Error(t, j.Checkpoint(at+2))
			require.NoError(t, j.Checkpoint(1), "already")
			require.NoError(t, j.Close())
			if c.r.Size > 0 {
				require.LessOrEqual(t, int64(len(j.segments))*j.size, c.r.Size)
				require.Greater(t, int64(len(j.segments)+1)*j.size, c.r.Size)
			}
			j = small(t, dir, c.r)
			var got []uint64
			require.NoError(t, j.Replay(0, func(index uint64, _ mtm.Record) error { got = append(got, index); return nil }))
			require.Equal(t, []uint64{at, at + 1}, got)
		})
	}
}

func TestSpillFilesStayAsLongAsTheLogNamesThem(t *testing.T) {
	dir := t.TempDir()
	j := small(t, dir, Retention{})
	spill := func() string {
		w, err := j.Spills().Create()
		require.NoError(t, err)
		_, err = w.Write([]byte("rows"))
		require.NoError(t, err)
		require.NoError(t, w.Commit())
		return w.Name()
	}
	there := func() map[string]bool {
		names, err := j.Spills().Names()
		require.NoError(t, err)
		set := map[string]bool{}
		for _, n := range names {
			set[n] = true
		}
		return set
	}
	with := func(gid mtm.GID, name string) mtm.RecPrepare {
		return mtm.RecPrepare{GID: gid, Payload: mtm.Payload{Spill: name, Size: 4}}
	}
	old, open, never, late := spill(), spill(), spill(), spill()
	j.fill(t, true, with(gidOf(1, 1), old), commit(gidOf(1, 1)), with(gidOf(1, 2), open))
	more := func(from uint64) {
		for seq := from; seq < from+100; seq++ {
			j.fill(t, true, prepare(gidOf(1, seq)), commit(gidOf(1, seq)))
		}
	}
	more(3)
	require.NoError(t, j.DropSpill(old))
	require.NoError(t, j.DropSpill(never))
	require.Equal(t, map[string]bool{old: true, open: true, late: true}, there())
	require.NoError(t, j.Close())
	j = small(t, dir, Retention{Size: -1})
	require.NoError(t, j.SweepSpills(map[string]bool{late: true}))
	require.Equal(t, map[string]bool{old: true, open: true, late: true}, there())

	// A stream is sending it: it stays until that is over.
	r := newReceiver(t, j, StreamConfig{})
	r.lazy = true
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(1, 2)})
	got := r.until(1, func(got []mtm.Body) bool { return len(got) > 0 })
	require.Equal(t, "commit mtm-1-1-1 \"\" in "+old, words(got)[0])
	at, err := j.Append([]mtm.Record{mtm.RecCheckpoint{}, with(gidOf(1, 2), open), mtm.RecCheckpointEnd{}}, true)
	require.NoError(t, err)
	require.NoError(t, j.Checkpoint(at))
	require.Equal(t, map[string]bool{old: true, open: true, late: true}, there())
	r.s.PeerDown(3)
	r.stop()
	require.Equal(t, map[string]bool{open: true, late: true}, there())
	require.NoError(t, j.Close())
	j = small(t, dir, Retention{Size: -1})
	require.NoError(t, j.SweepSpills(nil))
	require.Equal(t, map[string]bool{open: true}, there())
}

func TestASpillFileTakesItsPlaceInTheWindow(t *testing.T) {
	j := small(t, t.TempDir(), Retention{})
	var spills []string
	recs := []mtm.Record{}
	for seq := range uint64(4) {
		p := prepare(gidOf(1, seq+1))
		if seq > 0 { // the first is small
			w, err := j.Spills().Create()
			require.NoError(t, err)
			require.NoError(t, w.Commit())
			spills = append(spills, w.Name())
			p.Payload = mtm.Payload{Spill: w.Name(), Size: 10_000}
		}
		recs = append(recs, p, commit(p.GID))
	}
	j.fill(t, true, append(recs, markOf(2, mtm.Nodes(3)))...)
	r := newReceiver(t, j, StreamConfig{Every: 5 * time.Millisecond, Window: 25_000})
	r.lazy = true
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(1, 2)})
	for seq := range uint64(2) { // two large ones are under way, and not three
		r.until(1, func(got []mtm.Body) bool { return len(got) >= 3 })
		r.mu.Lock()
		seen := r.alive
		r.mu.Unlock()
		require.Len(t, r.until(1, r.livedPast(seen+2)), 3)
		r.ack(3, 1, seq+1)
	}
	r.until(1, marked)
	// One that is gone ends the stream.
	require.NoError(t, j.Spills().Remove(spills[0]))
	r.lazy = false
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(2, 2)})
	require.ErrorIs(t, <-r.fails, os.ErrNotExist)
}

// oracle is what testcluster/sim does: it reads everything from the beginning, and skips nothing.
func oracle(recs []mtm.Record, to mtm.NodeID, req mtm.Recover) (said []string) {
	named, sent, payloads := map[mtm.GID]bool{}, map[mtm.GID]bool{}, map[mtm.GID]string{}
	for _, gid := range req.Undecided {
		named[gid] = true
	}
	has := func(gid mtm.GID) bool { return !named[gid] && haveSets(req.Have).has(gid) }
	say := func(word string, gid mtm.GID, data string) {
		said = append(said, fmt.Sprintf("%s %s %q", word, gid, data))
	}
	commit := func(gid mtm.GID) {
		if !sent[gid] && !has(gid) {
			sent[gid] = true
			say("commit", gid, strings.Trim(payloads[gid], "x"))
		}
	}
	for _, rec := range recs {
		switch rec := rec.(type) {
		case mtm.RecPrepare:
			if payloads[rec.GID] == "" {
				payloads[rec.GID] = string(rec.Payload.Data)
			}
		case mtm.RecRecover:
			if payloads[rec.GID] == "" {
				payloads[rec.GID] = string(rec.Payload.Data)
			}
			commit(rec.GID)
		case mtm.RecDecide:
			if rec.Commit {
				commit(rec.GID)
			} else if named[rec.GID] && !sent[rec.GID] {
				sent[rec.GID] = true
				say("abort", rec.GID, "")
			}
		case mtm.RecMark:
			if rec.Gen.Members.Has(to) && rec.Gen.Num >= req.Gen {
				for _, gid := range rec.Prepared {
					if !has(gid) { // who has finished it passes it over
						say("undecided", gid, strings.Trim(payloads[gid], "x"))
					}
				}
				return append(said, fmt.Sprintf("mark %d", rec.Gen.Num))
			}
		}
	}
	return append(said, "end")
}

// TestStreamsAgreeWithTheOracle: journals of chance, with requests of chance, of nodes that had read them up to somewhere.
// Some have lost their beginning: a stream then says the same, or nothing at all.
func TestStreamsAgreeWithTheOracle(t *testing.T) {
	seeds, served, refused := uint64(50), 0, 0
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 1))
		j := small(t, t.TempDir(), Retention{Size: int64(rng.IntN(100)) << 10})
		all := chance(rng)
		for recs := all; len(recs) > 0; {
			n := min(len(recs), 1+rng.IntN(20))
			j.fill(t, rng.IntN(3) == 0, recs[:n]...)
			recs = recs[n:]
		}
		require.NoError(t, j.Sync())
		for i, rec := range all {
			if _, ok := rec.(mtm.RecCheckpoint); ok && seed%2 == 0 {
				require.NoError(t, j.Checkpoint(uint64(i+1)))
			}
		}
		r := newReceiver(t, j, StreamConfig{Window: int64(300 * (1 + rng.IntN(100)))})
		for stream := range uint64(4) {
			req := asker(rng, all)
			req.Stream = stream + 1
			want := oracle(all, 3, req)
			got, err := r.ask(req)
			if err != nil {
				require.ErrorIs(t, err, ErrTruncated, "seed %d stream %d", seed, stream)
				require.Greater(t, j.First(), uint64(1))
				said := words(got)
				require.LessOrEqual(t, len(said), len(want))
				require.Equal(t, fmt.Sprint(want[:len(said)]), fmt.Sprint(said), "seed %d stream %d", seed, stream)
				refused++
				continue
			}
			require.Equal(t, want, words(got), "seed %d stream %d", seed, stream)
			served++
		}
		r.stop()
		require.NoError(t, j.Close())
	}
	require.Greater(t, served, 100)
	require.Greater(t, refused, 10)
}

// ask is one stream from beginning to end, of the journal at least.
func (r *receiver) ask(req mtm.Recover) ([]mtm.Body, error) {
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: req})
	late := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		got := slices.Clone(r.got[req.Stream])
		r.mu.Unlock()
		if ended(got) {
			return got, nil
		}
		select {
		case <-r.came:
		case err := <-r.fails:
			r.mu.Lock()
			defer r.mu.Unlock()
			return slices.Clone(r.got[req.Stream]), err
		case <-late:
			require.Fail(r.t, "it does not come", "%v", words(got))
		}
	}
}

// chance makes a journal.
func chance(rng *rand.Rand) (recs []mtm.Record) {
	gen, seqs := uint64(1), map[mtm.NodeID]uint64{}
	var open, done []mtm.GID
	for range 100 + rng.IntN(1500) {
		switch k := rng.IntN(20); {
		case k < 8:
			origin := mtm.NodeID(1 + rng.IntN(3))
			seqs[origin] += 1 + uint64(rng.IntN(2))
			gid := gidOf(origin, seqs[origin])
			open = append(open, gid)
			p := prepare(gid)
			p.Payload.Data = append(p.Payload.Data, bytes.Repeat([]byte("x"), rng.IntN(200))...)
			recs = append(recs, p)
		case k < 17 && len(open) > 0:
			i := rng.IntN(len(open))
			gid := open[i]
			open = slices.Delete(open, i, i+1)
			if rng.IntN(5) == 0 {
				recs = append(recs, abort(gid))
				continue
			}
			recs = append(recs, commit(gid))
			done = append(done, gid)
		case k == 17:
			seqs[2]++
			gid := gidOf(2, seqs[2])
			recs = append(recs, mtm.RecRecover{GID: gid, Payload: prepare(gid).Payload, At: uint64(len(recs))})
			done = append(done, gid)
		case k == 18 && rng.IntN(10) == 0:
			recs = append(recs, mtm.RecCheckpoint{})
			for _, gid := range open {
				recs = append(recs, again(gid))
			}
			for _, gid := range done[max(0, len(done)-5):] {
				recs = append(recs, commit(gid))
			}
			recs = append(recs, mtm.RecCheckpointEnd{})
		case k == 19 && rng.IntN(10) == 0:
			gen++
			members := mtm.Nodes(1, 2)
			if rng.IntN(2) == 0 {
				members = mtm.Nodes(1, 2, 3)
			}
			recs = append(recs, markOf(gen, members, slices.Clone(open)...))
		}
	}
	return recs
}

// asker is a node that had finished what was finished before some record, but for a few, and knows of most of the generations.
func asker(rng *rand.Rand, recs []mtm.Record) (req mtm.Recover) {
	have := spanSets{}
	upto := rng.IntN(len(recs) + 1)
	var open []mtm.GID
	for i, rec := range recs {
		switch rec := rec.(type) {
		case mtm.RecDecide:
			if i < upto && (rec.Commit || rng.IntN(2) == 0) {
				have.add(rec.GID)
			}
			open = slices.DeleteFunc(open, func(g mtm.GID) bool { return g == rec.GID })
		case mtm.RecRecover:
			if i < upto {
				have.add(rec.GID)
			}
		case mtm.RecPrepare:
			open = append(open, rec.GID)
		case mtm.RecMark:
			if i < upto || rng.IntN(3) == 0 {
				req.Gen = rec.Gen.Num
			}
		}
		if i == upto {
			for _, gid := range open {
				if rng.IntN(3) == 0 && !slices.Contains(req.Undecided, gid) {
					req.Undecided = append(req.Undecided, gid)
				}
			}
		}
	}
	for origin, list := range have {
		h := mtm.OriginHave{Origin: origin, Above: list}
		if len(list) > 0 && list[0].First == 1 && rng.IntN(2) == 0 {
			h.Upto, h.Above = list[0].Last, list[1:]
		}
		req.Have = append(req.Have, h)
	}
	return req
}

func TestADamagedJournalEndsAStream(t *testing.T) {
	dir := t.TempDir()
	j := small(t, dir, Retention{})
	for seq := uint64(1); seq <= 300; seq++ {
		j.fill(t, true, prepare(gidOf(1, seq)), commit(gidOf(1, seq)))
	}
	f, err := os.OpenFile(j.segments[1].path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("damage"), 2000)
	require.NoError(t, errors.Join(err, f.Close()))
	r := newReceiver(t, j, StreamConfig{})
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(1, 2)})
	var corrupt *CorruptError
	require.ErrorAs(t, <-r.fails, &corrupt)
	require.Equal(t, j.segments[1].path, corrupt.Path)
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(2, 2)})
	require.ErrorAs(t, <-r.fails, &corrupt)
	require.NoError(t, j.Close())
	r.s.Stream(coordinator.StreamJournal{To: 3, Request: request(3, 2)})
	require.ErrorIs(t, <-r.fails, ErrClosed)
}
