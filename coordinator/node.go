package coordinator

import (
	"cmp"
	"slices"

	"mtm"
	"mtm/generations"
)

// Config is what a Node must be told. Times are in milliseconds of Tick.Now.
type Config struct {
	ID           mtm.NodeID
	Generation   mtm.Generation
	MaxInFlight  int    // unfinished transactions of this origin; at least 1
	MaxPrepared  int    // instead: how many PostgreSQL can hold prepared, which the configured nodes share; 0: not known
	Reserve      uint64 // sequences reserved per record; default 1 << 16
	Retransmit   uint64 // first repetition of what was not answered; doubles up to 16 times; default 1000
	ResolveAfter uint64 // from the loss of an origin to the first ballot; default 200
	ForgetEvery  uint64 // between two Forget messages; default 200
	RecoverAfter uint64 // silence of a donor after which another is asked; default 1000
	LeaveAfter   uint64 // how long a node that is being stopped waits for commits under way; default 150
	Plant        Plant  // faults planted by tests; none in production

	// Elections lets the generation change. Without it Generation is in force for ever, and every node is online.
	Elections   bool
	Incarnation uint64 // of this process: differs from those of its earlier lives
	Recovered   uint64 // ApplyRecovered.At that PostgreSQL keeps with the data
	Heartbeat   uint64 // see generations.Config, and Lease and Silence
	Lease       uint64
	Silence     uint64
	Referee     bool // two nodes and a referee
}

// Plant names faults that the simulator must be able to find.
type Plant struct {
	MajorityPrepare bool // precommit when a majority voted, instead of all members
	StaleBallot     bool // accept a ballot below the promise
	NoDeps          bool // apply without waiting for what the origin saw
	SkipMark        bool // leave out what the donor held prepared at its mark
	AnyDonor        bool // recover from whoever is up
	AcceptorsNow    bool // a ballot counts who is configured now, not who was when the transaction began
	AnyBase         bool // see generations.Config
	NoConfirm       bool // precommit what a session holds open without asking whether it does
	EarlyDecide     bool // … and let members commit it before its origin has
	ServeOn         bool // answer reads after the lease was given back
	CopyDonor       bool // be a donor for who lacks what this node began with
	OwnForgotten    bool // after a restart, leave what this node had committed as origin, and not synced, to the resolver
	SoftAbort       bool // roll back what this origin had accepted before that is durable
	NoPromises      bool // leave promises out of checkpoints
}

func (c Config) withDefaults() Config {
	def := func(v *uint64, d uint64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Reserve, 1<<16)
	def(&c.Retransmit, 1000)
	def(&c.ResolveAfter, 200)
	def(&c.ForgetEvery, 200)
	def(&c.RecoverAfter, 1000)
	def(&c.LeaveAfter, 150)
	c.MaxInFlight = max(c.MaxInFlight, 1)
	return c
}

