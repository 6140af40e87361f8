package logrep

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// CreateSlot makes the logical slot that Capture reads, with two-phase decoding, and returns its consistent point. It
// waits for every transaction that is open or prepared in the database cluster. The publication must exist when
// Capture starts. An existing slot is an error (42710).
func CreateSlot(ctx context.Context, cfg Config) (mtm.LSN, error) {
	cfg = cfg.withDefaults()
	conn, err := cfg.connect(ctx, "mtm_slot", nil)
	if err != nil {
		return 0, err
	}
	defer closeConn(conn)
	return createSlot(ctx, conn, cfg.Slot)
}

func createSlot(ctx context.Context, conn *pgconn.PgConn, name string) (mtm.LSN, error) {
	rows, err := query(ctx, conn,
		"SELECT (lsn - '0/0')::text FROM pg_create_logical_replication_slot($1, 'pgoutput', false, true)", name)
	if err != nil {
		return 0, fmt.Errorf("create slot %q: %w", name, err)
	}
	return parseLSN(rows[0][0])
}

// DropSlot removes the slot, ending whoever reads it. A slot that does not exist is no error.
func DropSlot(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	conn, err := cfg.connect(ctx, "mtm_slot", nil)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	for _, name := range cfg.slotNames() {
		if err := dropSlot(ctx, conn, name); err != nil {
			return err
		}
	}
	return nil
}

// slotNames are the names that the slot has in turn, see Capture.Renew.
func (c Config) slotNames() []string { return []string{c.Slot, c.Slot + "_2"} }

func dropSlot(ctx context.Context, conn *pgconn.PgConn, name string) error {
	for n := 1; ; n++ {
		_, err := query(ctx, conn, "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots "+
			"WHERE slot_name = $1 AND active_pid IS NOT NULL", name)
		if err == nil {
			_, err = query(ctx, conn, "SELECT pg_drop_replication_slot($1)", name)
		}
		var pg *pgconn.PgError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &pg) && pg.Code == "42704":
			return nil
		case errors.As(err, &pg) && pg.Code == "55006" && n < 10: // somebody reads it again
			if err := backoff(ctx, n); err != nil {
				return err
			}
		default:
			return fmt.Errorf("drop slot %q: %w", name, err)
		}
	}
}

func parseLSN(text []byte) (mtm.LSN, error) {
	var lsn uint64
	_, err := fmt.Sscan(string(text), &lsn)
	return mtm.LSN(lsn), err
}
