// Package gateway is the PostgreSQL that clients see: a proxy of the wire protocol that turns each commit of a writing
// transaction into PREPARE TRANSACTION 'mtm-…', under a permit of the coordinator, and answers the client when the fate
// of that transaction is known. Everything else passes as bytes.
//
// # Two goroutines
//
// A session is one client and one connection to PostgreSQL, served by two goroutines.
//
//   - The client's (serve) reads what the client sends, decides, and is the only one that writes to PostgreSQL. It
//     works unit by unit: a unit is one Query, or the extended messages up to a Sync. Before it begins one, the one
//     before has been answered to its end (settle), so it always knows the state of the transaction.
//   - PostgreSQL's (answers) reads what PostgreSQL says and hands the client what is his. For each message that was
//     sent, session.queue holds an expect: whose it was, and so whether the client sees the answer.
//
// Plain statements are sent and forgotten: the second goroutine answers them while the first already waits for the
// client's next. Where something is to be decided on the answer (a commit, a repetition), the first waits for the
// second. The other way round, the second interrupts the first, by a read deadline, when it waits for a client who
// waits for it: a read to be repeated, a COPY that failed, a block that was doomed.
//
// Nobody deadlocks with a client that sends much before it reads: PostgreSQL's answers go out while more is sent.
//
// # What is injected
//
// Statements of our own (inject.go) are extended messages of named prepared statements: they neither replace the
// client's unnamed statement, nor show in his pg_stat_activity, nor move the positions in his errors. An error of our
// own is raised by binding a statement that does not exist, and replacing what PostgreSQL says of it: so the state of
// the transaction, and the skipping to Sync, are always PostgreSQL's own.
//
// # Commit
//
// Sessions run with default_transaction_read_only = on (the guard): nothing can commit outside of a block that the
// gateway knows. Statements that write are given one; reads run as they are, their answer held back until it is long or
// complete, and are run again in a block if PostgreSQL says 25006, which is remembered for the text.
//
// A single DML statement goes out with BEGIN before and PREPARE TRANSACTION behind it, in one write. It then holds a
// permit while it runs; if it runs for longer than Config.SlowStatement it is cancelled and run again without one.
//
// # Never
//
//   - COMMIT PREPARED and ROLLBACK PREPARED are not run here.
//   - A statement is not parsed: sql/statement looks at tokens. What it cannot tell runs as if it wrote, and alone.
//   - A permit is not lost: each is answered by Commits.Prepared, once, also when the session breaks.
//   - No message is buffered whole because a client says that it is long, but statement texts up to
//     statement.MaxText and batches up to 64 KiB.
package gateway
