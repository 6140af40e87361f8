// Package coordinator decides the fate of every transaction. It is pure: no clock, no socket, no goroutine, no
// randomness. One goroutine owns a Node, hands it an Event with Step and does what Ready says, in Ready's order.
//
// # The commit (E3PC: Keidar and Dolev, Increasing the Resilience of Distributed and Replicated Database Systems, 1998)
//
// The origin's session prepares the transaction in its own PostgreSQL; capture delivers its payload; every member of
// the generation applies and prepares it and votes. With all votes the origin accepts "commit" at ballot {0, origin}
// and asks the others to; once a majority of the configured nodes accepted, the outcome is decided. Then COMMIT
// PREPARED runs everywhere.
//
// # Invariants, each kept by the line that names it
//
//   - Only the origin proposes at ballot 0, and only commit; it persists its own acceptance before it tells anybody, so
//     who receives Accept at ballot 0 knows of one acceptance besides its own.
//   - A vote follows a durable PREPARE and a durable payload, and is never given twice for different runs: what was
//     journaled before a restart is not applied again.
//   - What the origin accepted itself, and PostgreSQL holds prepared no more at a start, was committed: an abort of it is durable
//     before it is rolled back, the commit need not be (txn.tellsItself).
//   - Before ballot 0 is persisted the origin may abort on its own. After it, or for anybody else, only a quorum can:
//     Paxos (Lamport, Paxos Made Simple, 2001), one instance per transaction, acceptors are the configured nodes.
//   - A transaction is finished only after everything its origin had finished, and that is prepared here, is finished
//     here (Deps), so nobody sees it before what it saw itself. DDL is applied only then, too; rows may be tried early,
//     since what they need is prepared here: they wait for its locks, or fail and are applied again in their turn.
//   - Between two transactions that block each other the older wins (generation, age, origin, sequence), on every node
//     alike; a transaction that was precommitted is waited for (wound-wait: Rosenkrantz, Stearns, Lewis, 1978).
//
// # Generations and recovery (Config.Elections; docs/design-generations.md)
//
//   - A Prepare of a generation is answered only by a node that is online in it.
//   - All that is said or done in a generation follows its RecGeneration and RecMark, durably; the mark lists what is
//     prepared and undecided.
//   - What is recovered is journaled, in the order in which its donor decided it, before PostgreSQL has it, and is applied
//     once, whichever side crashes: PostgreSQL keeps the position with the data.
//   - A commit that is not held here is never called finished: recovery brings it.
//   - Nobody forgets, nor takes for forgotten, what a member of its generation has not finished.
//   - Reads wait until what a node came back with undecided is finished here.
//
// What it never does: act on PostgreSQL, read a clock, log.
package coordinator
