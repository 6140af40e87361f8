package faults

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mtm/testcluster/devcluster"
)

// Fault is one thing that goes wrong.
type Fault struct {
	Name   string
	can    func(*Injector) bool // whether this cluster can have it; nil: each can
	inject func(context.Context, *Injector) (what string, err error)
}

// All are the faults that there are.
var All = []Fault{
	{Name: "kill", inject: kill},
	{Name: "kill all", inject: killAll},
	{Name: "kill again in recovery", inject: killAgain},
	{Name: "kill at a step", can: func(in *Injector) bool { return len(in.Points) > 0 }, inject: killAtStep},
	{Name: "kill a backend", inject: killBackend},
	{Name: "stop", inject: stop},
	{Name: "freeze", inject: freeze},
	{Name: "freeze a backend", inject: freezeBackend},
	{Name: "cut off", inject: cutOff},
	{Name: "cut one way", inject: cutOneWay},
	{Name: "cut between two", can: many, inject: cutEdge},
	{Name: "cut all", can: many, inject: cutAll},
	{Name: "flap", inject: flap},
	{Name: "delay", inject: delay},
	{Name: "loss", inject: loss},
	{Name: "reset", inject: reset},
	{Name: "reorder", inject: reorder},
	{Name: "power loss", can: disks, inject: powerLoss},
	{Name: "power loss of all", can: disks, inject: powerLossOfAll},
	{Name: "slow disk", can: disks, inject: slowDisk},
	{Name: "full disk", can: disks, inject: badDisk("enospc")},
	{Name: "failing fsync", can: disks, inject: badDisk("eio")},
	{Name: "clock jump", can: disks, inject: clockJump},
	{Name: "kill the referee", can: refereed, inject: killReferee},
	{Name: "freeze the referee", can: refereed, inject: freezeReferee},
	{Name: "cut the referee off", can: refereed, inject: cutReferee},
}

func many(in *Injector) bool     { return len(in.ids) > 2 }
func refereed(in *Injector) bool { return in.referee }

// kill ends a node, or a part of it, by SIGKILL; often it is started again at once.
func kill(ctx context.Context, in *Injector) (string, error) {
	id, w, again := in.node(), in.what(), in.chance(0.4)
	what := fmt.Sprintf("node %d, %s, started again: %v", id, w, again)
	err := in.Dev.Kill(ctx, id, w)
	in.killed(id, w)
	if err == nil && again {
		err = in.start(ctx, id)
	}
	return what, err
}

// killed: who is dead is neither frozen nor armed.
func (in *Injector) killed(id int, w devcluster.What) {
	for _, p := range parts(id, w) {
		delete(in.frozen, p)
	}
	if w != devcluster.Postgres {
		delete(in.armed, id)
	}
}

// killAll ends a part of every node, or all of it, at one moment.
func killAll(ctx context.Context, in *Injector) (string, error) {
	w := in.what()
	err := in.Dev.KillMany(ctx, w, in.ids...)
	for _, id := range in.ids {
		in.killed(id, w)
	}
	return string(w), err
}

// killAgain ends a node, starts it, and ends it or another while it recovers, a few times.
func killAgain(ctx context.Context, in *Injector) (string, error) {
	id, other := in.pair()
	w, times := in.what(), 1+in.rng.IntN(3)
	what := fmt.Sprintf("node %d, %s, %d times, then node %d", id, w, times, other)
	for range times {
		err := in.Dev.Kill(ctx, id, w)
		in.killed(id, w)
		if err == nil {
			err = in.start(ctx, id)
		}
		if err != nil {
			return what, err
		}
		in.pause(ctx, 900*time.Millisecond)
	}
	in.killed(other, w)
	return what, in.Dev.Kill(ctx, other, w)
}

// killAtStep lets mtmd die when it comes to a step of a commit for the n-th time.
func killAtStep(ctx context.Context, in *Injector) (string, error) {
	id, point := in.node(), in.Points[in.rng.IntN(len(in.Points))]+":"+strconv.Itoa(1+in.rng.IntN(80))
	what := fmt.Sprintf("node %d, %s", id, point)
	if err := in.thaw(ctx, id); err != nil {
		return what, err
	}
	if err := in.Dev.Kill(ctx, id, devcluster.Mtmd); err != nil {
		return what, err
	}
	in.armed[id] = true
	if err := in.Dev.LaunchMtmd(ctx, id, "MTM_FAIL_AT="+point); err != nil {
		return what, err
	}
	in.pause(ctx, 4*time.Second)
	return what, nil
}

