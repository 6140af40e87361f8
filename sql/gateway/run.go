package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"mtm"
)

// run serves an open session to its end.
func (s *session) run(ctx context.Context) error {
	s.srv.register(s)
	defer s.srv.unregister(s)
	if !s.managed {
		return s.passThrough(ctx)
	}
	defer s.listensNoMore()
	stop := context.AfterFunc(ctx, s.shutDown)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ended(s.answers())
	}()
	err := s.askAdmin()
	if err == nil {
		err = s.serve(ctx)
	}
	s.goodbye(ctx, err)
	<-done
	return err
}

// shutDown ends a session because the server stops: what runs is cut off, as by PostgreSQL's fast shutdown; a commit
// that waits learns of it by its context.
func (s *session) shutDown() {
	s.srv.conf.Ending()
	s.mu.Lock()
	cut := s.waiting.IsZero() && !s.preparing
	runs := cut && (s.owed() > 0 || s.syncs > 0)
	if cut {
		s.back.Close()
	}
	if runs {
		s.cancels++
	}
	s.closing = true
	s.wake()
	s.mu.Unlock()
	if runs {
		s.cancelBackend() // PostgreSQL would go on with the statement, though nobody listens
	}
}

// goodbye tells the client why the session ends, PostgreSQL that it does, and the rest of mtm what became of a permit.
func (s *session) goodbye(ctx context.Context, err error) {
	_, _ = s.back.Write([]byte{'X', 0, 0, 0, 4})
	s.back.Close()
	s.mu.Lock()
	gid, fatal := s.gid, s.fatal
	s.gid = mtm.GID{}
	for s.cancels > 0 {
		s.cond.Wait()
	}
	s.mu.Unlock()
	if !gid.IsZero() {
		// The connection broke with PREPARE TRANSACTION on its way.
		e := &mtm.Error{Code: "08006", Msg: "connection to PostgreSQL was lost", Err: err}
		s.srv.conf.Commits.Prepared(gid, e, true)
		// It is aborted, whatever PostgreSQL made of it: what is not known to be prepared is never precommitted.
		fatal = appendError(nil, 'E', "FATAL", mtm.Conflict("The connection to PostgreSQL was lost during PREPARE TRANSACTION."))
	}
	if errors.Is(err, errGone) && gid.IsZero() {
		s.client.Close()
		return
	}
	s.client.SetWriteDeadline(time.Now().Add(time.Second))
	var e *mtm.Error
	errors.As(err, &e)
	switch {
	case len(fatal) > 0:
	case ctx.Err() != nil:
		fatal = appendError(nil, 'E', "FATAL", &mtm.Error{
			Code: mtm.CodeAdminShutdown, Msg: "terminating connection due to administrator command",
		})
	case e != nil:
		fatal = appendError(nil, 'E', "FATAL", e)
	default:
		fatal = appendError(nil, 'E', "FATAL", &mtm.Error{
			Code: "57P02", Msg: "connection to PostgreSQL was lost", Detail: err.Error(),
		})
	}
	s.drop()
	s.release(fatal)
	if e != nil && e.Code == mtm.CodeProtocol {
		linger(s.client)
	}
}

// passThrough copies bytes both ways, of a session that does not concern mtm.
func (s *session) passThrough(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		s.back.Close()
		s.client.Close()
	})
	defer stop()
	var g errgroup.Group
	g.Go(func() error {
		defer s.back.Close()
		return pump(s.back, s.cr)
	})
	g.Go(func() error {
		defer s.client.Close()
		return pump(s.client, s.br)
	})
	_ = g.Wait()
	return errGone
}

func pump(dst net.Conn, src *reader) error {
	if src.buffered() > 0 {
		if _, err := dst.Write(src.buf[src.r:src.w]); err != nil {
			return err
		}
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, src.src, src.buf)
	return err
}
