package schema

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"mtm"
)

// Adaptations is what mtm has changed of the user's objects in a database. A copy of the database has them changed likewise, for
// another node; with these it can be made this one's.
type Adaptations struct {
	Sequences    []AdaptedSequence
	FullIdentity []string // tables whose REPLICA IDENTITY FULL is our doing
	LocalTables  []string // quoted, with their schemas
	GuardBefore  *string  // the database's own default_transaction_read_only
}

// AdaptedSequence is a row of mtm.sequences.
type AdaptedSequence struct {
	Name    string // quoted, with its schema
	Stepped bool
	Mode    string  // mtm.sequence_mode; empty: step
	Next    string  // mode block: the first value that nobody has drawn
	Values  []int64 // anchor, grain, user_*, set_*, in the order of the table
}

// ReadAdaptations reads them in the session's transaction, whose search_path must be empty.
func ReadAdaptations(ctx context.Context, conn *pgx.Conn) (a Adaptations, err error) {
	if err := conn.QueryRow(ctx, `SELECT guard_before FROM mtm.node`).Scan(&a.GuardBefore); err != nil {
		return a, fmt.Errorf("read the installation: %w", err)
	}
	err = conn.QueryRow(ctx, `SELECT ARRAY(SELECT relid::regclass::text FROM mtm.full_identity m JOIN pg_class c ON c.oid = m.relid ORDER BY 1)`).Scan(&a.FullIdentity)
	if err != nil {
		return a, fmt.Errorf("read the replica identities: %w", err)
	}
	err = conn.QueryRow(ctx, `SELECT ARRAY(SELECT relid::text FROM mtm.local_tables l JOIN pg_class c ON c.oid = l.relid ORDER BY 1)`).Scan(&a.LocalTables)
	if err != nil {
		return a, fmt.Errorf("read the local tables: %w", err)
	}
	rows, err := conn.Query(ctx, `SELECT m.seqid::regclass::text, stepped, ARRAY[anchor, grain, user_increment, user_start, user_min, user_max,
		set_increment, set_start, set_min, set_max], mode, coalesce(next::text, '')
		FROM mtm.sequences m JOIN pg_class c ON c.oid = m.seqid LEFT JOIN mtm.blocks b ON b.seqid = m.seqid ORDER BY 1`)
	if err != nil {
		return a, fmt.Errorf("read the sequences: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var s AdaptedSequence
		if err := rows.Scan(&s.Name, &s.Stepped, &s.Values, &s.Mode, &s.Next); err != nil {
			return a, err
		}
		a.Sequences = append(a.Sequences, s)
	}
	return a, rows.Err()
}

// names lists the sequences.
func (a Adaptations) names() []string {
	names := []string{} // not NULL in SQL
	for _, s := range a.Sequences {
		names = append(names, s.Name)
	}
	return names
}

// InstallCopy is Install for a copy of another node's database: its sequences become this node's, and those that are the same on all
// nodes stay as they are; their last values are lost, and to be set again. It returns their names.
func InstallCopy(ctx context.Context, conn *pgx.Conn, p Params, a Adaptations) (plain []string, err error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	err = inTx(ctx, conn, func(tx pgx.Tx) error {
		if a.GuardBefore != nil {
			_, err := tx.Exec(ctx, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = %L', current_database(), `+
				quoteLiteral(*a.GuardBefore)+`); END $$`)
			if err != nil {
				return err
			}
		}
		if err := execAll(ctx, tx, roleSQL, tablesSQL); err != nil {
			return err
		}
		for _, s := range a.Sequences {
			v := slices.Clone(s.Values)
			if len(v) != 10 {
				return fmt.Errorf("sequence %s: %d values", s.Name, len(v))
			}
			_, err := tx.Exec(ctx, `INSERT INTO mtm.sequences VALUES ($1::text::regclass, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
				s.Name, s.Stepped, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], cmp.Or(s.Mode, "step"))
			if err != nil {
				return fmt.Errorf("sequence %s: %w", s.Name, err)
			}
			if s.Mode != "block" {
				continue
			}
			if _, err := tx.Exec(ctx, `INSERT INTO mtm.blocks VALUES ($1::text::regclass, $2::text::numeric, 0, NULL, NULL, NULL, false, now())`, s.Name, s.Next); err != nil {
				return fmt.Errorf("sequence %s: %w", s.Name, err)
			}
		}
		for _, t := range a.FullIdentity {
			if _, err := tx.Exec(ctx, `INSERT INTO mtm.full_identity VALUES ($1::text::regclass)`, t); err != nil {
				return fmt.Errorf("table %s: %w", t, err)
			}
		}
		for _, t := range a.LocalTables {
			if _, err := tx.Exec(ctx, `INSERT INTO mtm.local_tables VALUES ($1::text::regclass)`, t); err != nil {
				return fmt.Errorf("table %s: %w", t, err)
			}
		}
		if err := finishInstall(ctx, tx, p); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT mtm.empty_block(seqid) FROM mtm.blocks UNION ALL SELECT mtm.set_truncates()`); err != nil {
			return fmt.Errorf("take the other node's numbers away: %w", err)
		}
		return tx.QueryRow(ctx, `SELECT coalesce(array_agg(c.oid::regclass::text), '{}')
			FROM (SELECT c.oid, mtm.set_sequence(c.oid, false, 'off') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'mtm' AND c.oid::regclass::text <> ALL ($1)) c`, a.names()).Scan(&plain)
	})
	return plain, err
}

func quoteLiteral(s string) string {
	out := []byte{'\''}
	for i := range len(s) {
		if s[i] == '\'' {
			out = append(out, '\'')
		}
		out = append(out, s[i])
	}
	return string(append(out, '\''))
}

// CheckNonePrepared refuses, in the session's transaction, to copy a database while users hold transactions prepared (55000): a
// copy has the rows of those that are committed, and cannot have the others.
func CheckNonePrepared(ctx context.Context, conn *pgx.Conn) error {
	var names []string
	err := conn.QueryRow(ctx, `SELECT ARRAY(SELECT name FROM mtm.prepared ORDER BY prepared LIMIT 10)`).Scan(&names)
	if err != nil {
		return fmt.Errorf("list what users prepared: %w", err)
	}
	if len(names) == 0 {
		return nil
	}
	return &mtm.Error{Code: "55000", Msg: "a node cannot be added while transactions are prepared by users",
		Detail: fmt.Sprintf("Prepared: %q.", names),
		Hint:   "End them with COMMIT PREPARED or ROLLBACK PREPARED (pg_prepared_xacts lists them), then try again."}
}
