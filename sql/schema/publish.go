package schema

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// holderSQL finds the process that holds the daemon's advisory lock: pg_advisory_lock(1836346733, 1), "mtmm".
const holderSQL = `SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1836346733 AND objid = 1
	AND objsubid = 2 AND mode = 'ExclusiveLock' AND granted
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// ReceiverMode is what a node does with the transactions of a peer, in the words of mtm.nodes().
type ReceiverMode string

// The values of ReceiverMode (REFERENCE: mtm.nodes()).
const (
	ReceiverDisabled ReceiverMode = "disabled"
	ReceiverRecovery ReceiverMode = "recovery"
	ReceiverNormal   ReceiverMode = "normal"
)

// State is what mtm.status() and mtm.nodes() tell.
type State struct {
	Status     mtm.Status
	Connected  mtm.NodeSet // peers with a working link, and this node
	Generation mtm.Generation
	Online     mtm.NodeSet // members of Generation that are online
	Donor      mtm.NodeID  // whom this node recovers from; 0: nobody
	Behind     uint64      // bytes of the donor's journal that are still to come
	Peers      []PeerState // one for each configured node
	InDoubt    []InDoubt   // what the resolver has to decide
}

// InDoubt is a row of mtm.in_doubt.
type InDoubt struct {
	GID      mtm.GID
	Began    uint64 // in microseconds since 1970; 0: not known
	Prepared bool
	Votes    mtm.NodeSet
	WaitsFor mtm.NodeSet
}

// PeerState is a row of mtm.nodes(). A process id of 0 is shown as NULL: there is none.
type PeerState struct {
	ID          mtm.NodeID
	Enabled     bool
	Connected   bool
	SenderPID   int
	ReceiverPID int
	Workers     int // apply workers that are busy with this peer's transactions
	Mode        ReceiverMode
}

// Announce tells PostgreSQL that the daemon lives: it takes an advisory lock that conn's session keeps for as long as it
// lasts. It waits up to wait for another session to let go, a predecessor's that PostgreSQL has not yet missed; then
// it gives 55006 and names the holder. conn may be used for other things, and must not reach PostgreSQL through a pooler.
func Announce(ctx context.Context, conn *pgx.Conn, version string, wait time.Duration) error {
	err := inTx(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, fmt.Sprintf("%dms", max(wait.Milliseconds(), 1)))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `SELECT pg_advisory_lock(1836346733, 1)`)
		return err
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" {
		return lockedError(ctx, conn, err)
	}
	if err != nil {
		return fmt.Errorf("take the daemon's lock: %w", err)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	return inTx(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO mtm.daemon_state (pid, version, since, key)
			VALUES (pg_backend_pid(), $1, clock_timestamp(), $2)
			ON CONFLICT (only_row) DO UPDATE SET (pid, version, since, key) = (excluded.pid, excluded.version, excluded.since, excluded.key)`,
			version, key)
		return err
	})
}

func lockedError(ctx context.Context, conn *pgx.Conn, cause error) error {
	var holder int
	if err := conn.QueryRow(ctx, holderSQL).Scan(&holder); err != nil {
		return fmt.Errorf("take the daemon's lock: %w", cause)
	}
	return &mtm.Error{Code: "55006", Msg: "another mtmd serves this database", Err: cause,
		Detail: fmt.Sprintf("Its session is process %d of PostgreSQL.", holder), Hint: "Only one mtmd may run beside a database."}
}

// Publish stores what status() and nodes() show, in unlogged tables and without waiting for the disk. It may use
// another session than Announce, whose session must still be there (55000).
func Publish(ctx context.Context, conn *pgx.Conn, s State) error {
	return inTx(ctx, conn, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue(`SET LOCAL synchronous_commit = off`)
		b.Queue(`INSERT INTO mtm.node_state
			VALUES (true, (`+holderSQL+`), $1, $2, $3, $4, $5, $6, nullif($7, 0), $8, clock_timestamp())
			ON CONFLICT (only_row) DO UPDATE SET (pid, status, connected, gen_num, gen_members, gen_members_online,
				gen_configured, donor, behind, written) = (excluded.pid, excluded.status, excluded.connected, excluded.gen_num,
				excluded.gen_members, excluded.gen_members_online, excluded.gen_configured, excluded.donor, excluded.behind,
				excluded.written)`,
			string(s.Status), ids(s.Connected), int64(s.Generation.Num), ids(s.Generation.Members), ids(s.Online),
			ids(s.Generation.Configured), int(s.Donor), int64(min(s.Behind, math.MaxInt64)))
		b.Queue(`DELETE FROM mtm.peer_state`)
		for _, p := range s.Peers {
			b.Queue(`INSERT INTO mtm.peer_state VALUES ($1, $2, $3, nullif($4, 0), nullif($5, 0), $6, $7)`,
				int(p.ID), p.Enabled, p.Connected, p.SenderPID, p.ReceiverPID, p.Workers, string(p.Mode))
		}
		b.Queue(`DELETE FROM mtm.in_doubt_state`)
		for _, t := range s.InDoubt {
			b.Queue(`INSERT INTO mtm.in_doubt_state VALUES ($1, to_timestamp(nullif($2::float8, 0) / 1000000), $3, $4, $5)`,
				t.GID.String(), float64(t.Began), t.Prepared, ids(t.Votes), ids(t.WaitsFor))
		}
		err := tx.SendBatch(ctx, b).Close()
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "23502" { // nobody holds the lock
			return &mtm.Error{Code: "55000", Msg: "the session that announced the daemon is gone", Err: err}
		}
		if err != nil {
			return fmt.Errorf("publish the state: %w", err)
		}
		return nil
	})
}

func ids(s mtm.NodeSet) []int32 {
	out := make([]int32, 0, s.Len())
	for _, id := range s.IDs() {
		out = append(out, int32(id))
	}
	return out
}
