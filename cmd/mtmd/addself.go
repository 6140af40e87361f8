package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"mtm"
	"mtm/cert"
	"mtm/cmd/mtmctl/admin"
	"mtm/coordinator"
	"mtm/logrep"
	"mtm/logrep/initcopy"
	"mtm/sql/schema"
)

// This file makes a node of a waiting daemon by copying one of a cluster that goes on meanwhile: what mtmctl add-node asks for.
// Until the cluster state is saved everything is undone, by an error, by the end of who asked, or at the next start after a crash.

// addRequest is what add is told.
type addRequest struct {
	Cluster  string      `json:"cluster"`
	NodeID   mtm.NodeID  `json:"node_id"`
	Conninfo string      `json:"conninfo"`
	Donors   []nodeState `json:"donors"` // tried in turn
	Jobs     int         `json:"jobs"`   // tables that are copied at once; 0: 4
}

// addProgress is what add tells, again and again.
type addProgress struct {
	Phase string `json:"phase"` // schema, rows, indexes, joining, retry
	Donor int    `json:"donor"`
	Bytes int64  `json:"bytes"` // of rows that are here
	Total int64  `json:"total"` // about; sizes on disk, so the two need not meet
	Parts int    `json:"parts"` // of tables that are here
	All   int    `json:"all"`
	Note  string `json:"note,omitempty"`
}

// addState is what must be undone after a crash.
type addState struct {
	Roles []string  `json:"roles"`
	Copy  string    `json:"copy,omitempty"` // while rows are copied: the donor's name of the copy, with which it can go on
	Donor nodeState `json:"donor"`
}

const (
	addKey      = "adding"
	addJobs     = 4
	addTries    = 3
	addMaxJobs  = 32
	addTellEach = 250 * time.Millisecond
	undoWait    = time.Minute

	joinCallWait = 5 * time.Second
)

var errAdding = errors.New("this node is being added already")

// addSelf copies a donor and makes this a node, which serves after startMember.
func (d *daemon) addSelf(ctx context.Context, req addRequest, tell func(addProgress) error) error {
	if !d.adding.TryLock() {
		return errAdding
	}
	defer d.adding.Unlock()
	if err := d.checkIdentity(joinRequest{Cluster: req.Cluster, NodeID: req.NodeID}); err != nil {
		return err
	}
	if len(req.Donors) == 0 {
		return errors.New("no node to copy was named")
	}
	if old, err := d.loadAdding(); err == nil && old != nil { // of an earlier life
		if old.Copy != "" {
			d.log.Info("going on with the copy of an earlier attempt", keyNode, old.Donor.ID)
			if err = d.goOn(ctx, req, tell, errors.New("it was interrupted")); err == nil {
				return nil
			}
			d.log.Warn("an earlier attempt cannot be continued", keyError, err)
		}
		if err := d.undoAdd(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	for try := 0; ; try++ {
		donor := req.Donors[try%len(req.Donors)]
		err := d.copyFrom(ctx, req, donor, nil, tell)
		if resumable(err) {
			err = d.goOn(ctx, req, tell, err)
		}
		if err == nil {
			return nil
		}
		err = fmt.Errorf("copy node %d: %w", donor.ID, err)
		if left := d.undoAdd(context.WithoutCancel(ctx)); left != nil {
			return fmt.Errorf("%w\nand it could not be undone: %w (restart mtmd, which tries again)", err, left)
		}
		if ctx.Err() != nil || try+1 >= max(addTries, len(req.Donors)) {
			return err
		}
		d.log.Warn("the copy is begun anew", keyError, err)
		if err := tell(addProgress{Phase: "retry", Donor: int(donor.ID), Note: err.Error()}); err != nil {
			return err
		}
	}
}

// goOn tries to go on with a copy that was interrupted by why, with the donor's same snapshot, for as long as that is kept.
func (d *daemon) goOn(ctx context.Context, req addRequest, tell func(addProgress) error, why error) error {
	for until := time.Now().Add(copyGrace); time.Now().Before(until); {
		state, err := d.loadAdding()
		if err != nil || state == nil || state.Copy == "" {
			return errors.Join(why, err)
		}
		if err := tell(addProgress{Phase: "retry", Donor: int(state.Donor.ID), Note: "going on after: " + why.Error()}); err != nil {
			return err
		}
		began := time.Now()
		if why = d.copyFrom(ctx, req, state.Donor, state, tell); why == nil || !resumable(why) || ctx.Err() != nil {
			return why
		}
		if time.Since(began) > copyGrace { // it went on for a while
			until = time.Now().Add(copyGrace)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(copyPause):
		}
	}
	return why
}

// resumable: the donor, or this node's PostgreSQL, was out of reach, and may be back in a moment.
func resumable(err error) bool {
	if err == nil {
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return strings.HasPrefix(pg.Code, "57P0") || strings.HasPrefix(pg.Code, "08")
	}
	var connecting *pgconn.ConnectError
	return errors.Is(err, admin.ErrNotReachable) || errors.As(err, &connecting) || errors.Is(err, io.ErrUnexpectedEOF)
}

// adder is one attempt.
type adder struct {
	d      *daemon
	req    addRequest
	from   nodeState
	state  addState
	resume bool
	donor  watcher
	target *initcopy.Target
	start  copyStart
	tell   func(addProgress) error

	mu    sync.Mutex
	said  addProgress
	when  time.Time
	bytes atomic.Int64
}

// copyFrom copies a donor. old is what is left of the copy to go on with; nil: a new one.
func (d *daemon) copyFrom(ctx context.Context, req addRequest, from nodeState, old *addState, tell func(addProgress) error) error {
	addr := d.peerAddress(from)
	conn, err := admin.Dial(addr, int(from.ID), cert.Files{CA: d.cfg.TLSCA, Cert: d.cfg.TLSCert, Key: d.cfg.TLSKey})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	a := &adder{d: d, req: req, from: from, donor: conn, tell: tell, said: addProgress{Donor: int(from.ID)}}
	if old != nil {
		a.state, a.resume = *old, true
	}
	if a.target, err = initcopy.NewTarget(ctx, d.cfg.Postgres); err != nil {
		return err
	}
	if err := d.saveAdding(&a.state); err != nil {
		return err
	}
	if err := a.fill(ctx); err != nil {
		if ctx.Err() != nil || !resumable(err) {
			a.release(ctx, conn)
		}
		return err
	}
	a.release(ctx, conn)
	return a.become(ctx)
}

// release has the donor keep the snapshot no longer. If that does not hear of it, it will not keep it for long.
func (a *adder) release(ctx context.Context, donor *admin.Conn) {
	if a.start.Copy == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), joinCallWait)
	defer cancel()
	if err := donor.Call(ctx, "copy_end", copyRequest{NodeID: a.d.cfg.NodeID, Copy: a.start.Copy}, nil); err != nil {
		a.d.log.Debug("end the copy at the donor", keyError, err)
	}
}

