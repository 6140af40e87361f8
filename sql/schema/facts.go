package schema

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// Facts is what must be known of a PostgreSQL before it joins a cluster. It travels to the other nodes as JSON. Fields
// that the server's version does not know are zero.
type Facts struct {
	Version          int    // server_version_num, 150018
	SystemIdentifier string // of the data directory, decimal
	Database         string
	User             string
	Superuser        bool
	InRecovery       bool
	Settings         map[string]string // of settingNames, as SHOW prints numbers without units

	Encoding         string // of the database
	Collate          string
	Ctype            string
	Provider         string // "libc", "icu" or "builtin"
	Locale           string // of icu and builtin
	CollationVersion string // what the server's library has now; empty for C, POSIX and builtin

	SlotsUsed      int
	OriginsUsed    int
	SendersUsed    int
	Connections    int // client sessions now
	ConnLimit      int // of the database; -1: none
	Tables         []string
	Keyless        []string // among Tables, those without a primary key that could be a replica identity
	Unlogged       []string
	OtherObjects   []string // "view public.v", "function f(integer)": user objects that are no tables
	LargeObjects   int64
	Prepared       []string // prepared transactions of this database
	MtmSlots       []string
	MtmOrigins     []string
	Subscriptions  []string
	GuardOff       []string // roles whose own default_transaction_read_only is off
	Sessions       []string // others' sessions in this database, by pid, with their application_name
	Roles          []string // all roles of the server but the predefined ones
	Installed      int      // Version()
	ForeignSchema  bool     // a schema mtm that is not ours
	HasPublication bool     // a publication mtm
}

// Empty reports whether the database holds nothing of a user's.
func (f Facts) Empty() bool {
	return len(f.Tables) == 0 && len(f.OtherObjects) == 0 && f.LargeObjects == 0
}

// listLimit bounds each list of Facts: they are to be read by people.
const listLimit = 1000

// settingNames are what Check looks at. Some are unknown to some versions.
var settingNames = []string{
	"wal_level", "max_prepared_transactions", "max_replication_slots", "max_active_replication_origins", "max_wal_senders",
	"max_connections", "superuser_reserved_connections", "reserved_connections", "fsync", "full_page_writes", "event_triggers",
	"max_slot_wal_keep_size", "idle_replication_slot_timeout", "synchronous_standby_names", "default_transaction_isolation",
}

// userObject is the condition that the object of pg_class, pg_proc, … with the alias o belongs to the user: not to the system,
// not to us, not to an extension.
func userObject(catalog, namespace string) string {
	return `o.oid >= 16384 AND o.` + namespace + ` NOT IN (SELECT oid FROM pg_namespace
			WHERE nspname IN ('pg_catalog', 'information_schema', 'mtm') OR nspname ~ '^pg_(toast|temp)')
		AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = '` + catalog + `'::regclass AND d.objid = o.oid AND d.deptype = 'e')`
}

var userRelation = userObject("pg_class", "relnamespace")

