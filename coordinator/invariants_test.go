package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// One test per sentence of doc.go, named after it.

var gid11 = mtm.GID{Origin: 1, Gen: 1, Seq: 1}

func prepareOf(gid mtm.GID, age uint64) mtm.Prepare {
	return mtm.Prepare{GID: gid, Age: age, Payload: mtm.Payload{Data: []byte("x")}}
}

// begin brings gid to the point where its Prepare messages are under way.
func (s *stage) begin(gid mtm.GID, age uint64) {
	s.step(gid.Origin, Permitted{GID: gid, Age: age})
	s.step(gid.Origin, Prepared{GID: gid})
	s.step(gid.Origin, Captured{GID: gid, LSN: mtm.LSN(gid.Seq), Payload: mtm.Payload{Data: []byte("x")}})
}

// said reports whether a line was said, by index; -1: never.
func (s *stage) said(line string) int { return slices.Index(s.done, line) }

func (s *stage) hear(from, to mtm.NodeID, b mtm.Body) {
	s.step(to, Received{Message: mtm.Message{From: from, To: to, Body: b}})
}

func kind(name string) func(mtm.Message) bool {
	return func(m mtm.Message) bool { return typeName(m.Body) == name }
}

func TestOnlyTheOriginProposesAtBallot0AndOnlyCommit(t *testing.T) {
	s := newStage(t, 3, Config{})
	s.begin(gid11, 1)
	s.deliver(kind("Prepare"))
	s.step(2, Applied{GID: gid11})
	s.step(3, Applied{GID: gid11})
	for _, id := range []mtm.NodeID{2, 3} {
		s.step(id, PeerDown{Node: 1})
		s.step(id, Tick{Now: 5000})
	}
	for range 20 {
		s.deliver(anyMessage)
	}
	for _, line := range s.done {
		if strings.Contains(line, "Accept ") && strings.Contains(line, "{0,") {
			require.True(t, strings.HasPrefix(line, "1: "), line)
			require.True(t, strings.HasSuffix(line, "{0,1} commit"), line)
		}
	}
	// And node 3 takes ballot {0,1} from nobody else.
	s = newStage(t, 3, Config{})
	s.hear(2, 3, mtm.Accept{GID: gid11, Ballot: mtm.Ballot{Node: 1}, Commit: true})
	require.Empty(t, s.take0())
}

func TestTheOriginPersistsItsAcceptanceBeforeItTellsAnybody(t *testing.T) {
	s := newStage(t, 3, Config{})
	s.begin(gid11, 1)
	s.deliver(kind("Prepare"))
	s.step(2, Applied{GID: gid11})
	s.step(3, Applied{GID: gid11})
	s.done = nil
	s.deliver(kind("Vote"))
	persisted := s.said("1: persist accept mtm-1-1-1 {0,1} commit")
	sent := s.said("1: send to 2: Accept mtm-1-1-1 {0,1} commit")
	require.GreaterOrEqual(t, persisted, 0)
	require.Greater(t, sent, persisted)
}

func TestWhoReceivesAcceptKnowsOfOneAcceptanceBesidesItsOwn(t *testing.T) {
	for nodes, decides := range map[int]bool{3: true, 5: false} {
		s := newStage(t, nodes, Config{})
		s.hear(1, 2, prepareOf(gid11, 1))
		s.step(2, Applied{GID: gid11})
		s.hear(1, 2, mtm.Accept{GID: gid11, Ballot: mtm.Ballot{Node: 1}, Commit: true})
		require.Equal(t, decides, s.said("2: do Finish mtm-1-1-1 commit") >= 0, "%d nodes", nodes)
	}
}

