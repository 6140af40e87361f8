package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mtm"
	"mtm/cmd/mtmctl/admin"
	"mtm/logrep/initcopy"
	"mtm/sql/schema"
)

// This file is the donor's side of a copy: a node that is to be added reads this one's database, by one snapshot.

// copyRequest is what the new node asks for.
type copyRequest struct {
	NodeID  mtm.NodeID       `json:"node_id"`
	Copy    string           `json:"copy"`    // which copy; of method copy: one to go on with, empty: a new one
	Section initcopy.Section `json:"section"` // of copy_schema
	Piece   initcopy.Piece   `json:"piece"`   // of copy_rows
}

// copyStart is what the new node is told first.
type copyStart struct {
	Copy        string               `json:"copy"` // names it
	What        initcopy.Description `json:"what"`
	Adaptations schema.Adaptations   `json:"adaptations"`
	Generation  mtm.Generation       `json:"generation"`
	Have        []mtm.OriginHave     `json:"have"` // what the snapshot shows
	Nodes       []nodeState          `json:"nodes"`
}

const (
	copyTries    = 5
	copyPause    = 300 * time.Millisecond // between two tries
	copyPatience = 30 * time.Second       // for what comes before the rows
)

// heldCopy is a snapshot that is kept for a new node.
type heldCopy struct {
	src   *initcopy.Source
	node  mtm.NodeID
	name  string
	start []byte        // copyStart, as JSON
	done  chan struct{} // closed when it is kept no more
	err   error         // why; for who has seen done
	stop  chan struct{} // closed by end

	mu       sync.Mutex
	stopped  bool
	attached int       // streams
	left     time.Time // when there was one last
}

// copyGrace is how long a snapshot is kept for a new node that has gone: its mtmd may come back, and go on.
const copyGrace = time.Minute

var errCopyEnded = errors.New("this copy has ended")

// donate keeps a snapshot for a new node until that says that it is done with it (endCopy), or was gone for copyGrace, or until it
// cannot be kept. req.Copy names one that is kept already.
func (d *daemon) donate(ctx context.Context, req copyRequest, send func([]byte) error) error {
	c, err := d.heldCopy(ctx, req)
	if err != nil {
		return err
	}
	c.attach(1)
	defer c.attach(-1)
	if err := send(c.start); err != nil {
		return err
	}
	failPoint("add-donor")
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.err
	}
}

func (c *heldCopy) attach(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attached += n
	c.left = time.Now()
}

// end has it kept no longer.
func (c *heldCopy) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.stopped = true
		close(c.stop)
	}
}

func (c *heldCopy) deserted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attached == 0 && time.Since(c.left) > copyGrace
}

// heldCopy finds the copy that is asked for, or begins one; an earlier one of the same node then ends.
func (d *daemon) heldCopy(ctx context.Context, req copyRequest) (*heldCopy, error) {
	if req.Copy != "" {
		return d.copyOf(req)
	}
	l := d.current.Load()
	if l == nil || !l.roster.now.Load().members().Has(req.NodeID) {
		return nil, fmt.Errorf("node %d does not know of node %d, or does not serve", d.cfg.NodeID, req.NodeID)
	}
	d.copies.Range(func(_, v any) bool {
		if old := v.(*heldCopy); old.node == req.NodeID {
			old.end()
		}
		return true
	})
	var src *initcopy.Source
	var start copyStart
	for try := 1; ; try++ {
		var err error
		if src, err = d.snapshot(ctx, l, &start); err == nil {
			break
		}
		if try == copyTries || ctx.Err() != nil {
			return nil, err
		}
		d.log.Info("a snapshot is tried again", keyNode, req.NodeID, keyError, err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(copyPause):
		}
	}
	start.Copy, start.Nodes = rand.Text(), l.roster.now.Load().Nodes
	text, err := json.Marshal(start)
	if err == nil {
		c := &heldCopy{
			src: src, node: req.NodeID, name: start.Copy, start: text, done: make(chan struct{}), stop: make(chan struct{}), left: time.Now(),
		}
		d.copies.Store(c.name, c)
		select {
		case d.keeping <- c:
			d.log.Info("a new node copies this one", keyNode, req.NodeID, "bytes", start.What.Bytes)
			return c, nil
		case <-ctx.Done():
			d.copies.Delete(c.name)
			err = ctx.Err()
		}
	}
	src.Close()
	return nil, err
}

// keepCopies keeps snapshots until ctx ends.
func (d *daemon) keepCopies(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-d.keeping:
			all.Go(func() { d.keepCopy(ctx, c) })
		}
	}
}