// killBackend ends one process of PostgreSQL by SIGKILL: the postmaster ends all others and recovers.
func killBackend(ctx context.Context, in *Injector) (string, error) {
	id := in.node()
	pid, name := in.backend(ctx, id)
	what := fmt.Sprintf("node %d, %s", id, name)
	if pid == 0 {
		return what, nil
	}
	return what, signal(pid, sigKill)
}

// freezeBackend stops one process of PostgreSQL for a moment.
func freezeBackend(ctx context.Context, in *Injector) (string, error) {
	id := in.node()
	pid, name := in.backend(ctx, id)
	what := fmt.Sprintf("node %d, %s", id, name)
	if pid == 0 {
		return what, nil
	}
	err := signal(pid, sigStop)
	in.pause(ctx, 3*time.Second)
	if in.frozen[process{id, devcluster.Postgres}] {
		return what, err // thawed with the others
	}
	if e := signal(pid, sigCont); err == nil {
		err = e
	}
	return what, err
}

// stop ends a node, or a part of it, in an orderly way, and starts it again after a moment.
func stop(ctx context.Context, in *Injector) (string, error) {
	id, w := in.node(), in.what()
	what := fmt.Sprintf("node %d, %s", id, w)
	if err := in.thaw(ctx, id); err != nil {
		return what, err
	}
	err := in.Dev.StopNode(ctx, id, w)
	in.killed(id, w)
	in.pause(ctx, time.Second)
	if err == nil {
		err = in.start(ctx, id)
	}
	return what, err
}

// freeze stops a node, or a part of it, by SIGSTOP; now and then it goes on by itself, else with Mend.
func freeze(ctx context.Context, in *Injector) (string, error) {
	id, w := in.node(), in.what()
	wait, again := time.Duration(in.rng.Int64N(int64(3*time.Second))), in.chance(0.7)
	what := fmt.Sprintf("node %d, %s, for %v, goes on: %v", id, w, wait.Round(time.Millisecond), again)
	if in.down(ctx, id, w) {
		return what + " (not possible)", nil
	}
	if err := in.Dev.Freeze(ctx, id, w); err != nil {
		return what, err
	}
	for _, p := range parts(id, w) {
		in.frozen[p] = true
	}
	if !again {
		return what, nil
	}
	sleep(ctx, wait)
	return what, in.thaw(ctx, id)
}

func (in *Injector) down(ctx context.Context, id int, w devcluster.What) bool {
	i := in.Dev.Info(ctx).Nodes[id-1]
	return w != devcluster.Postgres && i.MtmdPid == 0 || w != devcluster.Mtmd && i.PostgresPid == 0
}

// others are the nodes but id, and the referee if with says so, as Partition wants them.
func (in *Injector) others(id int, with bool) string {
	var all []string
	for _, other := range in.ids {
		if other != id {
			all = append(all, strconv.Itoa(other))
		}
	}
	if with && in.referee {
		all = append(all, string(devcluster.Referee))
	}
	return strings.Join(all, ",")
}

func cutOff(ctx context.Context, in *Injector) (string, error) {
	id := in.node()
	sides := fmt.Sprintf("%d/%s", id, in.others(id, in.chance(0.5)))
	return sides, in.Dev.Partition(ctx, sides, false)
}

func cutOneWay(ctx context.Context, in *Injector) (string, error) {
	id := in.node()
	sides := fmt.Sprintf("%d/%s", id, in.others(id, in.chance(0.5)))
	if in.chance(0.5) {
		a, b, _ := strings.Cut(sides, "/")
		sides = b + "/" + a
	}
	return sides, in.Dev.Partition(ctx, sides, true)
}

func cutEdge(ctx context.Context, in *Injector) (string, error) {
	a, b := in.pair()
	sides, oneWay := fmt.Sprintf("%d/%d", a, b), in.chance(0.5)
	return fmt.Sprintf("%s, one way: %v", sides, oneWay), in.Dev.Partition(ctx, sides, oneWay)
}

func cutAll(ctx context.Context, in *Injector) (string, error) {
	var all []string
	for _, id := range in.ids {
		all = append(all, strconv.Itoa(id))
	}
	sides := strings.Join(all, "/")
	return sides, in.Dev.Partition(ctx, sides, false)
}