func TestAVoteFollowsADurablePrepareAndADurablePayload(t *testing.T) {
	s := newStage(t, 3, Config{})
	s.hear(1, 2, prepareOf(gid11, 1))
	s.hear(1, 2, prepareOf(gid11, 1)) // asked again, while it is applied
	require.Equal(t, -1, s.said("2: send to 1: Vote mtm-1-1-1 yes"), "nothing is prepared yet")
	s.step(2, Applied{GID: gid11})
	require.Greater(t, s.said("2: send to 1: Vote mtm-1-1-1 yes"), s.said("2: persist prepare mtm-1-1-1"))
	require.GreaterOrEqual(t, s.said("2: persist prepare mtm-1-1-1"), 0)
}

func TestWhatWasJournaledBeforeARestartIsNotAppliedAgain(t *testing.T) {
	s := newStage(t, 3, Config{})
	s.hear(1, 2, prepareOf(gid11, 1))
	s.restart(2, 0)
	s.done = nil
	s.hear(1, 2, prepareOf(gid11, 1))
	require.Equal(t, -1, s.said("2: start Apply mtm-1-1-1"))
}

func TestNoMajorityOfMembersIsEnough(t *testing.T) {
	s := newStage(t, 5, Config{})
	s.begin(gid11, 1)
	s.deliver(kind("Prepare"))
	for _, id := range []mtm.NodeID{2, 3, 4} {
		s.step(id, Applied{GID: gid11})
	}
	s.settle()
	require.Equal(t, -1, s.said("1: persist accept mtm-1-1-1 {0,1} commit"))
	s.step(5, Applied{GID: gid11})
	s.settle()
	require.GreaterOrEqual(t, s.said("1: persist accept mtm-1-1-1 {0,1} commit"), 0)
}

func TestTheOriginVotesToo(t *testing.T) {
	s := newStage(t, 3, Config{})
	s.step(1, Permitted{GID: gid11})
	s.step(1, Captured{GID: gid11, LSN: 1, Payload: mtm.Payload{Data: []byte("x")}})
	s.deliver(kind("Prepare"))
	s.step(2, Applied{GID: gid11})
	s.step(3, Applied{GID: gid11})
	s.settle()
	require.Equal(t, -1, s.said("1: persist accept mtm-1-1-1 {0,1} commit"), "PREPARE was not answered here yet")
	s.step(1, Prepared{GID: gid11})
	require.GreaterOrEqual(t, s.said("1: persist accept mtm-1-1-1 {0,1} commit"), 0)
}

func TestBeforeBallot0IsPersistedTheOriginMayAbortOnItsOwn(t *testing.T) {
	why := map[string]func(s *stage){
		"cancel": func(s *stage) { s.step(1, Cancelled{GID: gid11}) },
		"wound":  func(s *stage) { s.hear(2, 1, mtm.Wound{GID: gid11, For: mtm.GID{Origin: 2, Gen: 1, Seq: 1}}) },
		"lost":   func(s *stage) { s.step(1, PeerDown{Node: 3}) },
		"no":     func(s *stage) { s.hear(3, 1, mtm.Vote{GID: gid11, Err: mtm.Conflict("no")}) },
		"asked":  func(s *stage) { s.hear(3, 1, mtm.Collect{GID: gid11, Ballot: mtm.Ballot{N: 1, Node: 3}}) },
	}
	for name, harm := range why {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 3, Config{})
			s.begin(gid11, 1)
			harm(s)
			require.GreaterOrEqual(t, s.said("1: persist decide mtm-1-1-1 abort"), 0)
			require.GreaterOrEqual(t, s.said("1: do Finish mtm-1-1-1 abort"), 0)
		})
		t.Run(name+" too late", func(t *testing.T) {
			s := newStage(t, 3, Config{})
			s.begin(gid11, 1)
			s.deliver(kind("Prepare"))
			s.step(2, Applied{GID: gid11})
			s.step(3, Applied{GID: gid11})
			s.deliver(kind("Vote"))
			s.network = nil
			harm(s)
			require.Equal(t, -1, s.said("1: persist decide mtm-1-1-1 abort"), "only a quorum may abort it now")
		})
	}
}