func (d *daemon) keepCopy(ctx context.Context, c *heldCopy) {
	kept, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer cancel()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for !c.deserted() {
			select {
			case <-kept.Done():
				return
			case <-c.stop:
				return
			case <-tick.C:
			}
		}
	}()
	c.err = c.src.Wait(kept)
	if errors.Is(c.err, context.Canceled) {
		c.err = errCopyEnded
	}
	cancel()
	<-watched
	d.copies.Delete(c.name)
	c.src.Close()
	close(c.done)
	d.log.Info("the copy has ended", keyNode, c.node)
}

// endCopy ends a copy that nobody needs any more.
func (d *daemon) endCopy(req copyRequest) error {
	c, err := d.copyOf(req)
	if err == nil {
		c.end()
	}
	return err
}

// snapshot opens a source whose snapshot shows exactly what the brain says that it does.
func (d *daemon) snapshot(ctx context.Context, l *life, start *copyStart) (*initcopy.Source, error) {
	ctx, cancel := context.WithTimeout(ctx, copyPatience)
	defer cancel()
	src, err := initcopy.OpenSource(ctx, d.cfg.Postgres)
	if err != nil {
		return nil, err
	}
	var now haveAnswer
	err = l.finishes.hold(ctx, func(ctx context.Context) error {
		var err error
		if now, err = d.askHave(ctx); err != nil {
			return err
		}
		if now.status.Status != mtm.StatusOnline {
			return fmt.Errorf("node %d is %s, and only one that is online can be copied", d.cfg.NodeID, now.status.Status)
		}
		return src.Export(ctx)
	})
	start.Have, start.Generation = now.have, now.status.Generation
	if err == nil {
		start.What, err = src.Describe(ctx)
	}
	if err == nil {
		err = schema.CheckNonePrepared(ctx, src.Conn())
	}
	if err == nil {
		start.Adaptations, err = schema.ReadAdaptations(ctx, src.Conn())
		start.What.WithoutRows(start.Adaptations.LocalTables)
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	return src, nil
}

// copyOf finds a copy that is kept for who asks.
func (d *daemon) copyOf(req copyRequest) (*heldCopy, error) {
	if v, ok := d.copies.Load(req.Copy); ok && v.(*heldCopy).node == req.NodeID {
		return v.(*heldCopy), nil
	}
	return nil, errCopyEnded
}

// giveSchema sends one section of the schema, and makes sure that it is what the snapshot shows.
func (d *daemon) giveSchema(ctx context.Context, req copyRequest, send func([]byte) error) error {
	c, err := d.copyOf(req)
	if err != nil {
		return err
	}
	if req.Section != initcopy.PreData && req.Section != initcopy.PostData {
		return fmt.Errorf("there is no section %q", req.Section)
	}
	if err := c.src.Schema(ctx, req.Section, chunks(send)); err != nil {
		return err
	}
	return c.src.Unchanged(ctx)
}

// giveRows sends a piece of a table.
func (d *daemon) giveRows(ctx context.Context, req copyRequest, send func([]byte) error) error {
	c, err := d.copyOf(req)
	if err != nil {
		return err
	}
	w := &batcher{send: send}
	if err := c.src.Rows(ctx, req.Piece, w); err != nil {
		return err
	}
	return w.flush()
}

// chunks is a writer that sends what is written, in parts that fit.
type chunks func([]byte) error

const chunkSize = 256 << 10

func (c chunks) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); sent += chunkSize {
		if err := c(p[sent:min(sent+chunkSize, len(p))]); err != nil {
			return sent, err
		}
	}
	return len(p), nil
}

// batcher gathers rows, which are written one by one.
type batcher struct {
	send func([]byte) error
	buf  []byte
}

func (b *batcher) Write(p []byte) (int, error) {
	if b.buf = append(b.buf, p...); len(b.buf) < chunkSize {
		return len(p), nil
	}
	return len(p), b.flush()
}

func (b *batcher) flush() error {
	_, err := chunks(b.send).Write(b.buf)
	b.buf = nil // what was sent may still be read
	return err
}

// copyStream reads what one of the methods above sends.
func copyStream(ctx context.Context, from watcher, method string, req copyRequest, use func(io.Reader) error) error {
	r, w := io.Pipe()
	g, ctx := errgroup.WithContext(ctx)
	var broken error // it, and not what PostgreSQL says of a COPY that was cut short
	g.Go(func() error {
		err := from.Watch(ctx, method, req, func(p []byte) error {
			_, err := w.Write(p)
			return err
		})
		if errors.Is(err, admin.ErrNotReachable) {
			broken = err
		}
		w.CloseWithError(err) //nolint:errcheck // gives none
		return err
	})
	g.Go(func() error {
		err := use(r)
		r.CloseWithError(errors.Join(err, io.ErrClosedPipe)) //nolint:errcheck // gives none
		return err
	})
	err := g.Wait()
	if broken != nil {
		return broken
	}
	return err
}

// watcher calls a method that answers with many parts (admin.Conn).
type watcher interface {
	Watch(ctx context.Context, method string, in any, each func([]byte) error) error
}
