package main

import (
	"errors"
	"io/fs"
	"log/slog"

	"mtm"
	"mtm/coordinator"
	"mtm/coordinator/journal"
	"mtm/dmq"
	"mtm/logrep"
	"mtm/sql/gateway"
)

// sink turns what the drivers report into events for the brain.
type sink struct {
	mail     *mailbox
	streams  *journal.Streamer
	gateway  *gateway.Server
	roster   *roster
	finishes *finishes
	metrics  *metrics
	log      *slog.Logger
}

var (
	_ logrep.Sink        = (*sink)(nil)
	_ logrep.RecoverSink = (*sink)(nil)
	_ dmq.Sink           = (*sink)(nil)
)

func (s *sink) Captured(gid mtm.GID, lsn mtm.LSN, p mtm.Payload) {
	s.mail.post(coordinator.Captured{GID: gid, LSN: lsn, Payload: p})
}

// Refused implements logrep.CaptureSink. What is captured then finds it aborted, and is only acknowledged.
func (s *sink) Refused(gid mtm.GID, lsn mtm.LSN, err *mtm.Error) {
	s.mail.post(coordinator.Cancelled{GID: gid, Err: err})
	if lsn != 0 {
		s.mail.post(coordinator.Captured{GID: gid, LSN: lsn, Payload: mtm.Payload{Flags: mtm.PayloadEmpty}})
	}
}

func (s *sink) Incident(text string) {
	s.metrics.incident.Inc()
	s.log.Error("incident: a write went past the cluster", "what", text)
}

func (s *sink) Applied(gid mtm.GID, err *mtm.Error) {
	s.mail.post(coordinator.Applied{GID: gid, Err: err})
}

func (s *sink) Blocked(waiter, holder mtm.GID) {
	s.mail.post(coordinator.Blocked{Waiter: waiter, Holder: holder})
}

func (s *sink) Conflict(waiter mtm.GID, age uint64, pid uint32, cancel func() error) bool {
	if holder, open := s.gateway.Holds(int32(pid)); open {
		s.Blocked(waiter, holder) // as good as prepared
		return true
	}
	why := mtm.Conflict("Transaction " + waiter.String() + " of another node changes the same rows.")
	return s.gateway.Doom(int32(pid), gateway.Rival{GID: waiter, Cause: why, Age: age, Cancel: cancel}) || s.gateway.Owns(int32(pid))
}

// errStalled is told to the client of a transaction that keeps PostgreSQL from decoding.
var errStalled = &mtm.Error{
	Code: mtm.CodeNotSupported, Msg: "transaction keeps PostgreSQL from decoding what is committed",
	Detail: "It creates, alters or locks a composite type, or a table, of which it or another transaction writes values into a column.",
	Hint:   "Use two transactions: one for the type, one for the values.",
}

func (s *sink) Stalled(gid mtm.GID, pid uint32) bool {
	if holder, open := s.gateway.Holds(int32(pid)); open {
		gid = holder
	}
	if gid.IsZero() {
		return s.gateway.Doom(int32(pid), gateway.Rival{Cause: errStalled}) || s.gateway.Owns(int32(pid))
	}
	s.mail.post(coordinator.Cancelled{GID: gid, Err: errStalled})
	return true
}

func (s *sink) Recovered(at uint64) { s.mail.post(coordinator.Recovered{At: at}) }

func (s *sink) Finished(gid mtm.GID) {
	s.mail.post(coordinator.Finished{GID: gid})
	s.finishes.finished(gid)
}

func (s *sink) Received(m mtm.Message) { s.mail.post(coordinator.Received{Message: m}) }

func (s *sink) Urgent(m mtm.Message) { s.mail.post(coordinator.Received{Message: m}) }

func (s *sink) PeerUp(id mtm.NodeID, incarnation uint64) {
	s.mail.post(coordinator.PeerUp{Node: id, Incarnation: incarnation})
	s.roster.wake(id)
}

func (s *sink) PeerDown(id mtm.NodeID) {
	s.streams.PeerDown(id)
	s.mail.post(coordinator.PeerDown{Node: id})
}

// actor hands actions to the drivers that carry them out.
type actor struct {
	capture   *logrep.Capture
	applier   *logrep.Applier
	finishes  *finishes
	recoverer *logrep.Recoverer
	gate      *gate
	gateway   *gateway.Server
	journal   *journal.Journal
	streams   *journal.Streamer
	referee   *judge
	renew     *renewer
	gone      func()
	log       *slog.Logger
}

func (a *actor) act(action coordinator.Action) {
	switch x := action.(type) {
	case coordinator.Apply:
		if x.Payload.Has(mtm.PayloadSerializable) {
			a.gateway.SerializableElsewhere()
		}
		a.applier.Apply(x.GID, x.Age, x.Payload)
	case coordinator.CancelApply:
		a.applier.Cancel(x.GID)
	case coordinator.Finish:
		a.finishes.finish(x)
	case coordinator.Confirm:
		a.gate.confirm(x.GID)
	case coordinator.AckCapture:
		a.capture.Ack(x.LSN)
	case coordinator.OpenGate:
		a.gate.allow(x)
	case coordinator.CloseGate:
		a.gate.forbid(x)
	case coordinator.Release:
		a.gate.release()
	case coordinator.DropPayload:
		if err := a.journal.DropSpill(x.Spill); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Warn("remove a spill file", keyError, err)
		}
	case coordinator.ApplyRecovered:
		a.recoverer.Apply(x.GID, x.At, x.Payload)
	case coordinator.StreamJournal:
		a.streams.Stream(x)
	case coordinator.StreamAcked:
		a.streams.Acked(x)
	case coordinator.AskReferee:
		a.referee.ask(x.Request)
	case coordinator.TellOutcome:
		a.streams.TellOutcome(x)
	case coordinator.Recapture:
		a.renew.want()
	case coordinator.Gone:
		a.gone()
	}
}

// logrepSpills gives the journal's spill files the shape that logrep declares.
type logrepSpills struct{ *journal.Spills }

func (s logrepSpills) Create() (logrep.SpillWriter, error) { return s.Spills.Create() }
