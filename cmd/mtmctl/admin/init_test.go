package admin

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// fake is a node: what it answers to each method, and what it was asked.
type fake struct {
	asked  []string
	checks []Check
	fail   map[string]error
}

func (f *fake) Call(_ context.Context, method string, in, out any) error {
	f.asked = append(f.asked, method)
	if err := f.fail[method]; err != nil {
		return err
	}
	if method == "status" {
		return json.Unmarshal([]byte(`{"status": "online"}`), out)
	}
	if method == "precheck" {
		text, _ := json.Marshal(map[string]any{"checks": f.checks})
		return json.Unmarshal(text, out)
	}
	return nil
}

func three() (fakes []*fake, nodes []Node) {
	for id := 1; id <= 3; id++ {
		f := &fake{checks: []Check{{Name: "wal_level", OK: true, Detail: "logical"}}, fail: map[string]error{}}
		fakes = append(fakes, f)
		nodes = append(nodes, Node{ID: id, Peer: "h:1", Admin: f})
	}
	return fakes, nodes
}

func TestInitAsksEachNodeOnce(t *testing.T) {
	fakes, nodes := three()
	all, err := Precheck(t.Context(), "c", nodes)
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, 2, all[1].NodeID)
	require.Empty(t, Failed(all))
	require.NoError(t, Init(t.Context(), "c", nodes))
	for _, f := range fakes {
		require.Equal(t, []string{"precheck", "init", "start", "status"}, f.asked)
	}
}

func TestPrecheckTellsAllThatIsWrong(t *testing.T) {
	fakes, nodes := three()
	fakes[1].checks = append(fakes[1].checks, Check{Name: "fsync", Detail: "off", Fix: "set fsync = on"})
	fakes[0].checks = append(fakes[0].checks, Check{Name: "tables without keys", Severity: "warning", Detail: "t"})
	all, err := Precheck(t.Context(), "c", nodes)
	require.ErrorIs(t, err, ErrPrecheck)
	require.Equal(t, "node 2 (h:1): fsync: off; set fsync = on", Failed(all))

	fakes[2].fail["precheck"] = ErrNotReachable
	all, err = Precheck(t.Context(), "c", nodes)
	require.ErrorIs(t, err, ErrNotReachable)
	require.Contains(t, Failed(all), "fsync")
	require.Contains(t, Failed(all), "node 3")
}

func TestInitThatFailsHalfwayLeavesNothing(t *testing.T) {
	fakes, nodes := three()
	boom := errors.New("disk full")
	fakes[1].fail["init"] = boom
	err := Init(t.Context(), "c", nodes)
	require.ErrorIs(t, err, boom)
	require.ErrorContains(t, err, "node 2")
	require.ErrorContains(t, err, "All nodes are as they were")
	require.Equal(t, []string{"init", "rollback_init"}, fakes[0].asked)
	require.Equal(t, []string{"init", "rollback_init"}, fakes[1].asked)
	require.Empty(t, fakes[2].asked)
}

func TestRollbackThatFailsIsTold(t *testing.T) {
	fakes, nodes := three()
	fakes[2].fail["init"] = errors.New("disk full")
	fakes[0].fail["rollback_init"] = errors.New("gone")
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the caller's interrupt does not stop the undoing
	err := Init(ctx, "c", nodes)
	require.ErrorContains(t, err, "disk full")
	require.ErrorContains(t, err, "could not be undone everywhere")
	require.ErrorContains(t, err, "node 1 (h:1): gone")
	require.Equal(t, []string{"init", "rollback_init"}, fakes[1].asked)
}