func TestAfterBallot0OnlyAQuorumDecides(t *testing.T) {
	s := newStage(t, 3, Config{})
	s.begin(gid11, 1)
	s.deliver(kind("Prepare"))
	s.step(2, Applied{GID: gid11})
	s.step(3, Applied{GID: gid11})
	s.deliver(kind("Vote"))
	s.restart(1, 0, gid11)
	require.Equal(t, "in progress", s.nodes[1].Outcome(gid11))
	s.step(1, Tick{Now: 100000})
	require.Equal(t, "in progress", s.nodes[1].Outcome(gid11), "alone it decides nothing")
	s.linkUp(1)
	s.settle()
	require.Equal(t, "committed", s.nodes[1].Outcome(gid11), "its own acceptance was the only one, and it counts")
}

// The promise of an acceptor: whatever order the questions come in, it never goes back.
func TestAnAcceptorNeverGoesBack(t *testing.T) {
	for n := uint64(0); n < 4; n++ {
		for m := uint64(0); m < n; m++ {
			s := newStage(t, 5, Config{})
			s.hear(2, 3, mtm.Collect{GID: gid11, Ballot: mtm.Ballot{N: n, Node: 2}})
			s.hear(1, 3, mtm.Accept{GID: gid11, Ballot: mtm.Ballot{N: m, Node: 1}, Commit: true})
			line := fmt.Sprintf("3: send to 1: Rejected mtm-1-1-1 {%d,1}, promised {%d,2}", m, n)
			require.GreaterOrEqual(t, s.said(line), 0)
		}
	}
}

func TestAResolverTakesTheHighestAcceptedValue(t *testing.T) {
	s := newStage(t, 5, Config{})
	s.hear(1, 2, prepareOf(gid11, 1))
	s.step(2, Applied{GID: gid11})
	s.step(2, PeerDown{Node: 1})
	s.step(2, Tick{Now: 400})
	mine := mtm.Ballot{N: 1, Node: 2}
	s.hear(3, 2, mtm.Promised{GID: gid11, Ballot: mine, Accepted: mtm.Ballot{Node: 1}, AcceptedCommit: true})
	require.Equal(t, -1, s.said("2: persist accept mtm-1-1-1 {1,2} commit"), "two of five are no quorum")
	s.hear(4, 2, mtm.Promised{GID: gid11, Ballot: mine})
	require.GreaterOrEqual(t, s.said("2: persist accept mtm-1-1-1 {1,2} commit"), 0)
}

func TestATransactionIsAppliedAfterWhatItsOriginHadFinished(t *testing.T) {
	s := newStage(t, 3, Config{})
	first, second := mtm.GID{Origin: 1, Gen: 1, Seq: 1}, mtm.GID{Origin: 2, Gen: 1, Seq: 1}
	s.hear(1, 3, prepareOf(first, 1))
	s.step(3, Applied{GID: first})
	p := prepareOf(second, 2)
	p.Deps = mtm.Deps{{Origin: 1, Upto: 1}}
	p.Payload.Flags = mtm.PayloadDDL
	s.hear(2, 3, p)
	require.Equal(t, -1, s.said("3: start Apply mtm-2-1-1"))
	s.hear(1, 3, mtm.Decided{GID: first, Commit: true})
	require.Equal(t, -1, s.said("3: start Apply mtm-2-1-1"), "decided is not finished")
	s.step(3, Finished{GID: first})
	require.GreaterOrEqual(t, s.said("3: start Apply mtm-2-1-1"), 0)
}

