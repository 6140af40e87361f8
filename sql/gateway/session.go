package gateway

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"mtm"
	"mtm/sql/statement"
)

// role says what an answer is for.
type role uint8

const (
	roleClient  role = iota // the client's own message: he sees the answer
	roleOurs                // injected: nobody sees it, an error is kept
	roleAsk                 // injected: the first column of its row is kept in step.value
	roleRows                // injected: the first columns of its rows are kept in step.value, a space before each
	rolePrepare             // PREPARE TRANSACTION
	roleTag                 // injected: its tag is kept in step.value
	roleDDLEnd              // its end; the first column of its row says what it was about: mtm.note_ddl
)

// expect is one answer that PostgreSQL owes.
type expect struct {
	op      byte // the message that was sent: Q P B D E C S F
	role    role
	inj     injected   // op P, roleOurs: which
	quiet   bool       // op Q, S, F: the ReadyForQuery is not for the client; op D: nor is NoData
	read    bool       // op E, Q: it writes nothing by its looks, whatever its tag says
	shift   int        // op Q: characters of the client's string before this part of it
	parse   *prepared  // op P: what it defines; op B: what its portal ran before
	name    string     // op P, C: of the statement; op B: of the portal
	err     *mtm.Error // what the client is told instead of the error that comes
	his     bool       // roleOurs, but an error of it is the client's
	skipped bool       // op S: the client waits for it, since his Query was skipped
}

// prepared is what is known of a client's prepared statement.
type prepared struct {
	stmt *statement.Statement // nil: nothing
	text string               // of what other nodes are told: DDL, REINDEX CONCURRENTLY
	hide *hidden
}

// step is what has happened since the last resetStep.
type step struct {
	raw     []byte     // the first error, as a message
	err     *mtm.Error // … and its parts
	shown   bool       // … and whether the client has it
	done    bool       // the client's statement is complete
	prepare bool       // PREPARE TRANSACTION succeeded
	value   string     // first column of the last row of roleAsk; of all rows of roleRows
}

// block is what the open transaction block did.
type block struct {
	readOnly  bool   // BEGIN READ ONLY
	ran       bool   // some statement ran that may have written
	wrote     bool   // some statement wrote, by its tag
	ddl       bool   // the other nodes must run a DDL statement
	temporary bool   // PostgreSQL cannot prepare it, as far as can be told
	native    bool   // PostgreSQL itself began it, by ROLLBACK AND CHAIN
	forgot    bool   // RESET ALL may have undone what says that it ran DDL in a function
	chain     string // the characteristics with which we began it, for AND CHAIN
}

// session is one client and its connection to PostgreSQL. Two goroutines serve it; doc.go says which does what. Fields
// under no lock belong to the client's goroutine.
type session struct {
	srv    *Server
	pid    int32
	secret []byte
	client net.Conn
	cr     *reader
	back   net.Conn
	br     *reader

	managed        bool   // the database is replicated
	warned         bool   // of what SERIALIZABLE covers
	clientReadOnly bool   // the client himself set default_transaction_read_only
	asHis          bool   // errors of what is injected now are the client's, who would wait for an answer in vain
	wantsAdmin     bool   // he calls himself mtm_admin
	admin          bool   // … and is a member of that role: he gets in while the node is not online
	toBackend      []byte // not sent yet
	batch          []byte // the messages of the unit being run: a Query, or extended ones
	ext            extended
	leased         atomic.Bool // the unit's answer needs a lease when it goes out

	outMu   sync.Mutex // before mu
	out     []byte     // for the client, not written yet
	holdAt  int        // out is held back from here on; -1: nothing is
	strict  bool       // hold the client's CommandComplete back, however long what precedes it
	calm    bool       // what is in out waits for more
	spilled bool       // some of what was to be held back was sent
	lost    error      // writing to the client failed

	mu         sync.Mutex
	cond       sync.Cond
	queue      []expect
	head       int
	syncs      int  // ReadyForQuery messages owed
	tx         byte // I, T or E, at the last of them
	skipping   bool // PostgreSQL skips what comes, up to a Sync
	copyIn     bool // PostgreSQL wants CopyData
	dead       error
	closing    bool   // the server stops
	fatal      []byte // what PostgreSQL said before it hung up
	stmts      map[string]*prepared
	portals    map[string]*prepared
	have       [injCount]bool // injected statements that are prepared
	step       step
	block      block
	catch      bool  // errors of the client's statements go to step, not to him, as long as all is held back
	guarded    *unit // a read that runs unwrapped; 25006 means to repeat it
	repeat     bool  // … and it is to be
	temporary  bool  // a transaction of this session may be such as cannot be prepared
	guardOff   bool  // the client turned the guard off
	lexSafe    bool  // the lexer reads texts as PostgreSQL does
	encodingOK bool
	utf8       bool       // client_encoding
	reading    bool       // the client's goroutine waits for the client
	woken      bool       // … and was interrupted
	wakeOnDone bool       // interrupt it when syncs becomes 0
	cancels    int        // cancel requests on their way
	canceled   bool       // by the client, during this unit
	slow       bool       // cancelled because it held a permit for too long
	preparing  bool       // PREPARE TRANSACTION is on its way, and what precedes it is done
	hide       *hidden    // of the Query that runs
	cause      *mtm.Error // Doom: what to tell instead of 57014
	doomed     bool       // Doom: end the block
	told       *mtm.Error // Doom: the block is not the client's any more, and he has not been told
	age        uint64     // of the transaction that was permitted last, in microseconds since 1970
	since      uint64     // age of the client's first try, if his last one lost against another transaction; else 0
	lostAt     time.Time  // … when that was
	losses     int        // … and how many there were
	lostTo     mtm.GID    // … and to whom, or with what; zero once it was waited for
	pressing   bool       // it was waited for in vain
	sparedTo   time.Time  // until then the transaction is let be
	waiting    mtm.GID    // the commit that is waited for
	gid        mtm.GID    // permitted, and not yet reported
	lastGID    mtm.GID    // of the last commit
	abort      context.CancelFunc
	held       mtm.GID         // the transaction that is held open
	xid        uint64          // … and its transaction id
	orders     []Order         // what is to be done with it
	channels   map[string]bool // that it listens to, as far as the other nodes know
	relisten   bool            // … and PostgreSQL is to be asked
}

