package schema

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// SchemaVersion is the version that Install makes and Upgrade leads to.
const SchemaVersion = 1

// Publication is the name of the publication that the slot reads.
const Publication = "mtm"

// AdminRole is the role whose members may connect while the node is not online.
const AdminRole = "mtm_admin"

var (
	//go:embed role.sql
	roleSQL string
	//go:embed tables.sql
	tablesSQL string
	//go:embed status.sql
	statusSQL string
	//go:embed ask.sql
	askSQL string
	//go:embed admin.sql
	adminSQL string
	//go:embed sequences.sql
	sequencesSQL string
	//go:embed monotonic.sql
	monotonicSQL string
	//go:embed blocks.sql
	blocksSQL string
	//go:embed local.sql
	localSQL string
	//go:embed roles.sql
	rolesSQL string
	//go:embed ddl.sql
	ddlSQL string
	//go:embed prepared.sql
	preparedSQL string
	//go:embed setup.sql
	setupSQL string
	//go:embed uninstall.sql
	uninstallSQL string
)

// functionsSQL is run by Install and by each Upgrade: everything in it is CREATE OR REPLACE, or IF NOT EXISTS.
var functionsSQL = []string{statusSQL, askSQL, adminSQL, sequencesSQL, monotonicSQL, blocksSQL, localSQL, rolesSQL, ddlSQL, preparedSQL}

// migrations[i] leads from version i+1 to i+2. It runs before functionsSQL, and may drop functions whose columns change.
var migrations = []string{}

// Node is a configured node as mtm.nodes() shows it.
type Node struct {
	ID       mtm.NodeID
	ConnInfo string // URL or keyword form; a password in it is not stored
}

// Params says which node of which cluster a PostgreSQL becomes.
type Params struct {
	NodeID  mtm.NodeID
	Cluster string // name or identifier of the cluster, for people to read
	Nodes   []Node // all configured nodes, this one among them
}