// earlyStage is node 3 with a prepared transaction, and another of rows that may have seen it being applied early.
func earlyStage(t *testing.T) (s *stage, first, second mtm.GID) {
	t.Helper()
	s = newStage(t, 3, Config{})
	first, second = mtm.GID{Origin: 1, Gen: 1, Seq: 1}, mtm.GID{Origin: 2, Gen: 1, Seq: 1}
	s.hear(1, 3, prepareOf(first, 1))
	s.step(3, Applied{GID: first})
	p := prepareOf(second, 2)
	p.Deps = mtm.Deps{{Origin: 1, Upto: 1}}
	s.hear(2, 3, p)
	require.GreaterOrEqual(t, s.said("3: start Apply mtm-2-1-1"), 0)
	s.done = nil
	return s, first, second
}

func TestRowsThatFailEarlyAreAppliedAgainInTheirTurn(t *testing.T) {
	s, first, second := earlyStage(t)
	s.step(3, Applied{GID: second, Err: mtm.Conflict("row not found")})
	require.GreaterOrEqual(t, s.said("3: do Finish mtm-2-1-1 abort"), 0, "it may be prepared all the same")
	s.step(3, Finished{GID: second})
	require.Equal(t, -1, s.said("3: start Apply mtm-2-1-1"))
	require.Equal(t, -1, s.said("3: send to 2: Vote mtm-2-1-1"), "an early failure is no vote")
	s.hear(1, 3, mtm.Decided{GID: first, Commit: true})
	s.step(3, Finished{GID: first})
	require.GreaterOrEqual(t, s.said("3: start Apply mtm-2-1-1"), 0)
	s.step(3, Applied{GID: second})
	require.GreaterOrEqual(t, s.said("3: send to 2: Vote mtm-2-1-1 yes"), 0)
}

func TestNobodySeesATransactionBeforeWhatItSawItself(t *testing.T) {
	s, first, second := earlyStage(t)
	s.step(3, Applied{GID: second})
	require.GreaterOrEqual(t, s.said("3: send to 2: Vote mtm-2-1-1 yes"), 0)
	s.hear(2, 3, mtm.Decided{GID: second, Commit: true})
	require.Equal(t, -1, s.said("3: do Finish mtm-2-1-1 commit"))
	s.hear(1, 3, mtm.Decided{GID: first, Commit: true})
	s.step(3, Finished{GID: first})
	require.GreaterOrEqual(t, s.said("3: do Finish mtm-2-1-1 commit"), 0)
}

func TestATransactionDoesNotWaitForWhatItsOriginHadNotSeen(t *testing.T) {
	s := newStage(t, 3, Config{})
	first, second := mtm.GID{Origin: 1, Gen: 1, Seq: 1}, mtm.GID{Origin: 2, Gen: 1, Seq: 1}
	s.hear(1, 3, prepareOf(first, 1))
	p := prepareOf(second, 2)
	p.Deps = mtm.Deps{{Origin: 1, Upto: 7, Except: []uint64{1}}}
	s.hear(2, 3, p)
	require.GreaterOrEqual(t, s.said("3: start Apply mtm-2-1-1"), 0)
}

// The order is total and the same everywhere: of any two exactly one is older.
func TestOfTwoThatBlockEachOtherTheOlderWins(t *testing.T) {
	var list []*txn
	for _, age := range []uint64{5, 5, 9} {
		for origin := mtm.NodeID(1); origin <= 3; origin++ {
			gen := uint64(1 + origin%2)
			list = append(list, &txn{gid: mtm.GID{Origin: origin, Gen: gen, Seq: uint64(len(list))}, age: age})
		}
	}
	for _, a := range list {
		for _, b := range list {
			require.Equal(t, a != b, older(a, b) != older(b, a))
			for _, c := range list {
				if older(a, b) && older(b, c) {
					require.True(t, older(a, c))
				}
			}
		}
	}
	require.True(t, older(&txn{gid: mtm.GID{Gen: 1}, age: 9}, &txn{gid: mtm.GID{Gen: 2}, age: 1}), "generation comes first")
}

