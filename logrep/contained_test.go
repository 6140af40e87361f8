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
