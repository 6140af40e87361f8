package admin

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// member is a node of a cluster, or one that is to be.
type member struct {
	fake
	status   string
	progress []string
	broken   error
}

func (m *member) Call(ctx context.Context, method string, in, out any) error {
	if method == "status" && m.fail[method] == nil {
		return json.Unmarshal([]byte(m.status), out)
	}
	return m.fake.Call(ctx, method, in, out)
}

func (m *member) Watch(_ context.Context, method string, _ any, each func([]byte) error) error {
	m.asked = append(m.asked, method)
	for _, p := range m.progress {
		if err := each([]byte(p)); err != nil {
			return err
		}
	}
	return m.broken
}

func threeAndOne() (old []*member, nodes []Node, fresh *member, node Node) {
	for id := 1; id <= 3; id++ {
		m := &member{status: `{"node_id": ` + string(rune('0'+id)) + `, "status": "online", "gen_num": 4, "gen_members": [1,2,3], "gen_configured": [1,2,3]}`}
		m.fail = map[string]error{}
		old = append(old, m)
		nodes = append(nodes, Node{ID: id, Peer: "h:1", Admin: m})
	}
	fresh = &member{status: `{"node_id": 4, "status": "disabled"}`, progress: []string{`{"phase": "rows", "bytes": 7}`}}
	fresh.fail = map[string]error{}
	fresh.checks = []Check{{Name: "wal_level", OK: true}}
	return old, nodes, fresh, Node{ID: 4, Peer: "h:4", Admin: fresh}
}

func TestPrecheckOfANewNode(t *testing.T) {
	old, nodes, fresh, node := threeAndOne()
	_, err := PrecheckAdd(t.Context(), "c", node, nodes)
	require.NoError(t, err)
	fresh.checks[0].OK = false
	_, err = PrecheckAdd(t.Context(), "c", node, nodes)
	require.ErrorIs(t, err, ErrPrecheck)
	fresh.checks[0].OK = true
	taken := node
	taken.ID = 2
	all, err := PrecheckAdd(t.Context(), "c", taken, nodes)
	require.ErrorIs(t, err, ErrPrecheck)
	require.Contains(t, Failed(all), "the cluster has nodes [1 2 3], the new one is 2")
	for _, m := range old {
		m.fail["status"] = ErrNotReachable
	}
	_, err = PrecheckAdd(t.Context(), "c", node, nodes)
	require.ErrorIs(t, err, ErrNotReachable)
	require.NotContains(t, fresh.asked, "add")
}

// TestAddThatFailsIsTakenBack: the others forget the node, unless its mtmd died and may have its copy.
func TestAddThatFailsIsTakenBack(t *testing.T) {
	old, nodes, fresh, node := threeAndOne()
	old[1].fail["status"] = ErrNotReachable
	fresh.broken = errors.New("disk full")
	var seen []AddProgress
	err := Add(t.Context(), node, nodes, AddOptions{Progress: func(p AddProgress) { seen = append(seen, p) }})
	require.ErrorContains(t, err, "disk full")
	require.Equal(t, []AddProgress{{Phase: "rows", Bytes: 7}}, seen)
	require.Equal(t, []string{"introduce", "forget"}, old[0].asked)
	require.Equal(t, []string{"status", "forget"}, old[1].asked, "it may have heard of it from the others")

	fresh.broken = ErrNotReachable
	require.ErrorContains(t, Add(t.Context(), node, nodes, AddOptions{}), "run add-node again")
	require.Equal(t, []string{"introduce", "forget", "introduce"}, old[0].asked)
}

func TestAddOfANodeThatHasItsCopyWaitsOnly(t *testing.T) {
	old, nodes, fresh, node := threeAndOne()
	fresh.status = `{"node_id": 4, "status": "catchup", "joining": true}`
	ctx, cancel := context.WithCancel(t.Context())
	err := Add(ctx, node, nodes, AddOptions{Progress: func(p AddProgress) {
		require.Equal(t, "catching up", p.Phase)
		cancel()
	}})
	require.ErrorContains(t, err, "it goes on trying")
	require.NotContains(t, fresh.asked, "add")
	require.Equal(t, []string{"introduce"}, old[0].asked)
}
