package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// What says which processes of a node an action is for.
type What string

// The values of What.
const (
	Mtmd     What = "mtmd"
	Postgres What = "postgres"
	Both     What = "both"
)

// Check refuses other values.
func (w What) Check() error {
	if w != Mtmd && w != Postgres && w != Both && w != Referee {
		return fmt.Errorf("%q: must be mtmd, postgres, both or referee", string(w))
	}
	return nil
}

func (w What) mtmd() bool     { return w == Mtmd || w == Both || w == Referee }
func (w What) postgres() bool { return w == Postgres || w == Both }

// locked takes the cluster's lock and reads its state.
func (c *Cluster) locked(ctx context.Context) (unlock func(), err error) {
	if unlock, err = lock(ctx, c.dir); err != nil {
		return nil, err
	}
	if c.st, err = loadState(c.dir); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// change runs f on node id with the cluster locked, and saves what it changed.
func (c *Cluster) change(ctx context.Context, id int, w What, f func(*node) error) error {
	if err := w.Check(); err != nil {
		return err
	}
	unlock, err := c.locked(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := c.target(id, w)
	if err != nil {
		return err
	}
	return errors.Join(f(n), c.st.save(c.dir))
}

// UseMtmd makes path the program that is started as mtmd from now on.
func (c *Cluster) UseMtmd(ctx context.Context, path string) error {
	unlock, err := c.locked(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	c.st.Mtmd = path
	return c.st.save(c.dir)
}

// StopNode ends processes in an orderly way: mtmd first.
func (c *Cluster) StopNode(ctx context.Context, id int, w What) error {
	return c.change(ctx, id, w, func(n *node) error { return n.stop(ctx, w) })
}

func (n *node) stop(ctx context.Context, w What) (err error) {
	if w.mtmd() {
		err = n.stopMtmd(ctx)
	}
	if w.postgres() {
		err = errors.Join(err, n.stopPostgres(ctx))
	}
	return err
}

// StartNode starts what does not run: PostgreSQL first. It returns when they answer, which is before the node is
// online (see WaitStatus). Environment variables are added to mtmd's for this start only.
func (c *Cluster) StartNode(ctx context.Context, id int, w What, env ...string) error {
	return c.change(ctx, id, w, func(n *node) error {
		if w.postgres() {
			if err := n.startPostgres(ctx, c.cred, c.opts.DieWithParent); err != nil {
				return err
			}
		}
		if !w.mtmd() || c.st.PostgresOnly {
			return nil
		}
		return n.startMtmd(ctx, c.st.Mtmd, slices.Concat(c.st.MtmdEnv, env), c.opts.DieWithParent)
	})
}

// LaunchMtmd starts mtmd of node id, with variables added to its environment, and waits for nothing: for one that is
// expected to die.
func (c *Cluster) LaunchMtmd(ctx context.Context, id int, env ...string) error {
	return c.change(ctx, id, Mtmd, func(n *node) error {
		return n.launchMtmd(c.st.Mtmd, slices.Concat(c.st.MtmdEnv, env), c.opts.DieWithParent)
	})
}

// Kill ends processes by SIGKILL and returns when they are gone: PostgreSQL with all its children, as in a power cut.
func (c *Cluster) Kill(ctx context.Context, id int, w What) error {
	return c.change(ctx, id, w, func(n *node) error { return n.kill(ctx, w) })
}

// KillMany is Kill of several nodes at one moment: all their processes are frozen before the first is killed.
func (c *Cluster) KillMany(ctx context.Context, w What, ids ...int) error {
	if err := w.Check(); err != nil {
		return err
	}
	unlock, err := c.locked(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	each := func(f func(*node) error) error {
		return c.forEach(func(n *node) error {
			if !slices.Contains(ids, n.ID) {
				return nil
			}
			return f(n)
		})
	}
	err = each(func(n *node) error {
		var err error
		for _, one := range n.procs(w) {
			err = errors.Join(err, one.p.freezeFamily())
		}
		return err
	})
	err = errors.Join(err, each(func(n *node) error { return n.kill(ctx, w) }))
	return errors.Join(err, c.st.save(c.dir))
}

// named is a process of a node.
type named struct {
	name string
	p    Proc
}

// procs are the processes that w names.
func (n *node) procs(w What) (all []named) {
	if w.mtmd() {
		all = append(all, named{"mtmd", n.Mtmd})
	}
	if w.postgres() {
		all = append(all, named{"PostgreSQL", n.Postgres})
	}
	return all
}

func (n *node) kill(ctx context.Context, w What) (err error) {
	if w.mtmd() {
		err = n.Mtmd.killFamily(ctx)
	}
	if w.postgres() {
		err = errors.Join(err, n.Postgres.killFamily(ctx))
	}
	return err
}

// Freeze stops processes by SIGSTOP: they keep their connections and say nothing.
func (c *Cluster) Freeze(ctx context.Context, id int, w What) error {
	return c.change(ctx, id, w, func(n *node) error {
		return n.each(w, "freeze", Proc.freezeFamily)
	})
}

// Thaw lets frozen processes go on.
func (c *Cluster) Thaw(ctx context.Context, id int, w What) error {
	return c.change(ctx, id, w, func(n *node) error {
		return n.each(w, "thaw", Proc.thawFamily)
	})
}

// each does f to the processes that w names. One that does not run is an error.
func (n *node) each(w What, verb string, f func(Proc) error) error {
	for _, one := range n.procs(w) {
		if !one.p.Alive() {
			return fmt.Errorf("cannot %s %s of node %d: it does not run", verb, one.name, n.ID)
		}
		if err := f(one.p); err != nil {
			return err
		}
	}
	return nil
}

// WaitMtmdGone waits until mtmd of node id has ended, for as long as ctx.
func (c *Cluster) WaitMtmdGone(ctx context.Context, id int) error {
	n, err := c.node(id)
	if err != nil {
		return err
	}
	return n.explain(n.Mtmd.WaitGone(ctx))
}

// StopAll ends every process in an orderly way: all mtmd, then all PostgreSQL, then the proxy. The data stays.
func (c *Cluster) StopAll(ctx context.Context) error {
	unlock, err := c.locked(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	err = c.forEach(func(n *node) error { return n.stopMtmd(ctx) })
	err = errors.Join(err, c.forEach(func(n *node) error { return n.stopPostgres(ctx) }))
	err = errors.Join(err, c.withReferee(func(n *node) error { return n.stopMtmd(ctx) }), c.endProxy(ctx))
	return errors.Join(err, c.st.save(c.dir))
}

// StartAll starts whatever of the cluster does not run, and waits until all nodes are online.
func (c *Cluster) StartAll(ctx context.Context) error {
	if err := c.startProxyAgain(ctx); err != nil {
		return err
	}
	if c.st.Referee != nil {
		if err := c.StartNode(ctx, 0, Referee); err != nil {
			return err
		}
	}
	for _, id := range c.IDs() {
		if err := c.StartNode(ctx, id, Both); err != nil {
			return err
		}
	}
	if c.st.PostgresOnly {
		return nil
	}
	return c.WaitStatus(ctx, "online", c.IDs()...)
}

// KillAll ends every process by force. The data stays.
func (c *Cluster) KillAll(ctx context.Context) error {
	unlock, err := c.locked(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return c.killAll(ctx)
}

// killAll is KillAll with the lock held.
func (c *Cluster) killAll(ctx context.Context) error {
	if c.st == nil {
		return nil
	}
	err := c.forEach(func(n *node) error { return n.kill(ctx, Both) })
	err = errors.Join(err, c.withReferee(func(n *node) error { return n.kill(ctx, Referee) }))
	err = errors.Join(err, c.endProxy(ctx))
	return errors.Join(err, c.st.save(c.dir))
}

// Destroy ends every process by force and removes the directory.
func (c *Cluster) Destroy(ctx context.Context) error {
	unlock, err := c.locked(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.killAll(ctx); err != nil {
		return err
	}
	return os.RemoveAll(c.dir)
}
