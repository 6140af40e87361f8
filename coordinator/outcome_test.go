package coordinator

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// Who has forgotten a transaction refers to his journal, but for what he never had there, or has not ended yet.
func TestOutcomeIsInTheJournalOnlyIfItWasFinishedHere(t *testing.T) {
	all := mtm.Nodes(1, 2, 3)
	gen := mtm.Generation{Num: 1, Members: all, Configured: all}
	gid := func(seq uint64) mtm.GID { return mtm.GID{Origin: 2, Gen: 1, Seq: seq} }
	n := New(Config{ID: 1, Generation: gen, Elections: true, Incarnation: 1})
	for _, r := range []mtm.Record{
		mtm.RecGeneration{Gen: gen, Vote: gen, LastOnline: 1},
		mtm.RecBase{Have: []mtm.OriginHave{{Origin: 2, Upto: 10, Above: []mtm.Span{{First: 12, Last: 12}}}}},
		mtm.RecForget{Origin: 2, Upto: 10},
		mtm.RecHave{Origin: 2, Spans: []mtm.Span{{First: 12, Last: 12}}}, // finished there, perhaps aborted
		mtm.RecPrepare{GID: gid(20)}, mtm.RecDecide{GID: gid(20), Commit: true},
		mtm.RecPrepare{GID: gid(21)}, mtm.RecDecide{GID: gid(21)},
		mtm.RecPrepare{GID: gid(22)},
		mtm.RecForget{Origin: 2, Upto: 30},
		mtm.RecPrepare{GID: gid(31)}, mtm.RecDecide{GID: gid(31), Commit: true},
		mtm.RecPrepare{GID: gid(32)}, mtm.RecDecide{GID: gid(32)},
		mtm.RecPrepare{GID: gid(33)},
	} {
		n.Replay(r)
	}
	for _, c := range []struct {
		seq       uint64
		outcome   string
		inJournal bool
	}{
		{5, "", false}, {12, "", false}, // of the copy that it began with
		{11, "", true}, {20, "", true}, {21, "", true}, {25, "", true},
		{22, OutcomeInProgress, false}, // others have finished it, this node has not
		{31, OutcomeCommitted, false}, {32, OutcomeAborted, false}, {33, OutcomeInProgress, false},
		{34, "", false}, // not heard of yet
	} {
		require.Equal(t, c.outcome, n.Outcome(gid(c.seq)), "%d", c.seq)
		require.Equal(t, c.inJournal, n.InJournal(gid(c.seq)), "%d", c.seq)
	}
}

// In doubt is what has lost its origin; who it waits for are those that have not answered this node's attempt to decide it.
func TestInDoubtSaysWhoIsWaitedFor(t *testing.T) {
	all := mtm.Nodes(1, 2, 3, 4, 5)
	n := New(Config{ID: 3, Generation: mtm.Generation{Num: 1, Members: all, Configured: all}})
	n.Start(nil)
	gid := mtm.GID{Origin: 1, Gen: 1, Seq: 1}
	from := func(id mtm.NodeID, b mtm.Body) { n.Step(Received{Message: mtm.Message{From: id, To: 3, Body: b}}) }
	for id := range mtm.NodeID(5) {
		n.Step(PeerUp{Node: id + 1, Incarnation: 1})
	}
	from(1, mtm.Prepare{GID: gid, Age: 77, Acceptors: all, Payload: mtm.Payload{Data: []byte("x")}})
	n.Step(Applied{GID: gid})
	require.Empty(t, n.Status().InDoubt)
	n.Step(PeerDown{Node: 1})
	require.Equal(t, []Doubt{{GID: gid, Age: 77, Prepared: true, WaitsFor: all}}, n.Status().InDoubt)
	for now := uint64(1); n.txns[gid].attempt == nil; now += 100 {
		n.Step(Tick{Now: now})
	}
	require.Equal(t, []Doubt{{GID: gid, Age: 77, Prepared: true, Votes: mtm.Nodes(3), WaitsFor: mtm.Nodes(1, 2, 4, 5)}}, n.Status().InDoubt)
	ballot := n.txns[gid].attempt.ballot
	from(4, mtm.Promised{GID: gid, Ballot: ballot})
	require.Equal(t, mtm.Nodes(3, 4), n.Status().InDoubt[0].Votes)
	require.Equal(t, mtm.Nodes(1, 2, 5), n.Status().InDoubt[0].WaitsFor)
	from(5, mtm.Promised{GID: gid, Ballot: ballot})
	require.Equal(t, mtm.Nodes(3), n.Status().InDoubt[0].Votes, "the second round begins anew")
	from(4, mtm.Accepted{GID: gid, Ballot: ballot})
	from(5, mtm.Accepted{GID: gid, Ballot: ballot})
	require.Empty(t, n.Status().InDoubt)
}

