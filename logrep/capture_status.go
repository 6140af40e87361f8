package logrep

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"mtm"
)

// startReplication asks for the slot's changes from where it was confirmed.
func startReplication(conn *pgconn.PgConn, slot, publication string) error {
	options := fmt.Sprintf(`proto_version '3', publication_names '"%s"', messages 'on', streaming 'on', two_phase 'on'`,
		slotName(publication))
	if serverVersion(conn) >= 16 {
		options += `, origin 'none'`
	}
	conn.Frontend().SendQuery(&pgproto3.Query{
		String: fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL 0/0 (%s)", slotName(slot), options),
	})
	if err := conn.Frontend().Flush(); err != nil {
		return err
	}
	for {
		msg, err := receive(conn)
		if err != nil {
			return err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("read slot %q: %w", slot, pgconn.ErrorResponseToPgError(msg))
		}
	}
}

// status sends status updates: regularly, when the walsender asks, and to wake it.
func (c *Capture) status(ctx context.Context, conn *pgconn.PgConn) error {
	for {
		seen, confirmed := c.positions()
		if err := sendStatus(conn, seen, confirmed); err != nil {
			return err
		}
		last := time.Now()
		c.postpone(last)
		if err := c.untilDue(ctx, last); err != nil {
			return err
		}
	}
}

// untilDue waits until an update is wanted. last is when the last one was sent.
func (c *Capture) untilDue(ctx context.Context, last time.Time) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, now := c.due(last), time.Now()
		if !now.Before(due) {
			return nil
		}
		timer.Reset(due.Sub(now))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.kick:
		case <-timer.C:
		}
	}
}

// due is when the next update is wanted: at once if the walsender asked for it, or when a transaction that was prepared
// has not been decoded in time.
func (c *Capture) due(last time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked {
		return last
	}
	next := last.Add(c.cfg.StatusInterval)
	for _, e := range c.expected {
		if e.due.Before(next) {
			next = e.due
		}
	}
	return next
}

// postpone gives what is still not decoded twice the time, now that an update was sent for it.
func (c *Capture) postpone(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = false
	for gid, e := range c.expected {
		if now.Sub(e.since) > expectGiveUp {
			c.cfg.Log.Warn("a prepared transaction was not decoded", keyGID, gid.String())
			delete(c.expected, gid)
		} else if !now.Before(e.due) {
			e.wait = min(2*e.wait, expectMax)
			e.due = now.Add(e.wait)
		}
	}
}

// positions is what has been seen, and what PostgreSQL may forget: what the sink acknowledged, and all idle WAL
// when nothing that was delivered waits for that.
func (c *Capture) positions() (seen, confirmed mtm.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	confirmed = min(c.acked, c.delivered)
	if c.delivered <= c.acked {
		confirmed = max(confirmed, c.idle)
	}
	return max(c.idle, c.delivered, confirmed), confirmed
}

// sendStatus writes a standby status update. PostgreSQL takes a flush position of zero as none.
//
// It runs beside the reader: pgproto3's sending and receiving halves share nothing.
func sendStatus(conn *pgconn.PgConn, seen, confirmed mtm.LSN) error {
	b := make([]byte, 0, 40)
	b = append(b, 'd', 0, 0, 0, 4+34, 'r')
	b = binary.BigEndian.AppendUint64(b, uint64(seen))
	b = binary.BigEndian.AppendUint64(b, uint64(confirmed))
	b = binary.BigEndian.AppendUint64(b, uint64(confirmed))
	b = binary.BigEndian.AppendUint64(b, uint64(time.Since(pgEpoch).Microseconds()))
	b = append(b, 0)
	return conn.Frontend().SendUnbufferedEncodedCopyData(b)
}

var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
