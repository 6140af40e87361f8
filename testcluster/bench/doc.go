// Command bench measures mtm against stock PostgreSQL on this machine, in one run, interleaved: for each workload and
// number of clients, every system has its turn, and then again, so that a machine that grows slower does so for all.
//
// The systems: one stock PostgreSQL; a primary with two streaming standbys that both must have applied a commit
// (synchronous_standby_names = ANY 2, synchronous_commit = remote_apply); mtm with three nodes, with all clients on
// one of them, and with clients spread over the three. All run pgbench -M prepared; the fault proxy is left out.
//
// Two more, if -systems names them, tell what cannot be saved on this machine: "2pc", a client that commits pgbench -N's transactions on
// three stock PostgreSQL by PREPARE TRANSACTION and COMMIT PREPARED, with nothing between (so nothing survives a crash), and "relay",
// a stock PostgreSQL behind a program that copies bytes.
//
// It prints transactions per second, latencies (p50, p95, p99 of every transaction, from pgbench's log), ratios to the
// stock one, and where the time of a commit goes, from mtmd's metrics. It never prints a figure that it did not measure.
package main
