package mtm

// Message is one thing that one node tells another. Every handler tolerates loss, repetition and reordering.
type Message struct {
	From, To NodeID
	Body     Body
}

// Body is one of the message types of this file.
type Body interface{ body() }

// Prepare carries a transaction from its origin to a member, which applies it and prepares it.
type Prepare struct {
	GID       GID
	Age       uint64 // microseconds since 1970 when the client first asked to commit; older wins conflicts
	Deps      Deps
	Payload   Payload
	Acceptors NodeSet // who decides it, by majority: the configured nodes of its generation; 0: not told (version 1)
}

// Vote answers Prepare: the sender holds the transaction prepared, durably, or refuses it (Err is set).
type Vote struct {
	GID GID
	Err *Error
}

// Accept is Paxos phase 2a: accept this outcome at this ballot. At ballot {0, origin} it is the precommit.
type Accept struct {
	GID       GID
	Ballot    Ballot
	Commit    bool
	Acceptors NodeSet // as in Prepare
}

// Accepted is phase 2b: the sender has accepted, durably. It goes to all configured nodes' proposer.
type Accepted struct {
	GID    GID
	Ballot Ballot
	Commit bool
}

// Collect is phase 1a: a resolver asks for a promise.
type Collect struct {
	GID       GID
	Ballot    Ballot
	Acceptors NodeSet // as in Prepare
}

// Promised is phase 1b: the sender will accept nothing below Ballot, and tells what it accepted last.
type Promised struct {
	GID            GID
	Ballot         Ballot // the ballot promised, as asked
	Accepted       Ballot // zero: nothing accepted yet
	AcceptedCommit bool
}

// Rejected answers Collect or Accept: the sender has promised a higher ballot.
type Rejected struct {
	GID      GID
	Ballot   Ballot // what was asked
	Promised Ballot // what stands against it
}

// Decided tells the outcome. It is final.
type Decided struct {
	GID    GID
	Commit bool
}

// Finished tells the origin that the outcome is in the sender's PostgreSQL. Told to another node, it answers a
// question: the sender has forgotten the transaction, so it is finished everywhere.
type Finished struct {
	GID GID
}

// Wound tells an origin that its transaction stands in the way of an older one: abort it, unless precommitted.
type Wound struct {
	GID GID // the one to abort
	For GID // the older one
}

// Forget tells that every transaction of the sender up to Upto is finished on all members of generation Gen, in which
// the sender is online. Without elections Gen is 0, and all configured nodes are members.
type Forget struct {
	Upto uint64
	Gen  uint64
}

func (Prepare) body()  {}
func (Vote) body()     {}
func (Accept) body()   {}
func (Accepted) body() {}
func (Collect) body()  {}
func (Promised) body() {}
func (Rejected) body() {}
func (Decided) body()  {}
func (Finished) body() {}
func (Wound) body()    {}
func (Forget) body()   {}

// Heartbeat tells peers that the sender lives, and what it knows; who receives it answers with HeartbeatAck.
type Heartbeat struct {
	Sent       uint64 // says when, to the sender; comes back in the answer
	Gen        Generation
	Donors     NodeSet // of Gen
	LastOnline uint64
	Connected  NodeSet // whom the sender hears, itself counted
	Leave      Leave
}

// Leave is how far a node that is being stopped has come, or, of the others, what they do about it.
type Leave uint8

// The steps of leaving.
const (
	Staying Leave = iota
	Leaving       // it begins nothing new, and waits until nothing that it takes part in is under way
	Drained       // of another node: somebody is leaving, and nothing of the sender's own is under way
	Left          // it has given its lease back, and answers no read any more in this life
)

// HeartbeatAck gives the sender of a heartbeat a lease: the answerer votes for no generation without it until the
// lease has run out.
type HeartbeatAck struct {
	Sent uint64
}

// Campaign asks for a vote for a generation.
type Campaign struct {
	Gen Generation
}

// CampaignVote answers Campaign. A refusal tells the highest number that the voter knows of.
type CampaignVote struct {
	Gen        Generation // as asked
	OK         bool
	LastOnline uint64
	Highest    uint64
}

// Elected tells a new generation and who holds all that was committed before it.
type Elected struct {
	Gen    Generation
	Donors NodeSet
}

func (Heartbeat) body()    {}
func (HeartbeatAck) body() {}
func (Campaign) body()     {}
func (CampaignVote) body() {}
func (Elected) body()      {}

// Span is the numbers First to Last, both counted.
type Span struct {
	First, Last uint64
}

// OriginHave is what a node has finished of one origin: everything up to Upto, and Above, ascending and disjoint.
type OriginHave struct {
	Origin NodeID
	Upto   uint64
	Above  []Span
}

// Recover asks a node that is online for what the sender lacks. The answers, RecoverTxn and RecoverDone, are numbered
// from 1; a new request ends the old one.
type Recover struct {
	Stream     uint64 // names the answers; never used twice by one node
	Gen        uint64 // the sender's generation: marks of older ones do not count
	LastOnline uint64 // the last generation in which the sender was online
	Have       []OriginHave
	Undecided  []GID // what the sender holds without an outcome, though Have may cover it
}

// RecoverTxn is one transaction that the asking node lacks.
type RecoverTxn struct {
	Stream, Seq uint64
	Life        uint64 // of the donor: StreamJournal.Life
	GID         GID
	Age         uint64
	Deps        Deps
	Payload     Payload
	Fate        Fate
	Acceptors   NodeSet // as in Prepare; needed of undecided ones
}

// Fate is what became of a transaction at the donor.
type Fate int

// The fates.
const (
	FateUndecided Fate = iota // prepared there, at the mark
	FateCommitted
	FateAborted
)

// RecoverDone tells that the stream has reached the donor's mark of generation Gen, or, when Gen is 0, how far it is from
// the end of the donor's journal. A donor says so every few hundred milliseconds at least, so that it is not given up.
// With Seq 0 it is outside the order of the stream, and tells no more than that the donor is at work, and whether a large
// payload is on its way, by which others are overtaken: it comes, or the link is lost.
type RecoverDone struct {
	Stream, Seq uint64
	Life        uint64
	Gen         uint64
	Behind      uint64 // bytes of the journal that were not read yet; 0: the end, for the moment
	Large       bool   // with Seq 0: a large payload is on its way
	Forgotten   Deps   // at the mark: what the members of Gen have all finished
}

// RecoverAck tells the donor that everything of the stream up to Seq is done, so that it may send more.
type RecoverAck struct {
	Stream, Seq uint64
}

func (RecoverAck) body() {}

func (Recover) body()     {}
func (RecoverTxn) body()  {}
func (RecoverDone) body() {}