// Node is the brain of one node. It is not safe for concurrent use. Create it with New, hand it the journal with
// Replay, then Start it once; from then on Step and Ready.
type Node struct {
	cfg   Config
	gen   mtm.Generation
	now   uint64
	ready Ready

	txns      map[mtm.GID]*txn
	outcomes  map[mtm.GID]bool      // finished here, not yet everywhere; true is committed
	forgotten map[mtm.NodeID]uint64 // per origin: finished everywhere up to here
	seen      map[mtm.NodeID]*seen  // per origin: which numbers are decided

	peers        map[mtm.NodeID]uint64 // incarnation of the peers that are up
	next         uint64                // first own sequence that was not given, as far as known
	reserved     uint64                // sequences below may be given
	gateOpen     bool
	started      bool
	forgetAt     uint64
	forgetSent   uint64
	forgetRepeat int              // rounds until Forget is repeated
	shadow       *Node            // while a checkpoint is replayed
	waiting      map[mtm.GID]*txn // those that are localWaiting
	committing   map[mtm.GID]bool // own ones that are accepted, and whose session commits, or that are prepared again

	// With elections.
	m           *generations.Machine
	saved       mtm.RecGeneration // as replayed
	closes      uint64            // CloseGates so far
	gateClosed  bool              // no permit is out
	kept        []mtm.Prepare     // of a generation in which this node is not online yet
	rec         recovery
	asked       uint64 // streams so far
	pending     []pendingTxn
	capture     captureState
	leavers     mtm.NodeSet           // members that are being stopped
	leaving     bool                  // this node is
	leaveBy     uint64                // it waits no longer for the next step
	gone        bool                  // it has told so
	recoverAt   uint64                // the last ApplyRecovered.At that was given
	have        map[mtm.NodeID]spans  // per origin: recovered, and in PostgreSQL
	established bool                  // during a tick: nobody outside the members can answer reads
	veiled      bool                  // some transaction may veil, see lease
	served      map[mtm.NodeID]uint64 // per peer: the newest stream it asked this life for
	donorAt     uint64                // when a donor was last in reach
	empties     map[mtm.GID]bool      // of outcomes: they concern this node alone, so no checkpoint has them
	base        []mtm.OriginHave      // what this node began with, as a copy: its journal does not have it
	baseGen     uint64                // see mtm.RecBase
	strays      map[mtm.GID]bool      // left prepared by a recovery of an earlier life; being rolled back
}

// New makes a Node that knows nothing yet.
func New(cfg Config) *Node {
	n := &Node{cfg: cfg.withDefaults(), gen: cfg.Generation, peers: map[mtm.NodeID]uint64{}}
	n.reset()
	return n
}

func (n *Node) reset() {
	n.txns = map[mtm.GID]*txn{}
	n.outcomes = map[mtm.GID]bool{}
	n.forgotten = map[mtm.NodeID]uint64{}
	n.seen = map[mtm.NodeID]*seen{}
	n.waiting = map[mtm.GID]*txn{}
	n.next, n.reserved = 1, 1
	n.have = map[mtm.NodeID]spans{}
	n.strays = map[mtm.GID]bool{}
	n.empties = map[mtm.GID]bool{}
	n.served = map[mtm.NodeID]uint64{}
	n.committing = map[mtm.GID]bool{}
}

// Ready returns what is to be done since the last call, and clears it.
func (n *Node) Ready() Ready {
	r := n.ready
	n.ready = Ready{}
	return r
}

// Step takes in one event. What follows from it is in Ready.
func (n *Node) Step(ev Event) {
	switch ev := ev.(type) {
	case Tick:
		n.tick(ev.Now)
	case Received:
		n.receive(ev.Message)
	case PeerUp:
		n.peerUp(ev.Node, ev.Incarnation)
	case PeerDown:
		n.peerDown(ev.Node)
	case Permitted:
		n.permitted(ev)
	case Prepared:
		n.prepared(ev)
	case Captured:
		n.captured(ev)
	case Confirmed:
		if t := n.txns[ev.GID]; t != nil && t.coord != nil {
			t.coord.confirmed = true
			n.tryPrecommit(t)
		}
	case Lost:
		n.lost(ev.GID)
	case Cancelled:
		n.cancelled(ev)
	case Applied:
		n.applied(ev)
	case Blocked:
		n.blocked(ev)
	case Finished:
		n.finishedHere(ev.GID)
	case Recovered:
		n.recoveredHere(ev.At)
	case Recaptured:
		n.recaptured(ev.Prepared)
	case RefereeSaid:
		n.refereeSaid(ev.Answer)
	case GateClosed:
		n.next = max(n.next, ev.Next)
		n.gateClosed = n.gateClosed || !n.gateOpen && ev.Seq == n.closes
	case Hold:
		if n.m != nil {
			n.m.Hold(ev.On)
		}
	case DropNode:
		if n.m != nil {
			n.m.Drop(ev.Node)
		}
	case Leave:
		n.beginLeaving()
	}
	n.turn()
	if n.started {
		n.driveLeave()
		n.turn()
	}
}

