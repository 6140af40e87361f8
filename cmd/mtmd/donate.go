package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"mtm"
	"mtm/logrep/initcopy"
	"mtm/sql/schema"
)

// This file is the donor's side of a copy: a node that is to be added reads this one's database, by one snapshot.

// copyRequest is what the new node asks for.
type copyRequest struct {
	NodeID  mtm.NodeID       `json:"node_id"`
	Copy    string           `json:"copy"`    // of copy_schema and copy_rows: which copy
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

// donate keeps a snapshot for a new node until ctx ends, which is when that is done with it, or until it cannot be kept.
func (d *daemon) donate(ctx context.Context, req copyRequest, send func([]byte) error) error {
	l := d.current.Load()
	if l == nil || !l.roster.now.Load().members().Has(req.NodeID) {
		return fmt.Errorf("node %d does not know of node %d, or does not serve", d.cfg.NodeID, req.NodeID)
	}
	var src *initcopy.Source
	var start copyStart
	for try := 1; ; try++ {
		var err error
		if src, err = d.snapshot(ctx, l, &start); err == nil {
			break
		}
		if try == copyTries || ctx.Err() != nil {
			return err
		}
		d.log.Info("a snapshot is tried again", keyNode, req.NodeID, keyError, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(copyPause):
		}
	}
	defer src.Close()
	start.Copy, start.Nodes = rand.Text(), l.roster.now.Load().Nodes
	d.copies.Store(start.Copy, src)
	defer d.copies.Delete(start.Copy)
	text, err := json.Marshal(start)
	if err == nil {
		err = send(text)
	}
	if err != nil {
		return err
	}
	failPoint("add-donor")
	d.log.Info("a new node copies this one", keyNode, req.NodeID, "bytes", start.What.Bytes)
	err = src.Wait(ctx)
	d.log.Info("the copy has ended", keyNode, req.NodeID)
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
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	return src, nil
}

// copyOf finds a copy that is under way.
func (d *daemon) copyOf(req copyRequest) (*initcopy.Source, error) {
	if src, ok := d.copies.Load(req.Copy); ok {
		return src.(*initcopy.Source), nil
	}
	return nil, errors.New("this copy has ended")
}

// giveSchema sends one section of the schema, and makes sure that it is what the snapshot shows.
func (d *daemon) giveSchema(ctx context.Context, req copyRequest, send func([]byte) error) error {
	src, err := d.copyOf(req)
	if err != nil {
		return err
	}
	if req.Section != initcopy.PreData && req.Section != initcopy.PostData {
		return fmt.Errorf("there is no section %q", req.Section)
	}
	if err := src.Schema(ctx, req.Section, chunks(send)); err != nil {
		return err
	}
	return src.Unchanged(ctx)
}

// giveRows sends a piece of a table.
func (d *daemon) giveRows(ctx context.Context, req copyRequest, send func([]byte) error) error {
	src, err := d.copyOf(req)
	if err != nil {
		return err
	}
	w := &batcher{send: send}
	if err := src.Rows(ctx, req.Piece, w); err != nil {
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
	g.Go(func() error {
		err := from.Watch(ctx, method, req, func(p []byte) error {
			_, err := w.Write(p)
			return err
		})
		w.CloseWithError(err) //nolint:errcheck // gives none
		return err
	})
	g.Go(func() error {
		err := use(r)
		r.CloseWithError(errors.Join(err, io.ErrClosedPipe)) //nolint:errcheck // gives none
		return err
	})
	return g.Wait()
}

// watcher calls a method that answers with many parts (admin.Conn).
type watcher interface {
	Watch(ctx context.Context, method string, in any, each func([]byte) error) error
}
