package logrep

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"mtm"
	"mtm/logrep/pgoutput"
)

// captureStream is the state of one replication stream. Only its reader touches it.
type captureStream struct {
	*Capture
	conn    *pgconn.PgConn
	parser  pgoutput.Parser
	rels    map[uint32]*relation
	lists   *pgconn.PgConn          // where to ask which tables are local; nil: there is no list
	txn     *capturedTxn            // between begin and end, not streamed
	streams map[uint32]*capturedTxn // streamed, by top-level xid
	chunk   *capturedTxn            // between StreamStart and StreamStop
}

// drop throws away what was not complete when the stream broke: it comes again, from its start.
func (s *captureStream) drop() {
	err := s.txn.abort()
	for _, t := range s.streams {
		err = errors.Join(err, t.abort())
	}
	if err != nil {
		s.cfg.Log.Warn("could not remove a spill file", keyError, err)
	}
}

// read takes messages until the stream breaks.
func (s *captureStream) read(ctx context.Context) error {
	for {
		msg, err := s.conn.ReceiveMessage(context.Background())
		if err != nil {
			return err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			err = s.copyData(ctx, msg.Data)
		case *pgproto3.ErrorResponse:
			err = pgconn.ErrorResponseToPgError(msg)
		case *pgproto3.CopyDone:
			err = errStreamEnded
		}
		if err != nil {
			return err
		}
	}
}

// copyData takes one message of the streaming replication protocol (PostgreSQL manual, 55.4).
func (s *captureStream) copyData(ctx context.Context, b []byte) error {
	switch {
	case len(b) >= 1+8+8+8 && b[0] == 'w':
		return s.message(ctx, b[25:])
	case len(b) == 1+8+8+1 && b[0] == 'k':
		s.keepalive(mtm.LSN(binary.BigEndian.Uint64(b[1:])), b[17] != 0)
		return nil
	}
	return fmt.Errorf("replication stream: %w", pgoutput.ErrMalformed)
}

// keepalive: all WAL up to end has been decoded. Inside a transaction that says nothing yet.
func (s *captureStream) keepalive(end mtm.LSN, wantReply bool) {
	if s.txn == nil && s.chunk == nil {
		s.mu.Lock()
		s.idle = max(s.idle, end)
		s.mu.Unlock()
	}
	if wantReply {
		s.mu.Lock()
		s.asked = true
		s.mu.Unlock()
		s.wake()
	}
}

// message routes one pgoutput message. Changes stay as they are; only what frames them is decoded.
func (s *captureStream) message(ctx context.Context, b []byte) error {
	kind, subxid, body, err := pgoutput.Peek(b, s.chunk != nil)
	if err != nil {
		return err
	}
	switch kind {
	case 'I', 'U', 'D':
		return s.row(subxid, kind, body)
	case 'Y':
		return nil // names find everything on the other side
	}
	m, err := s.parser.Parse(kind, body)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case pgoutput.Relation:
		return s.relation(ctx, body, m)
	case *pgoutput.Truncate:
		return s.truncate(subxid, body, m)
	case *pgoutput.Logical:
		if t := s.current(); t != nil && m.Transactional {
			return s.logical(t, subxid, m)
		}
		return nil
	case pgoutput.Origin:
		if t := s.current(); t != nil {
			t.origin = true
		}
		return nil
	}
	return s.boundary(m)
}

