package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"mtm"
)

// past is how far this node's PostgreSQL has been, on its disk, at least. One that is not that far any more was restored from an older copy,
// or is a standby that was promoted and lacked something: transactions that this node has answered for are not there, and as the journal has
// them as done, nobody would bring them again.
type past struct {
	System   string  `json:"system_identifier"`
	Timeline uint32  `json:"timeline"`
	LSN      mtm.LSN `json:"lsn"`
	Clean    bool    `json:"clean"` // the node was stopped there, so nothing followed
}

// presence is how far PostgreSQL is, and its timeline's history file.
type presence struct {
	past
	history string
}

const (
	pastKey   = "postgres"
	pastEvery = time.Minute // between two notes on disk of what is known in memory
)

const askPresence = `SELECT system_identifier::text, timeline, lsn,
	coalesce(pg_catalog.pg_read_file('pg_wal/' || pg_catalog.lpad(pg_catalog.upper(pg_catalog.to_hex(timeline)), 8, '0') || '.history', 0, 1048576, true), '')
	FROM pg_catalog.pg_control_system(), LATERAL (SELECT pg_catalog.pg_current_wal_flush_lsn() AS at) w,
	LATERAL (SELECT (at - '0/0')::int8 AS lsn, ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(at), 1, 8))::bit(32)::int AS timeline) t`

// askPast asks PostgreSQL. A standby gives an error (55000): it may be promoted some day.
func askPast(ctx context.Context, conn *pgx.Conn) (now presence, err error) {
	var lsn int64
	var timeline int32
	err = conn.QueryRow(ctx, askPresence).Scan(&now.System, &timeline, &lsn, &now.history)
	now.LSN, now.Timeline = mtm.LSN(lsn), uint32(timeline)
	return now, err
}

// follows returns why now cannot be what p has become: nil, or an error for the operator.
func (p past) follows(now presence) error {
	const mend = "drop the node (mtmctl drop-node, on another one), and add it anew with an empty PostgreSQL (mtmctl add-node)"
	switch {
	case p.System != now.System: // a node that was dropped and added
		return nil
	case p.Timeline != now.Timeline:
		if end, ok := endOfTimeline(now.history, p.Timeline); ok && p.Clean && end >= p.LSN {
			return nil
		}
		return fmt.Errorf("PostgreSQL is on timeline %d, and this node's was on timeline %d, at %s at least: it was promoted from a standby, or restored "+
			"from a backup, and may lack transactions that this node has committed; only a standby that had everything when node and PostgreSQL were "+
			"stopped can take its place: %s", now.Timeline, p.Timeline, p.LSN, mend)
	case now.LSN < p.LSN:
		return fmt.Errorf("PostgreSQL is at %s, and this node's was at %s already: it was restored from an older copy, and lacks transactions that this "+
			"node has committed: %s", now.LSN, p.LSN, mend)
	}
	return nil
}

// endOfTimeline reads in a history file where a timeline ended.
func endOfTimeline(history string, timeline uint32) (end mtm.LSN, ok bool) {
	for line := range strings.Lines(history) {
		var tli, high, low uint32
		if n, _ := fmt.Sscanf(line, "%d %X/%X", &tli, &high, &low); n == 3 && tli == timeline {
			return mtm.LSN(high)<<32 | mtm.LSN(low), true
		}
	}
	return 0, false
}

// pasts keeps the past of this node's PostgreSQL, in memory and, at times, on disk.
type pasts struct {
	put func(text []byte) error

	mu    sync.Mutex
	known past
	saved time.Time
}

// loadPasts reads what was known when this node ran last.
func (d *daemon) loadPasts() (*pasts, error) {
	p := &pasts{put: func(text []byte) error { return d.journal.Put(pastKey, text) }}
	text, err := d.journal.Get(pastKey)
	if err != nil || text == nil {
		return p, err
	}
	if err := json.Unmarshal(text, &p.known); err != nil {
		return nil, fmt.Errorf("journal in %s: its record of PostgreSQL is damaged: %w", d.cfg.DataDir, err)
	}
	return p, nil
}

// met compares PostgreSQL with its past, and goes on from there.
func (p *pasts) met(ctx context.Context, conn *pgx.Conn) error {
	now, err := askPast(ctx, conn)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.known.follows(now); err != nil {
		return &goneBackError{errors.Join(err, p.save())} // the next start must know it, too
	}
	changed := p.known.Clean || p.known.Timeline != now.Timeline || p.known.System != now.System
	p.known = now.past
	if !changed && time.Since(p.saved) < pastEvery {
		return nil
	}
	return p.save()
}

// away: PostgreSQL does not answer. What it is when it is back is compared with what was known.
func (p *pasts) away() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.save()
}

// stopped notes that nothing follows.
func (p *pasts) stopped(ctx context.Context, conn *pgx.Conn) error {
	if err := p.met(ctx, conn); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known.Clean = true
	return p.save()
}

func (p *pasts) save() error {
	text, err := json.Marshal(p.known)
	if err != nil {
		return err
	}
	p.saved = time.Now()
	return p.put(text)
}

// goneBackError: PostgreSQL is not what it was, and never will be.
type goneBackError struct{ error }
