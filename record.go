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
	LSN     LSN // where the origin's WAL has it; 0 on other nodes
}

// RecPromise: no ballot below Ballot will be accepted for GID.
type RecPromise struct {
	GID    GID
	Ballot Ballot
}

// RecAccept: this outcome was accepted at this ballot.
type RecAccept struct {
	GID    GID
	Ballot Ballot
	Commit bool
}

// RecDecide: the outcome is known. It need not be synced, since what depends on it comes later in the journal, but
// where a node decides for itself alone (Firm).
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
}

// Sync implements Record.
func (RecGeneration) Sync() bool { return true }
func (RecGeneration) record()    {}
