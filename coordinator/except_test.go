package coordinator

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/proto"
)

// What a node may remember as open must fit into the Deps of its next transaction, or the journal refuses the record.
func TestDepsFitAfterGaps(t *testing.T) {
	all := mtm.Nodes(1, 2, 3)
	n := New(Config{ID: 1, Generation: mtm.Generation{Num: 1, Members: all, Configured: all}})
	n.Start(nil)
	for _, id := range []mtm.NodeID{2, 3} { // two peers were restarted, and end what their last lives left
		n.Step(PeerUp{Node: id, Incarnation: 1})
		n.Step(Received{Message: mtm.Message{From: id, To: 1, Body: mtm.Decided{GID: mtm.GID{Origin: id, Gen: 1, Seq: 70000}}}})
	}
	gid := mtm.GID{Origin: 1, Gen: 1, Seq: 1}
	n.Step(Permitted{GID: gid, Age: 1})
	n.Ready()
	n.Step(Captured{GID: gid, LSN: 1, Payload: mtm.Payload{Data: []byte("x")}})
	for _, r := range n.Ready().Persist {
		require.NoError(t, proto.CheckRecord(r))
	}
}
