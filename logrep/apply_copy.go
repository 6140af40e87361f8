package logrep

import (
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// startCopy opens a COPY and gives it what was held back.
func (t *applyTxn) startCopy() error {
	rel, err := t.rel(t.runRel)
	if err != nil {
		return err
	}
	if !rel.byCopy() || t.guarded(rel) {
		return t.endRun()
	}
	if err := t.drain(); err != nil {
		return err
	}
	t.fe.SendQuery(&pgproto3.Query{String: rel.copySQL()})
	if err := t.flush(); err != nil {
		return err
	}
	if err := t.copyAnswer(rel); err != nil {
		return err
	}
	t.copying = true
	for _, body := range t.run {
		if err := t.copyRow(body); err != nil {
			return err
		}
	}
	t.run, t.runBytes = nil, 0
	return nil
}

// copyAnswer waits until PostgreSQL takes rows, or says why not.
func (t *applyTxn) copyAnswer(rel *applyRel) error {
	for {
		msg, err := receive(t.conn)
		if err != nil {
			return &brokenError{err}
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyInResponse:
			return nil
		case *pgproto3.ErrorResponse:
			err := &stmtError{rel: rel, err: pgconn.ErrorResponseToPgError(msg)}
			if e, broken := t.simpleAnswer().(*brokenError); broken { // reads up to ReadyForQuery
				return e
			}
			return err
		}
	}
}

func (t *applyTxn) copyRow(body []byte) error {
	_, row, err := t.parseInsert(body)
	if err != nil {
		return err
	}
	if t.copyBuf, err = appendCopyRow(t.copyBuf, row); err != nil {
		return err
	}
	if len(t.copyBuf) < batchBytes {
		return nil
	}
	return t.copyWrite()
}

func (t *applyTxn) copyWrite() error {
	if t.job.isCancelled() {
		return errCancelled
	}
	if len(t.copyBuf) == 0 {
		return nil
	}
	t.fe.Send(&pgproto3.CopyData{Data: t.copyBuf})
	t.copyBuf = t.copyBuf[:0]
	return t.flush()
}

// endCopy closes the COPY and learns what became of it.
func (t *applyTxn) endCopy() error {
	rel, err := t.rel(t.runRel)
	if err != nil {
		return err
	}
	if err := t.copyWrite(); err != nil {
		return err
	}
	t.copying = false
	t.fe.Send(&pgproto3.CopyDone{})
	if err := t.flush(); err != nil {
		return err
	}
	err = t.simpleAnswer()
	if st, ok := err.(*stmtError); ok {
		st.rel = rel
	}
	return err
}

// stopCopy gives up a COPY that is open, so that the session can roll back. Its error is not news.
func (t *applyTxn) stopCopy() error {
	if !t.copying {
		return nil
	}
	t.copying = false
	t.fe.Send(&pgproto3.CopyFail{Message: "apply failed"})
	if err := t.flush(); err != nil {
		return err
	}
	if err, broken := t.simpleAnswer().(*brokenError); broken {
		return err
	}
	return nil
}
