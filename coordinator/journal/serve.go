package journal

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"mtm"
	"mtm/coordinator"
)

// stream is the answer to one request (docs/design-generations.md, last section). One goroutine sends what has a place in
// the order, another shows that it lives.
type stream struct {
	*Streamer
	to      mtm.NodeID
	req     mtm.Recover
	life    uint64
	aborted []mtm.GID
	lookUp  []mtm.GID
	stop    chan struct{}
	flow    *flow
	behind  atomic.Uint64

	seq    uint64
	have   spanSets         // finished there, or sent
	named  map[mtm.GID]bool // undecided there, though have may hold it
	notes  map[mtm.GID]note // payloads of what is not decided yet
	cached int              // bytes of those in memory
	told   time.Time        // when the end of the journal was told
	toldAt uint64           // the sequence number of that
}

// note is where a payload is.
type note struct {
	rec mtm.RecPrepare
	at  place // if its Data is left out
}

const (
	noteCache    = 8 << 20 // bytes of payloads that are kept in memory until they are decided
	messageBytes = 1500    // about what a message costs without its payload, where it waits to be done
	endEvery     = 50 * time.Millisecond
)

func newStream(s *Streamer, a coordinator.StreamJournal) *stream {
	st := &stream{
		Streamer: s, to: a.To, req: a.Request, life: a.Life, aborted: a.Aborted, lookUp: a.LookUp, stop: make(chan struct{}),
		flow: newFlow(s.cfg.Window), have: haveSets(a.Request.Have), named: map[mtm.GID]bool{}, notes: map[mtm.GID]note{},
	}
	st.behind.Store(1)
	for _, gid := range a.Request.Undecided {
		st.named[gid] = true
	}
	return st
}

// run sends until the mark was sent, or the stream is ended.
func (s *stream) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.flow.end()
	alive := make(chan struct{})
	go func() {
		defer close(alive)
		s.live(ctx)
	}()
	err := s.serve(ctx)
	cancel()
	<-alive
	if s.ended(ctx) {
		return nil
	}
	return err
}

// ended: somebody else, not this stream, has ended it.
func (s *stream) ended(context.Context) bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// live says every now and then that this node is at work, out of order: it may wait, or read what the other has.
func (s *stream) live(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.stop:
			return
		case <-ticker.C:
			s.send(mtm.RecoverDone{Stream: s.req.Stream, Life: s.life, Behind: max(1, s.behind.Load()), Large: s.cfg.Large(s.to)})
		}
	}
}

