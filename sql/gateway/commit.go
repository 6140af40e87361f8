package gateway

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"mtm"
	"mtm/sql/statement"
)

// retryWithin is how soon after a conflict a client's next transaction counts as another try of the one that lost. It then
// keeps its age, so that it is the oldest some day, and wins.
const retryWithin = 5 * time.Second

// noteLoss notes that the client's transaction of that age lost against another, if that is what e says; mu is held.
func (s *session) noteLoss(e *mtm.Error, age uint64) {
	if e == nil || !mtm.SafeToRetry(e) {
		return
	}
	if !s.lostLately() {
		s.since, s.losses = age, 0
	}
	s.lostAt = time.Now()
	s.losses++
}

// lostLately reports whether what comes counts as another try; mu is held.
func (s *session) lostLately() bool { return s.since > 0 && time.Since(s.lostAt) < retryWithin }

// How long a client who lost waits before he tries again, see session.yield: by how long a commit takes these days, so that a
// turn is a few commits on a slow machine too.
const (
	yieldQuiet = 10 * time.Millisecond  // at least; else half a commit, and 10 times that at most
	yieldMax   = 100 * time.Millisecond // at least; else five commits, and 10 times that at most
)

// pace is how long commits take: from PREPARE's answer to the client's, smoothed.
type pace struct{ mean atomic.Int64 }

func (p *pace) note(d time.Duration) {
	old := p.mean.Load()
	p.mean.CompareAndSwap(old, old+(int64(d)-old)/16)
}

// turn is how long nobody must come before it is a client's turn, and after how long it is in any case.
func (p *pace) turn() (quiet, limit time.Duration) {
	mean := time.Duration(p.mean.Load())
	return min(max(mean/2, yieldQuiet), 10*yieldQuiet), min(max(5*mean, yieldMax), 10*yieldMax)
}

// yield lets those pass that the client's last transaction lost against, before he tries again: sooner he would only lose
// once more, and cost them the time it takes to end him. Where it happens again and again the row is hot, so he waits for a
// moment in which nobody of another node comes: the other node's clients have their turn, one commit after the other without a
// conflict. When that takes too long it is his turn (spared).
func (s *session) yield(ctx context.Context) {
	s.mu.Lock()
	gid := s.lostTo
	s.lostTo = mtm.GID{}
	quiet, limit := s.srv.pace.turn()
	if s.losses < 2 {
		quiet = 0
	}
	s.mu.Unlock()
	if gid.IsZero() {
		return
	}
	calm := s.srv.conf.Commits.Yield(ctx, gid, quiet, limit)
	s.mu.Lock()
	s.pressing = !calm
	s.mu.Unlock()
}

// permit asks for the right to send PREPARE TRANSACTION; session.gid is then set, until reportPrepared.
func (s *session) permit(ctx context.Context, age uint64) *mtm.Error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	if s.lostLately() {
		age = min(age, s.since)
	}
	s.age = age
	s.abort = cancel
	if s.canceled {
		cancel()
	}
	s.mu.Unlock()
	gid, err := s.srv.conf.Commits.Permit(ctx, age)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abort = nil
	if err != nil && s.doomed && s.cause != nil {
		e := s.cause
		s.cause, s.doomed = nil, false
		s.noteLoss(e, s.age)
		return e
	}
	if err != nil {
		return asError(err)
	}
	s.gid = gid
	return nil
}

// appendPrepare appends the message that makes the transaction visible to logical decoding, and PREPARE TRANSACTION.
func (s *session) appendPrepare() {
	s.inject(injEmit, roleAsk)
	s.injectText(s.gid.SQL("PREPARE TRANSACTION"), rolePrepare)
}

// reportPrepared tells how PREPARE TRANSACTION was answered. session.gid stays set if it is prepared.
func (s *session) reportPrepared(st step) {
	gid := s.gid
	if st.prepare {
		s.warnSerializable(st.value)
		s.srv.count.prepared.Add(1)
		s.srv.conf.Commits.Prepared(gid, nil, false)
		return
	}
	e := st.err
	if e == nil {
		e = &mtm.Error{Code: "25P02", Msg: "transaction was rolled back"}
	}
	if e.Code == mtm.CodeNotSupported {
		s.noteTemporary(&statement.Statement{Flags: statement.Temporary})
		if strings.Contains(e.Msg, "NOTIFY") {
			s.srv.notifies.Store(true)
		}
	}
	s.mu.Lock()
	s.gid = mtm.GID{}
	s.mu.Unlock()
	s.srv.conf.Commits.Prepared(gid, e, false)
}

// serializableFor is for how long a node counts as one where SERIALIZABLE transactions run, after it committed one.
const serializableFor = time.Hour

// SerializableElsewhere notes that another node commits a SERIALIZABLE transaction.
func (s *Server) SerializableElsewhere() { s.serializable.Store(time.Now().UnixNano()) }

