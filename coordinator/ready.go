package coordinator

import "mtm"

// Ready is what a step asks the loop to do, its fields in the order in which the loop owes them.
type Ready struct {
	Forward []mtm.Message // data that promises nothing: may leave before Persist
	Start   []Action      // work that can be undone and that nobody was told of: may begin before Persist
	Persist []mtm.Record  // 1. durable first (one fsync for the batch, if any record wants it)
	Send    []mtm.Message // 2. only then tell peers
	Do      []Action      // 3. then touch PostgreSQL
	Reply   []Reply       // 4. then answer clients
}

// Empty reports whether there is nothing to do.
func (r Ready) Empty() bool {
	return len(r.Forward) == 0 && len(r.Start) == 0 && len(r.Persist) == 0 && len(r.Send) == 0 &&
		len(r.Do) == 0 && len(r.Reply) == 0
}

// Action is work for a driver. Each comes back as an Event, but for those that say otherwise.
type Action interface{ action() }

// Apply runs the payload in a transaction of this node's PostgreSQL and prepares it under GID. → Applied.
type Apply struct {
	GID     mtm.GID
	Age     uint64
	Payload mtm.Payload
}

// CancelApply gives up an Apply that is still running; Applied comes all the same, once. Unknown GIDs are ignored.
type CancelApply struct {
	GID mtm.GID
}

// Finish runs COMMIT PREPARED or ROLLBACK PREPARED, again and again until PostgreSQL has it: a GID that PostgreSQL
// does not know counts as finished. → Finished. Open: it is COMMIT or ROLLBACK in the session that holds GID open, tried
// once. → Finished or Lost, unless Lost came before.
type Finish struct {
	GID    mtm.GID
	Commit bool
	Open   bool
}

// Confirm asks the session that holds GID open for a sign of life: an answer from its PostgreSQL to a question asked now.
// → Confirmed or Lost.
type Confirm struct {
	GID mtm.GID
}

// AckCapture lets the slot forget everything up to LSN. No event comes back.
type AckCapture struct {
	LSN mtm.LSN
}

// OpenGate lets sessions prepare transactions of Gen, numbered from First and below Below, at most Limit unfinished
// at a time. A later OpenGate with the same Gen only raises Below. No event comes back.
type OpenGate struct {
	Gen   uint64
	First uint64
	Below uint64
	Limit int
}

// CloseGate stops new permits; those given are waited for. → GateClosed, with the same Seq, unless OpenGate follows.
type CloseGate struct {
	Reason *mtm.Error // what sessions are told if it lasts
	Seq    uint64
}

// Release lets the gate give another permit: GID, which it gave, is finished on every node that held it. No event
// comes back.
type Release struct {
	GID mtm.GID
}

// DropPayload removes a spill file that nobody needs any more. No event comes back.
type DropPayload struct {
	Spill string
}

// StreamJournal answers a Recover from the journal, as docs/design-generations.md says, until the link is lost, the
// mark of a generation with the asking node was sent, or another StreamJournal for it follows. No event comes back.
type StreamJournal struct {
	To      mtm.NodeID
	Request mtm.Recover
	Life    uint64    // for the messages: tells the streams of different lives of this node apart
	Aborted []mtm.GID // of Request.Undecided: these are aborted, tell it first
	LookUp  []mtm.GID // of Request.Undecided: the journal knows; what it does not know to be committed is aborted
}

// StreamAcked lets the stream to To go on: what it sent up to Seq is done there. No event comes back.
type StreamAcked struct {
	To          mtm.NodeID
	Stream, Seq uint64
}

// ApplyRecovered commits a recovered transaction in this node's PostgreSQL, which keeps At with the data. They are
// numbered, and handed out in ascending order; a driver may put several into one local transaction, in that order, and
// repeats what failed. What PostgreSQL's own position covers is skipped. → Recovered.
type ApplyRecovered struct {
	GID     mtm.GID
	At      uint64
	Payload mtm.Payload
}

// TellOutcome sends Decided to a node that asks for what the brain has forgotten. The journal knows: a transaction
// that it does not know to be committed is aborted. When the journal does not reach back far enough, nothing is said.
// No event comes back.
type TellOutcome struct {
	To  mtm.NodeID
	GID mtm.GID
}

// Recapture is asked for when a node that is behind has nearly everything, before it stands for being a member again: what was
// recovered is of no interest to capture, but a slot delivers in order, so what sessions prepare from now on would wait
// until all of it is decoded, and hold its rows everywhere meanwhile. Let the slot go on from here. → Recaptured, in a while.
type Recapture struct{}

// Gone: this node has left the others, or as far as it could, and its process may end. It comes once, after Leave. No event comes
// back.
type Gone struct{}

