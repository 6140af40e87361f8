package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

func TestSeedsHoldAllInvariants(t *testing.T) {
	done, events, seed, err := runMany(1, 300, 2, options{})
	require.NoError(t, err, "go run ./testcluster/sim -seed %d -trace", seed)
	require.EqualValues(t, 300, done)
	require.NotZero(t, events)
}

func TestFiveNodesHoldAllInvariants(t *testing.T) {
	_, _, seed, err := runMany(1, 60, 2, options{nodes: 5})
	require.NoError(t, err, "go run ./testcluster/sim -nodes 5 -seed %d -trace", seed)
}

// A run must be the same each time, else a seed would be worth nothing.
func TestRunsRepeatEventByEvent(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		var first, second bytes.Buffer
		_, err1 := run(seed, options{trace: &first})
		_, err2 := run(seed, options{trace: &second})
		require.Equal(t, err1, err2)
		require.True(t, bytes.Equal(first.Bytes(), second.Bytes()), "seed %d", seed)
		require.NotZero(t, first.Len())
		first.Reset()
		second.Reset()
		_, err1 = run(seed, options{trace: &first, elections: true})
		_, err2 = run(seed, options{trace: &second, elections: true})
		require.Equal(t, err1, err2)
		require.True(t, bytes.Equal(first.Bytes(), second.Bytes()), "seed %d with elections", seed)
	}
}

// The generation changes: members are killed, cut off and frozen, are excluded, recover and come back; clocks drift.
func TestElectionsHoldAllInvariants(t *testing.T) {
	_, _, seed, err := runMany(1, 300, 2, options{elections: true})
	require.NoError(t, err, "go run ./testcluster/sim -elections -seed %d -trace", seed)
}

// Nodes whose journals begin at a checkpoint made a moment ago die just after they promised, and are back at once.
func TestAmnesiaHoldsAllInvariants(t *testing.T) {
	for _, elections := range []bool{false, true} {
		_, _, seed, err := runMany(1, 80, 2, options{mode: modeAmnesia, elections: elections})
		require.NoError(t, err, "go run ./testcluster/sim -mode amnesia -seed %d -trace, elections: %v", seed, elections)
	}
}

func TestElectionsOfFiveHoldAllInvariants(t *testing.T) {
	_, _, seed, err := runMany(1, 40, 2, options{elections: true, nodes: 5})
	require.NoError(t, err, "go run ./testcluster/sim -elections -nodes 5 -seed %d -trace", seed)
}

// Two nodes and a referee: either goes on alone by its grant, the other never does.
func TestTwoNodesAndARefereeHoldAllInvariants(t *testing.T) {
	_, _, seed, err := runMany(1, 600, 2, options{referee: true})
	require.NoError(t, err, "go run ./testcluster/sim -referee -seed %d -trace", seed)
}

// With a referee each of the nodes must have gone on alone, and commits been made so, else nothing is tested.
func TestRunsWithARefereeGoOnAlone(t *testing.T) {
	alone, acks := map[int]int{}, 0
	for seed := uint64(1); seed <= 60; seed++ {
		w := newWorld(seed, options{referee: true})
		w.play()
		require.NoError(t, w.failure)
		for id := range w.check.alone {
			alone[int(id)]++
		}
		for gid, r := range w.check.txns {
			if r.acked && w.check.gens[gid.Gen].Sole() {
				acks++
			}
		}
	}
	require.Greater(t, alone[1], 5)
	require.Greater(t, alone[2], 5)
	require.Greater(t, acks, 100)
}

// Nodes are added and dropped, living and dead, while all else goes wrong: 3, 4, 5 and back to 3.
func TestMembersHoldAllInvariants(t *testing.T) {
	changes := 0
	for seed := uint64(1); seed <= 60; seed++ {
		w := newWorld(seed, options{members: true})
		w.play()
		require.NoError(t, w.failure, "go run ./testcluster/sim -members -seed %d -trace", seed)
		changes += w.operator.done
	}
	require.Equal(t, 60*4, changes)
}

// With elections a run must exclude members and take them back, else nothing is tested.
func TestRunsWithElectionsExcludeAndRecover(t *testing.T) {
	recovered, highest := 0, uint64(0)
	for seed := uint64(1); seed <= 30; seed++ {
		w := newWorld(seed, options{elections: true})
		w.play()
		require.NoError(t, w.failure)
		for _, n := range w.nodes {
			recovered += int(n.pg.recovered)
		}
		for num := range w.check.gens {
			highest = max(highest, num)
		}
	}
	require.Greater(t, recovered, 100)
	require.Greater(t, highest, uint64(5))
}

// What the assertions are worth: each fault that is planted must be found.
func TestPlantedFaultsAreCaught(t *testing.T) {
	for _, plant := range allPlants {
		t.Run(plant, func(t *testing.T) {
			done, _, seed, err := runMany(1, 20000, 2, options{plant: plant})
			require.Error(t, err, "%d seeds did not find it", done)
			t.Logf("caught by seed %d after %d: %v", seed, done, err)
		})
	}
}

// Work must be done in a run, else nothing is tested.
func TestRunsCommitAndFail(t *testing.T) {
	acks, fails := 0, 0
	for seed := uint64(1); seed <= 40; seed++ {
		w := newWorld(seed, options{})
		w.play()
		require.NoError(t, w.failure)
		acks += w.check.acks
		for _, r := range w.check.txns {
			if r.failed != nil {
				fails++
			}
		}
	}
	require.Greater(t, acks, 40*5)
	require.Greater(t, fails, 40)
}

// A cancel that comes while the first part of an announcement is being prepared ends the second, as logrep's monitor does,
// which repeats it (seed 174 of -elections -nodes 5).
func TestCancelBetweenTheTwoPartsOfAnAnnouncementIsNotLost(t *testing.T) {
	w := newWorld(3, options{elections: true})
	require.NotZero(t, w.user)
	n := w.nodes[0]
	n.alive, n.busy = true, true // it has no brain, and takes no turn
	inTheWay := n.pg.begin(false)
	require.Equal(t, resDone, n.pg.exec(inTheWay, stmt{op: opInsert, key: w.keys}))

	gid := mtm.GID{Origin: 2, Gen: 1, Seq: 1}
	u := &userTxn{gid: gid, name: w.keys}
	w.users.byGID[gid] = u
	w.check.begin(gid, nil, false)
	x := n.pg.begin(false)
	x.gid = gid
	var got *end
	n.pg.prepareUser(x, u, stmt{op: opInsert, key: w.keys, val: 1, absolute: true}, func(e end) { got = &e })
	require.Equal(t, xactPreparing, x.state)
	w.after(1, func() { n.cancelApply(gid) })
	for got == nil && w.now < 10*second {
		next, ok := w.queue.pop()
		require.True(t, ok)
		w.now = next.at
		next.do()
	}
	require.NotNil(t, got)
	require.Equal(t, mtm.CodeQueryCanceled, got.err.Code)
	require.Empty(t, n.pg.user, "what it announces is undone")
}

func TestQueueIsInOrder(t *testing.T) {
	var q queue
	for i := range 1000 {
		q.push(uint64(i*7919%100), nil)
	}
	var last task
	for range 1000 {
		next, ok := q.pop()
		require.True(t, ok)
		require.True(t, next.at > last.at || next.at == last.at && next.seq > last.seq)
		last = next
	}
	_, ok := q.pop()
	require.False(t, ok)
}
