// Package initcopy copies a database from one PostgreSQL (Source) to another (Target), of any supported versions, as one
// snapshot shows it: roles, schema, rows and sequences.
//
// The source is read while it is in use. What would make the copy inconsistent, a change of the schema, ends the copy and not
// the other way round. The target is filled beside the database that it shall replace, and takes its place at the end, so that
// until then nothing that was there has changed. After a crash of any part, Target.Undo leaves nothing behind.
//
// It does not carry the data from one to the other: Source writes, Target reads. It knows nothing of transactions that are
// prepared, which no snapshot shows; its caller chooses the moment of the snapshot (docs/design-generations.md, "A copy").
package initcopy
