// Command sim runs the deciding code of every node in one process, against a fake clock, network, disk and
// PostgreSQL, driven by a seed: the same seed gives the same run, event by event.
//
//	go run ./testcluster/sim -seeds 20000            run seeds 1 to 20000, exit 1 at the first violation
//	go run ./testcluster/sim -seed 4711 -trace       run one seed and print what happens
//	go run ./testcluster/sim -plant stale-ballot     with a fault planted that must be found
//
// A run has two phases. In the first, clients work while nodes, PostgreSQL and links fail; in the second the faults
// end, everything restarts, clients finish, and all must come to rest within a bounded time. The assertions (S1 to S9
// of docs/design.md, see check.go) are made at each effect and at the end.
//
// What it does not model: time inside PostgreSQL other than delays, lease expiry, generations and recovery, DDL,
// the wire format of payloads, and torn single records (the journal's own tests do that).
package main
