package coordinator

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"mtm"
)

// This file is the part of the stage that has to do with elections, and one test per rule of switch.go and recover.go.

func aboutGenerations(b mtm.Body) bool {
	switch b.(type) {
	case mtm.Heartbeat, mtm.HeartbeatAck, mtm.Campaign, mtm.CampaignVote, mtm.Elected:
		return true
	}
	return false
}

// elapse lets time pass, and delivers what is said about generations among the nodes.
func (s *stage) elapse(names []string, to uint64) {
	var nodes mtm.NodeSet
	for _, name := range names {
		id, err := strconv.Atoi(name)
		require.NoError(s.t, err)
		nodes = nodes.With(mtm.NodeID(id))
	}
	for s.now < to {
		s.now += 20
		for _, id := range nodes.IDs() {
			s.step(id, Tick{Now: s.now})
		}
		for s.deliver(func(m mtm.Message) bool {
			return aboutGenerations(m.Body) && nodes.Has(m.From) && nodes.Has(m.To)
		}) > 0 {
		}
	}
}

// stream says the donor's next message to a node that recovers.
func (s *stage) stream(id mtm.NodeID, d *datadriven.TestData) {
	r := &s.nodes[id].rec
	require.NotZero(s.t, r.donor, "node %d has no donor", id)
	s.item(id, streamBody(s.t, d, r.stream, r.next))
}

func (s *stage) item(id mtm.NodeID, b mtm.Body) { s.hear(s.nodes[id].rec.donor, id, b) }

func streamBody(t *testing.T, d *datadriven.TestData, stream, seq uint64) mtm.Body {
	if d.HasArg("end") || d.HasArg("mark") {
		return mtm.RecoverDone{Stream: stream, Seq: seq, Gen: uint64(argInt(d, "mark", 0))}
	}
	b := mtm.RecoverTxn{Stream: stream, Seq: seq, GID: argGID(t, d, "gid"), Payload: mtm.Payload{Data: []byte("x")}}
	switch {
	case d.HasArg("committed"):
		b.Fate = mtm.FateCommitted
	case d.HasArg("aborted"):
		b.Fate = mtm.FateAborted
	}
	return b
}

// electionStage is three nodes of which the third is excluded and back, with a stream from a donor.
func electionStage(t *testing.T) *stage {
	t.Helper()
	s := newStage(t, 3, Config{Elections: true})
	for _, id := range []mtm.NodeID{1, 2} {
		s.step(id, PeerDown{Node: 3})
		s.step(id, GateClosed{Next: 1, Seq: 1})
	}
	s.elapse([]string{"1", "2"}, 600)
	require.Equal(t, mtm.Nodes(1, 2), s.nodes[1].Status().Generation.Members)
	s.restart(3, 0)
	s.linkUp(3)
	s.step(1, PeerUp{Node: 3, Incarnation: 2})
	s.step(2, PeerUp{Node: 3, Incarnation: 2})
	s.elapse([]string{"1", "2", "3"}, 680)
	s.step(3, GateClosed{Next: 101, Seq: 1}) // it believed to be online until it heard of the others
	s.elapse([]string{"1", "2", "3"}, 700)
	require.NotZero(t, s.nodes[3].rec.donor)
	s.done = nil
	return s
}

func (s *stage) recoverTxn(id mtm.NodeID, gid mtm.GID, fate mtm.Fate) {
	r := s.nodes[id].rec
	s.item(id, mtm.RecoverTxn{Stream: r.stream, Seq: r.next, GID: gid, Fate: fate, Payload: mtm.Payload{Data: []byte("x")}})
}

func TestAnExcludedNodeIgnoresForget(t *testing.T) {
	s := electionStage(t)
	s.hear(1, 3, mtm.Forget{Upto: 7, Gen: 2})
	require.Zero(t, s.nodes[3].forgotten[1], "it lacks what the members have finished")
}

func TestACommitThatWasMissedIsNotTakenForFinished(t *testing.T) {
	s := electionStage(t)
	gid := mtm.GID{Origin: 1, Gen: 2, Seq: 1}
	s.hear(1, 3, mtm.Decided{GID: gid, Commit: true})
	require.Equal(t, -1, s.said("3: send to 1: Finished mtm-1-2-1"))
	require.False(t, s.nodes[3].finished(gid), "the donor has to send it")
	s.recoverTxn(3, gid, mtm.FateCommitted)
	require.GreaterOrEqual(t, s.said("3: do ApplyRecovered mtm-1-2-1 at 1"), 0)
	s.step(3, Recovered{At: 1})
	require.GreaterOrEqual(t, s.said("3: send to 1: Finished mtm-1-2-1"), 0)
}

