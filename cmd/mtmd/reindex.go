package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
	"mtm/sql/gateway"
	"mtm/sql/statement"
)

// This file has REINDEX CONCURRENTLY run on every node. It cannot run in a transaction, and changes nothing that anybody sees: so each node runs
// it for itself, one after another's example, and what fails somewhere is told, and cleaned up there.

// reindexed is the answer to the method reindex.
type reindexed struct {
	Code  string `json:"code,omitempty"` // of an error of PostgreSQL's
	Error string `json:"error,omitempty"`
}

// reindexOthers has the other nodes run what this node has run, all at once.
func (d *daemon) reindexOthers(ctx context.Context, o gateway.Reindex) (failed []*mtm.Error) {
	r, err := d.rosterOf()
	if err != nil {
		return nil
	}
	others := r.others().IDs()
	said := make(chan *mtm.Error, len(others))
	for _, id := range others {
		go func() { said <- d.reindexOn(ctx, r, id, o) }()
	}
	for range others { // each ends with ctx
		if e := <-said; e != nil {
			failed = append(failed, e)
		}
	}
	return failed
}

func (d *daemon) reindexOn(ctx context.Context, r *roster, id mtm.NodeID, o gateway.Reindex) *mtm.Error {
	var a reindexed
	conn, err := d.dialNode(r.now.Load(), id)
	if err == nil {
		defer conn.Close() //nolint:errcheck // nothing is lost
		err = conn.Call(ctx, "reindex", o, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err == nil {
		return nil
	}
	d.log.Warn("REINDEX CONCURRENTLY failed elsewhere", keyNode, id, keyError, err)
	code := a.Code
	if code == "" {
		code = "08006"
	}
	return &mtm.Error{Code: code, Msg: fmt.Sprintf("node %d did not rebuild its indexes", id), Detail: err.Error(),
		Hint: "They are as they were. Repeat the statement, or connect to that node."}
}

// invalidIndexes are those that a failed REINDEX CONCURRENTLY leaves, among others.
const invalidIndexes = `SELECT indexrelid::int8 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
	WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$'`

// reindex runs it here, as the user who ran it elsewhere. What is not there is somebody's temporary table.
func (d *daemon) reindex(ctx context.Context, o gateway.Reindex) (reindexed, error) {
	stmts, ok := statement.Split(o.Text)
	if !ok || len(stmts) != 1 || !stmts[0].Has(statement.Everywhere) {
		return reindexed{}, fmt.Errorf("%.100q is no REINDEX CONCURRENTLY", o.Text)
	}
	conn, err := d.connect(ctx, "mtm_reindex")
	if err != nil {
		return reindexed{}, err
	}
	defer closeNow(conn)
	rows, _ := conn.Query(ctx, invalidIndexes)
	before, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err == nil {
		_, err = conn.Exec(ctx, "SELECT set_config('search_path', $1, false)", o.SearchPath)
	}
	for _, sql := range []string{
		"SET SESSION AUTHORIZATION " + pgx.Identifier{o.SessionUser}.Sanitize(), "SET ROLE " + pgx.Identifier{o.Role}.Sanitize(), o.Text,
	} {
		if err == nil {
			_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
		}
	}
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return reindexed{}, nil
	case errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "42704"):
		return reindexed{}, nil
	}
	cleanCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if cleanErr := d.dropInvalid(cleanCtx, before); cleanErr != nil {
		d.log.Warn("invalid indexes are left of a REINDEX CONCURRENTLY that failed", keyError, cleanErr)
	}
	if pg != nil {
		return reindexed{Code: pg.Code, Error: pg.Message}, nil
	}
	return reindexed{}, err
}

// dropInvalid drops what a failed REINDEX CONCURRENTLY left; before was there.
func (d *daemon) dropInvalid(ctx context.Context, before []int64) error {
	conn, err := d.connect(ctx, "mtm_reindex")
	if err != nil {
		return err
	}
	defer closeNow(conn)
	rows, _ := conn.Query(ctx, `SELECT x::regclass::text FROM (`+invalidIndexes+`) i (x) WHERE x <> ALL ($1::int8[])`, before)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		if _, dropErr := conn.PgConn().Exec(ctx, "SET session_replication_role = replica; DROP INDEX CONCURRENTLY IF EXISTS "+name).ReadAll(); dropErr != nil {
			err = errors.Join(err, dropErr)
		}
	}
	return err
}
