package statement

// Kind is what a statement means to a session.
type Kind uint8

// The kinds.
const (
	Unknown        Kind = iota // the lexer refused it, or it begins like nothing we know
	Begin                      // BEGIN, START TRANSACTION
	Commit                     // COMMIT, END
	Rollback                   // ROLLBACK, ABORT
	Savepoint                  // SAVEPOINT, RELEASE, ROLLBACK TO
	PrepareTx                  // PREPARE TRANSACTION
	FinishPrepared             // COMMIT PREPARED, ROLLBACK PREPARED
	Read                       // writes nothing by its looks
	Write                      // changes or locks rows, or may, as CALL does
	CopyFrom                   // COPY … FROM
	DDL                        // changes the catalog on all nodes
	TempDDL                    // creates a temporary object, on this node only
	Local                      // maintenance of this node: VACUUM, ALTER SYSTEM, CREATE DATABASE
	Session                    // SET, SHOW, PREPARE, LISTEN: touches the session only
	Refused                    // cannot be done in a cluster (yet)
)

var kindNames = [...]string{
	"unknown", "begin", "commit", "rollback", "savepoint", "prepare transaction", "finish prepared", "read", "write",
	"copy from", "ddl", "temporary ddl", "local", "session", "refused",
}

// String is the kind in words.
func (k Kind) String() string { return kindNames[k] }

// Flags say more of a statement.
type Flags uint32

// The flags.
const (
	AccessMode    Flags = 1 << iota // Begin, or SET TRANSACTION: says READ ONLY or READ WRITE
	ReadOnly                        // … and it is READ ONLY
	Chain                           // AND CHAIN
	PlainDML                        // a top-level INSERT, UPDATE, DELETE or MERGE: no row is sent before it has done its work
	Temporary                       // after it, this session's transactions may be such as cannot be prepared
	ShowsReadOnly                   // names transaction_read_only or default_transaction_read_only
	ShowsPrepared                   // names pg_prepared_statements
	Show                            // Session: SHOW
	Unguarded                       // Local: does not run under default_transaction_read_only
	OwnSchema                       // Read: takes rows from functions and tables of schema mtm only
	Concurrently                    // DDL: says CONCURRENTLY, which Hide takes out; only outside of a block
	Routine                         // DDL: creates a function or procedure
	Exclusive                       // names a catalog in a statement that could lock it for good
	Commits                         // FinishPrepared: COMMIT PREPARED
	MayListen                       // DO: names LISTEN, so that it may do that
	Roles                           // DDL: a DO that may change roles; the other nodes are told what became of them
	Lasting                         // Session: PREPARE, DEALLOCATE, which no rollback undoes
	Everywhere                      // Local: REINDEX CONCURRENTLY, which every node runs for itself
	Fires                           // Local: event triggers fire
)

// Has reports whether all of f is set.
func (s *Statement) Has(f Flags) bool { return s.Flags&f == f }

// Unguards reports whether it may see or end default_transaction_read_only = on, or what that gives the transaction: what follows it in one
// transaction may write then.
func (s *Statement) Unguards() bool { return s.Flags&(ShowsReadOnly|AccessMode) != 0 }

// SetsMode reports whether it is a SET or RESET of such a thing, and no SHOW.
func (s *Statement) SetsMode() bool { return s.Kind == Session && s.Unguards() && !s.Has(Show) }

// EndsBlock reports whether it ends the block that it is in, whether it succeeds or fails, and is no ROLLBACK.
func (s *Statement) EndsBlock() bool { return s.Kind == Commit || s.Kind == PrepareTx }

// ReadsOrWrites reports whether the statement touches data, so that a node that is out of date must refuse it.
func (s *Statement) ReadsOrWrites() bool {
	switch s.Kind {
	case Read:
		return !s.Has(OwnSchema)
	case Write, CopyFrom, DDL, TempDDL, Unknown:
		return true
	}
	return false
}