// No message may do harm, whoever sends it: nothing panics, and nothing is said of a transaction that is not there.
func TestStrangeMessagesAreHarmless(t *testing.T) {
	bodies := []mtm.Body{
		mtm.Vote{GID: gid11}, mtm.Accept{GID: gid11}, mtm.Accepted{GID: gid11}, mtm.Promised{GID: gid11},
		mtm.Rejected{GID: gid11}, mtm.Decided{GID: gid11}, mtm.Finished{GID: gid11}, mtm.Wound{GID: gid11},
		mtm.Forget{}, mtm.Prepare{GID: gid11}, mtm.Collect{GID: gid11}, mtm.Heartbeat{}, nil,
		mtm.Collect{GID: mtm.GID{Origin: 2, Gen: 1, Seq: 1<<64 - 1}, Ballot: mtm.Ballot{N: 1, Node: 2}},
		mtm.Prepare{GID: mtm.GID{Origin: 2, Gen: 1, Seq: 1<<64 - 1}, Deps: mtm.Deps{{Origin: 2, Upto: 1<<64 - 1}}},
	}
	for _, b := range bodies {
		for from := mtm.NodeID(0); from <= 4; from++ {
			for to := mtm.NodeID(1); to <= 3; to++ {
				s := newStage(t, 3, Config{})
				s.hear(from, to, b)
				s.hear(from, to, b)
				s.step(to, Tick{Now: 100000})
				s.settle()
			}
		}
	}
	s := newStage(t, 3, Config{})
	s.hear(9, 1, mtm.Collect{GID: mtm.GID{Origin: 2, Gen: 1, Seq: 1}, Ballot: mtm.Ballot{N: 1, Node: 9}})
	require.Empty(t, s.take0(), "who is not configured is not heard")
}

// A checkpoint, and the journal that it replaces, make the same node; half a checkpoint changes nothing.
func TestACheckpointReplacesTheJournal(t *testing.T) {
	s := newStage(t, 3, Config{})
	s.begin(gid11, 1)
	s.deliver(kind("Prepare"))
	s.step(2, Applied{GID: gid11})
	s.step(3, Applied{GID: gid11})
	s.deliver(kind("Vote"))
	other := mtm.GID{Origin: 2, Gen: 1, Seq: 4}
	s.hear(2, 1, prepareOf(other, 9))
	s.hear(2, 1, mtm.Collect{GID: other, Ballot: mtm.Ballot{N: 3, Node: 2}})
	s.hear(3, 1, mtm.Decided{GID: mtm.GID{Origin: 3, Gen: 1, Seq: 2}, Commit: true})
	s.hear(3, 1, mtm.Forget{Upto: 1})
	whole := s.journals[1]
	checkpoint := s.nodes[1].Checkpoint()

	replay := func(recs []mtm.Record) []mtm.Record {
		cfg := s.cfg
		cfg.ID = 1
		n := New(cfg)
		for _, r := range recs {
			n.Replay(r)
		}
		n.Start([]mtm.GID{gid11})
		return append(n.Checkpoint(), n.Ready().Persist...)
	}
	want := clearPayloads(replay(whole))
	require.Equal(t, want, clearPayloads(replay(checkpoint)))
	require.Equal(t, want, clearPayloads(replay(append(slices.Clone(whole), checkpoint...))))
	for cut := range checkpoint {
		require.Equal(t, want, clearPayloads(replay(append(slices.Clone(whole), checkpoint[:cut]...))), "cut at %d", cut)
	}
}

// clearPayloads leaves out what a checkpoint does not keep.
func clearPayloads(recs []mtm.Record) []mtm.Record {
	for i, r := range recs {
		if p, ok := r.(mtm.RecPrepare); ok {
			p.Payload = mtm.Payload{}
			recs[i] = p
		}
	}
	return recs
}

// take0 is what was said since the stage was made.
func (s *stage) take0() string {
	var text strings.Builder
	for _, line := range s.done {
		if !strings.Contains(line, "Gate") && !strings.Contains(line, "reserve") {
			text.WriteString(line + "\n")
		}
	}
	return text.String()
}