// serializableWarning is what SERIALIZABLE covers: PostgreSQL's predicate locks do not leave their node.
var serializableWarning = &mtm.Error{
	Code: "01000", Msg: "SERIALIZABLE is true among the transactions of one node, and covers changes of the same rows on all nodes",
	Detail: "Two transactions on different nodes that each read what the other changes can both commit (write skew).",
	Hint:   "Lock what is read, by SELECT ... FOR UPDATE or FOR SHARE, or run such transactions on one node.",
}

// warnSerializable warns a client, once, who commits a transaction of that isolation level while other nodes do so too: on
// one node alone it is true.
func (s *session) warnSerializable(level string) {
	if level != "serializable" || s.warned || time.Now().UnixNano()-s.srv.serializable.Load() > int64(serializableFor) {
		return
	}
	s.warned = true
	s.emit(appendError(nil, 'N', "WARNING", serializableWarning))
}

// takeGID is the prepared transaction that is to be waited for.
func (s *session) takeGID() mtm.GID {
	s.mu.Lock()
	defer s.mu.Unlock()
	gid := s.gid
	s.gid = mtm.GID{}
	return gid
}

// outcome waits for the fate of a prepared transaction. If the client cancels or goes away meanwhile, it is aborted if
// that is still possible.
func (s *session) outcome(ctx context.Context, gid mtm.GID) *mtm.Error {
	s.mu.Lock()
	s.waiting, s.preparing = gid, false
	canceled := s.canceled
	s.mu.Unlock()
	if canceled {
		s.srv.conf.Commits.Cancel(gid)
	}
	began := time.Now()
	stop := s.watchClient(gid)
	s.obey(ctx)
	e := s.srv.conf.Commits.Wait(ctx, gid)
	stop()
	s.leased.Store(false)
	s.mu.Lock()
	s.waiting = mtm.GID{}
	if s.noteLoss(e, s.age); e == nil {
		s.since, s.lostTo, s.pressing, s.lastGID = 0, mtm.GID{}, false, gid
	} else if mtm.SafeToRetry(e) {
		s.lostTo = gid
	}
	s.mu.Unlock()
	if e == nil {
		s.srv.pace.note(time.Since(began))
		s.srv.count.committed.Add(1)
	} else {
		s.srv.count.aborted.Add(1)
	}
	return e
}

// goneAfter is from when on a waiting commit looks whether its client is still there.
const goneAfter = 30 * time.Millisecond

// watchClient reads ahead while a commit waits, to notice a client that hangs up. stop ends it.
func (s *session) watchClient(gid mtm.GID) (stop func()) {
	done := make(chan struct{})
	timer := time.AfterFunc(goneAfter, func() {
		defer close(done)
		for s.cr.w-s.cr.r < len(s.cr.buf) {
			err := s.cr.more()
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				s.srv.conf.Commits.Cancel(gid)
				return
			}
		}
	})
	return func() {
		if timer.Stop() {
			return
		}
		s.client.SetReadDeadline(time.Unix(1, 0))
		<-done
		s.client.SetReadDeadline(time.Time{})
	}
}

// finish commits the open block: plainly if it wrote nothing that is replicated, else by PREPARE. The error that the
// client is to be told comes first; err: the connection has ended.
func (s *session) finish(ctx context.Context, age uint64) (failure *mtm.Error, err error) {
	f, failure, err := s.askFate()
	if err != nil || failure != nil {
		return failure, err
	}
	if f != fatePrepare {
		return s.commitPlain()
	}
	return s.prepareBlock(ctx, age)
}

// commitPlain commits the open block on this node alone.
func (s *session) commitPlain() (failure *mtm.Error, err error) {
	s.srv.count.plainCommits.Add(1)
	st, err := s.do(roleOurs, injCommit)
	if err != nil {
		return nil, err
	}
	return st.err, s.rollback()
}

// prepareBlock prepares the open block and waits for its fate.
func (s *session) prepareBlock(ctx context.Context, age uint64) (failure *mtm.Error, err error) {
	open, failure, err := s.staysOpen()
	switch {
	case err != nil:
		return nil, err
	case failure != nil:
		return failure, s.rollback()
	case open:
		return s.commitOpen(ctx, age)
	}
	if e := s.mayPrepare(ctx, age); e != nil {
		return e, s.rollback()
	}
	s.setCalm(true)
	defer s.setCalm(false)
	s.resetStep(false)
	s.appendPrepare()
	st, err := s.carry()
	if err != nil {
		return nil, err
	}
	s.reportPrepared(st)
	if !st.prepare {
		if st.err == nil {
			st.err = &mtm.Error{Code: "25P02", Msg: "transaction was rolled back"}
		}
		return st.err, s.rollback()
	}
	return s.outcome(ctx, s.takeGID()), nil
}

