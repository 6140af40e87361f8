package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"mtm"
)

// answers is PostgreSQL's goroutine: it reads what PostgreSQL says until the connection ends, gives the client what is
// his, and notes the rest for the client's goroutine.
func (s *session) answers() error {
	for {
		if s.br.buffered() < 5 {
			s.flushOut()
		}
		typ, size, err := s.br.header()
		if err != nil {
			return err
		}
		if s.br.buffered() < size {
			s.flushOut()
		}
		if !fits(size) {
			err = s.large(typ, size)
		} else {
			var msg []byte
			if msg, err = s.br.take(size); err == nil {
				err = s.answer(typ, msg)
			}
		}
		if err != nil {
			return err
		}
	}
}

// ended tells the client's goroutine that PostgreSQL's is no more.
func (s *session) ended(err error) {
	s.mu.Lock()
	s.dead = err
	s.wake()
	s.cond.Broadcast()
	s.mu.Unlock()
}

// front is the answer that is owed next.
func (s *session) front() (e expect, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owed() == 0 {
		return e, false
	}
	return s.queue[s.head], true
}

// large passes a message on in pieces. Only data and errors are ever so long.
func (s *session) large(typ byte, size int) error {
	e, ok := s.front()
	visible := typ == 'N' || typ == 'A' || ok && e.role == roleClient
	if typ == 'N' && size > maxNotice {
		visible = false
	}
	if typ == 'E' && size <= 1<<20 || typ == 'N' && size <= maxNotice {
		msg, err := s.br.appendTo(make([]byte, 0, size), size)
		if err != nil {
			return err
		}
		return s.answer(typ, msg)
	}
	if typ != 'D' && typ != 'd' && typ != 'T' && typ != 'N' && typ != 'A' && typ != 'V' {
		return fmt.Errorf("message %q of %d bytes from PostgreSQL", typ, size)
	}
	for size > 0 {
		if s.br.buffered() == 0 {
			s.flushOut()
		}
		p, err := s.br.piece(size)
		if err != nil {
			return err
		}
		size -= len(p)
		if visible {
			s.emit(p)
		}
	}
	if typ == 'T' && e.op == 'D' {
		s.finish1()
	}
	return nil
}

// finish1 takes the first answer off the queue: it is complete.
func (s *session) finish1() {
	s.mu.Lock()
	s.pop()
	if s.owed() == 0 {
		s.cond.Broadcast()
	}
	s.mu.Unlock()
}

// answer deals with one message of PostgreSQL.
func (s *session) answer(typ byte, msg []byte) error {
	switch typ {
	case 'N', 'A':
		if typ == 'N' && (s.asks(msg[5:]) || s.tellsToken(msg)) {
			return nil
		}
		if typ == 'A' {
			s.noteHeard(msg[5:])
		}
		s.emit(msg)
		return nil
	case 'S':
		s.parameter(msg)
		return nil
	}
	e, ok := s.front()
	if !ok {
		if typ == 'E' {
			s.mu.Lock()
			s.fatal = bytes.Clone(msg)
			s.mu.Unlock()
			return nil
		}
		return fmt.Errorf("message %q from PostgreSQL that nobody asked for", typ)
	}
	visible := e.role == roleClient
	switch typ {
	case 'D':
		if e.role == roleAsk || e.role == roleDDLEnd || e.role == roleRows {
			s.note(msg, e.role == roleRows)
		}
	case 'd', 't', 'c', 'V':
	case 'T', 'n':
		if e.op == 'D' {
			defer s.finish1()
			visible = visible && !(typ == 'n' && e.quiet)
		}
	case '1', '2', '3':
		s.acknowledged(e)
		return s.pass(visible, msg)
	case 's':
		s.completed(e, "")
		return s.pass(visible, msg)
	case 'C', 'I':
		if visible {
			s.holdComplete()
		}
		s.completed(e, strings.TrimRight(string(msg[5:]), "\x00"))
		return s.pass(visible, msg)
	case 'G', 'W':
		if visible {
			s.emit(msg)
			s.spill()
		}
		s.mu.Lock()
		s.copyIn = true
		s.cond.Broadcast()
		s.mu.Unlock()
		return nil
	case 'H':
	case 'E':
		s.failed(e, msg)
		return nil
	case 'Z':
		return s.ready(msg)
	default:
		return fmt.Errorf("message %q from PostgreSQL is not known", typ)
	}
	return s.pass(visible, msg)
}

