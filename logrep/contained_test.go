package logrep

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a statement calls has the rights of who ran it, and cannot go back to those of the worker.
func TestDDLHasTheRightsOfItsRole(t *testing.T) {
	setup := "DO $$ BEGIN CREATE ROLE weak; EXCEPTION WHEN duplicate_object THEN NULL; END $$; CREATE SCHEMA own AUTHORIZATION weak; " +
		"CREATE TABLE own.did (what text); ALTER TABLE own.did OWNER TO weak; GRANT USAGE ON SCHEMA mtm TO PUBLIC; "
	try := "BEGIN EXECUTE what; INSERT INTO own.did SELECT what || ': ' || current_user WHERE current_user <> 'weak'; RETURN v; " +
		"EXCEPTION WHEN OTHERS THEN INSERT INTO own.did SELECT what || ' fails ' || session_user; RETURN v; END"
	setup += "CREATE FUNCTION own.evil(v int, what text) RETURNS int LANGUAGE plpgsql AS $$" + try + "$$; ALTER FUNCTION own.evil OWNER TO weak; "
	// An operator that comes before PostgreSQL's own, where somebody looks for it.
	setup += "CREATE FUNCTION own.eq(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN INSERT INTO own.did SELECT 'operator: ' || current_user WHERE current_user <> 'weak'; RETURN true; END $$; " +
		"CREATE OPERATOR own.= (LEFTARG = text, RIGHTARG = text, FUNCTION = own.eq); CREATE TABLE own.t (id int PRIMARY KEY, v int); ALTER TABLE own.t OWNER TO weak; ALTER OPERATOR own.= (text, text) OWNER TO weak"
	p := newPair(t, setup)
	p.commit("INSERT INTO own.t VALUES (1, 1)")
	n := 0
	for _, what := range []string{"RESET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION postgres", "RESET ROLE", "SET ROLE postgres", "SELECT set_config($q$session_authorization$q$, $q$postgres$q$, false)",
		"SET search_path = own, pg_catalog", "PREPARE s1 AS SELECT own.evil(1, $q$RESET SESSION AUTHORIZATION$q$)", "SET mtm.usual_path = $q$own, pg_catalog$q$"} {
		n++
		d := ddlMessage{SessionUser: "weak", Role: "weak", SearchPath: "own, pg_catalog",
			Text: fmt.Sprintf("ALTER TABLE own.t ADD CHECK (own.evil(v, %s) = v), ADD c%d int", quoteLiteral(what), n)}
		steps := ddl(d)
		steps[1] = "SELECT 1" // it would go through here, where the session is a superuser's
		p.a.exec(fmt.Sprintf("ALTER TABLE own.t ADD c%d int", n))
		c := p.commit(steps...)
		require.NotZero(t, c.lsn)
		p.b.exec(fmt.Sprintf("DO $$ DECLARE c name; BEGIN FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = 'own.t'::regclass AND contype = 'c' LOOP EXECUTE 'ALTER TABLE own.t DROP CONSTRAINT ' || c; END LOOP; END $$"))
		p.commit(fmt.Sprintf("INSERT INTO own.t VALUES (%d, 1)", 10+n), fmt.Sprintf("UPDATE own.t SET v = 2 WHERE id = %d", 10+n))
	}
	got := p.b.rows("SELECT DISTINCT what FROM own.did ORDER BY 1")
	for _, line := range got {
		require.Regexp(t, " fails weak$", line)
	}
	require.Len(t, got, 6, "the others are allowed, and change nothing of the worker's: %v", got)
	require.Empty(t, p.b.rows("SELECT 1 FROM pg_proc WHERE proname LIKE 'run mtm%'"))
	temporary := ddl(ddlMessage{SessionUser: "weak", Role: "weak", Text: "ALTER TABLE own.t ADD CHECK (own.evil(v, 'CREATE TEMP TABLE pg_class (a int)') = v)"})
	temporary[1] = "SELECT 1"
	c := p.prepare(temporary...)
	require.Equal(t, "0A000", p.apply(c).Code)
	p.finish(c.gid, false)
	p.commit("DELETE FROM own.t WHERE id > 5")
	p.same("own.t")
}

