package main

import (
	"io"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/coordinator"
)

// links are the peers of a test.
type links map[mtm.NodeID]string

func (l links) AddPeer(id mtm.NodeID, addr string) error { l[id] = addr; return nil }
func (l links) RemovePeer(id mtm.NodeID)                 { delete(l, id) }

func testRoster(t *testing.T, status *coordinator.Status) (*roster, links) {
	d, err := newDaemon(config{NodeID: 1, Cluster: "c", DataDir: t.TempDir(), RetentionSize: 1 << 30, RetentionTime: 1e12}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	require.NoError(t, err)
	t.Cleanup(d.close)
	c := &clusterState{Name: "c", NodeID: 1, Nodes: []nodeState{{ID: 1, Peer: "a:1"}, {ID: 2, Peer: "b:1"}}}
	require.NoError(t, d.saveCluster(c))
	l := links{2: "b:1"}
	return newRoster(d, c, l, func() *coordinator.Status { return status }), l
}

// TestRosterKeepsTheNewerAddress: a node is known from the moment that one says so, after a restart too; what is older is not believed.
func TestRosterKeepsTheNewerAddress(t *testing.T) {
	s := &coordinator.Status{Generation: mtm.Generation{Num: 7, Members: mtm.Nodes(1, 2), Configured: mtm.Nodes(1, 2)}}
	r, l := testRoster(t, s)
	require.NoError(t, r.introduce(nodeState{ID: 4, Peer: "d:1"}))
	require.Equal(t, links{2: "b:1", 4: "d:1"}, l)
	saved, err := r.d.loadCluster()
	require.NoError(t, err)
	require.Equal(t, mtm.Nodes(1, 2, 4), saved.members())
	require.NoError(t, r.introduce(nodeState{ID: 4, Peer: "d:2"}), "it was not added yet, and is elsewhere now")
	require.Equal(t, "d:2", l[4])
	require.NoError(t, r.merge([]nodeState{{ID: 4, Peer: "d:1", Since: 7}, {ID: 2, Peer: "x:1"}}))
	require.Equal(t, links{2: "b:1", 4: "d:2"}, l)
	require.NoError(t, r.forget(4))
	require.Equal(t, links{2: "b:1"}, l)
	require.NoError(t, r.merge([]nodeState{{ID: 4, Peer: "d:2", Since: 8}}), "who was away does not know that it was taken back")
	require.Equal(t, links{2: "b:1"}, l)
	require.Equal(t, mtm.Nodes(1, 2), r.now.Load().members())

	require.ErrorContains(t, r.introduce(nodeState{ID: 2, Peer: "e:1"}), "there is a node 2 already")
	require.ErrorContains(t, r.introduce(nodeState{ID: 5, Peer: "b:1"}), "b:1 is the address of node 2")
	require.ErrorContains(t, r.introduce(nodeState{ID: 17, Peer: "e:1"}), "1 to 16")
	require.ErrorContains(t, r.introduce(nodeState{ID: 5, Peer: "nowhere"}), "host:port")
	require.ErrorContains(t, r.forget(2), "is part of the cluster")
}