var errWoken = errors.New("woken")

// push adds to what PostgreSQL owes; mu is held.
func (s *session) push(es ...expect) {
	for _, e := range es {
		if e.op == 'Q' || e.op == 'S' || e.op == 'F' {
			s.syncs++
		}
	}
	if s.head > 0 && s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
	}
	s.queue = append(s.queue, es...)
}

// pop takes the first answer off the queue; mu is held.
func (s *session) pop() expect {
	e := s.queue[s.head]
	s.queue[s.head] = expect{}
	s.head++
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
		if cap(s.queue) > 1024 {
			s.queue = nil
		}
	} else if s.head > 4096 && s.head > len(s.queue)/2 {
		s.queue = append(s.queue[:0], s.queue[s.head:]...)
		s.head = 0
	}
	return e
}

func (s *session) owed() int { return len(s.queue) - s.head }

// send writes what is to be sent, in one piece, after every cancel request that could hit it by mistake has arrived.
func (s *session) send() error {
	s.mu.Lock()
	for s.cancels > 0 {
		s.cond.Wait()
	}
	s.mu.Unlock()
	if len(s.toBackend) == 0 {
		return nil
	}
	_, err := s.back.Write(s.toBackend)
	if cap(s.toBackend) > 2*batchLimit {
		s.toBackend = nil
	}
	s.toBackend = s.toBackend[:0]
	if err != nil {
		return s.wait(func() bool { return false }) // the other goroutine knows why
	}
	return nil
}

// wait blocks until done, called under mu, is true. An error means that the connection to PostgreSQL has ended.
func (s *session) wait(done func() bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !done() {
		if s.dead != nil {
			return s.dead
		}
		if s.skipping && !s.syncOwed() {
			// One of ours failed, and nobody has sent the Sync that PostgreSQL waits for.
			s.push(expect{op: 'S', quiet: true})
			s.mu.Unlock()
			_, err := s.back.Write(appendSync(nil))
			s.mu.Lock()
			if err != nil && s.dead == nil {
				s.cond.Wait()
			}
			continue
		}
		s.cond.Wait()
	}
	return nil
}

func (s *session) syncOwed() bool {
	for _, e := range s.queue[s.head:] {
		if e.op == 'S' {
			return true
		}
	}
	return false
}

// waitReady waits for every ReadyForQuery that is owed.
func (s *session) waitReady() error { return s.wait(func() bool { return s.syncs == 0 }) }

// waitDrained waits for every answer, or for an error after which PostgreSQL skips the rest.
func (s *session) waitDrained() error {
	return s.wait(func() bool { return s.owed() == 0 || s.skipping })
}

func (s *session) status() byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx
}