// flap cuts a node off and heals the network, again and again, for moments about as long as a lease and as the silence after which a
// peer counts as lost.
func flap(ctx context.Context, in *Injector) (string, error) {
	id, times := in.node(), 3+in.rng.IntN(6)
	sides, oneWay := fmt.Sprintf("%d/%s", id, in.others(id, in.chance(0.3))), in.chance(0.4)
	what := fmt.Sprintf("%s, %d times, one way: %v", sides, times, oneWay)
	for range times {
		if err := in.Dev.Partition(ctx, sides, oneWay); err != nil {
			return what, err
		}
		in.pause(ctx, 900*time.Millisecond)
		if err := in.Dev.Heal(ctx); err != nil {
			return what, err
		}
		in.pause(ctx, 400*time.Millisecond)
	}
	return what, nil
}

func delay(ctx context.Context, in *Injector) (string, error) {
	a, b := in.pair()
	d := time.Duration(1+in.rng.IntN(250)) * time.Millisecond
	link := fmt.Sprintf("%d-%d", a, b)
	return fmt.Sprintf("%s, %v", link, d), in.Dev.Slow(ctx, link, d, 0)
}

func loss(ctx context.Context, in *Injector) (string, error) {
	a, b := in.pair()
	share := float64(2+in.rng.IntN(30)) / 100
	link := fmt.Sprintf("%d-%d", a, b)
	return fmt.Sprintf("%s, %.0f %%", link, 100*share), in.Dev.Slow(ctx, link, 0, share)
}

// reset breaks the connections between two nodes, a few times; new ones are let through.
func reset(ctx context.Context, in *Injector) (string, error) {
	a, b := in.pair()
	link, times := fmt.Sprintf("%d-%d", a, b), 1+in.rng.IntN(4)
	for range times {
		if err := in.Dev.Reset(ctx, link); err != nil {
			return link, err
		}
		in.pause(ctx, 500*time.Millisecond)
	}
	return fmt.Sprintf("%s, %d times", link, times), nil
}

// reorder lets what two nodes send one another pile up on its way, breaks the connections for those who dialled, and lets the next ones through at once: the
// old messages arrive behind new ones, and, as they were not acknowledged, a second time.
func reorder(ctx context.Context, in *Injector) (string, error) {
	a, b := in.pair()
	link, times := fmt.Sprintf("%d-%d", a, b), 1+in.rng.IntN(4)
	d := time.Duration(50+in.rng.IntN(500)) * time.Millisecond
	what := fmt.Sprintf("%s, %v, %d times", link, d, times)
	for range times {
		if err := in.Dev.Slow(ctx, link, d, 0); err != nil {
			return what, err
		}
		in.pause(ctx, 2*d)
		if err := in.Dev.Slow(ctx, link, 0, 0); err != nil {
			return what, err
		}
		if err := in.Dev.ResetLate(ctx, link); err != nil {
			return what, err
		}
		in.pause(ctx, time.Second)
	}
	return what, nil
}

func killReferee(ctx context.Context, in *Injector) (string, error) {
	again := in.chance(0.6)
	err := in.Dev.Kill(ctx, 0, devcluster.Referee)
	in.pause(ctx, time.Second)
	if err == nil && again {
		err = in.Dev.StartNode(ctx, 0, devcluster.Referee)
	}
	return fmt.Sprintf("started again: %v", again), err
}

func freezeReferee(ctx context.Context, in *Injector) (string, error) {
	if r := in.Dev.Info(ctx).Referee; r == nil || r.MtmdPid == 0 {
		return "it is down", nil
	}
	if err := in.Dev.Freeze(ctx, 0, devcluster.Referee); err != nil {
		return "", err
	}
	in.pause(ctx, 4*time.Second)
	return "for a moment", in.Dev.Thaw(ctx, 0, devcluster.Referee)
}

func cutReferee(ctx context.Context, in *Injector) (string, error) {
	sides, oneWay := fmt.Sprintf("%d/referee", in.node()), in.chance(0.5)
	if in.chance(0.3) {
		sides = "1,2/referee"
	}
	return fmt.Sprintf("%s, one way: %v", sides, oneWay), in.Dev.Partition(ctx, sides, oneWay)
}