func (s *session) pass(visible bool, msg []byte) error {
	if visible {
		s.emit(msg)
	}
	return nil
}

// note keeps the first column of a row of roleAsk; more: behind what is kept already.
func (s *session) note(msg []byte, more bool) {
	value := ""
	if len(msg) >= 11 {
		n := int(int32(uint32(msg[7])<<24 | uint32(msg[8])<<16 | uint32(msg[9])<<8 | uint32(msg[10])))
		if n > 0 && len(msg) >= 11+n {
			value = string(msg[11 : 11+n])
		}
	}
	s.mu.Lock()
	if more {
		value = s.step.value + " " + value
	}
	s.step.value = value
	s.mu.Unlock()
}

// holdComplete holds back from here on, if what preceded was too long to be held back.
func (s *session) holdComplete() {
	s.outMu.Lock()
	if s.strict && s.holdAt < 0 {
		s.writeOut()
		s.holdAt = len(s.out)
	}
	s.outMu.Unlock()
}

// acknowledged: ParseComplete, BindComplete, CloseComplete.
func (s *session) acknowledged(e expect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pop()
	switch {
	case e.op == 'P' && e.role == roleClient:
		s.stmts[e.name] = e.parse
	case e.op == 'C' && e.role == roleClient && e.read: // a statement, not a portal
		delete(s.stmts, e.name)
	}
	if s.owed() == 0 {
		s.cond.Broadcast()
	}
}

// completed: a statement ended well, or is suspended (its tag is then empty).
func (s *session) completed(e expect, tag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copyIn = false
	if e.op != 'Q' {
		s.pop()
	}
	switch e.role {
	case roleClient:
		s.step.done = true
		s.noteTag(e, tag)
	case rolePrepare:
		s.step.prepare = tag == "PREPARE TRANSACTION"
	case roleTag:
		s.step.value = tag
	case roleDDLEnd:
		switch s.step.value {
		case "temporary":
			s.temporary, s.block.temporary = true, true
		case "nothing":
		default:
			s.block.ddl = true
		}
		s.step.value = ""
	}
	s.cond.Broadcast()
}

// noteTag learns from a command's tag what the block did; mu is held.
func (s *session) noteTag(e expect, tag string) {
	s.noteListen(tag)
	switch word, count, _ := strings.Cut(tag, " "); word {
	case "INSERT", "UPDATE", "DELETE", "MERGE":
		s.block.ran = true
		s.block.wrote = s.block.wrote || !strings.HasSuffix(count, " 0") && count != "0"
	case "SET", "SHOW", "BEGIN", "START", "SAVEPOINT", "RELEASE", "ROLLBACK", "COMMIT", "DECLARE", "CLOSE", "":
	case "RESET":
		s.block.forgot = true
	case "PREPARE", "DEALLOCATE", "DISCARD", "LISTEN", "UNLISTEN", "NOTIFY":
		if tag == "DISCARD ALL" || tag == "DEALLOCATE ALL" {
			s.forgetStatements()
		}
	default:
		s.block.ran = true
		s.block.wrote = s.block.wrote || strings.HasPrefix(tag, "TRUNCATE") || word == "COPY" && !e.read
	}
}

// forgetStatements: every named prepared statement is gone, ours among them; mu is held.
func (s *session) forgetStatements() {
	s.have = [injCount]bool{}
	unnamed := s.stmts[""]
	clear(s.stmts)
	if unnamed != nil {
		s.stmts[""] = unnamed
	}
}

