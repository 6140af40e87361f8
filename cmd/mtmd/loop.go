package main

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mtm"
	"mtm/coordinator"
	"mtm/coordinator/journal"
)

// Log keys of this command.
const (
	keyError  = "error"
	keyNode   = "node"
	keyStatus = "status"
)

// hands are the drivers, as the loop sees them. None of the calls may block for long.
type hands struct {
	send  func(mtm.Message)               // the queue to the peers
	act   func(coordinator.Action)        // logrep, the gate and the spill files
	reply func(coordinator.Reply)         // the gate
	mark  func(gid mtm.GID, phase string) // the end of a phase of an own transaction
}

// loop owns the brain. One goroutine steps it; a second carries out what it says, in Ready's order, so that the brain
// goes on thinking while the disk syncs, and one sync serves all that was decided meanwhile.
type loop struct {
	node     *coordinator.Node
	mail     *mailbox
	journal  *journal.Journal
	hands    hands
	metrics  *metrics
	log      *slog.Logger
	clock    clock
	lease    func(end uint64)         // told after each batch of events: Status.LeaseEnd
	status   func(coordinator.Status) // told when it changed
	ready    chan coordinator.Ready
	applying map[mtm.GID]time.Time // when the Apply of a transaction was started
	queued   atomic.Int64          // Readys that carryOut has not carried yet
	records  atomic.Int64          // written since the last checkpoint
	ticked   uint64                // when the brain was told the time last
	unsaid   atomic.Int64          // records of generations that are queued, and not durable yet
	marking  bool                  // a checkpoint is on its way
	extra    []mtm.Record          // the checkpoint, to go after what Ready holds
	answers  []coordinator.Action  // to questions, to go after what Ready holds
	behind   []caughtAsk           // questions that wait for this node
}

const (
	tickEvery       = 10 * time.Millisecond
	tickSoon        = 2 * time.Millisecond // while an election is under way
	freshFor        = 5                    // milliseconds: the brain is told the time before a batch of events, if it was told it longer ago
	checkpointEvery = 200_000              // records
)

// newLoop makes a loop whose brain counts time by c from its first tick on.
func newLoop(node *coordinator.Node, mail *mailbox, j *journal.Journal, h hands, m *metrics, log *slog.Logger, c clock) *loop {
	return &loop{
		node: node, mail: mail, journal: j, hands: h, metrics: m, log: log, clock: c,
		lease: func(uint64) {}, status: func(coordinator.Status) {},
		ready:    make(chan coordinator.Ready, 1024),
		applying: map[mtm.GID]time.Time{},
	}
}

// Run steps the brain until ctx ends or the journal fails.
func (l *loop) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.think(ctx) })
	g.Go(func() error { return l.carryOut(ctx) })
	return g.Wait()
}

func (l *loop) think(ctx context.Context) error {
	var spare []coordinator.Event
	var last coordinator.Status
	if err := l.hand(ctx); err != nil { // what Start left
		return err
	}
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	soon := false
	for first := true; ; first = false {
		events, ticked, err := l.mail.take(ctx, ticker.C, spare)
		if err != nil {
			return err
		}
		age := uint64(freshFor)
		if ticked {
			age = 0
		}
		// The time comes first: after a pause of the process, what was promised before it may be over.
		changed := l.tell(l.clock.now(), age) || first
		for _, ev := range events {
			if t, ok := ev.(coordinator.Tick); ok {
				changed = l.tell(t.Now, 0) || changed
				continue
			}
			if q, ok := ev.(outcomeQuestion); ok {
				l.answers = append(l.answers, q.ask(l.node))
				continue
			}
			if ask, ok := ev.(haveAsk); ok {
				ask.answer <- haveAnswer{l.node.Status(), l.node.Have()}
				continue
			}
			if ask, ok := ev.(caughtAsk); ok {
				l.behind = append(l.behind, ask)
				continue
			}
			changed = l.step(ev) || changed
		}
		if e := l.node.Electing(); e != soon {
			soon = e
			if soon {
				ticker.Reset(tickSoon)
			} else {
				ticker.Reset(tickEvery)
			}
		}
		l.tellCaught()
		l.lease(l.node.LeaseEnd())
		l.checkpoint()
		if err := l.hand(ctx); err != nil {
			return err
		}
		if !ticked {
			clear(events)
			spare = events
		}
		if changed {
			if s := l.node.Status(); first || !sameStatus(s, last) {
				last = s
				l.status(s)
			}
		}
	}
}

