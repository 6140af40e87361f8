package gateway

import "sync/atomic"

// Stats counts what happened since the server started, but for Sessions, which is what there is now.
type Stats struct {
	Sessions        int64 // open
	Accepted        int64 // connections
	Rejected        int64 // connections that did not get as far as a session
	Statements      int64 // simple queries, and batches of extended messages
	Wrapped         int64 // statements that were given a block of their own
	Repeated        int64 // reads that turned out to write (25006) and were run again
	Retried         int64 // statements run again after 40001
	Slow            int64 // statements run again because they held the right to prepare for too long
	Prepared        int64 // transactions prepared
	Committed       int64 // of these
	Aborted         int64 // of these
	PlainCommits    int64 // blocks that had written nothing that is replicated
	Cancelled       int64 // cancel requests
	Doomed          int64 // statements and blocks ended for a remote transaction
	Refused         int64 // statements refused
	BytesFromClient int64
	BytesToClient   int64
}

type counters struct {
	sessions, accepted, rejected, statements, wrapped, repeated, retried, slow, prepared, committed, aborted,
	plainCommits, cancelled, doomed, refused, fromClient, toClient atomic.Int64
}

// Stats gives the counters as they are now.
func (s *Server) Stats() Stats {
	c := &s.count
	return Stats{
		Sessions: c.sessions.Load(), Accepted: c.accepted.Load(), Rejected: c.rejected.Load(),
		Statements: c.statements.Load(), Wrapped: c.wrapped.Load(), Repeated: c.repeated.Load(),
		Retried: c.retried.Load(), Slow: c.slow.Load(), Prepared: c.prepared.Load(), Committed: c.committed.Load(),
		Aborted: c.aborted.Load(), PlainCommits: c.plainCommits.Load(), Cancelled: c.cancelled.Load(),
		Doomed: c.doomed.Load(), Refused: c.refused.Load(),
		BytesFromClient: c.fromClient.Load(), BytesToClient: c.toClient.Load(),
	}
}