// failed: an ErrorResponse. It is the client's, or replaced by what he is told instead, or kept.
func (s *session) failed(e expect, msg []byte) {
	code := field(msg[5:], 'C')
	short := code == codeUsedUp && s.managed && s.srv.conf.Numbers != nil && s.srv.conf.Numbers.Short(context.Background(), field(msg[5:], 'M'))
	if e.role != roleClient {
		msg = withoutContext(msg)
	}
	s.mu.Lock()
	msg = s.asSent(e, msg)
	s.copyIn = false
	if severity := field(msg[5:], 'V'); severity == "FATAL" || severity == "PANIC" {
		s.fatal = bytes.Clone(msg)
		s.mu.Unlock()
		return
	}
	if e.op != 'Q' && e.op != 'F' {
		s.skipping = true
	}
	if e.role != roleClient && e.err == nil && code == "26000" && strings.Contains(field(msg[5:], 'M'), `"_mtm_`) {
		s.have = [injCount]bool{} // somebody deallocated them (an error that was provoked is of a statement that never was)
	}
	cause := e.err
	switch {
	case code == mtm.CodeQueryCanceled && s.cause != nil && !s.canceled:
		cause, s.cause = s.cause, nil
		s.noteLoss(cause, now())
	case short && cause == nil:
		cause = errShort
	case s.told != nil && e.role == roleClient && (code == "25P02" || s.tx == 'T' && e.err == nil):
		cause, s.told = s.told, nil // what the client knows is gone with his block: a table, a portal
	}
	var perr *mtm.Error
	if cause != nil {
		perr, msg = cause, appendError(nil, 'E', "ERROR", cause)
	} else {
		perr = parseError(msg[5:])
		perr.Err = rawError(bytes.Clone(msg))
	}
	if e.op == 'B' && code == codeDuplicateCursor {
		s.portals[e.name] = e.parse // it is what it was
	}
	if s.guarded != nil && code == mtm.CodeReadOnly {
		s.guarded.markWrote()
	}
	first := s.step.err == nil
	if first {
		s.step.err, s.step.raw = perr, bytes.Clone(msg)
	}
	his := e.role == roleClient || e.his && first
	show := his && (!s.catch || !first)
	s.cond.Broadcast()
	s.mu.Unlock()
	if his && !show {
		show = !s.intact()
	}
	if show {
		s.mu.Lock()
		s.step.shown = s.step.shown || first
		s.mu.Unlock()
		s.emit(msg)
	}
}

// codeDuplicateCursor is what PostgreSQL says of a Bind to a named portal that there is.
const codeDuplicateCursor = "42P03"

// codeUsedUp is the SQLSTATE of nextval() past the last value: sequence_generator_limit_exceeded.
const codeUsedUp = "2200H"

// errShort is what a client is told when numbers are used up sooner than others could be drawn.
var errShort = &mtm.Error{
	Code: mtm.CodeSerialization, Msg: "the numbers of a sequence that this node had are used up",
	Detail: "A larger block of numbers is being drawn.", Hint: "The transaction might succeed if retried.",
}

// ready: ReadyForQuery ends the answer to a Query or a Sync. What it gives the client is in his buffer before anybody
// can know of it: the next unit may hold its own output back.
func (s *session) ready(msg []byte) error {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.popReady()
	if !ok {
		return fmt.Errorf("ReadyForQuery from PostgreSQL that nobody asked for")
	}
	s.tx = msg[5]
	s.skipping, s.copyIn = false, false
	if s.tx == 'I' {
		s.block, s.told, s.sparedTo = block{}, nil, time.Time{}
		clear(s.portals)
	}
	s.cond.Broadcast()
	if s.guarded != nil && s.syncs == 0 {
		if s.step.err != nil && !s.step.shown && s.step.err.Code == mtm.CodeReadOnly {
			s.repeat = true
			s.wake()
			return nil
		}
		if !s.step.shown {
			s.out = append(s.out, s.step.raw...)
		}
		s.guarded, s.catch = nil, false
		s.holdAt = -1
	}
	if s.cause != nil && s.tx == 'T' && !e.quiet && s.syncs == 0 {
		s.doomed = true // the cancel came too late for the statement
	}
	if s.doomed || s.wakeOnDone && s.syncs == 0 || s.relisten && s.tx == 'I' {
		s.wake()
	}
	if e.skipped && !s.step.shown {
		s.out = append(s.out, s.step.raw...)
	}
	if !e.quiet {
		s.out = append(s.out, msg...)
	}
	return nil
}

