// Package logrep is all of mtm that touches PostgreSQL for replication. Its parts, each with a Run that blocks:
//
//   - Capture reads the logical slot and delivers each transaction that was prepared here under a gid of ours as a
//     self-contained mtm.Payload (payload.go says how it is framed).
//   - Applier runs payloads in this node's PostgreSQL and prepares each under its gid, in a pool of workers; its lock
//     monitor finds who stands in a worker's way.
//   - Finisher runs COMMIT PREPARED and ROLLBACK PREPARED until PostgreSQL has them.
//   - Recoverer commits what a donor sent to a node that was away, in the donor's order, many transactions in one local
//     one. The position is kept with the rows, in mtm.recovered, so each is applied once.
//
// Recovery of transactions of one UPDATE and one INSERT: 44,000 a second; of ten and ten: 4,070 a second, 81,500 rows
// (2026-11-21, nothing else running; go test ./logrep -run xxx -bench Recover -benchtime 100000x; 2-core AMD EPYC,
// PostgreSQL 15, one connection, its client on the same cores).
//
// Invariants: the slot is never confirmed beyond what Ack was told while a delivered transaction is not acknowledged;
// Applied comes exactly once for each Apply, and says that the transaction is prepared only if PostgreSQL holds it
// durably, and that it is not only if it certainly does not and never will for that Apply; what a payload updates or
// deletes exists, exactly once, or the transaction is refused.
//
// It decides nothing: no vote, no outcome, no order between transactions. It reads what its peers wrote as data from
// strangers: bounds are checked before anything is allocated.
package logrep
