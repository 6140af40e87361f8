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
