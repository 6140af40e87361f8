package mtm

// Record is one thing that a node must remember over a crash; the journal keeps them in order.
type Record interface {
	// Sync reports whether the record must be on disk before what follows it in Ready happens. A record that
	// need not be is written with the next that must.
	Sync() bool
	record()
}

// RecPrepare: the transaction's payload. Durable before this node votes for it, or counts its own vote.
type RecPrepare struct {
	GID     GID
	Age     uint64
	Deps    Deps
	Payload Payload
	LSN     LSN // where the origin's WAL has it, of a streamed one the origin's transaction id; 0 on other nodes
	// Recovered: it came undecided from a donor, at a mark. This node never votes for it, so it may be committed though
	// it was never prepared here.
	Recovered bool
	Acceptors NodeSet // as in Prepare
}

// RecPromise: no ballot below Ballot will be accepted for GID.
type RecPromise struct {
	GID       GID
	Ballot    Ballot
	Acceptors NodeSet
}

// RecAccept: this outcome was accepted at this ballot.
type RecAccept struct {
	GID       GID
	Ballot    Ballot
	Commit    bool
	Acceptors NodeSet
}

// RecDecide: the outcome is known. It need not be synced where a restart would find it out, since what depends on it comes
// later in the journal; else it is Firm.
type RecDecide struct {
	GID    GID
	Commit bool
	Firm   bool
}

// RecReserve: sequences below Upto may have been used by this node; after a restart it continues at Upto.
type RecReserve struct {
	Upto uint64
}

// RecForget: every transaction of Origin up to Upto is finished on all configured nodes. It is durable before anybody
// is told, else the origin could ask after a crash about what the others no longer know.
type RecForget struct {
	Origin NodeID
	Upto   uint64
}

// RecCheckpoint: what precedes it is repeated after it, as far as it still matters; replay may start here.
type RecCheckpoint struct {
	Generation Generation
}

// RecCheckpointEnd: the records of the checkpoint are complete. A checkpoint without its end does not count.
type RecCheckpointEnd struct{}

// Sync implements Record.
func (RecPrepare) Sync() bool       { return true }
func (RecPromise) Sync() bool       { return true }
func (RecAccept) Sync() bool        { return true }
func (r RecDecide) Sync() bool      { return r.Firm }
func (RecReserve) Sync() bool       { return true }
func (RecForget) Sync() bool        { return true }
func (RecCheckpoint) Sync() bool    { return false }
func (RecCheckpointEnd) Sync() bool { return true }

func (RecPrepare) record()       {}
func (RecPromise) record()       {}
func (RecAccept) record()        {}
func (RecDecide) record()        {}
func (RecReserve) record()       {}
func (RecForget) record()        {}
func (RecCheckpoint) record()    {}
func (RecCheckpointEnd) record() {}

// RecGeneration: what a node must remember of generations; the last one counts.
type RecGeneration struct {
	Gen        Generation
	Donors     NodeSet
	LastOnline uint64 // the last generation in which this node was online
	Vote       Generation
	Barred     NodeSet // without whom this node voted for a generation above Gen: they get no lease in Gen
	Since      uint64  // the first generation with the configured nodes of Gen that this node was in
}

// Sync implements Record.
func (RecGeneration) Sync() bool { return true }
func (RecGeneration) record()    {}

// RecMark: all that precedes it was done before this node became online in Gen. Prepared lists what it held prepared,
// without an outcome, Forgotten what the members had all finished.
type RecMark struct {
	Gen       Generation
	Prepared  []GID
	Forgotten Deps
}

// RecRecover: a committed transaction that a donor sent, in the order in which it has to be applied. It is in
// PostgreSQL when the position that PostgreSQL keeps with the data has reached At.
type RecRecover struct {
	GID     GID
	Age     uint64
	Deps    Deps
	Payload Payload
	At      uint64
}

// RecVoid: of the RecRecovers before it, those above Above were not applied and never will be: a node that starts asks
// for them again.
type RecVoid struct {
	Above uint64
}

// RecHave: what was recovered of one origin and is in PostgreSQL. It is part of checkpoints only.
type RecHave struct {
	Origin NodeID
	Spans  []Span
}

// RecBase: this node's PostgreSQL began as a copy that has this, and its journal does not. So it is no donor for who lacks
// any of it.
type RecBase struct {
	Have []OriginHave
	Gen  uint64 // in which the copied node was, so that nothing of it is of a later one; 0: not known
}

// Sync implements Record.
func (RecBase) Sync() bool { return true }
func (RecBase) record()    {}

// Sync implements Record.
func (RecMark) Sync() bool    { return true }
func (RecRecover) Sync() bool { return true }
func (RecHave) Sync() bool    { return false }
func (RecVoid) Sync() bool    { return true }

func (RecMark) record()    {}
func (RecRecover) record() {}
func (RecHave) record()    {}
func (RecVoid) record()    {}