// boundary handles the messages that begin and end transactions and chunks.
func (s *captureStream) boundary(m pgoutput.Message) error {
	switch m := m.(type) {
	case pgoutput.Begin:
		s.txn = newCapturedTxn(nil)
	case pgoutput.Commit:
		return s.committed(s.takeTxn(), mtm.LSN(m.EndLSN))
	case pgoutput.BeginPrepare:
		s.txn = newCapturedTxn(s.writerFor(m.GID))
	case pgoutput.Prepare:
		return s.prepared(s.takeTxn(), m)
	case pgoutput.CommitPrepared:
		return s.forgetUser(m.GID)
	case pgoutput.RollbackPrepared:
		return s.forgetUser(m.GID)
	case pgoutput.StreamStart:
		if s.streams[m.XID] == nil {
			s.streams[m.XID] = newCapturedTxn(newPayloadWriter(s.cfg.Spills, s.cfg.InlineMax))
		}
		s.chunk = s.streams[m.XID]
	case pgoutput.StreamStop:
		t := s.chunk
		s.chunk = nil
		return s.heldOpen(t)
	case pgoutput.StreamAbort:
		return s.streamAbort(m)
	case pgoutput.StreamCommit:
		t := s.takeStream(m.XID)
		if t != nil && t.out == nil {
			return s.committed(t, mtm.LSN(m.EndLSN))
		}
		return errors.Join(t.abort(), s.committed(t, mtm.LSN(m.EndLSN)))
	case pgoutput.StreamPrepare:
		return s.prepared(s.takeStream(m.XID), pgoutput.Prepare(m))
	}
	return nil
}

func (s *captureStream) current() *capturedTxn {
	if s.chunk != nil {
		return s.chunk
	}
	return s.txn
}

func (s *captureStream) takeTxn() *capturedTxn {
	t := s.txn
	s.txn = nil
	return t
}

// takeStream ends a streamed transaction. What it said of relations now holds for all: PostgreSQL does not repeat it.
func (s *captureStream) takeStream(xid uint32) *capturedTxn {
	t := s.streams[xid]
	delete(s.streams, xid)
	if t != nil {
		for id, rel := range t.rels {
			s.rels[id] = rel
		}
	}
	return t
}

// writerFor is nil for what another node prepared, or somebody who went past the gateway: nobody wants its content.
func (s *captureStream) writerFor(gid string) *payloadWriter {
	g, ours := mtm.ParseGID(gid)
	if !ours {
		g, ours = mtm.ParseUserName(gid)
	}
	if !ours || g.Origin != s.cfg.Node {
		return nil
	}
	return newPayloadWriter(s.cfg.Spills, s.cfg.InlineMax)
}

func (s *captureStream) streamAbort(m pgoutput.StreamAbort) error {
	t := s.streams[m.XID]
	if t == nil {
		return nil
	}
	if m.XID != m.SubXID {
		t.rollbackTo(m.SubXID)
		return nil
	}
	delete(s.streams, m.XID)
	return t.abort()
}

// prepared ends a transaction that was prepared, and delivers it if it is ours.
func (s *captureStream) prepared(t *capturedTxn, m pgoutput.Prepare) error {
	if t == nil {
		return fmt.Errorf("prepare of %q that never began: %w", m.GID, pgoutput.ErrMalformed)
	}
	if user, ok := mtm.ParseUserName(m.GID); ok {
		return s.userPrepared(t, user, mtm.LSN(mtm.LSN(m.EndLSN)))
	}
	gid, ours := mtm.ParseGID(m.GID)
	if !ours && t.replicated() && !t.origin {
		s.incident(fmt.Sprintf("a transaction prepared directly as %q changed %s", m.GID, t.table))
	}
	if !ours || gid.Origin != s.cfg.Node || t.origin || t.out == nil {
		return t.abort()
	}
	lsn := mtm.LSN(mtm.LSN(m.EndLSN))
	s.mu.Lock()
	again := lsn <= s.delivered
	s.mu.Unlock()
	if again { // PostgreSQL sends again what was not confirmed when the connection broke
		s.decoded(gid)
		return t.abort()
	}
	t, err := s.withUser(gid, t)
	if refusal, is := err.(*mtm.Error); is {
		s.mu.Lock()
		s.delivered = lsn
		s.mu.Unlock()
		s.decoded(gid)
		s.sink.Refused(gid, lsn, refusal)
		return t.abort()
	}
	if err != nil {
		return err
	}
	p, err := t.finish()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.delivered = lsn
	s.mu.Unlock()
	s.decoded(gid)
	if p.Has(mtm.PayloadDDL) {
		s.cfg.Catalog.prepared(gid)
	}
	for _, other := range s.cfg.Catalog.rivals.enter(gid, p) { // first: what has lost by then is not sent at all
		s.sink.Blocked(other, gid)
		s.sink.Blocked(gid, other)
	}
	s.sink.Captured(gid, lsn, p)
	return nil
}