func (p Params) validate() error {
	var all mtm.NodeSet
	for _, n := range p.Nodes {
		if !n.ID.Valid() || all.Has(n.ID) {
			return invalid("node id %d is used twice, or is not between 1 and %d", n.ID, mtm.MaxNodes)
		}
		all = all.With(n.ID)
	}
	if !all.Has(p.NodeID) {
		return invalid("node %d is not among the configured nodes %v", p.NodeID, all)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &mtm.Error{Code: "22023", Msg: fmt.Sprintf(format, args...)}
}

// Install makes the database of conn, a superuser's session, part of a cluster. All of it happens in one transaction: an error,
// an *mtm.Error where the cause is known, leaves nothing behind. Sequences and tables that exist are adapted.
func Install(ctx context.Context, conn *pgx.Conn, p Params) error {
	if err := p.validate(); err != nil {
		return err
	}
	version, err := Version(ctx, conn)
	if err != nil {
		return err
	}
	if version != 0 {
		return &mtm.Error{Code: "42710", Msg: "this database belongs to a cluster already",
			Hint: "Choose another database, or an empty PostgreSQL."}
	}
	return inTx(ctx, conn, func(tx pgx.Tx) error { return install(ctx, tx, p) })
}

func install(ctx context.Context, tx pgx.Tx, p Params) error {
	if err := execAll(ctx, tx, roleSQL, tablesSQL); err != nil {
		return err
	}
	return finishInstall(ctx, tx, p)
}

// finishInstall does all that comes after the tables.
func finishInstall(ctx context.Context, tx pgx.Tx, p Params) error {
	_, err := tx.Exec(ctx, `INSERT INTO mtm.version (version) VALUES ($1)`, SchemaVersion)
	if err != nil {
		return fmt.Errorf("record the version: %w", err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO mtm.node (id, cluster, guard_before, made_role)
		VALUES ($1, $2,
			(SELECT split_part(c, '=', 2) FROM pg_db_role_setting s, unnest(s.setconfig) c
			 WHERE s.setrole = 0 AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
			   AND c LIKE 'default_transaction_read_only=%'),
			coalesce(current_setting('mtm.made_role', true), '') = 'true')`, int(p.NodeID), p.Cluster)
	if err != nil {
		return fmt.Errorf("record the node: %w", err)
	}
	if err := writeNodes(ctx, tx, p.Nodes); err != nil {
		return err
	}
	return execAll(ctx, tx, append(slices.Clone(functionsSQL), setupSQL)...)
}

// SetNodes replaces the configured nodes that mtm.nodes() shows.
func SetNodes(ctx context.Context, conn *pgx.Conn, nodes []Node) error {
	return inTx(ctx, conn, func(tx pgx.Tx) error { return writeNodes(ctx, tx, nodes) })
}

func writeNodes(ctx context.Context, tx pgx.Tx, nodes []Node) error {
	if _, err := tx.Exec(ctx, `DELETE FROM mtm.peers`); err != nil {
		return fmt.Errorf("clear the nodes: %w", err)
	}
	for _, n := range nodes {
		_, err := tx.Exec(ctx, `INSERT INTO mtm.peers VALUES ($1, $2)`, int(n.ID), RedactConnInfo(n.ConnInfo))
		if err != nil {
			return fmt.Errorf("record node %d: %w", n.ID, err)
		}
	}
	return nil
}

// Version is the version of the schema in the database of conn, 0 if there is none. A schema "mtm" that is not ours
// is an error (42P06).
func Version(ctx context.Context, conn *pgx.Conn) (int, error) {
	var exists, ours bool
	err := conn.QueryRow(ctx, `SELECT to_regnamespace('mtm') IS NOT NULL, to_regclass('mtm.version') IS NOT NULL`).
		Scan(&exists, &ours)
	if err != nil {
		return 0, fmt.Errorf("look for the schema mtm: %w", err)
	}
	if !exists {
		return 0, nil
	}
	if !ours {
		return 0, &mtm.Error{Code: "42P06", Msg: `a schema "mtm" exists that is not of the multimaster`,
			Hint: "Rename it: ALTER SCHEMA mtm RENAME TO ..."}
	}
	var version int
	if err := conn.QueryRow(ctx, `SELECT version FROM mtm.version`).Scan(&version); err != nil {
		return 0, fmt.Errorf("read the version of the schema mtm: %w", err)
	}
	return version, nil
}

// Upgrade brings an installed schema to SchemaVersion, in one transaction; the node may be in use. A schema newer than
// this program is an error.
func Upgrade(ctx context.Context, conn *pgx.Conn) error {
	version, err := Version(ctx, conn)
	switch {
	case err != nil:
		return err
	case version == 0:
		return &mtm.Error{Code: "3F000", Msg: "this database belongs to no cluster"}
	case version > SchemaVersion:
		return &mtm.Error{Code: mtm.CodeNotSupported,
			Msg:  fmt.Sprintf("the schema mtm has version %d, this program knows %d", version, SchemaVersion),
			Hint: "Start the newer mtmd that made it."}
	case version == SchemaVersion:
		return nil
	}
	return inTx(ctx, conn, func(tx pgx.Tx) error { return migrate(ctx, tx, version) })
}

func migrate(ctx context.Context, tx pgx.Tx, from int) error {
	for v := from; v < SchemaVersion; v++ {
		if err := execAll(ctx, tx, migrations[v-1]); err != nil {
			return fmt.Errorf("upgrade the schema mtm from version %d: %w", v, err)
		}
	}
	return execAll(ctx, tx, append(slices.Clone(functionsSQL), `UPDATE mtm.version SET version = `+strconv.Itoa(SchemaVersion))...)
}

// Uninstall takes everything away that Install made, the slots and origins of mtm in this database too, and gives
// sequences and replica identities back as the user made them. The daemon must be down (55006), and no transaction
// of the cluster may be left prepared (55000). Without an installation it only clears slots and origins.
func Uninstall(ctx context.Context, conn *pgx.Conn) error {
	version, err := Version(ctx, conn)
	if err != nil {
		return err
	}
	if err := checkIdle(ctx, conn); err != nil {
		return err
	}
	if version != 0 {
		err := inTx(ctx, conn, func(tx pgx.Tx) error { return execAll(ctx, tx, uninstallSQL) })
		if err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
		WHERE slot_name ~ '^mtm(_.*)?$' AND database = current_database()`)
	if err != nil {
		return fmt.Errorf("drop the replication slot: %w", err)
	}
	return nil
}

// checkIdle refuses while somebody still works with what Uninstall would remove.
func checkIdle(ctx context.Context, conn *pgx.Conn) error {
	var holder, reader, prepared int
	err := conn.QueryRow(ctx, `SELECT coalesce((`+holderSQL+`), 0),
		coalesce((SELECT max(active_pid) FROM pg_replication_slots WHERE slot_name ~ '^mtm(_.*)?$' AND database = current_database()), 0),
		(SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'mtm-%' AND database = current_database())`).
		Scan(&holder, &reader, &prepared)
	switch {
	case err != nil:
		return fmt.Errorf("look for users of the schema mtm: %w", err)
	case holder != 0, reader != 0:
		return &mtm.Error{Code: "55006", Msg: "mtmd is running on this database",
			Detail: fmt.Sprintf("Its session is process %d.", max(holder, reader)), Hint: "Stop mtmd first."}
	case prepared != 0:
		return &mtm.Error{Code: "55000",
			Msg:  fmt.Sprintf("%d transactions of the cluster are prepared here and not finished", prepared),
			Hint: "Start mtmd, which finishes them; or end each with ROLLBACK PREPARED, if the cluster is gone."}
	}
	return nil
}

// inTx runs f in a transaction that may write, whatever the database's default, and that nothing of the user's
// settings disturbs.
func inTx(ctx context.Context, conn *pgx.Conn, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite},
		func(tx pgx.Tx) error {
			if err := execAll(ctx, tx, `SET LOCAL client_min_messages = warning; SET LOCAL search_path = pg_catalog, pg_temp`); err != nil {
				return err
			}
			return f(tx)
		})
}

// execAll runs scripts of several statements each.
func execAll(ctx context.Context, tx pgx.Tx, scripts ...string) error {
	for _, script := range scripts {
		if _, err := tx.Conn().PgConn().Exec(ctx, script).ReadAll(); err != nil {
			return scriptError(script, err)
		}
	}
	return nil
}

// scriptError says which line of a script failed: PostgreSQL tells a position in characters.
func scriptError(script string, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Position <= 0 || int(pg.Position) > len(script) {
		return fmt.Errorf("schema mtm: %w", err)
	}
	line := 1
	for _, c := range script[:pg.Position-1] {
		if c == '\n' {
			line++
		}
	}
	return fmt.Errorf("schema mtm, line %d of the script: %w", line, err)
}