// resetStep begins a new step; catch: errors of the client's statements are kept from him.
func (s *session) resetStep(catch bool) {
	s.mu.Lock()
	s.step = step{}
	s.catch = catch
	s.mu.Unlock()
}

func (s *session) takeStep() step {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catch = false
	return s.step
}

// wake interrupts the client's goroutine if it waits for the client; mu is held.
func (s *session) wake() {
	if s.reading && !s.woken {
		s.woken = true
		s.client.SetReadDeadline(time.Unix(1, 0))
	}
}

// next waits for the client's next message. errWoken: something is to be done first.
func (s *session) next() (typ byte, size int, err error) {
	s.mu.Lock()
	if s.pendingEvent() {
		s.mu.Unlock()
		return 0, 0, errWoken
	}
	s.reading = true
	s.mu.Unlock()
	typ, size, err = s.cr.header()
	s.mu.Lock()
	s.reading = false
	woken := s.woken
	s.woken = false
	s.mu.Unlock()
	if woken {
		s.client.SetReadDeadline(time.Time{})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, 0, errWoken
		}
	}
	return typ, size, err
}

// pendingEvent: something waits for the client's goroutine; mu is held.
func (s *session) pendingEvent() bool {
	return s.repeat || s.doomed || s.dead != nil || s.closing || s.wakeOnDone && s.syncs == 0 || s.relistens()
}

// settle ends what came before: every answer is in, reads that turned out to write are repeated, and the guard is up.
func (s *session) settle(ctx context.Context) error {
	if err := s.waitReady(); err != nil {
		return err
	}
	s.mu.Lock()
	relisten := s.relistens()
	repeat, doomed, guardOff := s.repeat, s.doomed, s.guardOff && s.tx != 'E'
	u := s.guarded
	s.repeat, s.doomed, s.guarded = false, false, nil
	s.slow, s.canceled, s.preparing = false, false, false
	cause := s.cause
	s.cause = nil
	s.mu.Unlock()
	if repeat {
		s.srv.count.repeated.Add(1)
		if err := s.repeatWrapped(ctx, u); err != nil {
			return err
		}
		return s.settle(ctx)
	}
	if doomed {
		return s.endDoomed(cause)
	}
	if guardOff {
		if err := s.guardAgain(); err != nil {
			return err
		}
	}
	if relisten {
		return s.relistened(ctx)
	}
	return nil
}

// serve is the client's goroutine, from the first message after the session is open to the last.
func (s *session) serve(ctx context.Context) error {
	for {
		typ, size, err := s.next()
		switch {
		case err == errWoken:
			s.mu.Lock()
			dead := s.dead
			s.mu.Unlock()
			if dead != nil {
				return dead
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			err = s.settle(ctx)
		case err == errLength:
			return protocolError("invalid message length")
		case err != nil:
			return s.leave(ctx)
		case typ == 'X':
			return s.leave(ctx)
		default:
			s.srv.count.fromClient.Add(int64(size))
			err = s.message(ctx, typ, size)
		}
		if err != nil {
			return err
		}
	}
}

// leave lets what runs end, as PostgreSQL would: it notices that a client has gone only when it writes to him. Who said Terminate
// may still read. A COPY FROM STDIN that waits for his data would wait for ever.
func (s *session) leave(ctx context.Context) error {
	if !s.ext.open && s.wait(func() bool { return s.syncs == 0 || s.copyIn }) == nil && !s.copying() {
		_ = s.settle(ctx)
	}
	s.outMu.Lock()
	s.writeOut()
	s.outMu.Unlock()
	return errGone
}

// errGone: the client has left.
var errGone = errors.New("client has left")

// message deals with one message of the client.
func (s *session) message(ctx context.Context, typ byte, size int) error {
	switch typ {
	case 'Q':
		return s.query(ctx, size)
	case 'P', 'B', 'D', 'E', 'C', 'H', 'S':
		return s.extendedMessage(ctx, typ, size)
	case 'F':
		return s.functionCall(ctx, size)
	case 'd', 'c', 'f':
		if len(s.ext.metas) > 0 { // the COPY that these are for, perhaps
			if err := s.steps(ctx, 'H'); err != nil {
				return err
			}
		}
		return s.copyMessage(typ, size)
	}
	return protocolError("invalid frontend message type " + quoteByte(typ))
}

func asError(err error) *mtm.Error {
	var e *mtm.Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &mtm.Error{Code: mtm.CodeQueryCanceled, Msg: "canceling statement due to user request", Err: err}
	}
	return &mtm.Error{Code: "XX000", Msg: err.Error(), Err: err}
}
