package coordinator

import "mtm"

// local is what this node's PostgreSQL holds of a transaction.
type local int

const (
	localNone       local = iota // nothing, and nothing is under way
	localSession                 // our own session is about to prepare it
	localWaiting                 // applied when what it depends on is finished
	localApplying                // an Apply is under way
	localRetrying                // an early Apply failed: it is rolled back for certain, then applied again in its turn
	localPrepared                // prepared, durably
	localFailed                  // could not be applied: voted no
	localLost                    // journaled before a restart and not prepared now: never applied again
	localFinishing               // a Finish is under way
	localFinished                // the outcome is in PostgreSQL
	localMissed                  // committed without this node: recovery brings it
	localRecovering              // an ApplyRecovered is under way
)

type outcome int

const (
	undecided outcome = iota
	committed
	aborted
)

func outcomeOf(commit bool) outcome {
	if commit {
		return committed
	}
	return aborted
}

// txn is one transaction that is not finished everywhere.
type txn struct {
	gid       mtm.GID
	age       uint64
	deps      mtm.Deps
	payload   mtm.Payload
	lsn       mtm.LSN
	acceptors mtm.NodeSet // who decides it, by majority
	journaled bool        // RecPrepare was handed out; durable when the next Ready is
	local     local
	outcome   outcome
	failure   *mtm.Error // why it aborts, for the client or the origin

	promised  mtm.Ballot // acceptor: nothing below is accepted
	accepted  mtm.Ballot // acceptor: zero when nothing was
	acceptVal bool       // acceptor: accepted commit

	waitsFor  map[mtm.GID]bool // what it may have seen and is not finished here
	tried     bool             // an Apply was started
	early     bool             // its Apply was started before that was finished, so it may fail for the lack of it
	recovered bool             // it came from a donor
	learned   bool             // the cluster has committed it, and it is not prepared here yet
	veils     bool             // this node came back with it undecided, and reads wait for it
	open      bool             // own: a session holds it open, or held it, instead of a PREPARE (open.go)
	chosen    bool             // open, and a majority accepted commit
	told      bool             // streamed, of another node: somebody says that it is committed
	coord     *coord           // on the origin
	attempt   *attempt         // while this node resolves it
	orphan    bool             // its origin is lost, or forgot it: the resolver may decide
	retryAt   uint64           // when to say again what was not answered, or to start an attempt
	backoff   uint64
	seenN     uint64 // highest ballot number seen
	attempts  uint64 // made by this node since it became an orphan here
}

// coord is what the origin keeps of its own transaction.
type coord struct {
	members   mtm.NodeSet
	sent      mtm.NodeSet // were sent the payload, so may hold it
	votes     mtm.NodeSet // voted yes
	accepts   mtm.NodeSet // accepted ballot 0
	done      mtm.NodeSet // have finished it
	prepared  bool        // PREPARE TRANSACTION was answered
	unknown   bool        // … by a connection that broke: it may be prepared, or be so in a moment
	replied   bool
	asked     bool // of one that a session holds open: Confirm was asked for
	confirmed bool // … and answered
	permitted bool // by the gate of this life, which counts it
}

// attempt is one ballot of a resolver.
type attempt struct {
	ballot   mtm.Ballot
	promises mtm.NodeSet
	best     mtm.Ballot // highest accepted ballot that a promise told of
	commit   bool       // its value
	accepts  mtm.NodeSet
	phase2   bool
}

// older is the total order that settles conflicts, the same on every node.
func older(a, b *txn) bool {
	if a.gid.Gen != b.gid.Gen {
		return a.gid.Gen < b.gid.Gen
	}
	if a.age != b.age {
		return a.age < b.age
	}
	return a.gid.Less(b.gid)
}

// holdsOrWill reports whether the transaction may still change what others see in this PostgreSQL.
func (t *txn) holdsOrWill() bool {
	switch t.local {
	case localWaiting, localApplying, localRetrying, localPrepared, localFinishing, localSession:
		return true
	}
	return false
}
