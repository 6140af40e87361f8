package logrep

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

const family = `CREATE TYPE "Mood" AS ENUM ('sad', 'o"k');
	CREATE TABLE parent (id int PRIMARY KEY, "K y" varchar(9), c char(3), m "Mood", n numeric, UNIQUE ("K y", c), UNIQUE (m), UNIQUE (n));
	CREATE TABLE child (id int PRIMARY KEY, p bigint REFERENCES parent ON DELETE CASCADE, k text, c char(3), m "Mood" REFERENCES parent (m), n int REFERENCES parent (n),
		self int REFERENCES child, FOREIGN KEY (k, c) REFERENCES parent ("K y", c));
	CREATE TABLE late (id int PRIMARY KEY, p int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
	CREATE TABLE ofparts (id int, p int REFERENCES parts, PRIMARY KEY (id)) PARTITION BY LIST (id);
	CREATE TABLE ofparts1 PARTITION OF ofparts FOR VALUES IN (1);
	INSERT INTO parts VALUES (1), (2);
	INSERT INTO parent SELECT g, 'k' || g, g::text, NULL, g FROM generate_series(1, 10) g;
	INSERT INTO parent VALUES (11, E'q"\\u', 'a', 'o"k', 11.0)`

// refuses asserts that c is not applied for the lack of a parent.
func (p *pair) refuses(c captured, constraint string) {
	p.t.Helper()
	err := p.apply(c)
	require.NotNil(p.t, err)
	require.Equal(p.t, mtm.CodeSerialization, err.Code, err.Error())
	require.Contains(p.t, err.Detail, `"`+constraint+`"`)
	p.finish(c.gid, false)
}

func TestReferencesAreCheckedAgain(t *testing.T) {
	p := newPair(t, family)
	for _, c := range []struct{ gone, sql, constraint string }{
		{"DELETE FROM parent WHERE id = 5", "INSERT INTO child (id, p) VALUES (1, 5)", "child_p_fkey"},
		{"DELETE FROM parent WHERE id = 11", `INSERT INTO child (id, k, c) VALUES (1, E'q"\\u', 'a')`, "child_k_c_fkey"},
		{"DELETE FROM parent WHERE id = 11", `INSERT INTO child (id, m) VALUES (1, 'o"k')`, "child_m_fkey"},
		{"UPDATE parent SET n = 5.5 WHERE id = 5", "INSERT INTO child (id, n) VALUES (1, 5)", "child_n_fkey"},
		{"DELETE FROM parent WHERE id = 5", "INSERT INTO child (id, p) VALUES (1, 6); UPDATE child SET p = 5", "child_p_fkey"},
		{"DELETE FROM parent WHERE id = 5", "INSERT INTO late VALUES (1, 5)", "late_p_fkey"},
		{"DELETE FROM parts WHERE id = 2", "INSERT INTO ofparts VALUES (1, 2)", "ofparts_p_fkey"},
		{"DELETE FROM parent WHERE id = 5", "INSERT INTO child (id, p) SELECT g, g % 10 + 1 FROM generate_series(1, 60) g", "child_p_fkey"},
	} {
		before := p.b.rows("SELECT * FROM parent ORDER BY id")
		p.b.exec(c.gone)
		p.refuses(p.prepare(c.sql), c.constraint)
		p.b.exec("SET session_replication_role = replica; DELETE FROM parent; DELETE FROM parts")
		p.b.exec(`INSERT INTO parent SELECT g, 'k' || g, g::text, NULL, g FROM generate_series(1, 10) g;
			INSERT INTO parent VALUES (11, E'q"\\u', 'a', 'o"k', 11.0); INSERT INTO parts VALUES (1), (2); RESET session_replication_role`)
		require.Equal(t, before, p.b.rows("SELECT * FROM parent ORDER BY id"))
		p.commit(c.sql) // with its parent there it is applied
		p.commit("DELETE FROM child; DELETE FROM late; DELETE FROM ofparts")
	}
	// Whatever order PostgreSQL allows.
	p.commit("INSERT INTO child (id, self) VALUES (2, 1), (1, NULL), (3, 3)")
	p.commit("INSERT INTO late VALUES (7, 70)", "INSERT INTO parent (id) VALUES (70)")
	p.commit("UPDATE child SET self = NULL", "DELETE FROM child WHERE id = 1")
	p.commit("DELETE FROM late; DELETE FROM parent WHERE id = 70")
	p.same("parent", "child", "late", "ofparts")
}

