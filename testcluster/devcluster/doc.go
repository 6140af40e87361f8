// Package devcluster runs a real mtm cluster on this machine: N stock PostgreSQL, N mtmd, and a fault proxy on every
// link between two mtmd. "mtmctl devcluster" is a thin face of it, and so is package testcluster for Go tests.
//
// It owns one directory. DIR/cluster.json says what was started there (ports, paths, process ids), so that a later
// call, of another process, acts on it; a lock file beside it lets one call change it at a time. Invariants:
//
//   - Everything listens on loopback only. Nothing outside DIR is written.
//   - A process is known by its id and its start time together, so a reused id is never signalled.
//   - PostgreSQL never runs as root: as root, it and its files belong to the user postgres.
//   - Waiting is polling of the real thing (a query that PostgreSQL answers, mtmd's /status), with a deadline, and the
//     error of a wait that failed carries the tail of the logs.
//
// It never restarts anything by itself, and never touches what it did not start.
package devcluster
