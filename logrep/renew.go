package logrep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// A slot delivers in order. So what is prepared behind much WAL, of a recovery say, or of what precedes a crash, waits until all of
// that is decoded (15 to 25 MB/s on a processor of its own, on 15), and holds its rows on every node meanwhile. Nobody needs what a
// node did while it was out of the cluster; so before it comes back its slot is replaced by a new one.

const (
	renewLag   = 1 << 20          // bytes of WAL that may be left to decode: Capture.renewLag
	renewTry   = 3 * time.Second  // for a new slot: it waits for every transaction that is open or prepared
	renewLimit = 10 * time.Second // then the node comes back all the same
	renewPause = 100 * time.Millisecond
)

var errRenewed = errors.New("the slot was replaced")

// Renew makes sure that what is prepared from now on is delivered soon: it replaces the slot if there is much to decode yet. It
// gives what PostgreSQL holds prepared under gids of this node after that: of these, what was not delivered never will be. Call
// it while no session may prepare anything, from one goroutine.
func (c *Capture) Renew(ctx context.Context) ([]mtm.GID, error) {
	limited, cancel := context.WithTimeout(ctx, renewLimit)
	defer cancel()
	conn, err := c.cfg.connect(limited, "mtm_slot", nil)
	if err != nil {
		return nil, err
	}
	defer closeConn(conn)
	for {
		lag, err := c.lag(ctx, conn)
		if err != nil {
			return nil, err
		}
		if lag != noSlot && limited.Err() != nil {
			return nil, limited.Err()
		}
		if lag <= c.renewLag {
			return nil, nil
		}
		pause := renewPause
		if lag != unknownLag {
			log := c.cfg.Log.With("bytes", lag)
			if lag == noSlot {
				log = c.cfg.Log.With("slot", "none")
			}
			// A slot is made only when all that is prepared has ended, and users may take their time.
			users, err := usersPrepared(ctx, conn)
			if err != nil {
				return nil, err
			}
			if users > 0 {
				log.Warn("the slot cannot be replaced, for users have prepared transactions", "transactions", users)
				if lag != noSlot {
					return nil, nil
				}
				pause = renewTry
			} else {
				done, err := c.replace(ctx, conn)
				if sqlState(err) == "53400" { // no slot is free
					return nil, err
				}
				if done {
					log.Info("the slot was replaced, for what this node has caught up with need not be decoded")
					return c.ownPrepared(ctx, conn)
				}
				log.Info("the slot cannot be replaced yet", keyError, err)
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// usersPrepared counts what is prepared and none of the cluster's own.
func usersPrepared(ctx context.Context, conn *pgconn.PgConn) (n int, err error) {
	rows, err := query(ctx, conn, "SELECT gid FROM pg_prepared_xacts")
	for _, row := range rows {
		if _, ours := mtm.ParseGID(string(row[0])); !ours {
			n++
		}
	}
	return n, err
}

const (
	unknownLag = int64(1) << 62
	noSlot     = unknownLag - 1
)

// lag is how many bytes of WAL are to be decoded; unknownLag while nobody reads the slot; noSlot if nobody ever will: a standby that was
// promoted has none, and PostgreSQL gives one up that keeps too much WAL.
func (c *Capture) lag(ctx context.Context, conn *pgconn.PgConn) (int64, error) {
	rows, err := c.cfg.liveSlots(ctx, conn)
	if err == nil && len(rows) == 0 {
		return noSlot, nil
	}
	for _, row := range rows {
		if string(row[0]) == c.slotNow() && row[1] != nil {
			var lag int64
			_, err = fmt.Sscan(string(row[1]), &lag)
			return lag, err
		}
	}
	return unknownLag, err
}

// liveSlots gives the names of the slots that can be read, and for each how many bytes of WAL its reader has not got yet, if it has one.
func (c Config) liveSlots(ctx context.Context, conn *pgconn.PgConn) ([][][]byte, error) {
	names := c.slotNames()
	return query(ctx, conn, "SELECT s.slot_name, (pg_current_wal_flush_lsn() - a.sent_lsn)::text FROM pg_replication_slots s "+
		"LEFT JOIN pg_stat_replication a ON a.pid = s.active_pid WHERE s.slot_name IN ($1, $2) AND s.confirmed_flush_lsn IS NOT NULL "+
		"AND s.wal_status <> 'lost'", names[0], names[1])
}

// EnsureSlot makes the slot if it is missing, or PostgreSQL has given it up, before anything is prepared in this life of the daemon. It is an
// error if something is prepared already: then a slot is made when the node has caught up with others (Capture.Renew).
func EnsureSlot(ctx context.Context, cfg Config) (made bool, err error) {
	cfg = cfg.withDefaults()
	conn, err := cfg.connect(ctx, "mtm_slot", map[string]string{"statement_timeout": milliseconds(renewTry)})
	if err != nil {
		return false, err
	}
	defer closeConn(conn)
	if rows, err := cfg.liveSlots(ctx, conn); err != nil || len(rows) > 0 {
		return false, err
	}
	prepared, err := query(ctx, conn, "SELECT FROM pg_prepared_xacts")
	if err != nil {
		return false, err
	}
	if len(prepared) > 0 {
		return false, fmt.Errorf("slot %q is missing, and cannot be made while %d transactions are prepared", cfg.Slot, len(prepared))
	}
	for _, name := range cfg.slotNames() {
		if err := dropSlot(ctx, conn, name); err != nil {
			return false, err
		}
	}
	_, err = createSlot(ctx, conn, cfg.Slot)
	return err == nil, err
}

// replace makes the new slot, and lets Run read it.
func (c *Capture) replace(ctx context.Context, conn *pgconn.PgConn) (done bool, err error) {
	c.slots.Lock()
	defer c.slots.Unlock()
	old, names := c.slotNow(), c.cfg.slotNames()
	name := names[0]
	if name == old {
		name = names[1]
	}
	if err := dropSlot(ctx, conn, name); err != nil { // left by a crash
		return false, err
	}
	// A session of its own, which ends with the attempt.
	maker, err := c.cfg.connect(ctx, "mtm_slot", map[string]string{"statement_timeout": milliseconds(renewTry)})
	if err != nil {
		return false, err
	}
	defer closeConn(maker)
	from, err := createSlot(ctx, maker, name)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	c.slot, c.from = name, from
	c.mu.Unlock()
	select {
	case c.renewed <- struct{}{}:
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, renewTry)
	defer cancel()
	if err := dropSlot(ctx, maker, old); err != nil { // choose does it some day
		c.cfg.Log.Warn("the old slot is dropped later", keyError, err)
	}
	return true, nil
}

// ownPrepared lists what PostgreSQL holds prepared of this node's own.
func (c *Capture) ownPrepared(ctx context.Context, conn *pgconn.PgConn) (own []mtm.GID, err error) {
	all, err := listPrepared(ctx, conn)
	for _, x := range all {
		if x.GID.Origin == c.cfg.Node {
			own = append(own, x.GID)
		}
	}
	return own, err
}

func (c *Capture) slotNow() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slot
}

// choose finds the slot to read: of two, which a crash may leave, the newer. It drops the other, ends whoever reads it, as an
// earlier process may, and takes over where a new one begins. A replication connection takes simple queries only.
func (c *Capture) choose(ctx context.Context, conn *pgconn.PgConn) (string, error) {
	c.slots.Lock()
	defer c.slots.Unlock()
	names := c.cfg.slotNames()
	for i := range names {
		names[i] = slotName(names[i])
	}
	res, err := conn.Exec(ctx, fmt.Sprintf("SELECT slot_name FROM pg_replication_slots WHERE slot_name IN ('%s', '%s') "+
		"AND confirmed_flush_lsn IS NOT NULL ORDER BY confirmed_flush_lsn DESC", names[0], names[1])).ReadAll()
	if err != nil {
		return "", err
	}
	var stale []*capturedTxn
	c.mu.Lock()
	if c.from > 0 {
		c.acked, c.delivered, c.idle = max(c.acked, c.from), max(c.delivered, c.from), max(c.idle, c.from)
		clear(c.expected)
		for gid, t := range c.user { // it has ended, or there would be no new slot
			delete(c.user, gid)
			stale = append(stale, t)
		}
		c.from = 0
	}
	old := ""
	if rows := res[0].Rows; len(rows) > 0 {
		c.slot = string(rows[0][0])
		if len(rows) > 1 {
			old = string(rows[1][0])
		}
	}
	slot := c.slot
	c.mu.Unlock()
	for _, t := range stale {
		if err := t.abort(); err != nil {
			c.cfg.Log.Warn("could not remove a spill file", keyError, err)
		}
	}
	if old != "" {
		if err := run(ctx, conn, fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", slotName(old))); err != nil {
			c.cfg.Log.Warn("the old slot cannot be dropped yet", keyError, err)
		}
	}
	return slot, nil
}