// tellCaught answers those who wait for this node to have what another had, and forgets those who wait no more.
func (l *loop) tellCaught() {
	l.behind = slices.DeleteFunc(l.behind, func(ask caughtAsk) bool {
		select {
		case <-ask.gone:
			return true
		default:
		}
		if l.node.Behind(ask.at.Gen, ask.at.Have) {
			return false
		}
		close(ask.caught)
		return true
	})
}

// tell gives the brain the time, if it was told one that is older by more than age milliseconds.
func (l *loop) tell(now, age uint64) bool {
	if now <= l.ticked+age {
		return false
	}
	l.ticked = now
	l.node.Step(coordinator.Tick{Now: now})
	return true
}

// step hands one event to the brain; it reports whether the event may change the status.
func (l *loop) step(ev coordinator.Event) bool {
	l.node.Step(ev)
	switch ev := ev.(type) {
	case coordinator.PeerUp:
		l.log.Info("peer is up", keyNode, ev.Node)
		return true
	case coordinator.PeerDown:
		l.log.Warn("peer is out of reach", keyNode, ev.Node)
		return true
	case coordinator.Captured:
		failPoint("captured")
		l.hands.mark(ev.GID, "capture")
	case coordinator.Applied:
		if began, ok := l.applying[ev.GID]; ok {
			delete(l.applying, ev.GID)
			l.metrics.phase("apply", time.Since(began))
		}
	case coordinator.Finished:
		l.hands.mark(ev.GID, "commit_here")
	}
	return false
}

// checkpoint lets the journal be short: what still matters is written again. Only between two batches of events: it goes
// after all that the brain has to persist, so it must know of all of that, or replay would forget it.
func (l *loop) checkpoint() {
	if full := l.records.Load() >= checkpointEvery; full == l.marking {
		return
	}
	l.marking = !l.marking
	if l.marking {
		l.extra = l.node.Checkpoint()
	}
}

func sameStatus(a, b coordinator.Status) bool {
	return a.Status == b.Status && a.Connected == b.Connected && a.Generation == b.Generation && a.Online == b.Online &&
		a.Donor == b.Donor && a.Behind == b.Behind && a.Dropped == b.Dropped && a.Held == b.Held && slices.Equal(a.InDoubt, b.InDoubt)
}

