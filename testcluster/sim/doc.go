// Command sim runs the deciding code of every node in one process, against a fake clock, network, disk and
// PostgreSQL, driven by a seed: the same seed gives the same run, event by event.
//
//	go run ./testcluster/sim -seeds 20000            run seeds 1 to 20000, exit 1 at the first violation
//	go run ./testcluster/sim -seed 4711 -trace       run one seed and print what happens
//	go run ./testcluster/sim -elections              with generations that change, exclusion, leases and recovery
//	go run ./testcluster/sim -referee                two nodes and a referee, which fails too
//	go run ./testcluster/sim -mode duel              only one kind of trouble (plan.go lists them)
//	go run ./testcluster/sim -plant stale-ballot     with a fault planted that must be found
//
// A run has two phases. In the first, clients work while nodes, PostgreSQL and links fail, at random times, at chosen
// effects of the loop (before any single record, sync, message, action or answer), or in storms around a precommit. In
// the second the faults end; in some runs one node stays away, and the others must end what is in doubt; then everything
// restarts, clients finish, and all must come to rest within a bounded time. The assertions (S1 to S9 of
// docs/design.md, see check.go) are made at each effect and at the end. Every mtmd crash loses the journal's unsynced
// tail, or all but a few records of it.
//
// What it does not model: a referee that loses its disk; changes of the configured nodes; a journal that is too short for who comes
// back; the bound of the apply pool; secondary
// unique keys, foreign keys and DDL; serializable sessions; savepoints; the wire format of payloads; torn single records
// and failing disks (the journal's own tests do that); a spilled payload that is lost without the link going down.
package main
