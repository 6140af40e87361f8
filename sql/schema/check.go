package schema

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// The versions of PostgreSQL that are supported, as server_version_num: from minVersion, below maxVersion.
const (
	minVersion = 150000
	maxVersion = 190000
)

// Severity says what a failed check means.
type Severity string

// The severities.
const (
	Fatal   Severity = "fatal"   // the cluster cannot be made
	Warning Severity = "warning" // it can, but somebody should read this
)

// CheckResult is one prerequisite. Detail says what was found, Fix exactly what to do; both are empty if there is nothing to say.
type CheckResult struct {
	Name     string   `json:"name"` // stable, for programs: "wal_level"
	OK       bool     `json:"ok"`
	Severity Severity `json:"severity"`
	Detail   string   `json:"detail,omitempty"`
	Fix      string   `json:"fix,omitempty"`
}

// Failed reports whether any result is fatal.
func Failed(results []CheckResult) bool {
	for _, r := range results {
		if !r.OK && r.Severity == Fatal {
			return true
		}
	}
	return false
}

// CheckParams says what the cluster will ask of one PostgreSQL. Zero values ask for the least that works.
type CheckParams struct {
	Nodes       int  // configured nodes
	Prepared    int  // transactions in flight at a time on this node, those of peers counted; at least 100 are asked for
	Workers     int  // apply workers at most, each of which should have a replication origin
	Connections int  // sessions that mtmd opens: gateway, workers, its own
	MayHoldData bool // it is the only node: the others, which come later, get its data
}

// checker collects results.
type checker struct {
	f   Facts
	p   CheckParams
	out []CheckResult
}

func (c *checker) fatal(name string, ok bool, detail, fix string) {
	c.add(name, Fatal, ok, detail, fix)
}
func (c *checker) warn(name string, ok bool, detail, fix string) {
	c.add(name, Warning, ok, detail, fix)
}

func (c *checker) add(name string, s Severity, ok bool, detail, fix string) {
	if ok {
		fix = ""
	}
	c.out = append(c.out, CheckResult{Name: name, OK: ok, Severity: s, Detail: detail, Fix: fix})
}

// setting is a numeric setting, or the fallback where the server does not have it.
func (c *checker) setting(name string, fallback int) int {
	n, err := strconv.Atoi(c.f.Settings[name])
	if err != nil {
		return fallback
	}
	return n
}

// restart is the advice to change a setting that is read at server start.
func restart(name string, value any) string {
	return fmt.Sprintf("ALTER SYSTEM SET %s = %v; then restart PostgreSQL.", name, value)
}

func reload(name, value string) string {
	return fmt.Sprintf("ALTER SYSTEM SET %s = %s; SELECT pg_reload_conf();", name, value)
}

// Check tells whether the PostgreSQL of conn can be a node, without changing anything. All checks are made and
// told, those that pass too, but for a server too old to be asked. The error is one of asking.
func Check(ctx context.Context, conn *pgx.Conn, p CheckParams) ([]CheckResult, error) {
	f, err := ReadFacts(ctx, conn)
	if err != nil {
		return nil, err
	}
	return CheckFacts(f, p), nil
}

// CheckFacts is Check for facts that were read before.
func CheckFacts(f Facts, p CheckParams) []CheckResult {
	c := &checker{f: f, p: p}
	supported := f.Version >= minVersion && f.Version < maxVersion
	c.fatal("version", supported, "PostgreSQL "+versionText(f.Version), "Use PostgreSQL 15, 16, 17 or 18.")
	if f.Version < minVersion {
		return c.out
	}
	c.role()
	c.durability()
	c.capacity()
	c.slots()
	c.cluster()
	c.content()
	return c.out
}

// versionText is "15.18" for 150018.
func versionText(v int) string { return fmt.Sprintf("%d.%d", v/10000, v%10000) }