func TestADonorIsToldWhatIsDoneAndNotWhatHasArrived(t *testing.T) {
	s := electionStage(t)
	for seq := range uint64(3) {
		s.recoverTxn(3, mtm.GID{Origin: 1, Gen: 2, Seq: seq + 1}, mtm.FateCommitted)
	}
	donor := s.nodes[3].rec.donor
	ack := func(seq int) int { return s.said(fmt.Sprintf("3: send to %d: RecoverAck up to %d", donor, seq)) }
	for seq := range 4 {
		require.Equal(t, -1, ack(seq))
	}
	s.step(3, Recovered{At: 2})
	require.GreaterOrEqual(t, ack(2), 0)
	s.step(3, Recovered{At: 3})
	require.GreaterOrEqual(t, ack(3), 0)
	s.deliver(kind("RecoverAck"))
	require.GreaterOrEqual(t, s.said(fmt.Sprintf("%d: do StreamAcked to 3 up to 3", donor)), 0)
}

func TestADonorThatWaitsForAcksIsNotGivenUp(t *testing.T) {
	s := electionStage(t)
	r := &s.nodes[3].rec
	stream, heard := r.stream, r.heard
	s.now = heard + s.nodes[3].cfg.RecoverAfter
	s.step(3, Tick{Now: s.now})
	s.item(3, mtm.RecoverDone{Stream: stream, Behind: 7})
	require.Equal(t, s.now, r.heard)
	require.EqualValues(t, 7, r.behind)
	require.EqualValues(t, 1, r.next, "it has no place in the order")
}

func TestWhatWasRecoveredIsJournaledBeforeItIsApplied(t *testing.T) {
	s := electionStage(t)
	s.recoverTxn(3, mtm.GID{Origin: 1, Gen: 2, Seq: 1}, mtm.FateCommitted)
	require.Greater(t, s.said("3: do ApplyRecovered mtm-1-2-1 at 1"), s.said("3: persist recover mtm-1-2-1 at 1"))
	require.GreaterOrEqual(t, s.said("3: persist recover mtm-1-2-1 at 1"), 0)
}

func TestWhatPostgreSQLHasIsNotRecoveredAgain(t *testing.T) {
	for applied, again := range map[uint64]bool{0: true, 1: false} {
		s := electionStage(t)
		gid := mtm.GID{Origin: 1, Gen: 2, Seq: 1}
		s.recoverTxn(3, gid, mtm.FateCommitted)
		s.cfg.Recovered = applied
		s.restart(3, 0)
		require.Equal(t, !again, s.nodes[3].finished(gid), "position %d", applied)
		require.Equal(t, again, s.said("3: persist void above 0") >= 0)
	}
}

func TestANumberThatWasVoidedNeverCounts(t *testing.T) {
	s := electionStage(t)
	gid := mtm.GID{Origin: 1, Gen: 2, Seq: 1}
	s.recoverTxn(3, gid, mtm.FateCommitted)
	s.restart(3, 0) // PostgreSQL had not applied number 1
	s.cfg.Recovered = 5
	s.restart(3, 0) // numbers of a later life were applied
	require.False(t, s.nodes[3].finished(gid))
}

func TestWhatOvertookALargePayloadIsDoneInItsTurn(t *testing.T) {
	s := electionStage(t)
	r := s.nodes[3].rec
	txn := func(seq uint64) mtm.RecoverTxn {
		return mtm.RecoverTxn{Stream: r.stream, Seq: seq, GID: mtm.GID{Origin: 1, Gen: 2, Seq: seq}, Fate: mtm.FateCommitted}
	}
	s.item(3, txn(3))
	s.item(3, txn(2))
	require.Equal(t, -1, s.said("3: do ApplyRecovered mtm-1-2-2 at 1"))
	large := txn(1)
	large.Payload = mtm.Payload{Spill: "large", Size: 1 << 20}
	s.item(3, large)
	s.item(3, txn(2)) // repeated
	for seq := 1; seq <= 3; seq++ {
		require.GreaterOrEqual(t, s.said(fmt.Sprintf("3: do ApplyRecovered mtm-1-2-%d at %d", seq, seq)), 0)
	}
	require.Empty(t, s.nodes[3].rec.early)
	require.EqualValues(t, 4, s.nodes[3].rec.next)
}

func TestAGapEndsTheStreamUnlessALargePayloadIsOnItsWay(t *testing.T) {
	s := electionStage(t)
	r := s.nodes[3].rec
	early := mtm.RecoverTxn{Stream: r.stream, Seq: r.next + 1, GID: mtm.GID{Origin: 1, Gen: 2, Seq: 2}, Fate: mtm.FateCommitted,
		Payload: mtm.Payload{Spill: "early", Size: 1 << 20}}
	s.item(3, early)
	wait := func(large bool) {
		for range 4 {
			s.now += s.nodes[3].cfg.RecoverAfter / 3
			s.step(3, Tick{Now: s.now})
			s.item(3, mtm.RecoverDone{Stream: r.stream, Behind: 7, Large: large})
		}
	}
	wait(true)
	require.Equal(t, r.stream, s.nodes[3].rec.stream)
	wait(false)
	require.NotEqual(t, r.stream, s.nodes[3].rec.stream)
	require.Equal(t, -1, s.said("3: do ApplyRecovered mtm-1-2-2 at 1"))
	require.GreaterOrEqual(t, s.said("3: do DropPayload early"), 0)
}