func (s *stream) serve(ctx context.Context) error {
	for _, gid := range s.aborted {
		if err := s.abort(ctx, gid); err != nil {
			return err
		}
	}
	if err := s.lookUps(ctx); err != nil {
		return err
	}
	from, err := s.start()
	if err != nil {
		return err
	}
	w := s.j.watch()
	defer s.j.unwatch(w)
	c := newCursor(s.j, from)
	defer c.close()
	for {
		select {
		case <-s.stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		rec, at, err := c.next()
		if err != nil {
			return err
		}
		if rec == nil {
			if err := s.atEnd(ctx, w); err != nil {
				return err
			}
			continue
		}
		if at.index%64 == 0 {
			s.behind.Store(c.behind())
		}
		marked, err := s.take(ctx, rec, at)
		if err != nil || marked {
			return err
		}
	}
}

// lookUps tells what is aborted of that which this node's brain has forgotten.
func (s *stream) lookUps(ctx context.Context) error {
	found, err := s.j.Lookup(s.lookUp...)
	if err != nil {
		return err
	}
	for _, gid := range s.lookUp {
		if found[gid] == NoCommit {
			if err := s.abort(ctx, gid); err != nil {
				return err
			}
		}
	}
	return nil
}

// start finds where to begin: before the first segment that is about something that the other lacks.
func (s *stream) start() (uint64, error) {
	gids := make([]mtm.GID, 0, len(s.named))
	for gid := range s.named {
		gids = append(gids, gid)
	}
	found, err := s.j.Lookup(gids...)
	if err != nil {
		return 0, err
	}
	for _, gid := range gids {
		if found[gid] == Unknown {
			return 0, fmt.Errorf("%w: node %d asks for %s", ErrTruncated, s.to, gid)
		}
	}
	from := uint64(0)
	err = s.j.summaries(func(next uint64, sum *summary) bool {
		if !s.needless(sum) {
			return false
		}
		from = next
		return true
	})
	if err != nil {
		return 0, err
	}
	s.j.mu.Lock()
	defer s.j.mu.Unlock()
	if num, ok := s.j.gone.Marks[s.to]; ok && num >= s.req.Gen {
		return 0, fmt.Errorf("%w: the mark of generation %d, for which node %d waits", ErrTruncated, s.req.Gen, s.to)
	}
	if !s.have.covers(s.j.gone.Commits) {
		return 0, fmt.Errorf("%w: node %d lacks transactions of before record %d", ErrTruncated, s.to, s.j.first)
	}
	return max(from, s.j.segments[0].base), nil
}

// needless: the other has all of the segment, and no mark in it counts.
func (s *stream) needless(sum *summary) bool {
	if num, ok := sum.Marks[s.to]; ok && num >= s.req.Gen || !s.have.covers(sum.Touched) {
		return false
	}
	for gid := range s.named {
		if sum.Touched.has(gid) {
			return false
		}
	}
	return true
}

// atEnd tells that the end of the journal is reached, and waits for more.
func (s *stream) atEnd(ctx context.Context, more <-chan struct{}) error {
	s.behind.Store(0)
	if wait := time.Until(s.told.Add(endEvery)); wait <= 0 && (s.seq != s.toldAt || time.Since(s.told) >= s.cfg.Every) {
		if err := s.room(ctx, messageBytes); err != nil {
			return err
		}
		s.put(mtm.RecoverDone{Stream: s.req.Stream, Life: s.life, Seq: s.next()}, messageBytes, nil)
		s.told, s.toldAt = time.Now(), s.seq
	}
	timer := time.NewTimer(endEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stop:
	case <-more:
	case <-timer.C:
	}
	return nil
}

// take sends what one record means to the other; true: it was the mark.
func (s *stream) take(ctx context.Context, rec mtm.Record, at place) (marked bool, err error) {
	switch rec := rec.(type) {
	case mtm.RecPrepare:
		s.note(rec, at)
	case mtm.RecRecover:
		s.note(mtm.RecPrepare{GID: rec.GID, Age: rec.Age, Deps: rec.Deps, Payload: rec.Payload}, at)
		return false, s.commit(ctx, rec.GID)
	case mtm.RecDecide:
		switch {
		case rec.Commit:
			return false, s.commit(ctx, rec.GID)
		case s.named[rec.GID]:
			return false, s.abort(ctx, rec.GID)
		}
		s.forget(rec.GID)
	case mtm.RecMark:
		if rec.Gen.Members.Has(s.to) && rec.Gen.Num >= s.req.Gen {
			return true, s.mark(ctx, rec)
		}
	}
	return false, nil
}

// has reports whether nothing need be said of gid.
func (s *stream) has(gid mtm.GID) bool { return !s.named[gid] && s.have.has(gid) }

// note remembers a payload. The first one counts: a checkpoint repeats it without data.
func (s *stream) note(rec mtm.RecPrepare, at place) {
	if s.has(rec.GID) || !hasBytes(rec.Payload) && !rec.Payload.Has(mtm.PayloadEmpty) {
		return
	}
	if _, ok := s.notes[rec.GID]; ok {
		return
	}
	if n := len(rec.Payload.Data); s.cached+n <= noteCache {
		s.cached += n
	} else {
		rec.Payload.Data = nil
	}
	s.notes[rec.GID] = note{rec: rec, at: at}
}

func hasBytes(p mtm.Payload) bool { return p.Spill != "" || len(p.Data) > 0 }

func (s *stream) forget(gid mtm.GID) {
	if n, ok := s.notes[gid]; ok {
		s.cached -= len(n.rec.Payload.Data)
		delete(s.notes, gid)
	}
}

// settled: nothing more is to be said of gid.
func (s *stream) settled(gid mtm.GID) {
	s.forget(gid)
	delete(s.named, gid)
	s.have.add(gid)
}

func (s *stream) abort(ctx context.Context, gid mtm.GID) error {
	if err := s.tell(ctx, mtm.RecPrepare{GID: gid}, mtm.FateAborted); err != nil {
		return err
	}
	s.settled(gid)
	return nil
}

func (s *stream) commit(ctx context.Context, gid mtm.GID) error {
	if s.has(gid) {
		return nil
	}
	rec, err := s.payload(gid)
	if err != nil {
		return err
	}
	if !rec.Payload.Has(mtm.PayloadEmpty) {
		if err := s.tell(ctx, rec, mtm.FateCommitted); err != nil {
			return err
		}
	}
	s.settled(gid)
	return nil
}

// mark ends the stream with what this node held prepared.
func (s *stream) mark(ctx context.Context, m mtm.RecMark) error {
	for _, gid := range m.Prepared {
		if s.has(gid) {
			continue
		}
		rec, err := s.payload(gid)
		if err != nil {
			return err
		}
		if err := s.tell(ctx, rec, mtm.FateUndecided); err != nil {
			return err
		}
	}
	if err := s.room(ctx, messageBytes); err != nil {
		return err
	}
	done := mtm.RecoverDone{Stream: s.req.Stream, Life: s.life, Seq: s.next(), Gen: m.Gen.Num, Forgotten: m.Forgotten}
	s.put(done, messageBytes, nil)
	return nil
}

// payload gives what was noted of gid, with its data.
func (s *stream) payload(gid mtm.GID) (mtm.RecPrepare, error) {
	n, ok := s.notes[gid]
	if !ok {
		return mtm.RecPrepare{}, fmt.Errorf("%w: the payload of %s, which node %d lacks", ErrTruncated, gid, s.to)
	}
	if hasBytes(n.rec.Payload) || n.rec.Payload.Has(mtm.PayloadEmpty) {
		return n.rec, nil
	}
	rec, err := readAt(n.at)
	if err != nil {
		return mtm.RecPrepare{}, err
	}
	switch rec := rec.(type) {
	case mtm.RecPrepare:
		n.rec.Payload = rec.Payload
	case mtm.RecRecover:
		n.rec.Payload = rec.Payload
	}
	return n.rec, nil
}

// tell sends a transaction. One in a spill file travels beside the queue, and is overtaken; the other node puts all in order again.
func (s *stream) tell(ctx context.Context, rec mtm.RecPrepare, fate mtm.Fate) error {
	size := int64(messageBytes + len(rec.Payload.Data))
	var over func()
	spill := rec.Payload.Spill
	if spill != "" {
		size += rec.Payload.Size
	}
	if err := s.room(ctx, size); err != nil {
		return err
	}
	if spill != "" {
		s.j.holdSpill(spill)
		over = func() { s.j.releaseSpill(spill) }
		f, err := s.j.spills.Open(spill)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			over()
			return fmt.Errorf("the payload of %s, which node %d lacks: %w", rec.GID, s.to, err)
		}
	}
	s.put(mtm.RecoverTxn{Stream: s.req.Stream, Life: s.life, Seq: s.next(), GID: rec.GID, Age: rec.Age, Deps: rec.Deps,
		Payload: rec.Payload, Fate: fate, Acceptors: rec.Acceptors}, size, over)
	return nil
}

func (s *stream) next() uint64 { s.seq++; return s.seq }

func (s *stream) put(b mtm.Body, size int64, over func()) {
	s.flow.add(sending{seq: s.seq, size: size, over: over})
	s.send(b)
}

func (s *stream) send(b mtm.Body) { s.cfg.Send(mtm.Message{To: s.to, Body: b}) }

// room waits until size bytes more may be sent.
func (s *stream) room(ctx context.Context, size int64) error {
	return s.wait(ctx, func() bool { return s.flow.room(size) })
}

func (s *stream) wait(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stop:
			return context.Canceled
		case <-s.flow.heard:
		}
	}
	return nil
}
