package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mtm/testcluster/faultproxy"
)

const proxyWait = 20 * time.Second

var errNoProxy = errors.New("this cluster runs without a fault proxy (it was started with PostgreSQL only, or without one for measurement)")

// ServeProxy runs the fault proxy of the cluster in dir until ctx is over. It is the body of the hidden command that
// Options.ProxyCommand names.
func ServeProxy(ctx context.Context, dir string) error {
	c, err := Open(dir)
	if err != nil {
		return err
	}
	if c.st.Proxy == nil {
		return errNoProxy
	}
	p, err := faultproxy.New(c.st.Proxy.Control, c.links())
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// startProxy brings the fault proxy up, in this process or its own, if the cluster has one.
func (c *Cluster) startProxy(ctx context.Context) error {
	p := c.st.Proxy
	if p == nil {
		return nil
	}
	if len(c.opts.ProxyCommand) == 0 {
		return c.proxyHere()
	}
	log := filepath.Join(c.dir, "proxy.log")
	args := append(slices.Clone(c.opts.ProxyCommand[1:]), "--dir", c.dir)
	proc, err := command{path: c.opts.ProxyCommand[0], args: args, log: log, deathSig: deathSig(c.opts.DieWithParent, syscall.SIGKILL)}.start()
	if err != nil {
		return err
	}
	p.Proc = proc
	ctx, cancel := context.WithTimeoutCause(ctx, proxyWait, fmt.Errorf("after %v", proxyWait))
	defer cancel()
	err = poll(ctx, "the fault proxy", func(ctx context.Context) error {
		_, err := c.faults().Rules(ctx)
		if err != nil && !proc.Alive() {
			return nil
		}
		return err
	})
	if err == nil && !proc.Alive() {
		err = errors.New("the fault proxy ended")
	}
	if err != nil {
		return fmt.Errorf("%w\n--- %s:\n%s", err, log, tail(log, 10))
	}
	return c.st.save(c.dir)
}

// proxyHere runs the fault proxy in this process until endProxy.
func (c *Cluster) proxyHere() error {
	p, err := faultproxy.New(c.st.Proxy.Control, c.links())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx) //nolint:errcheck // a listener that fails shows as a link that is down
	}()
	c.stopProxy = func() {
		cancel()
		<-done
	}
	return nil
}

// startProxyAgain starts the proxy if it does not run.
func (c *Cluster) startProxyAgain(ctx context.Context) error {
	if c.st.Proxy == nil || c.stopProxy != nil || c.st.Proxy.Alive() {
		return nil
	}
	if len(c.opts.ProxyCommand) == 0 {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c.opts.ProxyCommand = []string{self, "devcluster", "proxy"}
	}
	return c.startProxy(ctx)
}

func (c *Cluster) endProxy(ctx context.Context) error {
	if c.stopProxy != nil {
		c.stopProxy()
		c.stopProxy = nil
	}
	if c.st.Proxy == nil {
		return nil
	}
	return c.st.Proxy.killFamily(ctx)
}

func (c *Cluster) faults() faultproxy.Client { return faultproxy.Client{Control: c.st.Proxy.Control} }

// Partition cuts the network: nodes on different sides ("1,2/3") do not hear each other. With oneWay, which wants two
// sides, what the first sends does not reach the second; the way back works. Nodes on no side are not touched.
func (c *Cluster) Partition(ctx context.Context, sides string, oneWay bool) error {
	if c.st.Proxy == nil {
		return errNoProxy
	}
	parts, err := c.parseSides(sides)
	if err != nil {
		return err
	}
	if oneWay && len(parts) != 2 {
		return fmt.Errorf("sides %q: one-way needs two sides, from/to", sides)
	}
	rules := map[faultproxy.Direction]faultproxy.Rule{}
	for i, from := range parts {
		for j, to := range parts {
			if i == j || oneWay && i > j {
				continue
			}
			for _, a := range from {
				for _, b := range to {
					rules[faultproxy.Direction{From: a, To: b}] = faultproxy.Rule{Blocked: true}
				}
			}
		}
	}
	return c.merge(ctx, rules, func(old, add faultproxy.Rule) faultproxy.Rule {
		old.Blocked = add.Blocked
		return old
	})
}