func (c *checker) role() {
	c.fatal("superuser", c.f.Superuser, "connected as "+c.f.User,
		"Let mtmd connect as a superuser, or: ALTER ROLE "+pgx.Identifier{c.f.User}.Sanitize()+" SUPERUSER;")
	state := "primary"
	if c.f.InRecovery {
		state = "standby"
	}
	c.fatal("primary", !c.f.InRecovery, "this server is a "+state, "Promote it: SELECT pg_promote();")
}

func (c *checker) durability() {
	is := func(name, want string) (bool, string) {
		return c.f.Settings[name] == want, name + " = " + c.f.Settings[name]
	}
	ok, detail := is("wal_level", "logical")
	c.fatal("wal_level", ok, detail, restart("wal_level", "logical"))
	ok, detail = is("fsync", "on")
	c.fatal("fsync", ok, detail, reload("fsync", "on"))
	ok, detail = is("full_page_writes", "on")
	c.fatal("full_page_writes", ok, detail, reload("full_page_writes", "on"))
	if _, known := c.f.Settings["event_triggers"]; known {
		ok, detail = is("event_triggers", "on")
		c.fatal("event_triggers", ok, detail, reload("event_triggers", "on"))
	}
	standbys := c.f.Settings["synchronous_standby_names"]
	c.warn("synchronous_standby_names", standbys == "", fmt.Sprintf("synchronous_standby_names = '%s'", standbys),
		"Each commit will wait for that standby, too, on this node. If that is not wanted: "+reload("synchronous_standby_names", "''"))
}

// otherOrigins are the replication origins that are not of apply workers: recovery's, and those of the sessions that end prepared transactions.
const otherOrigins = 1 + 4

// capacity checks what is bounded by a setting and shared with others: so much must be free.
func (c *checker) capacity() {
	prepared := max(c.p.Prepared, 100)
	have := c.setting("max_prepared_transactions", 0)
	c.fatal("max_prepared_transactions", have >= prepared, fmt.Sprintf("max_prepared_transactions = %d, needed %d", have, prepared),
		restart("max_prepared_transactions", prepared))

	c.free("replication_slots", "max_replication_slots", c.f.SlotsUsed, 2) // the second while the slot is replaced (logrep, Capture.Renew)
	c.free("wal_senders", "max_wal_senders", c.f.SendersUsed, 2)
	origins := "max_replication_slots"
	if _, known := c.f.Settings["max_active_replication_origins"]; known { // 18
		origins = "max_active_replication_origins"
	}
	used, least := c.f.OriginsUsed-len(c.f.MtmOrigins), max(c.p.Nodes, 1)+otherOrigins
	c.free("replication_origins", origins, used, least)
	left, all := c.setting(origins, 0)-used, c.p.Workers+otherOrigins
	c.warn("replication_origins_of_workers", left >= all || left < least, fmt.Sprintf("%s = %d, in use %d, used by mtmd %d at most", origins, left+used, used, all),
		"What a worker without an origin applies is sent to mtmd once more, for nothing: "+restart(origins, used+all))

	reserved := c.setting("superuser_reserved_connections", 0) + c.setting("reserved_connections", 0)
	limit := c.setting("max_connections", 0)
	need := c.f.Connections + reserved + c.p.Connections
	c.fatal("max_connections", limit >= need, fmt.Sprintf("max_connections = %d, in use %d, reserved %d, needed by mtmd %d",
		limit, c.f.Connections, reserved, c.p.Connections), restart("max_connections", need))
	c.warn("connection_limit", c.f.ConnLimit < 0 || c.f.ConnLimit >= c.p.Connections,
		fmt.Sprintf("connection limit of the database: %d", c.f.ConnLimit),
		"ALTER DATABASE "+pgx.Identifier{c.f.Database}.Sanitize()+" CONNECTION LIMIT -1;")
}

func (c *checker) free(name, setting string, used, need int) {
	have := c.setting(setting, 0)
	c.fatal(name, have-used >= need, fmt.Sprintf("%s = %d, in use %d, needed %d", setting, have, used, need),
		restart(setting, used+need))
}

