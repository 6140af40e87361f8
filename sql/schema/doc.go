// Package schema owns what mtm keeps inside a PostgreSQL database: the schema "mtm" with its tables and functions,
// the publication "mtm", the event trigger that looks after sequences and replica identities, the read-only guard,
// and the role "mtm_admin". It also knows what a PostgreSQL must fulfil before it may join a cluster.
//
// Everything is plain SQL and plpgsql on stock PostgreSQL 15 to 18, installed by a superuser in one transaction, and
// taken away again by Uninstall.
//
// What it keeps true:
//
//   - Ids never meet. The values of a sequence fall into mtm.MaxNodes classes, one per node, fixed when the sequence is
//     created and never changed by a later ALTER (sequences.sql has the rule and the proof).
//   - Every table that is replicated can be updated: one without a key has REPLICA IDENTITY FULL (ddl.sql).
//   - status() never lies about a dead daemon: what it published counts only while its session holds the advisory
//     lock (publish.go, status.sql).
//   - Nothing here is replicated. The event trigger fires on every node, on the applying side too, and what it
//     does it does on each node by itself. Capture drops changes of the schema "mtm".
//   - Nobody but a superuser can change what is stored here.
//
// It never creates or reads the replication slot (logrep does; Uninstall drops it), and holds no goroutine.
package schema