func TestADonorIsOnlineInTheGenerationOfWhoAsks(t *testing.T) {
	s := electionStage(t)
	for gen, serves := range map[uint64]bool{1: false, 2: true, 3: false} {
		s.done = nil
		s.hear(3, 1, mtm.Recover{Stream: 1<<40 + gen, Gen: gen})
		require.Equal(t, serves, s.said("1: do StreamJournal to 3, aborted [], look up []") >= 0, "generation %d", gen)
	}
	s.done = nil
	s.hear(3, 1, mtm.Recover{Stream: 1<<40 + 2, Gen: 2})
	require.Equal(t, -1, s.said("1: do StreamJournal to 3, aborted [], look up []"), "repeated")
}

func TestWhatTheDonorNeverHeardOfIsAborted(t *testing.T) {
	s := electionStage(t)
	s.hear(3, 1, mtm.Recover{Stream: 1 << 40, Gen: 2, Undecided: []mtm.GID{{Origin: 2, Gen: 1, Seq: 4}}})
	require.GreaterOrEqual(t, s.said("1: do StreamJournal to 3, aborted [mtm-2-1-4], look up []"), 0)
}

func TestForgottenOutcomesAreLookedUpInTheJournal(t *testing.T) {
	s := electionStage(t)
	s.hear(2, 1, mtm.Forget{Upto: 4, Gen: 2})
	s.hear(3, 1, mtm.Collect{GID: mtm.GID{Origin: 2, Gen: 2, Seq: 4}, Ballot: mtm.Ballot{N: 1, Node: 3}})
	require.GreaterOrEqual(t, s.said("1: do TellOutcome mtm-2-2-4 to 3"), 0)
}

func TestSpansAgreeWithASet(t *testing.T) {
	var s spans
	set := map[uint64]bool{}
	x := uint64(7)
	for i := range 3000 {
		x = x*6364136223846793005 + 1442695040888963407
		seq := x >> 33 % 200
		s = s.add(seq)
		set[seq] = true
		if i%500 == 499 {
			s = s.above(seq)
			for k := range set {
				if k <= seq {
					delete(set, k)
				}
			}
		}
		for k := range uint64(200) {
			require.Equal(t, set[k], s.has(k), "%d in %v", k, s)
		}
		for j := 1; j < len(s); j++ {
			require.Greater(t, s[j].First, s[j-1].Last+1)
		}
	}
}

func TestWhatWasRecoveredIsSeenAfterARestartFromACheckpoint(t *testing.T) {
	s := electionStage(t)
	s.recoverTxn(3, mtm.GID{Origin: 1, Gen: 2, Seq: 1}, mtm.FateCommitted)
	s.recoverTxn(3, mtm.GID{Origin: 1, Gen: 2, Seq: 3}, mtm.FateCommitted)
	s.step(3, Recovered{At: 2})
	s.journals[3] = s.nodes[3].Checkpoint()
	s.cfg.Recovered = 2
	s.restart(3, 0)
	require.Contains(t, describeDeps(s.nodes[3].depsNow()), "1:3 but [2]")
}

func TestVotesBarLeasesForGood(t *testing.T) {
	s := newStage(t, 5, Config{Elections: true})
	all := s.nodes[1].Status().Generation
	ask := func(num uint64, members mtm.NodeSet) {
		s.hear(2, 1, mtm.Campaign{Gen: mtm.Generation{Num: num, Members: members, Configured: all.Configured}})
	}
	for _, id := range []mtm.NodeID{2, 3, 4, 5} {
		s.hear(id, 1, mtm.Heartbeat{Gen: all, Donors: all.Members, LastOnline: 1, Connected: all.Members})
	}
	s.step(1, PeerDown{Node: 5})
	s.step(1, Tick{Now: 400})
	for _, id := range []mtm.NodeID{2, 3, 4} {
		s.hear(id, 1, mtm.Heartbeat{Sent: 1, Gen: all, Donors: all.Members, LastOnline: 1, Connected: all.Members.Without(5)})
	}
	ask(2, mtm.Nodes(1, 2, 3, 4))
	require.Equal(t, uint64(2), s.nodes[1].m.State().Vote.Num)
	require.Equal(t, mtm.Nodes(5), s.nodes[1].m.State().Barred)
	s.step(1, PeerUp{Node: 5, Incarnation: 2})
	s.network = nil
	s.hear(5, 1, mtm.Heartbeat{Sent: 1, Gen: all, Donors: all.Members, LastOnline: 1, Connected: all.Members})
	for _, m := range s.network {
		require.False(t, m.To == 5 && typeName(m.Body) == "HeartbeatAck", "generation 2 may yet be elected")
	}
}