// What the indexes, checks, generated columns, domains and partition keys of a table call has the rights of the table's owner.
func TestRowsHaveTheRightsOfTheirOwner(t *testing.T) {
	setup := "DO $$ BEGIN CREATE ROLE weak; EXCEPTION WHEN duplicate_object THEN NULL; END $$; CREATE SCHEMA own AUTHORIZATION weak; GRANT USAGE ON SCHEMA mtm TO PUBLIC; " +
		"CREATE TABLE own.did (what text); ALTER TABLE own.did OWNER TO weak; " +
		`CREATE FUNCTION own.work(v text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
			BEGIN EXECUTE v; EXCEPTION WHEN OTHERS THEN NULL; END; INSERT INTO own.did VALUES (current_user || ' ' || v); END $$; ` +
		"CREATE FUNCTION own.evil(v text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM own.work(v); RETURN 1; END $$; " + // not so immutable
		"ALTER FUNCTION own.work OWNER TO weak; ALTER FUNCTION own.evil OWNER TO weak; CREATE DOMAIN own.d AS text CHECK (own.evil(VALUE) = 1); CREATE TYPE own.pair AS (a own.d); " +
		"CREATE FUNCTION own.twice(v text) RETURNS text IMMUTABLE LANGUAGE sql RETURN v || v; CREATE TABLE own.plain (id int PRIMARY KEY, v text)"
	p := newPair(t, setup,
		"CREATE TABLE own.expr (id int PRIMARY KEY, v text); CREATE INDEX ON own.expr (own.evil(v)); ALTER TABLE own.expr OWNER TO weak",
		"CREATE TABLE own.pred (id int PRIMARY KEY, v text); CREATE INDEX ON own.pred (id) WHERE own.evil(v) = 1; ALTER TABLE own.pred OWNER TO weak",
		"CREATE TABLE own.checked (id int PRIMARY KEY, v text CHECK (own.evil(v) = 1)); ALTER TABLE own.checked OWNER TO weak",
		"CREATE TABLE own.gen (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (own.evil(v)) STORED); ALTER TABLE own.gen OWNER TO weak",
		"CREATE TABLE own.dom (id int PRIMARY KEY, v own.d); ALTER TABLE own.dom OWNER TO weak",
		"CREATE TABLE own.many (id int, v own.d[]); ALTER TABLE own.many OWNER TO weak; ALTER TABLE own.many REPLICA IDENTITY FULL",
		"CREATE TABLE own.comp (id int PRIMARY KEY, v own.pair); ALTER TABLE own.comp OWNER TO weak",
		"CREATE TABLE own.parts (id int, v text) PARTITION BY LIST (own.evil(v)); CREATE TABLE own.parts_1 PARTITION OF own.parts FOR VALUES IN (1); ALTER TABLE own.parts OWNER TO weak; ALTER TABLE own.parts_1 OWNER TO weak; ALTER TABLE own.parts_1 REPLICA IDENTITY FULL",
		"CREATE VIEW own.seen AS SELECT own.evil('RESET ROLE') AS e; ALTER VIEW own.seen OWNER TO weak; "+
			"CREATE TABLE own.builtin (id int PRIMARY KEY, v text CHECK (table_to_xml('own.seen', true, false, '') IS NOT NULL)); ALTER TABLE own.builtin OWNER TO weak")
	p.a.exec("CREATE OR REPLACE FUNCTION own.evil(v text) RETURNS int IMMUTABLE LANGUAGE sql RETURN 1") // where the transaction runs it would be in its own right
	for _, what := range []string{"RESET SESSION AUTHORIZATION", "RESET ROLE", "SET ROLE postgres", "SET search_path = own, pg_catalog", "DEALLOCATE ALL", "SET client_encoding = GBK"} {
		for _, table := range []string{"expr", "pred", "checked", "gen", "dom", "many", "comp", "parts", "builtin"} {
			value := quoteLiteral(what)
			switch table {
			case "many":
				value = "ARRAY[" + value + "]::own.d[]"
			case "comp":
				value = "ROW(" + value + ")::own.pair"
			}
			insert := fmt.Sprintf("INSERT INTO own.%s (id, v) VALUES (%%d, %s)", table, value)
			p.commit(fmt.Sprintf(insert, 1), "INSERT INTO own.plain VALUES (1, 'é''\\')", fmt.Sprintf(insert, 2),
				fmt.Sprintf("UPDATE own.%s SET id = 3 WHERE id = 1", table), "UPDATE own.plain SET v = v || ' more' WHERE id = 1", "DELETE FROM own.plain",
				fmt.Sprintf("INSERT INTO own.%s (id, v) SELECT g, %s FROM generate_series(10, 62) g", table, value))
			p.commit(fmt.Sprintf("DELETE FROM own.%s", table))
		}
	}
	require.Empty(t, p.b.rows("SELECT DISTINCT what FROM own.did WHERE what !~ '^weak '"))
	for _, table := range []string{"expr", "pred", "checked", "gen", "dom", "many", "comp", "parts_1", "builtin", "plain"} {
		p.same("own." + table)
	}
	require.Len(t, p.b.rows("SELECT DISTINCT what FROM own.did"), 6)
	require.Empty(t, p.b.rows("SELECT 1 FROM pg_proc WHERE proname LIKE 'run mtm%'"))
}