// A number of which only its origin knew, that is gone, must not keep nodes that have everything from recovering (found by the
// simulator, seed 7011302 with members).
func TestACopyIsADonorForWhoWasOnlineLater(t *testing.T) {
	all := mtm.Nodes(1, 2, 3)
	n := New(Config{ID: 3, Generation: mtm.Generation{Num: 1, Members: all, Configured: all}, Elections: true})
	have := []mtm.OriginHave{{Origin: 2, Upto: 5}}
	for _, r := range Seed(3, mtm.Generation{Num: 7, Members: all, Configured: all}, have) {
		n.Replay(r)
	}
	lacks := []mtm.OriginHave{{Origin: 2, Upto: 4}}
	doubt := []mtm.GID{{Origin: 2, Gen: 6, Seq: 5}}
	check := func() {
		require.True(t, n.reachesBack(mtm.Recover{LastOnline: 3, Have: have}))
		require.False(t, n.reachesBack(mtm.Recover{LastOnline: 7, Have: lacks}), "it may lack what was committed in 7")
		require.True(t, n.reachesBack(mtm.Recover{LastOnline: 8, Have: lacks}))
		require.False(t, n.reachesBack(mtm.Recover{LastOnline: 8, Have: lacks, Undecided: doubt}))
	}
	check()
	for _, r := range n.Checkpoint() {
		n.Replay(r)
	}
	check()
	n.baseGen = 0 // of a journal that an older daemon began
	require.False(t, n.reachesBack(mtm.Recover{LastOnline: 8, Have: lacks}))
}

// A session lost what was accepted, and before that could be prepared again the others aborted it: nobody is there to roll it back, so
// it is ended as any other, and what waited for it goes on (found by the simulator, seed 8017947 with a referee).
func TestWhatWasLostAndAbortedBeforeItWasPreparedAgainEnds(t *testing.T) {
	all := mtm.Nodes(1, 2, 3)
	n := New(Config{ID: 1, Generation: mtm.Generation{Num: 1, Members: all, Configured: all}})
	n.Start(nil)
	n.Step(PeerUp{Node: 2, Incarnation: 1})
	n.Step(PeerUp{Node: 3, Incarnation: 1})
	gid := mtm.GID{Origin: 1, Gen: 1, Seq: 1}
	n.Step(Permitted{GID: gid})
	n.Step(Prepared{GID: gid, Open: true})
	n.Step(Captured{GID: gid, Payload: mtm.Payload{Data: []byte("x"), Flags: mtm.PayloadStreamed}})
	hear := func(from mtm.NodeID, b mtm.Body) { n.Step(Received{Message: mtm.Message{From: from, To: 1, Body: b}}) }
	hear(2, mtm.Vote{GID: gid})
	hear(3, mtm.Vote{GID: gid})
	n.Step(Confirmed{GID: gid})
	n.Step(Lost{GID: gid})
	n.Step(Applied{GID: gid, Err: &mtm.Error{Code: mtm.CodeAdminShutdown, Msg: "PostgreSQL is away"}})
	n.Ready()
	hear(2, mtm.Decided{GID: gid})
	require.Contains(t, n.Ready().Do, Action(Finish{GID: gid}))
	require.Empty(t, n.committing, "or nothing of this origin would be accepted any more")
	n.Step(Finished{GID: gid})
	require.NotEmpty(t, n.Ready().Reply)
}
