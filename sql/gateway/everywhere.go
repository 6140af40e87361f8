package gateway

import (
	"context"

	"mtm/sql/statement"
)

// Reindex is a statement that each node runs by itself, outside of any transaction: REINDEX CONCURRENTLY. It is JSON between nodes.
type Reindex struct {
	Text        string `json:"text"`
	Role        string `json:"role"`
	SessionUser string `json:"session_user"`
	SearchPath  string `json:"search_path"`
}

// reindexQuery runs a REINDEX CONCURRENTLY here, then has the other nodes run it.
func (s *session) reindexQuery(ctx context.Context, text string) error {
	s.hold(true)
	s.resetStep(false)
	s.toBackend = append(s.toBackend, s.batch...)
	s.mu.Lock()
	s.push(expect{op: 'Q', quiet: true, read: true})
	s.mu.Unlock()
	if err := s.send(); err != nil {
		return err
	}
	if err := s.waitReady(); err != nil {
		return err
	}
	return s.everywhere(ctx, text)
}

// reindexBatch is reindexQuery for a batch, of which all but the client's Sync was sent.
func (s *session) reindexBatch(ctx context.Context, text string) error {
	s.sync(true)
	if err := s.send(); err != nil {
		return err
	}
	if err := s.waitReady(); err != nil {
		return err
	}
	return s.everywhere(ctx, text)
}

// everywhere has the other nodes run what succeeded here, and says which did not: nothing else depends on it. Then it ends the client's turn.
func (s *session) everywhere(ctx context.Context, text string) error {
	var warnings []byte
	if ask := s.srv.conf.Everywhere; s.takeStep().err == nil && s.status() == 'I' && ask != nil {
		o := Reindex{Text: text}
		for _, one := range []struct {
			which injected
			to    *string
		}{{injRole, &o.Role}, {injSessionUser, &o.SessionUser}, {injSearchPath, &o.SearchPath}} {
			st, err := s.do(roleAsk, one.which)
			if err != nil {
				return err
			}
			*one.to = st.value
		}
		for _, e := range ask(ctx, o) {
			warnings = appendError(warnings, 'N', "WARNING", e)
		}
	}
	s.release(appendReady(warnings, s.status()))
	return nil
}

// reindexes reports whether st is a REINDEX CONCURRENTLY that runs outside of a block.
func (s *session) reindexes(st *statement.Statement, tx byte) bool {
	return st != nil && st.Has(statement.Everywhere) && tx == 'I' && !s.clientReadOnly
}
