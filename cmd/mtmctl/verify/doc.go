// Package verify compares what the nodes of a cluster hold: the definitions of all objects of a database, and the rows
// of all its replicated tables, key by key. It only reads, and may run while clients write.
//
// No snapshot spans several servers, so under load two nodes may show a row at different moments. What differs at the
// first look is therefore read again until it settles:
//
//   - some version of it has been seen on every node: it only travelled;
//   - no node has changed it for Options.Settle, and they differ: it is different;
//   - one node has not changed it for as long, others have, and never showed what that one has: it is different;
//   - it changes everywhere, and no version was ever seen on all: undecided, and the result says so.
//
// A table is first compared by sums of hashes over buckets of keys, computed by the servers; only keys of buckets that
// differ travel. A table without a key is compared as what it is, a bag of rows.
//
// Not compared: rows of unlogged, temporary and local tables (mtm.local_tables), values and steps of sequences (each node has its own), tablespaces,
// passwords, and schema mtm. Between servers of different major versions, expressions that the server prints
// (views, functions, triggers) are compared by name only.
package verify
