package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"mtm"
	"mtm/coordinator"
	"mtm/coordinator/journal"
	"mtm/sql/schema"
)

// This file is about what sessions and operators ask the daemon: what became of a transaction.

// outcomeQuestion is an event for the loop, which asks the brain between two steps.
type outcomeQuestion struct {
	coordinator.Event
	gid    mtm.GID
	answer chan outcomeAnswer // has room for one
}

// outcomeAnswer is carried out like an action: after all that the brain had to persist when it said so, so that no crash unsays it.
type outcomeAnswer struct {
	coordinator.Action
	to        chan outcomeAnswer
	outcome   string // coordinator.Node.Outcome
	inJournal bool
}

func (q outcomeQuestion) ask(n *coordinator.Node) outcomeAnswer {
	return outcomeAnswer{to: q.answer, outcome: n.Outcome(q.gid), inJournal: n.InJournal(q.gid)}
}

func (a outcomeAnswer) tell() { a.to <- a }

const (
	answerWait = 3 * time.Second // for an answer; who asks in SQL waits a little longer
	peerWait   = time.Second     // of it, for other nodes
)

// outcomeHere is what this node alone knows: as mtm.outcome(), "" for NULL.
func (d *daemon) outcomeHere(ctx context.Context, gid mtm.GID) (string, error) {
	if l := d.current.Load(); l == nil || l.status.Load() == nil {
		return "", fmt.Errorf("node %d is not part of a cluster that serves", d.cfg.NodeID)
	}
	q := outcomeQuestion{gid: gid, answer: make(chan outcomeAnswer, 1)}
	d.mail.post(q)
	var a outcomeAnswer
	select {
	case a = <-q.answer:
	case <-ctx.Done():
		return "", fmt.Errorf("node %d does not answer: %w", d.cfg.NodeID, ctx.Err())
	}
	if a.outcome != "" || !a.inJournal {
		return a.outcome, nil
	}
	fate, err := d.journal.Fate(gid)
	switch {
	case err != nil:
		return "", err
	case fate == journal.Committed:
		return coordinator.OutcomeCommitted, nil
	case fate == journal.NoCommit:
		return coordinator.OutcomeAborted, nil
	}
	return "", nil
}

// outcome is what this node knows, or else what the nodes in reach know.
func (d *daemon) outcome(ctx context.Context, gid mtm.GID) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	known, err := d.outcomeHere(ctx, gid)
	if err != nil || known != "" {
		return known, err
	}
	r, err := d.rosterOf()
	if err != nil {
		return "", nil
	}
	ctx, cancel = context.WithTimeout(ctx, peerWait)
	defer cancel()
	others := r.others().IDs()
	said := make(chan string, len(others))
	for _, id := range others {
		go func() { said <- d.outcomeOf(ctx, r, id, gid) }()
	}
	for range others { // each ends within peerWait
		switch a := <-said; a {
		case coordinator.OutcomeCommitted, coordinator.OutcomeAborted:
			cancel()
			known = a
		case coordinator.OutcomeInProgress:
			if known == "" {
				known = a
			}
		}
	}
	return known, nil
}

// outcomeRequest is what the methods outcome and outcome_here are told, and outcomeReport what they answer.
type outcomeRequest struct {
	GID string `json:"gid"`
}

type outcomeReport struct {
	GID     string `json:"gid"`
	Outcome string `json:"outcome"` // empty: not known
}

// outcomeOf asks another node what it alone knows; "": nothing, or it does not answer.
func (d *daemon) outcomeOf(ctx context.Context, r *roster, id mtm.NodeID, gid mtm.GID) string {
	conn, err := d.dialNode(r.now.Load(), id)
	if err != nil {
		return ""
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	var a outcomeReport
	if err := conn.Call(ctx, "outcome_here", outcomeRequest{gid.String()}, &a); err != nil {
		d.log.Debug("ask for an outcome", keyNode, id, keyError, err)
		return ""
	}
	return a.Outcome
}

// tellOutcome answers the methods outcome and outcome_here.
func (d *daemon) tellOutcome(ctx context.Context, req outcomeRequest, find func(context.Context, mtm.GID) (string, error)) (outcomeReport, error) {
	gid, ok := mtm.ParseGID(req.GID)
	if !ok {
		return outcomeReport{}, fmt.Errorf("%.100q is not the name of a transaction of the cluster", req.GID)
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	outcome, err := find(ctx, gid)
	return outcomeReport{GID: req.GID, Outcome: outcome}, err
}

// questions are those that sessions of PostgreSQL ask, while their answers are sought.
type questions struct {
	d     *daemon
	desk  *schema.Desk
	ready chan answered
	work  sync.WaitGroup
}

type answered struct {
	question schema.Question
	text     string
	failure  *mtm.Error
}

func newQuestions(d *daemon, desk *schema.Desk) *questions {
	return &questions{d: d, desk: desk, ready: make(chan answered, schema.MaxQuestions)}
}

// look begins to answer what is asked. The caller hands what comes out of ready to the desk, and calls wait at the end.
func (q *questions) look(ctx context.Context) error {
	fresh, err := q.desk.Look(ctx)
	for _, one := range fresh {
		q.work.Go(func() {
			a := answered{question: one}
			a.text, a.failure = q.d.answer(ctx, one)
			q.ready <- a // there is room: the desk bounds how many are open
		})
	}
	return err
}

func (q *questions) wait() { q.work.Wait() }

// ring has the publisher look for questions.
func (d *daemon) ring() {
	select {
	case d.asked <- struct{}{}:
	default:
	}
}

// answer is what a session is told; "": NULL.
func (d *daemon) answer(ctx context.Context, q schema.Question) (string, *mtm.Error) {
	if text, failure, known := d.jobs.answer(q); known {
		return text, failure
	}
	switch verb, rest := q.Text[:1], q.Text[1:]; {
	case verb == schema.AskLastGID && rest == "":
		if gid := d.gateway.LastGID(q.PID); !gid.IsZero() {
			return gid.String(), nil
		}
		return "", nil
	case verb == schema.AskNumbers && q.Admin:
		var r reservation
		if _, err := fmt.Sscanf(rest, "%d %d", &r.seq, &r.n); err == nil {
			return "", d.blocks.reserve(ctx, r)
		}
	case verb == schema.AskOutcome && strings.HasPrefix(rest, mtm.GIDPrefix):
		gid, ok := mtm.ParseGID(rest)
		if !ok {
			return "", &mtm.Error{Code: "22023", Msg: "\"" + rest + "\" is not the name of a transaction of the cluster"}
		}
		outcome, err := d.outcome(ctx, gid)
		if err != nil {
			return "", &mtm.Error{Code: "55000", Msg: err.Error()}
		}
		return outcome, nil
	}
	return "", &mtm.Error{Code: "0A000", Msg: "this mtmd (" + version + ") does not know the question"}
}
