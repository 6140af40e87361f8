package logrep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// What a node catches up with is written to its WAL, and nobody needs to decode it: the slot is replaced before the node comes back
// (Renew). To decode it costs as much as to write it. So while a node catches up, its slot is not read, from where its own
// transactions end on; and since an unread slot keeps WAL, it is replaced whenever it keeps much.

const (
	restMaxWAL = 256 << 20 // bytes that the slot may keep meanwhile: Capture.restMax
	restLook   = time.Second
)

var errResting = errors.New("what is recovered need not be decoded")

// Rest says whether this node catches up, outside the cluster: then its slot need not be read beyond what it had done before. Renew
// ends it.
func (c *Capture) Rest(may bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if may && !c.mayRest {
		c.restAt = max(c.idle, c.delivered) + renewLag
	}
	if c.mayRest = may; !may {
		signal(c.awake)
	}
}

// restsAt reports whether the slot need not be read any more, from recovery's transaction at lsn on: all that this node's own
// sessions prepared precedes it.
func (c *Capture) restsAt(lsn mtm.LSN) bool {
	began := mtm.LSN(c.cfg.Catalog.began.Load())
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayRest && began > 0 && lsn >= max(began+renewLag, c.restAt)
}

// rests reports whether nobody reads the slot, on purpose.
func (c *Capture) rests() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resting
}

// rest returns when the slot is to be read again.
func (c *Capture) rest(ctx context.Context) error {
	conn, err := c.cfg.connect(ctx, "mtm_slot", nil)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if users, err := usersPrepared(ctx, conn); err != nil || users > 0 { // it cannot be replaced
		c.Rest(false)
		return err
	}
	c.setResting(true)
	defer c.setResting(false)
	c.cfg.Log.Info("the slot is not read while this node catches up")
	ticker := time.NewTicker(restLook)
	defer ticker.Stop()
	for {
		c.mu.Lock()
		may := c.mayRest
		c.mu.Unlock()
		if !may {
			select {
			case <-c.renewed: // nobody reads the old one
			default:
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.awake:
		case <-ticker.C:
			if err := c.boundRest(ctx, conn); err != nil {
				return err
			}
		}
	}
}

func (c *Capture) setResting(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resting = yes
}

// boundRest replaces the slot if it keeps much WAL.
func (c *Capture) boundRest(ctx context.Context, conn *pgconn.PgConn) error {
	lag, err := c.restLag(ctx, conn)
	if err != nil || lag <= c.restMax {
		return err
	}
	if users, err := usersPrepared(ctx, conn); err != nil || users > 0 {
		c.Rest(false)
		return err
	}
	done, err := c.replace(ctx, conn)
	if done {
		c.cfg.Log.Info("the slot was replaced, for it keeps what this node has caught up with", "bytes", lag)
		return nil
	}
	c.cfg.Log.Info("the slot cannot be replaced yet", "bytes", lag, keyError, err)
	return ctx.Err()
}

// restLag is how many bytes of WAL there are behind what was confirmed.
func (c *Capture) restLag(ctx context.Context, conn *pgconn.PgConn) (int64, error) {
	rows, err := query(ctx, conn, "SELECT (pg_current_wal_flush_lsn() - confirmed_flush_lsn)::text FROM pg_replication_slots "+
		"WHERE slot_name = $1", c.slotNow())
	if err != nil || len(rows) == 0 || rows[0][0] == nil {
		return unknownLag, err
	}
	var lag int64
	_, err = fmt.Sscan(string(rows[0][0]), &lag)
	return lag, err
}