// slots checks that PostgreSQL will not throw our slot away behind our back.
func (c *checker) slots() {
	keep := c.setting("max_slot_wal_keep_size", -1)
	c.warn("max_slot_wal_keep_size", keep < 0, fmt.Sprintf("max_slot_wal_keep_size = %d MB", keep),
		"A slot that falls behind so far is lost, and the node needs a fresh copy: "+reload("max_slot_wal_keep_size", "-1"))
	idle := c.setting("idle_replication_slot_timeout", 0)
	c.warn("idle_replication_slot_timeout", idle == 0, fmt.Sprintf("idle_replication_slot_timeout = %d s", idle),
		"While mtmd is down its slot may be lost: "+reload("idle_replication_slot_timeout", "0"))
}

// cluster checks that nothing of ours is here, from a cluster that lives or one that died.
func (c *checker) cluster() {
	c.fatal("not_in_cluster", c.f.Installed == 0, fmt.Sprintf("schema mtm: version %d", c.f.Installed),
		"This database belongs to a cluster already. Choose another, or take it out of that cluster first.")
	c.fatal("name_mtm", !c.f.ForeignSchema && (!c.f.HasPublication || c.f.Installed != 0), "schema or publication \"mtm\" of the user's",
		"ALTER SCHEMA mtm RENAME TO …; or ALTER PUBLICATION mtm RENAME TO …;")
	c.fatal("no_old_slots", len(c.f.MtmSlots) == 0, list(c.f.MtmSlots),
		"Left by an earlier cluster. For each: SELECT pg_drop_replication_slot('…');")
	c.fatal("no_old_origins", len(c.f.MtmOrigins) == 0, list(c.f.MtmOrigins),
		"Left by an earlier cluster, or of one in another database of this server. For each: "+
			"SELECT pg_replication_origin_drop('…');")
	c.fatal("no_prepared_transactions", len(c.f.Prepared) == 0, list(c.f.Prepared),
		"A replication slot cannot be made before they end. For each: COMMIT PREPARED '…'; or ROLLBACK PREPARED '…';")
}

func (c *checker) content() {
	found := append(append([]string{}, c.f.Tables...), c.f.OtherObjects...)
	detail := ""
	if len(found) > 0 {
		detail = fmt.Sprintf("%d objects: %s", len(found), list(found))
	}
	c.fatal("empty", c.f.Empty() || c.p.MayHoldData, detail,
		"The database must hold nothing when a cluster of several is made. Begin with the node that has the data, alone (init-cluster with "+
			"that --node only), and let add-node copy it to the others, whose databases are empty.")
	c.warn("large_objects", c.f.LargeObjects == 0, fmt.Sprintf("%d large objects", c.f.LargeObjects),
		"Large objects are not replicated. Use bytea.")
	c.warn("keys", len(c.f.Keyless) == 0, list(c.f.Keyless),
		"Tables without a primary key are replicated by whole rows, which is slow for UPDATE and DELETE. For each: "+
			"ALTER TABLE … ADD PRIMARY KEY (…);")
	c.warn("unlogged_tables", len(c.f.Unlogged) == 0, list(c.f.Unlogged),
		"Unlogged tables are local to each node. If that is not wanted: ALTER TABLE … SET LOGGED;")
	c.warn("subscriptions", len(c.f.Subscriptions) == 0, list(c.f.Subscriptions),
		"What a subscription writes does not pass through the gateway, and reaches this node only. DROP SUBSCRIPTION …;")
	c.warn("read_only_guard", len(c.f.GuardOff) == 0, list(c.f.GuardOff),
		"These roles can write past the gateway. For each: ALTER ROLE … RESET default_transaction_read_only;")
	c.warn("direct_sessions", len(c.f.Sessions) == 0, list(c.f.Sessions),
		"What is connected already can go on writing past the gateway. Once the cluster is made, end it: SELECT pg_terminate_backend(PID);")
}

// list shows the first few of names.
func list(names []string) string {
	const shown = 10
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s, … (%d in all)", strings.Join(names[:shown], ", "), len(names))
}
