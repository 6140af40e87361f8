package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"mtm/testcluster/devcluster"
)

// Options of New. Dev and Seed must be given.
type Options struct {
	Dev    *devcluster.Cluster
	Seed   uint64
	Points []string                         // names of mtmd's fail points; none: no kill at a step
	Only   []string                         // names of faults; none: all that the cluster can have
	Log    func(format string, args ...any) // told what is done; may be nil
	Relief func()                           // called by Mend when nodes cannot catch up with the load for reliefAfter; may be nil
}

// reliefAfter is how long Mend lets nodes catch up under load. A machine that runs all nodes, the load and more has no
// processor to spare for one that recovers.
const reliefAfter = 30 * time.Second

// mendWait is how long nodes may take to be online after the last fault, without load.
const mendWait = 2 * time.Minute

// process is one of a node's two.
type process struct {
	node int
	what devcluster.What
}

// parts are the processes that w names.
func parts(id int, w devcluster.What) []process {
	if w == devcluster.Both {
		return []process{{id, devcluster.Mtmd}, {id, devcluster.Postgres}}
	}
	return []process{{id, w}}
}

// Injector does things to a cluster. It is for one goroutine.
type Injector struct {
	Options
	rng     *rand.Rand
	ids     []int
	referee bool
	faults  []Fault
	frozen  map[process]bool
	armed   map[int]bool // mtmd that will die at a step, unless it has
	count   map[string]int
}

// New makes an Injector. A name in Only that is unknown is an error.
func New(ctx context.Context, o Options) (*Injector, error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	in := &Injector{
		Options: o, rng: rand.New(rand.NewPCG(o.Seed, 1)), ids: o.Dev.IDs(), referee: o.Dev.Info(ctx).Referee != nil,
		frozen: map[process]bool{}, armed: map[int]bool{}, count: map[string]int{},
	}
	for _, name := range o.Only {
		if !slices.ContainsFunc(All, func(f Fault) bool { return f.Name == name }) {
			return nil, fmt.Errorf("no fault %q", name)
		}
	}
	for _, f := range All {
		if (len(o.Only) == 0 || slices.Contains(o.Only, f.Name)) && (f.can == nil || f.can(in)) {
			in.faults = append(in.faults, f)
		}
	}
	if len(in.faults) == 0 {
		return nil, errors.New("no fault is left to choose from")
	}
	return in, nil
}

// Counts is how often each fault was injected.
func (in *Injector) Counts() map[string]int { return in.count }

// Strike injects so many faults, one after another with pauses between them; what they break stays broken, often, so that they
// meet. Mend afterwards.
func (in *Injector) Strike(ctx context.Context, faults int) error {
	for range faults {
		f := in.faults[in.rng.IntN(len(in.faults))]
		if err := in.Inject(ctx, f); err != nil {
			return err
		}
		in.pause(ctx, 2500*time.Millisecond)
	}
	return nil
}

// Inject does one fault now, to whom the seed says.
func (in *Injector) Inject(ctx context.Context, f Fault) error {
	in.count[f.Name]++
	what, err := f.inject(ctx, in)
	in.Log("%s %s: %s", time.Now().Format("15:04:05.000"), f.Name, what)
	if err != nil {
		return fmt.Errorf("%s (%s): %w", f.Name, what, err)
	}
	return nil
}

// Mend undoes everything: who is frozen goes on, the network and the disks are good, what does not run is started. It
// returns when all nodes are online, or ctx is over.
func (in *Injector) Mend(ctx context.Context) error {
	in.Log("%s mend", time.Now().Format("15:04:05.000"))
	err := errors.Join(in.Dev.Heal(ctx), in.goodDisks())
	for _, id := range in.ids {
		err = errors.Join(err, in.thaw(ctx, id))
	}
	for id := range in.armed {
		err = errors.Join(err, in.Dev.Kill(ctx, id, devcluster.Mtmd))
		delete(in.armed, id)
	}
	if err != nil {
		return err
	}
	end := time.Now().Add(reliefAfter)
	for in.Relief != nil && time.Now().Before(end) && ctx.Err() == nil {
		if in.startAll(ctx) == nil {
			return nil
		}
	}
	if in.Relief != nil {
		in.Log("%s the load is held back", time.Now().Format("15:04:05.000"))
		in.count["(load held back)"]++
		in.Relief()
	}
	for end = time.Now().Add(mendWait); ; {
		if err = in.startAll(ctx); err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
	}
}

// startAll starts what does not run, and gives it a few seconds to be online: a PostgreSQL whose disk was bad may run still, and end
// by itself a moment later.
func (in *Injector) startAll(ctx context.Context) (err error) {
	if in.referee {
		err = in.Dev.StartNode(ctx, 0, devcluster.Referee)
	}
	for _, id := range in.ids {
		err = errors.Join(err, in.Dev.StartNode(ctx, id, devcluster.Both))
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return in.Dev.WaitStatus(ctx, "online", in.ids...)
}

// pause waits for a part of limit that the seed chooses.
func (in *Injector) pause(ctx context.Context, limit time.Duration) {
	t := time.NewTimer(time.Duration(in.rng.Int64N(int64(limit))))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (in *Injector) chance(p float64) bool { return in.rng.Float64() < p }

func (in *Injector) node() int { return in.ids[in.rng.IntN(len(in.ids))] }

// pair is two nodes.
func (in *Injector) pair() (int, int) {
	order := in.rng.Perm(len(in.ids))
	return in.ids[order[0]], in.ids[order[1]]
}

func (in *Injector) what() devcluster.What {
	return []devcluster.What{devcluster.Mtmd, devcluster.Postgres, devcluster.Both}[in.rng.IntN(3)]
}

// thaw lets what is frozen of a node go on.
func (in *Injector) thaw(ctx context.Context, id int) (err error) {
	for _, p := range parts(id, devcluster.Both) {
		if in.frozen[p] {
			delete(in.frozen, p)
			err = errors.Join(err, in.Dev.Thaw(ctx, id, p.what))
		}
	}
	return err
}

// start brings a node up again without waiting until it is online; who is frozen goes on.
func (in *Injector) start(ctx context.Context, id int) error {
	if err := in.thaw(ctx, id); err != nil {
		return err
	}
	return in.Dev.StartNode(ctx, id, devcluster.Both)
}