func (n *Node) receive(m mtm.Message) {
	if !n.listensTo(m.From) || m.From == n.cfg.ID || m.To != n.cfg.ID {
		if p, ok := m.Body.(mtm.Prepare); ok {
			n.drop(p.Payload) // the last word of a node that was dropped
		}
		return
	}
	if n.m != nil && n.m.Receive(m.From, m.Body) {
		return
	}
	switch b := m.Body.(type) {
	case mtm.Recover:
		n.onRecover(m.From, b)
	case mtm.RecoverAck:
		n.do(StreamAcked{To: m.From, Stream: b.Stream, Seq: b.Seq})
	case mtm.RecoverTxn:
		n.onRecoverItem(m.From, b.Stream, b.Life, b.Seq, b)
	case mtm.RecoverDone:
		n.onRecoverItem(m.From, b.Stream, b.Life, b.Seq, b)
	case mtm.Prepare:
		n.onPrepare(m.From, b)
	case mtm.Vote:
		n.onVote(m.From, b)
	case mtm.Accept:
		n.onAccept(m.From, b)
	case mtm.Accepted:
		n.onAccepted(m.From, b)
	case mtm.Collect:
		n.onCollect(m.From, b)
	case mtm.Promised:
		n.onPromised(m.From, b)
	case mtm.Rejected:
		n.onRejected(m.From, b)
	case mtm.Decided:
		n.onDecided(m.From, b)
	case mtm.Finished:
		n.onFinished(m.From, b)
	case mtm.Wound:
		n.onWound(b)
	case mtm.Forget:
		n.onForget(m.From, b)
	}
}

func (n *Node) persist(r mtm.Record) { n.ready.Persist = append(n.ready.Persist, r) }

func (n *Node) do(a Action) { n.ready.Do = append(n.ready.Do, a) }

func (n *Node) send(to mtm.NodeID, b mtm.Body) {
	if _, up := n.peers[to]; up {
		n.ready.Send = append(n.ready.Send, mtm.Message{From: n.cfg.ID, To: to, Body: b})
	}
}

func (n *Node) sendAll(to mtm.NodeSet, b mtm.Body) {
	for _, id := range to.Without(n.cfg.ID).IDs() {
		n.send(id, b)
	}
}

// sorted lists transactions in an order that does not depend on the map, so that a run can be repeated.
func sorted(txns map[mtm.GID]*txn) []*txn {
	return sortedIf(txns, func(*txn) bool { return true })
}

// sortedIf lists those that keep is true of. For what is done at every tick: a node that recovers has thousands under way.
func sortedIf(txns map[mtm.GID]*txn, keep func(*txn) bool) []*txn {
	var list []*txn
	for _, t := range txns {
		if keep(t) {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b *txn) int {
		return cmp.Or(cmp.Compare(a.gid.Origin, b.gid.Origin), cmp.Compare(a.gid.Seq, b.gid.Seq))
	})
	return list
}

func (n *Node) newTxn(gid mtm.GID) *txn {
	t := &txn{gid: gid, acceptors: n.gen.Configured, backoff: n.cfg.Retransmit, retryAt: n.now + n.cfg.Retransmit}
	n.txns[gid] = t
	n.seenOf(gid.Origin).hear(gid.Seq)
	return t
}

// known returns the outcome of a transaction that is finished here or decided, if it is.
func (n *Node) known(gid mtm.GID) (commit, ok bool) {
	if commit, ok = n.outcomes[gid]; ok {
		return commit, true
	}
	if t := n.txns[gid]; t != nil && t.outcome != undecided {
		return t.outcome == committed, true
	}
	if n.m != nil && n.have[gid.Origin].has(gid.Seq) {
		return true, true
	}
	return false, false
}

// isForgotten reports whether the transaction is finished on all configured nodes.
//
// With elections others may have forgotten what this node came back with and has not ended yet.
func (n *Node) isForgotten(gid mtm.GID) bool {
	return gid.Seq <= n.forgotten[gid.Origin] && (!n.cfg.Elections || n.txns[gid] == nil)
}

func (n *Node) up() mtm.NodeSet {
	s := mtm.Nodes(n.cfg.ID)
	for id := range n.peers {
		s = s.With(id)
	}
	return s
}
