package main

import (
	"math/rand/v2"
	"slices"

	"mtm/coordinator"
)

// Faults that can be planted, by name of the -plant flag.
const (
	plantMajority = "majority-prepare"    // precommit when a majority prepared
	plantStale    = "stale-ballot"        // accept below the promise
	plantNoDeps   = "no-deps"             // apply before what the origin saw is finished
	plantForget   = "accept-forgotten"    // the disk loses a synced acceptance in a crash
	plantSend     = "send-before-persist" // the loop tells peers before it is durable
	// Found in mode amnesia:
	plantNoPromise = "checkpoint-forgets" // a checkpoint has no promises
)

// Those that need elections.
const (
	plantNoLease  = "no-lease"              // reads are answered without a lease
	plantVote     = "vote-forgotten"        // the disk loses a synced vote in a crash
	plantSkipMark = "mark-skipped"          // what was prepared at the mark is left out
	plantLowDonor = "low-donor"             // recovery from a donor of a lower generation
	plantDisorder = "recovery-out-of-order" // the donor sends the second of two first
	// Of what a session holds open:
	plantNoConfirm = "open-not-confirmed" // accepted without a sign of life of the session
	plantEarly     = "open-decided-early" // committed elsewhere before its origin has it
	plantServeOn   = "left-and-serves"    // who gave its lease back answers reads
	plantFateless  = "open-fate-unknown"  // a restart takes what was committed for lost
	// Of a decision that the origin does not sync:
	plantOwn  = "own-forgotten" // a restart leaves what was committed to the resolver
	plantSoft = "abort-soft"    // … and an abort is not durable before it is carried out
)

// Those of what users prepare.
const (
	plantUserDropped = "user-dropped" // a restart rolls back what is about to be announced
	plantOrderLost   = "order-lost"   // … and does not carry out what was ordered
)

var userPlants = []string{plantUserDropped, plantOrderLost}

// Those that need a referee.
const (
	plantTwoGrants  = "referee-grants-twice"  // the row is empty for everybody
	plantGrantLost  = "referee-forgets"       // the disk loses the grant in a crash
	plantEarlyClear = "referee-cleared-early" // the row is cleared when one of two is online
	plantNoWait     = "referee-before-lease"  // a grant is asked for while the peer still has a lease
)

var refereePlants = []string{plantTwoGrants, plantGrantLost, plantEarlyClear, plantNoWait, plantSoft}

var electionPlants = []string{plantNoLease, plantVote, plantSkipMark, plantLowDonor, plantDisorder, plantNoConfirm, plantEarly, plantFateless, plantUserDropped, plantOrderLost, plantServeOn, plantOwn}

var plants = []string{plantMajority, plantStale, plantNoDeps, plantForget, plantSend, plantNoPromise}

// Those that need changes of the configured nodes.
const (
	plantAcceptors = "acceptors-of-now" // a ballot counts the nodes that are configured now
	plantCopy      = "copy-as-donor"    // who began as a copy is a donor for who lacks what the copy had
	plantAnyBase   = "any-base"         // a change starts before a majority is online
)

var memberPlants = []string{plantAcceptors, plantAnyBase, plantCopy}

var allPlants = slices.Concat(plants, electionPlants, refereePlants, memberPlants)

const (
	ms     = 1000
	second = 1000 * ms
)