// fill copies the donor's database while the donor keeps the snapshot.
func (a *adder) fill(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, done := context.WithCancel(ctx)
	defer done()
	started := make(chan struct{})
	errDone := errors.New("done")
	g.Go(func() error {
		err := a.donor.Watch(ctx, "copy", copyRequest{NodeID: a.d.cfg.NodeID, Copy: a.state.Copy}, func(text []byte) error {
			if a.start.Copy != "" {
				return nil
			}
			if err := json.Unmarshal(text, &a.start); err != nil {
				return err
			}
			close(started)
			return nil
		})
		if err == nil {
			err = errors.New("the donor has ended the copy")
		}
		return err
	})
	g.Go(func() error {
		select {
		case <-started:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := a.load(ctx); err != nil {
			return err
		}
		return errDone // ends the other one
	})
	if err := g.Wait(); !errors.Is(err, errDone) {
		return err
	}
	return nil
}

// load is all that needs the donor.
func (a *adder) load(ctx context.Context) error {
	if !a.resume {
		if err := a.prepare(ctx); err != nil {
			return err
		}
	}
	t, what := a.target, a.start.What
	if err := a.rows(ctx); err != nil {
		return err
	}
	a.state.Copy = "" // what follows is done at once, or undone
	if err := a.d.saveAdding(&a.state); err != nil {
		return err
	}
	post, err := t.Unmark(ctx)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return t.Views(ctx, what, false) },
		func() error { return a.say(addProgress{Phase: "indexes"}) },
		func() error { return t.Schema(ctx, post) },
		func() error { return t.Complete(ctx, what, a.usedBefore()) },
		func() error { return a.install(ctx) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// prepare is what comes before the rows.
func (a *adder) prepare(ctx context.Context) error {
	if err := a.say(addProgress{Phase: "schema"}); err != nil {
		return err
	}
	t, what := a.target, a.start.What
	post, err := a.schema(ctx, initcopy.PostData)
	if err != nil {
		return err
	}
	pre, err := a.schema(ctx, initcopy.PreData)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return t.Create(ctx) },
		func() error {
			return t.Roles(ctx, what, func(roles []string) error {
				a.state.Roles = roles
				return a.d.saveAdding(&a.state)
			})
		},
		func() error { return t.Schema(ctx, pre) },
		func() error { return t.Views(ctx, what, true) },
		func() error { return t.Mark(ctx, post) },
		func() error {
			a.state.Copy, a.state.Donor = a.start.Copy, a.from
			return a.d.saveAdding(&a.state)
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (a *adder) schema(ctx context.Context, s initcopy.Section) (string, error) {
	var script strings.Builder
	err := copyStream(ctx, a.donor, "copy_schema", copyRequest{NodeID: a.d.cfg.NodeID, Copy: a.start.Copy, Section: s}, func(r io.Reader) error {
		_, err := io.Copy(&script, r)
		return err
	})
	return script.String(), err
}

// rows copies the tables, several at once, the largest first.
func (a *adder) rows(ctx context.Context) error {
	if err := a.say(addProgress{Phase: "rows"}); err != nil {
		return err
	}
	jobs := min(a.req.Jobs, addMaxJobs)
	if jobs <= 0 {
		jobs = addJobs
	}
	done, err := a.target.Done(ctx)
	if err != nil {
		return err
	}
	if err := a.say(addProgress{Phase: "rows", Parts: len(done)}); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for n, p := range a.start.What.Pieces {
		if done[n] {
			a.bytes.Add(p.Bytes)
			continue
		}
		if p.Filled {
			if err := a.piece(ctx, n, p); err != nil { // few and small; the first empties the table
				return errors.Join(err, g.Wait())
			}
			continue
		}
		g.Go(func() error { return a.piece(ctx, n, p) })
	}
	return g.Wait()
}

func (a *adder) piece(ctx context.Context, n int, p initcopy.Piece) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := copyStream(ctx, a.donor, "copy_rows", copyRequest{NodeID: a.d.cfg.NodeID, Copy: a.start.Copy, Piece: p}, func(r io.Reader) error {
		return a.target.Rows(ctx, n, p, &counter{r: r, a: a})
	})
	if err != nil {
		return err
	}
	failPoint("add-rows")
	return a.say(addProgress{Phase: "rows", Parts: 1})
}

// counter counts what is read.
type counter struct {
	r io.Reader
	a *adder
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.a.bytes.Add(int64(n))
	if e := c.a.say(addProgress{Phase: "rows"}); e != nil {
		return n, e
	}
	return n, err
}

// say tells how far the copy is; not too often, unless there is a new phase. Parts is added.
func (a *adder) say(p addProgress) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.Donor, p.Total, p.All = a.said.Donor, a.start.What.Bytes, len(a.start.What.Pieces)
	p.Parts += a.said.Parts
	p.Bytes = a.bytes.Load()
	fresh := p.Phase != a.said.Phase
	a.said = p
	if !fresh && time.Since(a.when) < addTellEach {
		return nil
	}
	a.when = time.Now()
	return a.tell(p)
}

// usedBefore: an earlier node had this node's number.
func (a *adder) usedBefore() bool {
	return slices.ContainsFunc(a.start.Have, func(h mtm.OriginHave) bool { return h.Origin == a.d.cfg.NodeID })
}

// install makes the filled database one of this node.
func (a *adder) install(ctx context.Context) error {
	params := schema.Params{NodeID: a.d.cfg.NodeID, Cluster: a.d.cfg.Cluster}
	for _, n := range a.nodes() {
		if !n.gone() {
			params.Nodes = append(params.Nodes, schema.Node{ID: n.ID, ConnInfo: n.Conninfo})
		}
	}
	var plain []string
	err := a.target.Inside(ctx, func(conn *pgx.Conn) (err error) {
		plain, err = schema.InstallCopy(ctx, conn, params, a.start.Adaptations)
		return err
	})
	if err != nil {
		return err
	}
	return a.target.SetSequences(ctx, a.start.What, plain)
}

// nodes are those that the donor knows, this one among them.
func (a *adder) nodes() []nodeState {
	nodes := a.start.Nodes
	if !slices.ContainsFunc(nodes, func(n nodeState) bool { return n.ID == a.d.cfg.NodeID }) {
		nodes = append(slices.Clone(nodes), nodeState{ID: a.d.cfg.NodeID, Peer: a.d.cfg.PeerAdvertise, Conninfo: a.req.Conninfo, Since: a.start.Generation.Num})
	}
	return nodes
}

// become puts the copy in its place, and makes this a node for good.
func (a *adder) become(ctx context.Context) error {
	if err := a.say(addProgress{Phase: "joining"}); err != nil {
		return err
	}
	d := a.d
	failPoint("add-copied")
	if err := a.target.Swap(ctx); err != nil {
		return err
	}
	facts, err := d.pgFacts(ctx)
	if err != nil {
		return err
	}
	if _, err := logrep.CreateSlot(ctx, d.logrepConfig()); err != nil {
		return err
	}
	failPoint("add-swapped")
	// The lives of an earlier node of this number had low numbers.
	if err := d.journal.Put(incarnationKey, strconv.AppendInt(nil, time.Now().Unix(), 10)); err != nil {
		return err
	}
	if err := d.journal.Put(pastKey, nil); err != nil { // of an earlier node, in the same data directory
		return err
	}
	state := &clusterState{
		Name: d.cfg.Cluster, NodeID: d.cfg.NodeID, Nodes: a.nodes(), SystemIdentifier: facts.systemID,
		Seed: &seedState{Generation: a.start.Generation, Have: a.start.Have},
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.saveCluster(state); err != nil {
		return err
	}
	failPoint("add-saved")
	return d.endAdd(context.WithoutCancel(ctx))
}

// seedState is what a copy began with, until it is in the journal.
type seedState struct {
	Generation mtm.Generation   `json:"generation"`
	Have       []mtm.OriginHave `json:"have"`
}

// sow writes the beginning of a copy's journal. A crash on the way leads to its being written twice, which says nothing else.
func (d *daemon) sow(c *clusterState) error {
	if c.Seed == nil {
		return nil
	}
	if _, err := d.journal.Append(coordinator.Seed(d.cfg.NodeID, c.Seed.Generation, c.Seed.Have), true); err != nil {
		return err
	}
	c.Seed = nil
	return d.saveCluster(c)
}

func (d *daemon) saveAdding(s *addState) error {
	if s == nil {
		return d.journal.Put(addKey, nil)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return d.journal.Put(addKey, text)
}

// loadAdding gives nil if nothing is to be undone.
func (d *daemon) loadAdding() (*addState, error) {
	text, err := d.journal.Get(addKey)
	if err != nil || text == nil {
		return nil, err
	}
	s := &addState{}
	return s, json.Unmarshal(text, s)
}

// undoAdd makes PostgreSQL as it was before add.
func (d *daemon) undoAdd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, undoWait)
	defer cancel()
	s, err := d.loadAdding()
	if err != nil || s == nil {
		return err
	}
	var pg *pgconn.PgError
	if err := logrep.DropSlot(ctx, d.logrepConfig()); err != nil && !(errors.As(err, &pg) && pg.Code == "3D000") {
		return err
	}
	t, err := initcopy.NewTarget(ctx, d.cfg.Postgres)
	if err == nil {
		err = t.Undo(ctx, s.Roles)
	}
	if err == nil {
		err = d.saveAdding(nil)
	}
	return err
}

// endAdd removes what was kept to undo it.
func (d *daemon) endAdd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, undoWait)
	defer cancel()
	t, err := initcopy.NewTarget(ctx, d.cfg.Postgres)
	if err == nil {
		err = t.Clean(ctx)
	}
	if err == nil {
		err = d.saveAdding(nil)
	}
	return err
}