// An owner who may not write his table, or whom row security binds, may all the same where rows of other nodes are applied, but what the
// table calls may no more than he.
func TestRowsOfOwnersWithoutRights(t *testing.T) {
	setup := "DO $$ BEGIN CREATE ROLE weak; EXCEPTION WHEN duplicate_object THEN NULL; END $$; CREATE SCHEMA own AUTHORIZATION weak; GRANT USAGE ON SCHEMA mtm TO PUBLIC; " +
		"CREATE TABLE own.did (what text); ALTER TABLE own.did OWNER TO weak; CREATE SCHEMA other; CREATE TABLE other.secret (v int); " +
		`CREATE FUNCTION own.work(v text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
			PERFORM FROM other.secret; INSERT INTO own.did VALUES ('all is lost'); EXCEPTION WHEN insufficient_privilege THEN INSERT INTO own.did VALUES (current_user); END $$; ` +
		"CREATE FUNCTION own.evil(v text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM own.work(v); RETURN 1; END $$; "
	tables := []string{"revoked", "bound", "keyless", "shut.away"}
	p := newPair(t, setup,
		"CREATE TABLE own.revoked (id int PRIMARY KEY, v text, n int GENERATED ALWAYS AS IDENTITY, g text GENERATED ALWAYS AS (v || v) STORED); CREATE INDEX ON own.revoked (own.evil(v)); ALTER TABLE own.revoked OWNER TO weak; REVOKE ALL ON own.revoked FROM weak",
		"CREATE TABLE own.bound (id int PRIMARY KEY, v text CHECK (own.evil(v) = 1)); ALTER TABLE own.bound ENABLE ROW LEVEL SECURITY; ALTER TABLE own.bound FORCE ROW LEVEL SECURITY; CREATE POLICY p ON own.bound USING (false); ALTER TABLE own.bound OWNER TO weak",
		"CREATE TABLE own.keyless (id int, v text CHECK (own.evil(v) = 1)); ALTER TABLE own.keyless OWNER TO weak; ALTER TABLE own.keyless REPLICA IDENTITY FULL; REVOKE ALL ON own.keyless FROM weak",
		"CREATE SCHEMA shut; CREATE TABLE shut.away (id int PRIMARY KEY, v text CHECK (own.evil(v) = 1)); GRANT CREATE ON SCHEMA shut TO weak; ALTER TABLE shut.away OWNER TO weak; REVOKE ALL ON SCHEMA shut FROM weak")
	p.a.exec("CREATE OR REPLACE FUNCTION own.evil(v text) RETURNS int IMMUTABLE LANGUAGE sql RETURN 1") // where the transaction runs it would be in its own right
	for i, table := range tables {
		if i < 3 {
			table = "own." + table
			tables[i] = table
		}
		p.commit(fmt.Sprintf("INSERT INTO %s (id, v) SELECT g, 'a' FROM generate_series(1, 60) g", table), fmt.Sprintf("UPDATE %s SET id = 100 + id, v = 'b' WHERE id < 4", table),
			fmt.Sprintf("UPDATE %s SET v = 'c' WHERE id = 5", table), fmt.Sprintf("DELETE FROM %s WHERE id = 101 OR id > 10 AND id < 50", table))
		d := ddlMessage{SessionUser: "postgres", Role: "postgres", Text: "ALTER TABLE " + table + " ALTER id TYPE bigint, ADD w int"}
		steps := ddl(d)
		steps[1] = d.Text
		p.commit(append(append([]string{fmt.Sprintf("UPDATE %s SET v = 'd' WHERE id = 6", table)}, steps...), fmt.Sprintf("UPDATE %s SET v = 'e', w = 1 WHERE id = 6", table))...)
	}
	require.Equal(t, 80, p.same(tables...))
	require.Equal(t, []string{"|weak"}, p.b.rows("SELECT DISTINCT what FROM own.did"))
	require.Empty(t, p.b.rows("SELECT 1 FROM pg_class WHERE relname LIKE 'rows mtm%'"))
}