func (Gone) action()           {}
func (Recapture) action()      {}
func (StreamJournal) action()  {}
func (StreamAcked) action()    {}
func (ApplyRecovered) action() {}
func (TellOutcome) action()    {}
func (Apply) action()          {}
func (CancelApply) action()    {}
func (Finish) action()         {}
func (Confirm) action()        {}
func (AckCapture) action()     {}
func (OpenGate) action()       {}
func (CloseGate) action()      {}
func (Release) action()        {}
func (DropPayload) action()    {}

// Reply tells a waiting client how its transaction ended: Err nil means committed where it must be.
type Reply struct {
	GID mtm.GID
	Err *mtm.Error
}

// Event is what happened; the loop hands it to Node.Step.
type Event interface{ event() }

// Tick: the clock moved on. Now is monotonic, in milliseconds since the node started.
type Tick struct {
	Now uint64
}

// Received: a peer said something.
type Received struct {
	Message mtm.Message
}

// PeerUp: the link to a peer works, both ways. Incarnation differs after the peer's process was restarted.
type PeerUp struct {
	Node        mtm.NodeID
	Incarnation uint64
}

// PeerDown: the link to a peer is lost, or the peer is silent for heartbeat_recv_timeout.
type PeerDown struct {
	Node mtm.NodeID
}

// Permitted: the gate has given GID to a session. It precedes Prepared and Captured of the same GID.
type Permitted struct {
	GID mtm.GID
	Age uint64 // microseconds since 1970 when the client first asked to commit
}

// Prepared: the session's PREPARE TRANSACTION was answered. Err set: it failed, or nobody knows.
type Prepared struct {
	GID     mtm.GID
	Err     *mtm.Error
	Unknown bool // the answer was lost: the transaction may be prepared, now or in a moment
	Open    bool // PostgreSQL cannot prepare it: the session holds it open, and all that it does is done
}

// Confirmed: the session still held GID open, with all its locks, after Confirm was asked for.
type Confirmed struct {
	GID mtm.GID
}

// Lost: the session that held GID open is gone, and PostgreSQL has not committed it and never will. It comes unasked, or
// instead of Finished.
type Lost struct {
	GID mtm.GID
}

// Captured: the slot has delivered a transaction that was prepared here under our own GID, or, with PayloadStreamed, that
// a session holds open.
type Captured struct {
	GID     mtm.GID
	LSN     mtm.LSN // of a streamed one its transaction id, for Node.Open
	Payload mtm.Payload
}

// Cancelled: GID is not to be waited for. It is aborted if that is still possible. Err is why; nil: its client cancelled, or left.
type Cancelled struct {
	GID mtm.GID
	Err *mtm.Error
}

// Applied: an Apply ended; Err nil means prepared, durably, in this node's PostgreSQL.
type Applied struct {
	GID mtm.GID
	Err *mtm.Error
}

// Blocked: the Apply of Waiter waits for a lock that Holder has in this node's PostgreSQL, prepared or applying.
type Blocked struct {
	Waiter, Holder mtm.GID
}

// Finished: a Finish is done, durably.
type Finished struct {
	GID mtm.GID
}

// GateClosed: no permit is out any more. Next is the first sequence that was not given.
type GateClosed struct {
	Next uint64
	Seq  uint64 // of the CloseGate
}

// Recovered: every ApplyRecovered up to At is in PostgreSQL, durably.
type Recovered struct {
	At uint64
}

// Recaptured: capture delivers soon what is prepared from now on. Where it was made to pass over something, Prepared is
// what PostgreSQL holds prepared of this node's own since then: of these, what was not captured never will be.
type Recaptured struct {
	Prepared []mtm.GID
}

// Hold stops elections as far as this node goes, or lets it take part again. It is not remembered: tell it after each start.
type Hold struct {
	On bool
}

// DropNode asks this node to have another configured no more; 0: not any longer. It tries until it is done, or restarts.
// Whether it is done shows in Status: Generation.Configured lacks the node, and this node is online.
type DropNode struct {
	Node mtm.NodeID
}

// Leave: this node is being stopped. It finishes what is being committed, gives its lease back, and lets the others elect a
// generation without it. → Gone.
type Leave struct{}

func (Leave) event()      {}
func (Recaptured) event() {}
func (Recovered) event()  {}
func (DropNode) event()   {}
func (Hold) event()       {}

func (Tick) event()       {}
func (Received) event()   {}
func (PeerUp) event()     {}
func (PeerDown) event()   {}
func (Permitted) event()  {}
func (Prepared) event()   {}
func (Lost) event()       {}
func (Confirmed) event()  {}
func (Captured) event()   {}
func (Cancelled) event()  {}
func (Applied) event()    {}
func (Blocked) event()    {}
func (Finished) event()   {}
func (GateClosed) event() {}