// undoLater undoes a copy of an earlier life, unless somebody goes on with it in time.
func (d *daemon) undoLater(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(copyGrace):
	}
	if !d.adding.TryLock() {
		return nil // somebody does, or will undo it
	}
	defer d.adding.Unlock()
	if cluster, err := d.loadCluster(); err != nil || cluster != nil {
		return err
	}
	return d.tidyUntil(ctx, nil)
}

// tidy ends at a start what a crash has interrupted, as soon as PostgreSQL answers.
func (d *daemon) tidy(ctx context.Context, cluster *clusterState) error {
	if s, err := d.loadAdding(); err != nil || cluster == nil && s != nil && s.Copy != "" {
		if err == nil {
			d.log.Info("a copy was interrupted: mtmctl add-node can go on with it", "for", copyGrace.String())
		}
		return err // undoLater
	}
	return d.tidyUntil(ctx, cluster)
}

// tidyUntil tries until PostgreSQL can do it, or ctx ends.
func (d *daemon) tidyUntil(ctx context.Context, cluster *clusterState) error {
	for said := false; ; {
		s, err := d.loadAdding()
		if err != nil || s == nil {
			return err
		}
		if cluster == nil {
			err = d.undoAdd(ctx)
		} else {
			err = d.endAdd(ctx)
		}
		if err == nil {
			d.log.Info("tidied up after an interrupted add-node")
			return nil
		}
		if !said {
			d.log.Warn("tidy up after an interrupted add-node: tried again until PostgreSQL can do it", keyError, err)
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startupRetry):
		}
	}
}