// plan is what a seed decides before the run begins. Times in microseconds, chances in 0 to 1.
type plan struct {
	mode                       string // one of modes
	nodes, clients, txns, keys int
	faultsUntil                uint64 // end of the first phase

	delay           uint64  // usual delay of a message: 0.1 ms up to this
	spike           float64 // chance that a message takes up to spikeMax
	spikeMax        uint64
	loss, dup       float64
	slowDown        float64 // chance that the loss of a peer is noticed late
	linkEvery       uint64  // mean time between link faults; 0: none
	crashEvery      uint64  // mean time between crashes; 0: none
	traps, storms   int     // faults bound to an effect, see faults.go
	cancel, waitLoc float64 // chances per transaction
	spill, empty    float64
	compact         float64 // chance of a checkpoint after a turn of the loop
	batch           int     // events per turn, at most
	limit           int     // Config.MaxInFlight
	reserve         uint64
	resolve, repeat uint64  // Config.ResolveAfter, Config.Retransmit, in ms
	tick, fsync     uint64  // between ticks; at most for a sync
	awayChance      float64 // that one node comes back later than the others
	plant           string

	elections   bool
	freezeEvery uint64  // mean time between freezes of a process; 0: none
	streamed    float64 // chance that PostgreSQL cannot prepare a transaction
	leaveEvery  uint64  // mean time between orderly stops; 0: none
	longAway    float64 // chance that a crashed node stays away long enough to be excluded
	user        float64 // chance that a user prepares a transaction and ends it later
	drift       float64 // clocks run faster or slower by up to this

	hasReferee   bool
	refereeEvery uint64  // mean time between faults of the referee; 0: none
	refereeGone  float64 // chance that it does not come back at the end, when both nodes do
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func newPlan(r *rand.Rand, nodes int, plant, mode string) plan {
	p := plan{
		nodes: nodes, plant: plant,
		clients: nodes + r.IntN(4), txns: 3 + r.IntN(6), keys: 2 + r.IntN(5),
		faultsUntil: uint64(500+r.IntN(1500)) * ms,
		delay:       pick[uint64](r, 1*ms, 5*ms, 30*ms), spikeMax: pick[uint64](r, 100*ms, 1*second),
		cancel: pick(r, 0, 0.05), waitLoc: pick(r, 0, 0.3), spill: pick(r, 0, 0.2), empty: 0.05,
		compact: pick(r, 0, 0.05, 0.2), batch: pick(r, 1, 3, 16),
		limit: pick(r, 1, 4, 100), reserve: pick[uint64](r, 3, 10, 1000),
		resolve: pick[uint64](r, 20, 100), repeat: pick[uint64](r, 60, 300), tick: pick[uint64](r, 5*ms, 20*ms),
		fsync: pick[uint64](r, 300, 2*ms, 20*ms),
	}
	if nodes > 2 { // else no majority is left
		p.awayChance = 0.3
	}
	drawn := pick(r, modes...)
	if mode == "" {
		mode = drawn
	}
	p.mode = mode
	p.setFaults(r)
	return p
}

// modeAmnesia is run when it is asked for: a duel of nodes that keep little but their last checkpoint, die just after they
// promised, and are back at once.
const modeAmnesia = "amnesia"

// modes are what goes wrong in a run; those that are named twice are run twice as often.
var modes = []string{"calm", "lossy", "links", "crashes", "traps", "duel", "duel", "all", "all", "all"}

// setFaults draws the faults of the mode.
func (p *plan) setFaults(r *rand.Rand) {
	switch p.mode {
	case "calm": // conflicts only
	case "lossy":
		p.loss, p.dup, p.spike = 0.1, 0.1, 0.1
	case "links": // they come and go
		p.linkEvery, p.spike, p.slowDown = 150*ms, 0.02, 0.3
	case "crashes":
		p.crashEvery, p.traps = 400*ms, 2
	case "traps": // harm at chosen points
		p.traps = 6
	case "duel": // resolvers against each other and against an origin that is cut off, with crashes in between
		p.clients, p.txns, p.keys, p.resolve, p.fsync = p.nodes, 2, 6, 20, pick[uint64](r, 300, 5*ms)
		p.delay, p.spike, p.spikeMax, p.dup = 30*ms, 0.2, pick[uint64](r, 100*ms, 300*ms), 0.2
		p.loss = pick(r, 0, 0.05)
		p.storms, p.faultsUntil = 2, 1500*ms
	case modeAmnesia:
		p.clients, p.txns, p.keys, p.resolve, p.fsync = p.nodes, 2, 6, 20, 300
		p.delay, p.spike, p.spikeMax, p.dup = 30*ms, 0.2, pick[uint64](r, 100*ms, 300*ms), 0.2
		p.storms, p.faultsUntil = 2, 1500*ms
		p.compact, p.traps, p.batch = 1, 6, 1
	default: // everything
		p.loss, p.dup, p.spike = pick(r, 0, 0.03), pick(r, 0, 0.05), pick(r, 0.02, 0.1)
		p.linkEvery, p.crashEvery, p.slowDown = pick[uint64](r, 150*ms, 400*ms), pick[uint64](r, 300*ms, 900*ms), 0.4
		p.traps = r.IntN(8)
	}
}

func (p plan) config() coordinator.Config {
	return coordinator.Config{
		Elections: p.elections, RecoverAfter: 300, Referee: p.hasReferee,
		MaxInFlight: p.limit, Reserve: p.reserve, Retransmit: p.repeat, ResolveAfter: p.resolve, ForgetEvery: 50,
		Plant: coordinator.Plant{
			MajorityPrepare: p.plant == plantMajority,
			StaleBallot:     p.plant == plantStale,
			NoDeps:          p.plant == plantNoDeps,
			SkipMark:        p.plant == plantSkipMark,
			AnyDonor:        p.plant == plantLowDonor,
			AcceptorsNow:    p.plant == plantAcceptors,
			AnyBase:         p.plant == plantAnyBase,
			CopyDonor:       p.plant == plantCopy,
			NoConfirm:       p.plant == plantNoConfirm,
			ServeOn:         p.plant == plantServeOn,
			EarlyDecide:     p.plant == plantEarly,
			OwnForgotten:    p.plant == plantOwn,
			SoftAbort:       p.plant == plantSoft,
			NoPromises:      p.plant == plantNoPromise,
		},
	}
}

// setElections draws what only runs with elections have. The lease stands to the time in which the loss of a peer is
// noticed as in production.
func (p *plan) setElections(r *rand.Rand) {
	p.elections = true
	p.faultsUntil = uint64(1500+r.IntN(2500)) * ms
	p.txns += 6 + r.IntN(12)
	p.freezeEvery = pick[uint64](r, 0, 400*ms, 1*second)
	p.longAway = pick(r, 0, 0.5, 0.9)
	p.streamed = pick(r, 0, 0.2, 0.6)
	p.drift = pick(r, 0, 0.04)
	p.leaveEvery = pick[uint64](r, 0, 300*ms, 1*second)
	if p.mode == "calm" {
		p.freezeEvery = 0
	}
}

// setReferee draws what only runs with a referee have.
func (p *plan) setReferee(r *rand.Rand) {
	p.hasReferee = true
	p.refereeEvery = pick[uint64](r, 0, 300*ms, 1*second)
	p.refereeGone = pick(r, 0, 0.5)
	p.awayChance = 0.4
}

// nodesFor is how many nodes a seed has, if not said otherwise.
func nodesFor(seed uint64, want int) int {
	if want != 0 {
		return want
	}
	switch seed % 16 {
	case 3:
		return 4
	case 7, 15:
		return 5
	case 11:
		return 2
	}
	return 3
}
