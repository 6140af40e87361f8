// Package scenario is tests of whole clusters: real PostgreSQL, real mtmd, real SIGKILL. Each test is named after what
// it proves. What they have in common:
//
//   - A load (load_test.go) writes on all nodes at once and keeps a ledger of what it was told about each transaction;
//     the check afterwards compares the ledger with what every PostgreSQL holds, which is S1 to S4 and S7 to S9 of DESIGN
//     section 2 as far as a client can see them.
//   - SQL scripts (testdata, and sql/testdata if there is one) run on each node and on one stock PostgreSQL, and psql must
//     print the same.
//   - Nothing waits for time: every wait is for a condition, has a deadline, and shows the logs when it gives up.
//
// It owns no production code.
package scenario