// popReady takes off the queue what this ReadyForQuery answers, and what was skipped before it; mu is held.
func (s *session) popReady() (expect, bool) {
	skipped := false // a statement of the client, who has no answer yet: one of ours failed before it
	for s.owed() > 0 {
		e := s.pop()
		switch {
		case e.op == 'S' && skipped:
			e.quiet, e.skipped = false, true
			s.syncs--
			return e, true
		case e.op == 'S', !s.skipping && (e.op == 'Q' || e.op == 'F'):
			s.syncs--
			return e, true
		case e.op == 'Q' || e.op == 'F':
			s.syncs--
			skipped = skipped || e.role == roleClient && !e.quiet
		case e.op == 'P' && e.role == roleOurs && e.inj < injCount:
			s.have[e.inj] = false
		}
		if !s.skipping {
			return e, false
		}
	}
	return expect{}, false
}

// parameter: a setting that PostgreSQL reports has a new value. The guard's is ours alone.
func (s *session) parameter(msg []byte) {
	name, rest, _ := cut(msg[5:])
	value, _, _ := cut(rest)
	switch string(name) {
	case "default_transaction_read_only":
		s.mu.Lock()
		s.guardOff = string(value) == "off"
		s.mu.Unlock()
		return
	case "standard_conforming_strings":
		s.mu.Lock()
		s.lexSafe = string(value) == "on"
		s.mu.Unlock()
	case "client_encoding":
		s.mu.Lock()
		s.encodingOK, s.utf8 = plainEncoding(string(value)), string(value) == "UTF8"
		s.mu.Unlock()
	}
	s.emit(msg)
}

// plainEncoding reports whether, in texts of this encoding, a byte below 128 always is the ASCII character.
func plainEncoding(name string) bool {
	switch name {
	case "BIG5", "GB18030", "GBK", "JOHAB", "SJIS", "SHIFT_JIS_2004", "UHC":
		return false
	}
	return true
}

// fromFunction puts right what PostgreSQL says of a statement in a function that cannot run in a block: the block is ours, the client
// has none.
func fromFunction(msg []byte) []byte {
	if field(msg[5:], 'W') == "" {
		return msg
	}
	const block, function = " cannot run inside a transaction block\x00", " cannot be executed from a function\x00"
	fixed := bytes.Replace(msg, []byte(block), []byte(function), 1)
	binary.BigEndian.PutUint32(fixed[1:], uint32(len(fixed)-1))
	return fixed
}

// fromProcedure explains an error of a COMMIT or ROLLBACK in CALL or DO, which runs in a block of ours, to a client who knows of no block.
func fromProcedure(msg []byte) []byte {
	if field(msg[5:], 'D') != "" || field(msg[5:], 'H') != "" {
		return msg
	}
	b := bytes.Clone(msg[:len(msg)-1])
	b = cstring(append(b, 'D'), "COMMIT and ROLLBACK inside of CALL or DO are PostgreSQL's own, where no other node could be asked.")
	b = cstring(append(b, 'H'), "Have the client call it once per transaction, without COMMIT inside; or let it run each part over dblink, through the gateway.")
	return end(append(b, 0), 1)
}

// maxNotice, in bytes, is the longest notice that is looked at whole. No longer one is passed on.
const maxNotice = 16 << 20

// tellsToken: what PostgreSQL logs, and its client asked to see (client_min_messages), can show the parameters of a statement of ours,
// a token among them; so can its plan (debug_print_plan), where the token is spelled otherwise.
func (s *session) tellsToken(msg []byte) bool {
	if bytes.Contains(msg, []byte(mtm.TokenPrefix)) {
		return true
	}
	e, ok := s.front()
	severity := field(msg[5:], 'V')
	return ok && e.role != roleClient && (severity == "LOG" || strings.HasPrefix(severity, "DEBUG"))
}

// withoutContext takes the context out of an error of a statement of ours: it may show the parameters (log_parameter_max_length_on_error).
func withoutContext(msg []byte) []byte {
	if field(msg[5:], 'W') == "" {
		return msg
	}
	out := append([]byte(nil), msg[:5]...)
	for body := msg[5:]; len(body) > 1 && body[0] != 0; {
		n := bytes.IndexByte(body, 0) + 1
		if n == 0 {
			return msg
		}
		if body[0] != 'W' {
			out = append(out, body[:n]...)
		}
		body = body[n:]
	}
	out = append(out, 0)
	binary.BigEndian.PutUint32(out[1:], uint32(len(out)-1))
	return out
}