// heldOpen delivers a transaction that a session of ours holds open, when all of it is here.
func (s *captureStream) heldOpen(t *capturedTxn) error {
	if t == nil || t.told || t.out == nil || t.open.Origin != s.cfg.Node {
		return nil
	}
	t.told = true
	t.flags |= mtm.PayloadStreamed
	if len(t.orders) > 0 || len(t.announced) > 0 {
		s.decoded(t.open)
		s.sink.Refused(t.open, 0, errHeldOrder)
		err := t.abort()
		t.out = nil
		return err
	}
	p, err := t.finish()
	t.out = nil
	if err != nil {
		return err
	}
	s.decoded(t.open)
	if p.Has(mtm.PayloadDDL) {
		s.cfg.Catalog.prepared(t.open)
	}
	s.sink.Captured(t.open, mtm.LSN(t.xid), p)
	return nil
}

// committed ends a transaction that committed plainly, before end: without us, unless it came by replication, or an earlier life of ours
// had its session hold it open. PostgreSQL sends again what that had not acknowledged.
func (s *captureStream) committed(t *capturedTxn, end mtm.LSN) error {
	if t == nil {
		return nil
	}
	if t.late {
		s.incident(fmt.Sprintf("transaction %v changed %s at its COMMIT: that is on this node only", t.open, t.table))
	} else if t.replicated() && !t.origin && t.open.IsZero() && (!t.claims || end > s.began) {
		s.incident(fmt.Sprintf("a transaction committed directly in PostgreSQL changed %s: it is on this node only", t.table))
	}
	return nil
}

// relation remembers a relation message: for the chunk's transaction, which may have altered the table, or for all.
func (s *captureStream) relation(ctx context.Context, body []byte, m pgoutput.Relation) error {
	name := m.Schema + "." + m.Name
	rel := &relation{body: slices.Clone(body), name: name, replicated: !isOwn(name)}
	if rel.replicated && s.lists != nil {
		local, err := isLocal(ctx, s.lists, m.ID)
		if err != nil {
			return err
		}
		rel.replicated = !local
	}
	if name == tableSaid || name == tablePrepared {
		rel.own = &m
	}
	if s.chunk != nil {
		s.chunk.rels[m.ID] = rel
	} else {
		s.rels[m.ID] = rel
	}
	return nil
}

func (s *captureStream) find(t *capturedTxn, id uint32) *relation {
	if rel := t.rels[id]; rel != nil {
		return rel
	}
	return s.rels[id]
}

func (s *captureStream) row(subxid uint32, kind byte, body []byte) error {
	id, ok := pgoutput.RelationID(body)
	t := s.current()
	if !ok || t == nil {
		return pgoutput.ErrMalformed
	}
	rel := s.find(t, id)
	if rel == nil {
		return fmt.Errorf("change of unknown relation %d: %w", id, pgoutput.ErrMalformed)
	}
	if rel.name == localList && kind == 'I' && !t.origin {
		m, err := s.parser.Parse(kind, body)
		if err != nil {
			return err
		}
		return t.becomesLocal(subxid, m.(*pgoutput.Insert).New)
	}
	if rel.own != nil {
		return s.ownRow(t, subxid, kind, body, rel.own)
	}
	if !rel.replicated {
		return nil
	}
	return t.change(subxid, kind, body, rel)
}

// truncate keeps the replicated relations of a truncate.
func (s *captureStream) truncate(subxid uint32, body []byte, m *pgoutput.Truncate) error {
	t := s.current()
	if t == nil {
		return pgoutput.ErrMalformed
	}
	var rels []*relation
	var ids []uint32
	for _, id := range m.Relations {
		rel := s.find(t, id)
		if rel == nil {
			return fmt.Errorf("truncate of unknown relation %d: %w", id, pgoutput.ErrMalformed)
		}
		if rel.replicated {
			rels, ids = append(rels, rel), append(ids, id)
		}
	}
	if len(rels) == 0 {
		return nil
	}
	m.Relations = ids
	return t.change(subxid, 'T', pgoutput.Append(nil, m, false, 0)[1:], rels...)
}