var factsSQL = `SELECT current_setting('server_version_num')::int,
	(SELECT system_identifier::text FROM pg_control_system()),
	current_database(), current_user::text,
	(SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
	pg_is_in_recovery(),
	(SELECT json_object_agg(name, setting) FROM pg_settings WHERE name = ANY ($1)),
	pg_encoding_to_char(d.encoding), coalesce(d.datcollate, ''), coalesce(d.datctype, ''),
	CASE d.datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE d.datlocprovider::text END,
	coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', ''),
	CASE WHEN d.datlocprovider = 'b' THEN '' ELSE coalesce(pg_database_collation_actual_version(d.oid), '') END,
	(SELECT count(*) FROM pg_replication_slots),
	(SELECT count(*) FROM pg_replication_origin),
	(SELECT count(*) FROM pg_stat_replication),
	(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
	d.datconnlimit,
	ARRAY(SELECT o.oid::regclass::text FROM pg_class o
		WHERE o.relkind IN ('r', 'p') AND ` + userRelation + ` ORDER BY 1 LIMIT $2),
	ARRAY(SELECT o.oid::regclass::text FROM pg_class o
		WHERE o.relkind = 'r' AND o.relpersistence = 'p' AND ` + userRelation + `
			AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = o.oid AND x.indisvalid AND x.indimmediate
			AND (x.indisprimary OR x.indisreplident)) ORDER BY 1 LIMIT $2),
	ARRAY(SELECT o.oid::regclass::text FROM pg_class o
		WHERE o.relkind = 'r' AND o.relpersistence = 'u' AND ` + userRelation + ` ORDER BY 1 LIMIT $2),
	ARRAY(SELECT pg_describe_object('pg_class'::regclass, o.oid, 0) FROM pg_class o
			WHERE o.relkind NOT IN ('r', 'p', 'i', 'I', 't') AND ` + userRelation + `
		UNION ALL SELECT pg_describe_object('pg_proc'::regclass, o.oid, 0) FROM pg_proc o WHERE ` + userObject("pg_proc", "pronamespace") + `
		UNION ALL SELECT pg_describe_object('pg_type'::regclass, o.oid, 0) FROM pg_type o
			WHERE o.typtype IN ('d', 'e', 'r') AND ` + userObject("pg_type", "typnamespace") + `
		UNION ALL SELECT 'schema ' || quote_ident(o.nspname) FROM pg_namespace o
			WHERE ` + userObject("pg_namespace", "oid") + ` AND o.nspname NOT IN ('public', 'mtm') AND o.nspname !~ '^pg_'
		UNION ALL SELECT 'extension ' || quote_ident(extname) FROM pg_extension WHERE extname <> 'plpgsql'
		ORDER BY 1 LIMIT $2),
	(SELECT count(*) FROM pg_largeobject_metadata),
	ARRAY(SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY 1 LIMIT $2),
	ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE slot_name ~ '^mtm(_.*)?$' AND database = current_database() ORDER BY 1),
	ARRAY(SELECT roname FROM pg_replication_origin WHERE roname ~ '^mtm([^a-z].*)?$' ORDER BY 1),
	ARRAY(SELECT subname::text FROM pg_subscription WHERE subdbid = d.oid ORDER BY 1),
	ARRAY(SELECT DISTINCT r.rolname::text FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c
		WHERE s.setdatabase IN (0, d.oid) AND c IN ('default_transaction_read_only=off', 'default_transaction_read_only=false',
			'default_transaction_read_only=no', 'default_transaction_read_only=0') ORDER BY 1),
	ARRAY(SELECT pid || ' ' || quote_literal(application_name) FROM pg_stat_activity WHERE datid = d.oid AND backend_type = 'client backend'
		AND pid <> pg_backend_pid() AND application_name !~ '^mtm_' ORDER BY pid LIMIT $2),
	ARRAY(SELECT rolname::text FROM pg_roles WHERE oid >= 16384 OR oid = 10 ORDER BY 1 LIMIT $2),
	EXISTS (SELECT FROM pg_publication WHERE pubname = 'mtm')
FROM pg_database d WHERE d.datname = current_database()`

// ReadFacts collects Facts in a read-only transaction. A user who is no superuser gets those that he may see.
func ReadFacts(ctx context.Context, conn *pgx.Conn) (Facts, error) {
	var f Facts
	version, err := Version(ctx, conn)
	var e *mtm.Error
	if errors.As(err, &e) && e.Code == "42P06" {
		f.ForeignSchema = true
	} else if err != nil && !denied(err) {
		return Facts{}, err
	}
	f.Installed = version
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := execAll(ctx, tx, `SET LOCAL search_path = pg_catalog, pg_temp`); err != nil {
			return err
		}
		if f.Version, err = serverVersion(ctx, tx); err != nil || f.Version < minVersion {
			return err // the statement below would not be understood
		}
		return tx.QueryRow(ctx, factsSQL, settingNames, listLimit).Scan(&f.Version, &f.SystemIdentifier, &f.Database, &f.User, &f.Superuser,
			&f.InRecovery, &f.Settings, &f.Encoding, &f.Collate, &f.Ctype, &f.Provider, &f.Locale, &f.CollationVersion,
			&f.SlotsUsed, &f.OriginsUsed, &f.SendersUsed, &f.Connections, &f.ConnLimit, &f.Tables, &f.Keyless, &f.Unlogged, &f.OtherObjects,
			&f.LargeObjects, &f.Prepared, &f.MtmSlots, &f.MtmOrigins, &f.Subscriptions, &f.GuardOff, &f.Sessions, &f.Roles, &f.HasPublication)
	})
	if err != nil {
		return Facts{}, fmt.Errorf("read the facts of the server: %w", err)
	}
	return f, nil
}

func serverVersion(ctx context.Context, tx pgx.Tx) (v int, err error) {
	err = tx.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&v)
	return v, err
}

func denied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}
