package schema

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// failed lists the names of the checks that failed.
func failed(results []CheckResult) []string {
	names := []string{}
	for _, r := range results {
		if !r.OK {
			names = append(names, r.Name)
		}
	}
	return names
}

func result(t *testing.T, results []CheckResult, name string) CheckResult {
	i := slices.IndexFunc(results, func(r CheckResult) bool { return r.Name == name })
	require.GreaterOrEqual(t, i, 0, name)
	return results[i]
}

func TestCheckOfAnEmptyDatabase(t *testing.T) {
	conn := connectAs(t, newDatabase(t), "postgres")
	results, err := Check(testContext(t), conn, CheckParams{Nodes: 3, Prepared: 300, Workers: 16, Connections: 40})
	require.NoError(t, err)
	require.Empty(t, failed(results))
	require.False(t, Failed(results))
}

func TestCheckFindsContent(t *testing.T) {
	conn := connectAs(t, newDatabase(t), "postgres")
	mustExec(t, conn, `CREATE TABLE nokey (a int); CREATE TABLE key (a int PRIMARY KEY); CREATE UNLOGGED TABLE u (a int PRIMARY KEY);
		CREATE VIEW v AS SELECT 1; CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1; CREATE TYPE e AS ENUM ('x'); CREATE SCHEMA s;
		SELECT lo_create(0)`)
	mustExec(t, conn, `BEGIN; SELECT 1 FROM key FOR UPDATE; PREPARE TRANSACTION 'mine'`)
	mustExec(t, conn, `SELECT pg_replication_origin_create('mtm_w1')`)
	results, err := Check(testContext(t), conn, CheckParams{})
	mustExec(t, conn, `ROLLBACK PREPARED 'mine'`)
	require.NoError(t, err)
	require.Equal(t, []string{"no_old_origins", "no_prepared_transactions", "empty", "large_objects", "keys", "unlogged_tables"}, failed(results))
	require.Equal(t, "public.nokey", result(t, results, "keys").Detail)
	require.Equal(t, Warning, result(t, results, "keys").Severity)
	require.Equal(t, "mine", result(t, results, "no_prepared_transactions").Detail)
	require.Equal(t, "7 objects: public.key, public.nokey, public.u, function public.f(), schema s, type public.e, view public.v", result(t, results, "empty").Detail)
	require.Contains(t, result(t, results, "no_old_origins").Fix, "pg_replication_origin_drop")
	results, err = Check(testContext(t), conn, CheckParams{MayHoldData: true})
	require.NoError(t, err)
	require.Equal(t, []string{"no_old_origins", "large_objects", "keys", "unlogged_tables"}, failed(results))
	mustExec(t, conn, `SELECT pg_replication_origin_drop('mtm_w1')`)
}

func TestCheckOfANodeOfACluster(t *testing.T) {
	conn := newNode(t, 1)
	results, err := Check(testContext(t), conn, CheckParams{})
	require.NoError(t, err)
	require.Equal(t, []string{"not_in_cluster"}, failed(results)) // what we made is not the user's content
	mustExec(t, conn, `DROP SCHEMA mtm CASCADE; CREATE SCHEMA mtm`)
	results, err = Check(testContext(t), conn, CheckParams{})
	require.NoError(t, err)
	require.Equal(t, []string{"name_mtm"}, failed(results))
}

func TestCheckOfAnOrdinaryRole(t *testing.T) {
	conn := connectAs(t, newDatabase(t), "postgres")
	mustExec(t, conn, `DO $$ BEGIN CREATE ROLE ordinary LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
		ALTER ROLE ordinary SET default_transaction_read_only = off`)
	results, err := Check(testContext(t), connectAs(t, conn.Config().Database, "ordinary"), CheckParams{})
	require.NoError(t, err)
	require.Equal(t, []string{"superuser", "read_only_guard"}, failed(results))
	require.Contains(t, result(t, results, "superuser").Fix, `ALTER ROLE "ordinary" SUPERUSER`)
	mustExec(t, conn, `ALTER ROLE ordinary RESET default_transaction_read_only`)
}

// goodFacts is what a server that passes tells.
func goodFacts(t *testing.T) Facts {
	f, err := ReadFacts(testContext(t), connectAs(t, newDatabase(t), "postgres"))
	require.NoError(t, err)
	require.Empty(t, failed(CheckFacts(f, CheckParams{Nodes: 3})))
	return f
}