// mayPrepare asks for the right to prepare the open block, if Doom has not ended it.
func (s *session) mayPrepare(ctx context.Context, age uint64) *mtm.Error {
	if e := s.permit(ctx, age); e != nil {
		return e
	}
	e := s.tooLate()
	if e != nil {
		s.reportPrepared(step{err: e})
	}
	return e
}

// tooLate is the error with which Doom ended the block before it could be prepared; from here on it cannot any more.
func (s *session) tooLate() *mtm.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		e := s.cause
		s.cause = nil
		s.noteLoss(e, now())
		return e
	}
	s.preparing = true
	return nil
}

// What injLocks says of the open transaction.
const (
	wroteNothing = "nothing"
	wroteTable   = "table"
	wroteHolds   = "holds"
	wroteElse    = "else"
)

// fate is how the open block may commit.
type fate uint8

const (
	fatePrepare fate = iota // on all nodes, or none
	fatePlain               // on this node alone
	fateHolds               // so too, but its cursors run at COMMIT, so it was made READ ONLY
)

// fate is that of a block of which injLocks said value; of wroteElse after its deferred triggers have run.
func (b block) fate(value string) fate {
	switch {
	case value == wroteNothing, value == wroteElse && !b.forgot:
		return fatePlain
	case value == wroteHolds && !b.forgot:
		return fateHolds
	}
	return fatePrepare
}

// askFate finds out how the open block may commit. It asks PostgreSQL only when the tags of what ran leave it open.
func (s *session) askFate() (f fate, failure *mtm.Error, err error) {
	s.mu.Lock()
	b, temporary := s.block, s.temporary
	s.mu.Unlock()
	switch {
	case b.ddl:
		return fatePrepare, nil, nil
	case b.readOnly && !b.wrote:
		return fatePlain, nil, nil
	case b.wrote && !temporary:
		return fatePrepare, nil, nil
	}
	st, err := s.do(roleAsk, injLocks)
	if err == nil && st.err == nil && (st.value == wroteElse || st.value == wroteHolds) {
		st, err = s.do(roleAsk, injImmediate, injLocks) // what deferred triggers write comes before the end
	}
	if f = b.fate(st.value); err == nil && st.err == nil && f == fateHolds {
		st, err = s.do(roleOurs, injReadOnly)
	}
	if err != nil {
		return f, nil, err
	}
	if st.err != nil {
		return f, st.err, s.rollback()
	}
	return f, nil, nil
}

// commitQuery deals with a COMMIT that is a simple Query.
func (s *session) commitQuery(ctx context.Context, st *statement.Statement) error {
	chain := st.Has(statement.Chain)
	f, failure, err := s.askFate()
	if err != nil {
		return err
	}
	if failure == nil && (f == fatePlain || f == fateHolds && !chain) {
		s.srv.count.plainCommits.Add(1)
		s.noteChain(st, 'T')
		return s.forward(false)
	}
	characteristics := ""
	if failure == nil && chain {
		characteristics, failure, err = s.characteristics()
	}
	if failure == nil && err == nil && f == fateHolds {
		failure, err = s.commitPlain()
	} else if failure == nil && err == nil {
		failure, err = s.prepareBlock(ctx, uint64(time.Now().UnixMicro()))
	}
	if err != nil {
		return err
	}
	if failure != nil {
		s.fail(failure, 'I')
		return nil
	}
	if chain {
		if err := s.chain(characteristics); err != nil {
			return err
		}
	}
	s.release(appendReady(appendComplete(nil, "COMMIT"), s.status()))
	return nil
}

// characteristics asks for those of the open transaction, to give them to the one that AND CHAIN begins.
func (s *session) characteristics() (text string, failure *mtm.Error, err error) {
	st, err := s.do(roleAsk, injCharacteristics)
	if err != nil {
		return "", nil, err
	}
	if st.err != nil {
		return "", st.err, s.rollback()
	}
	return st.value, nil, nil
}

// chain begins the next block of AND CHAIN.
func (s *session) chain(characteristics string) error {
	var st step
	for range oursTries {
		s.resetStep(false)
		s.injectText("BEGIN"+characteristics+" READ WRITE", roleOurs)
		var err error
		if st, err = s.carry(); err != nil {
			return err
		}
		if st.err == nil {
			s.chained(characteristics)
			return nil
		}
	}
	return st.err
}

func (s *session) chained(characteristics string) {
	s.mu.Lock()
	s.block = block{chain: characteristics}
	s.mu.Unlock()
}

// chainAfterFailure says whether the gateway must begin the block that follows a failed one by AND CHAIN, and with what
// characteristics. PostgreSQL gives it the session's defaults, the guard among them, unless it had begun the failed one by AND CHAIN.
func (s *session) chainAfterFailure(st *statement.Statement) (characteristics string, ours bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ours = s.tx == 'E' && st.Has(statement.Chain) && !s.block.native && (!s.clientReadOnly || s.block.chain != "")
	return s.block.chain, ours
}