// Functions that name things without a schema find them as in a session of the table's owner, or else of the database; or the transaction fails.
func TestPathsOfContainedFunctions(t *testing.T) {
	p := newPair(t, "DO $$ BEGIN CREATE ROLE weak; EXCEPTION WHEN duplicate_object THEN NULL; END $$; CREATE SCHEMA own AUTHORIZATION weak; CREATE SCHEMA a; CREATE SCHEMA b; "+
		"GRANT USAGE ON SCHEMA mtm, a, b TO PUBLIC; CREATE FUNCTION a.inner_a(text) RETURNS int LANGUAGE sql IMMUTABLE RETURN 1; CREATE FUNCTION b.inner_b(text) RETURNS int LANGUAGE sql IMMUTABLE RETURN 1; "+
		"CREATE FUNCTION own.fa(v text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN inner_a(v); END'; CREATE FUNCTION own.fb(v text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN inner_b(v); END'",
		"SET search_path = a, b; CREATE TABLE own.ta (id int PRIMARY KEY, v text CHECK (own.fa(v) = 1)); CREATE TABLE own.tb (id int PRIMARY KEY, v text CHECK (own.fa(v) = 1)); "+
			"CREATE TABLE own.tc (id int PRIMARY KEY, v text CHECK (own.fb(v) = 1)); ALTER TABLE own.ta OWNER TO weak; ALTER TABLE own.tb OWNER TO weak; ALTER TABLE own.tc OWNER TO weak")
	set := func(where, path string) {
		p.b.exec("DO $$ BEGIN EXECUTE format('ALTER " + where + " SET search_path = " + path + "', current_database()); END $$")
	}
	set("DATABASE %I", "a")
	for id := range 3 {
		p.commit(fmt.Sprintf("INSERT INTO own.ta VALUES (%d, 'x')", id), fmt.Sprintf("INSERT INTO own.tb VALUES (%d, 'x')", id), "UPDATE own.ta SET v = v || 'y'")
	}
	refused := p.prepare("INSERT INTO own.tc VALUES (1, 'x')")
	require.Equal(t, "42883", p.apply(refused).Code)
	p.finish(refused.gid, false)
	set("ROLE weak IN DATABASE %I", "b")
	p.commit("INSERT INTO own.tc VALUES (1, 'x')", "UPDATE own.tc SET v = 'y'")
	require.Equal(t, 7, p.same("own.ta", "own.tb", "own.tc"))
}