// parseSides reads "1,2/3".
func (c *Cluster) parseSides(sides string) ([][]int, error) {
	var parts [][]int
	seen := map[int]bool{}
	for side := range strings.SplitSeq(sides, "/") {
		var ids []int
		for word := range strings.SplitSeq(side, ",") {
			id, err := c.side(strings.TrimSpace(word))
			if err != nil {
				return nil, fmt.Errorf("sides %q: must be lists of nodes, like 1,2/3: %w", sides, err)
			}
			if seen[id] {
				return nil, fmt.Errorf("sides %q: node %d is on two sides", sides, id)
			}
			seen[id] = true
			ids = append(ids, id)
		}
		parts = append(parts, ids)
	}
	if len(parts) < 2 {
		return nil, fmt.Errorf("sides %q: two sides are needed, like 1,2/3", sides)
	}
	return parts, nil
}

// Slow makes the link between two nodes ("1-2") slow in both directions: each way takes delay longer, and a share of
// the segments, loss (0 to 0.9), waits for a retransmission.
func (c *Cluster) Slow(ctx context.Context, link string, delay time.Duration, loss float64) error {
	a, b, err := c.link(link)
	if err != nil {
		return err
	}
	r := faultproxy.Rule{Delay: delay, Loss: loss}
	rules := map[faultproxy.Direction]faultproxy.Rule{{From: a, To: b}: r, {From: b, To: a}: r}
	return c.merge(ctx, rules, func(old, add faultproxy.Rule) faultproxy.Rule {
		add.Blocked = old.Blocked
		return add
	})
}

// link reads "1-2".
func (c *Cluster) link(text string) (a, b int, err error) {
	if c.st.Proxy == nil {
		return 0, 0, errNoProxy
	}
	first, second, ok := strings.Cut(text, "-")
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(second)
	if err1 != nil || err2 != nil || !ok || a == b {
		return 0, 0, fmt.Errorf("link %q: must be two nodes, like 1-2", text)
	}
	for _, id := range []int{a, b} {
		if _, err := c.node(id); err != nil {
			return 0, 0, err
		}
	}
	return a, b, nil
}

// Reset breaks the connections between two nodes ("1-2"), whoever dialled; they may connect again.
func (c *Cluster) Reset(ctx context.Context, link string) error {
	a, b, err := c.link(link)
	if err != nil {
		return err
	}
	return c.faults().Reset(ctx, faultproxy.Direction{From: a, To: b}, faultproxy.Direction{From: b, To: a})
}

// ResetLate breaks the connections between two nodes ("1-2") for the ends that dialled. The others get what Slow has delayed when it is due: behind
// what the next connections bring.
func (c *Cluster) ResetLate(ctx context.Context, link string) error {
	a, b, err := c.link(link)
	if err != nil {
		return err
	}
	return c.faults().ResetLate(ctx, faultproxy.Direction{From: a, To: b}, faultproxy.Direction{From: b, To: a})
}

// merge sets rules that combine what is in force with what is added.
func (c *Cluster) merge(ctx context.Context, add map[faultproxy.Direction]faultproxy.Rule,
	combine func(old, add faultproxy.Rule) faultproxy.Rule) error {
	old, err := c.faults().Rules(ctx)
	if err != nil {
		return err
	}
	for d, r := range add {
		add[d] = combine(old[d], r)
	}
	return c.faults().Set(ctx, add)
}

// Heal makes the network good: no partition, no delay, no loss.
func (c *Cluster) Heal(ctx context.Context) error {
	if c.st.Proxy == nil {
		return errNoProxy
	}
	return c.faults().Heal(ctx)
}
