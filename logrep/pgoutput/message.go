package pgoutput

// Message is one of the types of this file.
type Message interface{ kind() byte }

// Begin starts a transaction that has committed plainly.
type Begin struct {
	FinalLSN uint64 // of the commit record
	Time     int64  // microseconds since 2000
	XID      uint32
}

// Commit ends what Begin started.
type Commit struct {
	Flags       byte
	LSN, EndLSN uint64
	Time        int64 // microseconds since 2000
}

// BeginPrepare starts a transaction that was prepared.
type BeginPrepare struct {
	PrepareLSN, EndLSN uint64
	Time               int64
	XID                uint32
	GID                string
}

// Prepare ends what BeginPrepare started.
type Prepare struct {
	Flags              byte
	PrepareLSN, EndLSN uint64
	Time               int64
	XID                uint32
	GID                string
}

// StreamPrepare ends a transaction that was streamed while it ran: it is prepared now.
type StreamPrepare Prepare

// CommitPrepared tells that a prepared transaction has committed.
type CommitPrepared struct {
	Flags       byte
	LSN, EndLSN uint64
	Time        int64
	XID         uint32
	GID         string
}

// RollbackPrepared tells that a prepared transaction was rolled back.
type RollbackPrepared struct {
	Flags                     byte
	PrepareEndLSN, EndLSN     uint64
	PrepareTime, RollbackTime int64
	XID                       uint32
	GID                       string
}

// StreamStart opens a chunk of transaction XID, which is still in progress.
type StreamStart struct {
	XID   uint32
	First bool // no chunk of it came before
}

// StreamStop closes the chunk.
type StreamStop struct{}

// StreamCommit ends a streamed transaction that has committed plainly.
type StreamCommit struct {
	XID         uint32
	Flags       byte
	LSN, EndLSN uint64
	Time        int64
}

// StreamAbort takes back SubXID and nothing else; all of the transaction if the two are equal.
type StreamAbort struct {
	XID, SubXID uint32
}

// Origin says where the transaction came from first.
type Origin struct {
	LSN  uint64
	Name string
}

// Relation describes a table as it is for the messages that follow.
type Relation struct {
	ID       uint32
	Schema   string // empty means pg_catalog
	Name     string
	Identity byte // pg_class.relreplident: d, n, f, i
	Columns  []Column
}

// Column is one published column.
type Column struct {
	Key  bool // part of the replica identity
	Name string
	Type uint32 // the sender's OID
	Mod  int32
}

// Type names a type that is not built in.
type Type struct {
	ID           uint32
	Schema, Name string
}

// The kinds of Value.
const (
	Null      = 'n'
	Unchanged = 'u' // a TOASTed value that the update left alone: not sent
	Text      = 't'
	Binary    = 'b'
)

// Value is one column of a tuple. Data is set for Text and Binary.
type Value struct {
	Kind byte
	Data []byte
}

// Tuple is a row, in the order of Relation.Columns.
type Tuple []Value

// Insert adds New.
type Insert struct {
	Relation uint32
	New      Tuple
}

// Update replaces a row. OldKind is 'K' (Old holds the old key, other columns null), 'O' (the whole old row), or 0:
// the key has not changed, and is in New.
type Update struct {
	Relation uint32
	OldKind  byte
	Old, New Tuple
}

// Delete removes the row with the key (OldKind 'K') or the content ('O') Old.
type Delete struct {
	Relation uint32
	OldKind  byte
	Old      Tuple
}

// Truncate empties relations.
type Truncate struct {
	Cascade, RestartIdentity bool
	Relations                []uint32
}

// Logical is a message of pg_logical_emit_message.
type Logical struct {
	Transactional bool
	LSN           uint64
	Prefix        string
	Content       []byte
}

func (Begin) kind() byte            { return 'B' }
func (Commit) kind() byte           { return 'C' }
func (BeginPrepare) kind() byte     { return 'b' }
func (Prepare) kind() byte          { return 'P' }
func (StreamPrepare) kind() byte    { return 'p' }
func (CommitPrepared) kind() byte   { return 'K' }
func (RollbackPrepared) kind() byte { return 'r' }
func (StreamStart) kind() byte      { return 'S' }
func (StreamStop) kind() byte       { return 'E' }
func (StreamCommit) kind() byte     { return 'c' }
func (StreamAbort) kind() byte      { return 'A' }
func (Origin) kind() byte           { return 'O' }
func (Relation) kind() byte         { return 'R' }
func (Type) kind() byte             { return 'Y' }
func (*Insert) kind() byte          { return 'I' }
func (*Update) kind() byte          { return 'U' }
func (*Delete) kind() byte          { return 'D' }
func (*Truncate) kind() byte        { return 'T' }
func (*Logical) kind() byte         { return 'M' }