func TestManyReferences(t *testing.T) {
	const n = 3 * fkMost
	p := newPair(t, "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
	rows := fmt.Sprintf("INSERT INTO child SELECT g, g FROM generate_series(1, %d) g", n)
	p.commit(rows, "INSERT INTO parent SELECT p FROM child", "UPDATE child SET id = -id") // parents come last
	p.b.exec("SET session_replication_role = replica; DELETE FROM parent WHERE id = 5000; RESET session_replication_role")
	p.commit("DELETE FROM child")
	p.refuses(p.prepare(rows), "child_p_fkey")
}

// A parent and its child meet at a lock of the parent's row, on every node.
func TestAChildHoldsItsParent(t *testing.T) {
	p := newPair(t, family)
	c := p.prepare("INSERT INTO child (id, p) VALUES (1, 5)")
	require.Nil(t, p.apply(c))
	require.Equal(t, "55P03", sqlState(run(t.Context(), p.b.conn, "SELECT FROM parent WHERE id = 5 FOR UPDATE NOWAIT")))
	p.b.exec("UPDATE parent SET c = c WHERE id = 5") // it may change otherwise
	p.finish(c.gid, true)
	p.b.exec("BEGIN; DELETE FROM parent WHERE id = 6; PREPARE TRANSACTION 'mtm-2-1-77'")
	c = p.prepare("INSERT INTO child (id, p) VALUES (2, 6)")
	p.applier.Apply(c.gid, 0, c.p)
	require.Equal(t, [2]mtm.GID{c.gid, {Origin: 2, Gen: 1, Seq: 77}}, wait(t, p.sink.blocked, "Blocked"))
	p.b.exec("COMMIT PREPARED 'mtm-2-1-77'")
	require.Equal(t, mtm.CodeSerialization, wait(t, p.sink.applied, "Applied").err.Code)
	p.finish(c.gid, false)
}

// TestConstraintsThatComeLater: what is known of a table is asked for again after DDL of either node.
func TestConstraintsThatComeLater(t *testing.T) {
	p := newPair(t, "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, p int); INSERT INTO parent VALUES (1), (2)")
	p.commit("INSERT INTO child VALUES (1, 7)", "DELETE FROM child")
	c := p.prepare(text("ALTER TABLE child ADD FOREIGN KEY (p) REFERENCES parent")...)
	require.Nil(t, p.apply(c))
	p.finish(c.gid, true)
	p.b.exec("DELETE FROM parent WHERE id = 2")
	p.refuses(p.prepare("INSERT INTO child VALUES (1, 2)"), "child_p_fkey")
	p.b.exec("ALTER TABLE child DROP CONSTRAINT child_p_fkey")
	p.b.cfg.Catalog.prepared(mtm.GID{Origin: 2, Gen: 1, Seq: 9}) // as capture does for what this node's own clients change
	p.b.cfg.Catalog.finished(mtm.GID{Origin: 2, Gen: 1, Seq: 9})
	p.commit("INSERT INTO child VALUES (1, 2)")
}

func TestDeferrableKeysAreCheckedAtPrepare(t *testing.T) {
	p := newPair(t, `CREATE TABLE t (id int PRIMARY KEY, x int UNIQUE DEFERRABLE, y int, EXCLUDE (y WITH =) DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1, 1, 1), (2, 2, 2);
		UPDATE pg_trigger SET tgenabled = 'A' WHERE tgfoid = 'unique_key_recheck'::regproc; UPDATE pg_class SET relname = relname WHERE oid = 't'::regclass`)
	p.commit("UPDATE t SET x = 3 - x, y = 3 - y")
	p.same("t")
	for i, column := range []string{"x", "y"} {
		p.b.exec(fmt.Sprintf("BEGIN; INSERT INTO t (id, %s) VALUES (9, 5); PREPARE TRANSACTION 'mtm-2-1-77'", column))
		c := p.prepare(fmt.Sprintf("INSERT INTO t (id, %s) VALUES (3, 5)", column))
		p.applier.Apply(c.gid, 0, c.p)
		require.Equal(t, [2]mtm.GID{c.gid, {Origin: 2, Gen: 1, Seq: 77}}, wait(t, p.sink.blocked, "Blocked"))
		p.b.exec("COMMIT PREPARED 'mtm-2-1-77'")
		require.Equal(t, []string{"23505", "23P01"}[i], wait(t, p.sink.applied, "Applied").err.Code)
		p.finish(c.gid, false)
		p.b.exec("DELETE FROM t WHERE id = 9")
		for len(p.sink.blocked) > 0 {
			<-p.sink.blocked
		}
	}
}

func TestAForeignKeyThatGoesIsNotChecked(t *testing.T) {
	p := newPair(t, "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY REFERENCES parent INITIALLY DEFERRED)")
	p.commit(join([]string{"INSERT INTO child VALUES (1)"}, text("DROP TABLE parent CASCADE"))...)
	p.same("child")
}
