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
	GID     GID
	Age     uint64 // microseconds since 1970 when the client first asked to commit; older wins conflicts
	Deps    Deps
	Payload Payload
}

// Vote answers Prepare: the sender holds the transaction prepared, durably, or refuses it (Err is set).
type Vote struct {
	GID GID
	Err *Error
}

// Accept is Paxos phase 2a: accept this outcome at this ballot. At ballot {0, origin} it is the precommit.
type Accept struct {
	GID    GID
	Ballot Ballot
	Commit bool
}

// Accepted is phase 2b: the sender has accepted, durably. It goes to all configured nodes' proposer.
type Accepted struct {
	GID    GID
	Ballot Ballot
	Commit bool
}

// Collect is phase 1a: a resolver asks for a promise.
type Collect struct {
	GID    GID
	Ballot Ballot
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

// Forget tells that every transaction of the sender up to Upto is finished on all configured nodes.
type Forget struct {
	Upto uint64
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
	Sent       uint64 // the sender's clock, milliseconds; comes back in the answer
	Gen        Generation
	Donors     NodeSet // of Gen
	LastOnline uint64
	Connected  NodeSet // whom the sender hears, itself counted
}

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
