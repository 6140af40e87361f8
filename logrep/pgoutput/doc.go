// Package pgoutput reads and writes the messages of PostgreSQL's logical replication plugin of the same name, at
// protocol version 3 (streaming of transactions in progress, and two-phase commit): PostgreSQL manual, "Logical
// Replication Message Formats".
//
// It owns the byte format and nothing else: no connection, no cache of relations. Parse never panics and never
// allocates more than the message it was given justifies; what it returns points into that message. Format and Parse
// are inverses, which the fuzz targets check.
package pgoutput
