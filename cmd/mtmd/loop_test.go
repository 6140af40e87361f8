package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/coordinator"
	"mtm/coordinator/journal"
)

// What the brain learns in the batch of events that brings a checkpoint about must survive it: a payload that was voted
// for, and then forgotten, is rolled back after a restart, though others commit it.
func TestCheckpointForgetsNothingOfItsBatch(t *testing.T) {
	j, err := journal.Open(t.TempDir(), journal.Options{})
	require.NoError(t, err)
	defer j.Close()
	all := mtm.Nodes(1, 2, 3)
	cfg := coordinator.Config{ID: 1, Generation: mtm.Generation{Num: 1, Members: all, Configured: all}}
	node := coordinator.New(cfg)
	node.Start(nil)
	mail := newMailbox()
	applied := make(chan mtm.GID, 1)
	h := hands{send: func(mtm.Message) {}, reply: func(coordinator.Reply) {}, mark: func(mtm.GID, string) {}}
	h.act = func(a coordinator.Action) {
		if a, ok := a.(coordinator.Apply); ok {
			applied <- a.GID
		}
	}
	l := newLoop(node, mail, j, h, newMetrics(), slog.New(slog.DiscardHandler), newClock())
	l.records.Store(checkpointEvery)
	gid := mtm.GID{Origin: 2, Gen: 1, Seq: 1}
	mail.post(coordinator.PeerUp{Node: 2, Incarnation: 1})
	mail.post(coordinator.Tick{Now: 1})
	mail.post(coordinator.Received{Message: mtm.Message{From: 2, To: 1, Body: mtm.Prepare{GID: gid, Payload: mtm.Payload{Data: []byte("x")}}}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	require.Equal(t, gid, <-applied)
	require.Eventually(t, func() bool { return l.records.Load() < checkpointEvery }, 5*time.Second, time.Millisecond, "no checkpoint was written")
	cancel()
	<-done

	again := coordinator.New(cfg)
	require.NoError(t, j.Replay(0, func(_ uint64, r mtm.Record) error { again.Replay(r); return nil }))
	require.Equal(t, "in progress", again.Outcome(gid), "what was voted for must be known after a restart")
	again.Start([]mtm.GID{gid})
	for _, a := range again.Ready().Do {
		require.NotEqual(t, coordinator.Finish{GID: gid}, a, "a transaction that this node voted for is rolled back")
	}
}

// After a pause of the process the brain hears the time before anything that waited meanwhile, and whoever reads hears of
// the lease before anything that was decided leaves.
func TestTimeComesFirstAndTheLeaseBeforeAnythingIsSent(t *testing.T) {
	j, err := journal.Open(t.TempDir(), journal.Options{})
	require.NoError(t, err)
	defer j.Close()
	all := mtm.Nodes(1, 2, 3)
	node := coordinator.New(coordinator.Config{ID: 1, Generation: mtm.Generation{Num: 1, Members: all, Configured: all}, Elections: true, Incarnation: 1})
	node.Start(nil)
	mail := newMailbox()
	var told, tooEarly atomic.Bool
	sent := make(chan mtm.Message, 100)
	h := hands{reply: func(coordinator.Reply) {}, mark: func(mtm.GID, string) {}, act: func(coordinator.Action) {}}
	h.send = func(m mtm.Message) {
		if !told.Load() {
			tooEarly.Store(true)
		}
		sent <- m
	}
	c := newClock()
	c.zero -= 5e9 // five seconds of SIGSTOP
	l := newLoop(node, mail, j, h, newMetrics(), slog.New(slog.DiscardHandler), c)
	l.lease = func(uint64) { told.Store(true) }
	mail.post(coordinator.PeerUp{Node: 2, Incarnation: 1})
	mail.post(coordinator.Tick{Now: 40}) // of before the pause
	beat := mtm.Heartbeat{Sent: 7, Gen: mtm.Generation{Num: 1, Members: all, Configured: all}, Donors: all, LastOnline: 1, Connected: all}
	mail.post(coordinator.Received{Message: mtm.Message{From: 2, To: 1, Body: beat}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	var acked, beaten bool
	for !acked || !beaten {
		switch b := (<-sent).Body.(type) {
		case mtm.HeartbeatAck:
			acked = b.Sent == 7
		case mtm.Heartbeat:
			require.GreaterOrEqual(t, b.Sent, uint64(5000), "a heartbeat with the time of before the pause")
			beaten = true
		}
	}
	cancel()
	<-done
	require.False(t, tooEarly.Load())
}

// What somebody is told of an outcome must survive the crash that comes right after.
func TestOutcomeIsToldWhenItIsDurable(t *testing.T) {
	j, err := journal.Open(t.TempDir(), journal.Options{})
	require.NoError(t, err)
	defer j.Close()
	all := mtm.Nodes(1, 2, 3)
	cfg := coordinator.Config{ID: 1, Generation: mtm.Generation{Num: 1, Members: all, Configured: all}}
	node := coordinator.New(cfg)
	node.Start(nil)
	h := hands{send: func(mtm.Message) {}, reply: func(coordinator.Reply) {}, mark: func(mtm.GID, string) {}, act: func(coordinator.Action) {}}
	l := newLoop(node, newMailbox(), j, h, newMetrics(), slog.New(slog.DiscardHandler), newClock())
	gid := mtm.GID{Origin: 2, Gen: 1, Seq: 1}
	from2 := func(b mtm.Body) coordinator.Event {
		return coordinator.Received{Message: mtm.Message{From: 2, To: 1, Body: b}}
	}
	ask := func() chan outcomeAnswer {
		q := outcomeQuestion{gid: gid, answer: make(chan outcomeAnswer, 1)}
		l.answers = append(l.answers, q.ask(node))
		require.NoError(t, l.hand(t.Context()))
		return q.answer
	}
	for _, ev := range []coordinator.Event{
		coordinator.PeerUp{Node: 2, Incarnation: 1}, from2(mtm.Prepare{GID: gid, Payload: mtm.Payload{Data: []byte("x")}}),
		coordinator.Applied{GID: gid}, from2(mtm.Accept{GID: gid, Ballot: mtm.Ballot{Node: 2}, Commit: true}),
	} {
		l.step(ev)
	}
	answer, again := ask(), ask()
	require.Empty(t, answer, "told before the journal has it")
	require.Empty(t, again, "told before the journal has it, with nothing new to persist")
	require.NoError(t, l.carry([]coordinator.Ready{<-l.ready, <-l.ready}))
	l.queued.Store(0)
	require.Equal(t, "committed", (<-answer).outcome)
	require.Equal(t, "committed", (<-again).outcome)
	require.Equal(t, "committed", (<-ask()).outcome, "with nothing queued it is told at once")
	restarted := coordinator.New(cfg)
	require.NoError(t, j.Replay(0, func(_ uint64, r mtm.Record) error { restarted.Replay(r); return nil }))
	require.Equal(t, "committed", restarted.Outcome(gid))
}
