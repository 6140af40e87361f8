package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	dropWait     = 45 * time.Second
	unneededWait = 30 * time.Second
	askWait      = 10 * time.Second
)

// Dropped is what came of Drop.
type Dropped struct {
	Dropped    int      `json:"dropped"`
	GenNum     uint64   `json:"gen_num"`
	Configured []int    `json:"gen_configured"`
	NeededBy   []string `json:"needed_by,omitempty"` // nodes on which transactions in doubt count on it, or that do not say
}

// ErrDropsItself: only the node that is to be dropped was given.
var ErrDropsItself = errors.New("a node does not drop itself")

// Drop has the nodes, asked one after the other until one does it, go on without node id. It returns when no transaction that counts on
// that is in doubt on them, or after a while. The error is that of the last node that answered.
func Drop(ctx context.Context, nodes []Node, id int) (r Dropped, err error) {
	if err = drop(ctx, without(nodes, id), id, &r); err == nil {
		r.NeededBy = waitUnneeded(ctx, without(nodes, id), id)
	}
	return r, err
}

func without(nodes []Node, id int) []Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.ID == id })
}

func drop(ctx context.Context, others []Node, id int, r *Dropped) error {
	ctx, cancel := context.WithTimeout(ctx, dropWait)
	defer cancel()
	err := fmt.Errorf("%w: give another node than %d", ErrDropsItself, id)
	for _, n := range others {
		failed := n.Admin.Call(ctx, "drop_node", map[string]int{"drop": id}, r)
		if failed == nil {
			return nil
		}
		if !errors.Is(failed, ErrNotReachable) || errors.Is(err, ErrDropsItself) {
			err = failed
		}
	}
	return err
}

// waitUnneeded waits until no node has a transaction in doubt that counts on a node that was dropped, and returns those that may
// still have one.
func waitUnneeded(ctx context.Context, others []Node, id int) []string {
	ctx, cancel := context.WithTimeout(ctx, unneededWait)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		need := neededBy(ctx, others, id)
		if len(need) == 0 || ctx.Err() != nil {
			return need
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return need
		}
	}
}

// neededBy asks all nodes at once.
func neededBy(ctx context.Context, others []Node, id int) (need []string) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	counts := make([]bool, len(others))
	var asking sync.WaitGroup
	for i, n := range others {
		asking.Go(func() {
			var r struct {
				CountsOn []int `json:"counts_on"`
			}
			err := n.Admin.Call(ctx, "status", nil, &r)
			counts[i] = err != nil || slices.Contains(r.CountsOn, id)
		})
	}
	asking.Wait()
	for i, n := range others {
		if counts[i] {
			need = append(need, n.Peer)
		}
	}
	return need
}