func TestEachSettingIsChecked(t *testing.T) {
	good := goodFacts(t)
	for _, tc := range []struct{ setting, value, check, fix string }{
		{"wal_level", "replica", "wal_level", "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL."},
		{"max_prepared_transactions", "0", "max_prepared_transactions", "ALTER SYSTEM SET max_prepared_transactions = 200; then restart PostgreSQL."},
		{"max_wal_senders", "1", "wal_senders", "ALTER SYSTEM SET max_wal_senders = 2; then restart PostgreSQL."},
		{"max_connections", "20", "max_connections", ""},
		{"fsync", "off", "fsync", "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();"},
		{"full_page_writes", "off", "full_page_writes", "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();"},
		{"event_triggers", "off", "event_triggers", "ALTER SYSTEM SET event_triggers = on; SELECT pg_reload_conf();"},
		{"max_slot_wal_keep_size", "100", "max_slot_wal_keep_size", ""},
		{"idle_replication_slot_timeout", "60", "idle_replication_slot_timeout", ""},
		{"synchronous_standby_names", "s1", "synchronous_standby_names", ""},
		{"max_active_replication_origins", "7", "replication_origins", "ALTER SYSTEM SET max_active_replication_origins = 8; then restart PostgreSQL."},
		{"max_active_replication_origins", "20", "replication_origins_of_workers", ""},
	} {
		bad := good
		bad.Settings = maps.Clone(good.Settings)
		bad.Settings[tc.setting] = tc.value
		results := CheckFacts(bad, CheckParams{Nodes: 3, Prepared: 200, Workers: 16, Connections: 40})
		require.Equal(t, []string{tc.check}, failed(results))
		r := result(t, results, tc.check)
		require.NotEmpty(t, r.Fix)
		if tc.fix != "" {
			require.Equal(t, tc.fix, r.Fix)
		}
	}
}

func TestEachFactIsChecked(t *testing.T) {
	good := goodFacts(t)
	for check, spoil := range map[string]func(*Facts){
		"version":          func(f *Facts) { f.Version = 190000 },
		"primary":          func(f *Facts) { f.InRecovery = true },
		"no_old_slots":     func(f *Facts) { f.MtmSlots = []string{"mtm"} },
		"subscriptions":    func(f *Facts) { f.Subscriptions = []string{"s"} },
		"connection_limit": func(f *Facts) { f.ConnLimit = 3 },
		"replication_slots": func(f *Facts) {
			f.Settings = map[string]string{"wal_level": "logical", "fsync": "on", "full_page_writes": "on", "max_prepared_transactions": "100",
				"max_replication_slots": "5", "max_active_replication_origins": "8", "max_wal_senders": "5", "max_connections": "50"}
			f.SlotsUsed = 4 // one is free, and two are needed when a node is back
		},
	} {
		bad := good
		spoil(&bad)
		require.Equal(t, []string{check}, failed(CheckFacts(bad, CheckParams{Nodes: 3, Connections: 10})))
	}
	require.Len(t, CheckFacts(Facts{Version: 140005}, CheckParams{}), 1)
	require.Equal(t, "PostgreSQL 14.5", CheckFacts(Facts{Version: 140005}, CheckParams{})[0].Detail)
}

func TestCompare(t *testing.T) {
	good := goodFacts(t)
	three := func(spoil func(*Facts)) map[mtm.NodeID]Facts {
		facts := map[mtm.NodeID]Facts{}
		for id, system := range map[mtm.NodeID]string{1: "11", 2: "22", 3: "33"} {
			f := good
			f.SystemIdentifier = system
			if id == 3 {
				spoil(&f)
			}
			facts[id] = f
		}
		return facts
	}
	require.Empty(t, failed(Compare(three(func(*Facts) {}))))
	for check, spoil := range map[string]func(*Facts){
		"same_encoding":           func(f *Facts) { f.Encoding = "LATIN1" },
		"same_collation_provider": func(f *Facts) { f.Provider = "icu" },
		"same_collate":            func(f *Facts) { f.Collate = "de_DE.utf8" },
		"same_ctype":              func(f *Facts) { f.Ctype = "de_DE.utf8" },
		"same_locale":             func(f *Facts) { f.Locale = "und" },
		"same_collation_version":  func(f *Facts) { f.CollationVersion = "2.31" },
		"same_major_version":      func(f *Facts) { f.Version = 140000 },
		"same_database":           func(f *Facts) { f.Database = "other" },
		"same_default_isolation":  func(f *Facts) { f.Settings = nil },
		"distinct_servers":        func(f *Facts) { f.SystemIdentifier = "11" },
		"same_roles":              func(f *Facts) { f.Roles = append([]string{"extra"}, f.Roles...) },
	} {
		results := Compare(three(spoil))
		require.Equal(t, []string{check}, failed(results))
		require.NotEmpty(t, result(t, results, check).Fix)
		require.NotEmpty(t, result(t, results, check).Detail)
	}
	require.Equal(t, "LATIN1 on node 3; UTF8 on nodes 1, 2",
		result(t, Compare(three(func(f *Facts) { f.Encoding = "LATIN1" })), "same_encoding").Detail)
	require.Equal(t, libcName("en_US.UTF-8"), libcName("en_US.utf8"))
}

func TestFactsTravelAsJSON(t *testing.T) {
	good := goodFacts(t)
	text, err := json.Marshal(good)
	require.NoError(t, err)
	var back Facts
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, good, back)
	require.True(t, good.Empty())
	require.NotEmpty(t, good.SystemIdentifier)
	require.Equal(t, "libc", good.Provider)
}