// hand starts what may start at once, and queues the rest.
func (l *loop) hand(ctx context.Context) error {
	r := l.node.Ready()
	r.Persist = append(r.Persist, l.extra...)
	r.Do = append(r.Do, l.answers...)
	l.extra, l.answers = nil, nil
	if r.Empty() {
		return nil
	}
	for _, m := range r.Forward {
		failPoint("forward")
		l.hands.send(m)
	}
	for _, a := range r.Start {
		if apply, ok := a.(coordinator.Apply); ok {
			l.applying[apply.GID] = time.Now()
		}
		l.hands.act(a)
	}
	l.markPhases(r)
	r.Send = l.sendBeats(r)
	r.Forward, r.Start = nil, nil
	if r.Empty() {
		return nil
	}
	if l.queued.Load() == 0 && !needsSync(r) {
		return l.carry([]coordinator.Ready{r}) // nobody is before it, and it need not wait for the disk
	}
	l.queued.Add(1)
	l.unsaid.Add(generationsOf(r))
	select {
	case l.ready <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sendBeats sends the heartbeats and their answers of r, and gives the rest: they do not wait for the disk. What an answer
// promises is kept by a restart too, without a record. A heartbeat tells the sender's generation, so it waits when that
// is not durable yet.
func (l *loop) sendBeats(r coordinator.Ready) []mtm.Message {
	free := l.unsaid.Load() == 0 && generationsOf(r) == 0
	rest := r.Send[:0]
	for _, m := range r.Send {
		switch m.Body.(type) {
		case mtm.HeartbeatAck:
			l.hands.send(m)
			continue
		case mtm.Heartbeat:
			if free {
				l.hands.send(m)
				continue
			}
		}
		rest = append(rest, m)
	}
	return rest
}

// generationsOf counts the records of generations that r has to persist.
func generationsOf(r coordinator.Ready) (n int64) {
	for _, rec := range r.Persist {
		if _, ok := rec.(mtm.RecGeneration); ok {
			n++
		}
	}
	return n
}

func needsSync(r coordinator.Ready) bool {
	for _, rec := range r.Persist {
		if rec.Sync() {
			return true
		}
	}
	return false
}

// markPhases notes which phases of own commits this Ready ends.
func (l *loop) markPhases(r coordinator.Ready) {
	for _, rec := range r.Persist {
		switch rec := rec.(type) {
		case mtm.RecAccept:
			l.hands.mark(rec.GID, "votes")
		case mtm.RecDecide:
			l.hands.mark(rec.GID, "precommit")
		}
	}
	for _, rep := range r.Reply {
		l.hands.mark(rep.GID, "commit_peers")
	}
}

// carryOut writes what was queued, syncs once, and only then lets the rest happen.
func (l *loop) carryOut(ctx context.Context) error {
	var batch []coordinator.Ready
	for {
		batch = batch[:0]
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-l.ready:
			batch = append(batch, r)
		}
		for more := true; more && len(batch) < 256; {
			select {
			case r := <-l.ready:
				batch = append(batch, r)
			default:
				more = false
			}
		}
		if err := l.carry(batch); err != nil {
			return err
		}
		for _, r := range batch {
			l.unsaid.Add(-generationsOf(r))
		}
		l.queued.Add(-int64(len(batch)))
	}
}

// carry writes what batch has to remember, and only then lets the rest of it happen.
func (l *loop) carry(batch []coordinator.Ready) error {
	if err := l.write(batch); err != nil {
		return err
	}
	for i := range batch {
		l.release(&batch[i])
	}
	return nil
}

func (l *loop) write(batch []coordinator.Ready) error {
	var recs []mtm.Record
	sync := false
	for _, r := range batch {
		for _, rec := range r.Persist {
			recs = append(recs, rec)
			sync = sync || rec.Sync()
		}
	}
	if len(recs) == 0 {
		return nil
	}
	failPoint("before-persist")
	began := time.Now()
	first, err := l.journal.Append(recs, sync)
	if err != nil {
		return err // what was promised may not be durable: nothing more may be said or done
	}
	if sync {
		l.metrics.phase("journal", time.Since(began))
	}
	failPoint("after-persist")
	failPersisted(recs)
	return l.shorten(first, recs)
}

// shorten lets a restart begin at a checkpoint that is complete, and counts towards the next.
func (l *loop) shorten(first uint64, recs []mtm.Record) error {
	if n := l.records.Add(int64(len(recs))); n < checkpointEvery {
		return nil
	}
	for i, r := range recs {
		if _, ok := r.(mtm.RecCheckpoint); ok {
			l.records.Store(0)
			return l.journal.Checkpoint(first + uint64(i))
		}
	}
	return nil
}

func failPersisted(recs []mtm.Record) {
	if failAt == "" {
		return
	}
	for _, r := range recs {
		switch r.(type) {
		case mtm.RecAccept:
			failPoint("accept-persisted")
		case mtm.RecDecide:
			failPoint("decide-appended")
		}
	}
}

func (l *loop) release(r *coordinator.Ready) {
	for _, m := range r.Send {
		failSend(m)
		l.hands.send(m)
	}
	if len(r.Send) > 0 {
		failPoint("after-send")
	}
	for _, a := range r.Do {
		if a, ok := a.(outcomeAnswer); ok {
			a.tell()
			continue
		}
		l.hands.act(a)
	}
	if len(r.Do) > 0 {
		failPoint("after-do")
	}
	for _, rep := range r.Reply {
		failPoint("before-reply")
		l.hands.reply(rep)
	}
}

func failSend(m mtm.Message) {
	if failAt == "" {
		return
	}
	switch m.Body.(type) {
	case mtm.Vote:
		failPoint("vote-persisted")
	case mtm.Accept:
		failPoint("before-accept-send")
	case mtm.Finished:
		failPoint("finish-sent")
	}
}
