package schema

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// blockCluster is three nodes with one client each. What one does in a transaction the others are told as replication tells them.
type blockCluster struct {
	cluster
	t     *testing.T
	given map[int64]int // since the sequence began anew: the node
}

func newBlockCluster(t *testing.T) *blockCluster {
	c := &blockCluster{cluster: newCluster(t), t: t, given: map[int64]int{}}
	for _, conn := range c.cluster {
		mustExec(t, conn, `CREATE TABLE heard (id serial, prefix text, content text);
			CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.heard (prefix, content)
				SELECT NEW.prefix, NEW.content WHERE NEW.prefix IN ('mtm.ddl', 'mtm.block'); RETURN NULL; END $$;
			CREATE TRIGGER hear AFTER INSERT ON mtm.said FOR EACH ROW EXECUTE FUNCTION hear();
			SET mtm.gateway = on; SET mtm.sequence_mode = block`)
	}
	return c
}

// fate of a transaction of the whole cluster.
type fate int

const (
	committed fate = iota
	aborted
	lost // its node was lost, has rolled back, and gets it from the others
)

// transact runs sql on a node, and the others do as they are told. also is what replication tells of it besides.
func (c *blockCluster) transact(node int, end fate, sql, also string) {
	c.t.Helper()
	conn := c.cluster[node]
	mustExec(c.t, conn, `DELETE FROM heard; BEGIN`)
	for _, one := range strings.Split(sql+";\nSET CONSTRAINTS ALL IMMEDIATE", ";\n") {
		mustExec(c.t, conn, one)
	}
	told := query(c.t, conn, `SELECT json_build_object('prefix', prefix, 'content', content::json)::text FROM heard ORDER BY id`)
	for i, other := range c.cluster {
		switch {
		case i == node && end == committed:
			mustExec(c.t, conn, `COMMIT`)
			continue
		case i == node:
			mustExec(c.t, conn, `ROLLBACK`)
			if end == aborted {
				continue
			}
		}
		mustExec(c.t, other, `BEGIN; SET LOCAL session_replication_role = replica; SET LOCAL mtm.gateway = off; `+also)
		for _, text := range told {
			mustExec(c.t, other, apply(c.t, text))
		}
		mustExec(c.t, other, map[bool]string{true: `ROLLBACK`, false: `COMMIT`}[end == aborted])
	}
}

// apply is what a worker runs for what it is told.
func apply(t *testing.T, text string) string {
	var said struct {
		Prefix  string
		Content struct {
			Text, Schema, Name, Next string
			Start                    *string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &said))
	m := said.Content
	if said.Prefix == "mtm.ddl" {
		return m.Text
	}
	start := "NULL"
	if m.Start != nil {
		start = *m.Start
	}
	return fmt.Sprintf(`SELECT mtm.follow_block('%s', '%s', %s, %s)`, m.Schema, m.Name, start, m.Next)
}

// next takes up to n values on a node.
func (c *blockCluster) next(node, n int) (got []int64) {
	c.t.Helper()
	for range n {
		var v int64
		err := c.cluster[node].QueryRow(testContext(c.t), `SELECT nextval('s')`).Scan(&v)
		if err != nil {
			require.Equal(c.t, "2200H", sqlState(err), err)
			return got
		}
		if was, twice := c.given[v]; twice {
			c.t.Fatalf("%d was given on node %d, and now on node %d", v, was+1, node+1)
		}
		c.given[v] = node
		got = append(got, v)
	}
	return got
}

// tend is what the daemon does; use is what becomes of the transaction in which it uses what it has drawn.
func (c *blockCluster) tend(node int, end, use fate) {
	c.t.Helper()
	conn := c.cluster[node]
	wanted := query(c.t, conn, `SELECT seq, want FROM mtm.tend_blocks(true)`)
	for _, w := range wanted {
		seq, want, _ := strings.Cut(w, "|")
		c.transact(node, end, `SELECT mtm.draw_blocks('{`+seq+`}', '{`+want+`}')`, ``)
	}
	switch use {
	case committed:
		mustExec(c.t, conn, `SELECT mtm.tend_blocks(true)`)
	case lost:
		mustExec(c.t, conn, `BEGIN; SELECT mtm.tend_blocks(true); ROLLBACK`)
	}
}

// ddl begins anew, or does not.
func (c *blockCluster) change(node int, end fate, anew bool, sql, also string) {
	c.t.Helper()
	c.transact(node, end, sql, also)
	if anew && end != aborted {
		c.given = map[int64]int{}
	}
}

func TestBlocksAreOneNodesOwn(t *testing.T) {
	c := newBlockCluster(t)
	c.transact(0, committed, `CREATE TABLE t (x int)`, ``)
	for seed := range int64(4) {
		sign := 1 - 2*int(seed%2)
		c.transact(0, committed, fmt.Sprintf("DROP SEQUENCE IF EXISTS s;\nCREATE SEQUENCE s INCREMENT %d MINVALUE -6000000000 MAXVALUE 6000000000 START 1 OWNED BY t.x", sign), ``)
		c.given = map[int64]int{}
		r := rand.New(rand.NewSource(seed))
		mustExec(t, c.cluster[0], `SET client_min_messages = warning`)
		for range 250 {
			node, end := r.Intn(3), fate(r.Intn(4)%3)
			switch r.Intn(13) {
			case 0, 1, 2, 3, 4, 5:
				c.next(node, 1+r.Intn(40))
			case 6, 7, 8:
				c.tend(node, end, fate(r.Intn(4)%3))
			case 9: // no numbers come again
				c.change(node, end, false, []string{`ALTER SEQUENCE s OWNED BY t.x`, `ALTER SEQUENCE s CACHE 5`, `ALTER SEQUENCE s CACHE 1`,
					fmt.Sprintf(`ALTER SEQUENCE s INCREMENT %d`, sign*(1+r.Intn(5))), fmt.Sprintf(`ALTER SEQUENCE s INCREMENT %d`, sign),
					`ALTER SEQUENCE s MAXVALUE 5000000000 MINVALUE -5000000000`, `ALTER TABLE t ADD COLUMN IF NOT EXISTS y int`,
					"ALTER SEQUENCE s RENAME TO s2;\nALTER SEQUENCE s2 RENAME TO s",
					`ALTER SEQUENCE s OWNED BY t.x /* no restart */`}[r.Intn(9)], ``)
			case 10:
				if r.Intn(3) == 0 {
					c.change(node, end, true, `TRUNCATE t RESTART IDENTITY`, `TRUNCATE t RESTART IDENTITY`)
				} else {
					c.change(node, end, false, `TRUNCATE t`, `TRUNCATE t`)
				}
			case 12: // mtm.reserve_numbers
				c.transact(node, end, fmt.Sprintf(`SELECT mtm.draw_block('s'::regclass, %d)`, 2+r.Intn(5)), ``)
				mustExec(t, c.cluster[node], `SELECT mtm.use_block('s'::regclass, true)`)
			case 11:
				c.change(node, end, true, []string{`ALTER SEQUENCE s RESTART`, `ALTER SEQUENCE s RESTART WITH 77`, `ALTER SEQUENCE s START 5 RESTART`,
					`SELECT mtm.setval('s', 32)`, `SELECT mtm.setval('s', 1, false)`, `DO $$ BEGIN ALTER SEQUENCE s RESTART 9; END $$`}[r.Intn(6)], ``)
			}
		}
		for range 3 { // what it wants to draw, it draws
			for node := range 3 {
				c.tend(node, committed, committed)
			}
		}
		for node := range 3 {
			require.NotEmpty(t, c.next(node, 10))
		}
		next := query(t, c.cluster[0], `SELECT next FROM mtm.blocks`)
		for _, conn := range c.cluster {
			require.Equal(t, next, query(t, conn, `SELECT next FROM mtm.blocks`))
		}
	}
}

// Where INCREMENT changes, what a node has and what it draws next may look as if nothing lay between.
func TestBlocksWhoseIncrementChanges(t *testing.T) {
	c := newBlockCluster(t)
	c.transact(0, committed, `CREATE SEQUENCE s`, ``)
	c.next(0, 19)
	reserve := func(node, n int) {
		c.transact(node, committed, fmt.Sprintf(`SELECT mtm.draw_block('s'::regclass, %d)`, n), ``)
		mustExec(t, c.cluster[node], `SELECT mtm.use_block('s'::regclass, true)`)
	}
	reserve(1, 2)
	c.transact(0, committed, `ALTER SEQUENCE s INCREMENT 3`, ``)
	c.tend(0, committed, committed)
	c.next(0, 10)
	c.transact(0, committed, `ALTER SEQUENCE s INCREMENT 1`, ``)
	c.next(1, 10)

	c.transact(0, committed, "DROP SEQUENCE s;\nCREATE SEQUENCE s", ``)
	c.given = map[int64]int{}
	c.next(0, 20)
	c.tend(1, committed, committed)
	c.tend(0, committed, lost) // drawn, and not in use
	require.Equal(t, []string{"65|96"}, query(t, c.cluster[0], `SELECT first, last FROM mtm.blocks`))
	reserve(1, 2)
	c.transact(0, committed, `ALTER SEQUENCE s INCREMENT 3`, ``)
	c.transact(0, committed, `SELECT mtm.draw_block('s'::regclass, 100)`, ``)
	mustExec(t, c.cluster[0], `SELECT mtm.use_block('s'::regclass, true)`)
	c.next(0, 100)
	c.transact(0, committed, `ALTER SEQUENCE s INCREMENT 1`, ``)
	c.next(1, 10)
}

// A node gives nothing beyond MAXVALUE of what it had drawn before.
func TestBlocksBeyondANewBound(t *testing.T) {
	c := newBlockCluster(t)
	for _, bound := range []int64{70, 65, 64} {
		c.transact(0, committed, `CREATE SEQUENCE s`, ``)
		c.given = map[int64]int{}
		c.next(0, 20)
		c.tend(1, committed, committed)
		c.tend(0, committed, lost)
		require.Equal(t, []string{"65|96"}, query(t, c.cluster[0], `SELECT first, last FROM mtm.blocks`))
		c.transact(0, committed, fmt.Sprintf(`ALTER SEQUENCE s MAXVALUE %d`, bound), ``)
		for range 3 {
			for _, v := range c.next(0, 20) {
				require.LessOrEqual(t, v, bound)
			}
			c.tend(0, committed, committed)
		}
		if bound == 70 {
			require.Contains(t, c.given, bound)
		}
		c.transact(0, committed, `DROP SEQUENCE s`, ``)
	}
}

// What begins one sequence anew, or makes one of another mode, neither changes nor locks the others.
func TestBlocksLeaveEachOtherAlone(t *testing.T) {
	c := newBlockCluster(t)
	c.transact(0, committed, "CREATE SEQUENCE s;\nCREATE SEQUENCE other", ``)
	c.transact(0, committed, `SELECT mtm.setval('s', 100)`, ``)
	second := connectAs(t, c.cluster[0].Config().Database, "postgres")
	for _, sql := range []string{`SELECT mtm.setval('other', 7)`, `SET LOCAL mtm.sequence_mode = step; CREATE TABLE stepped (id serial)`} {
		mustExec(t, c.cluster[0], `BEGIN; `+sql)
		mustExec(t, second, `SET default_transaction_read_only = off; SET mtm.gateway = on; SET lock_timeout = '2s'; SELECT mtm.setval('s', 100)`)
		mustExec(t, c.cluster[0], `COMMIT`)
	}
	require.EqualValues(t, []int64{101}, c.next(0, 1))
	require.Equal(t, []string{"8"}, query(t, c.cluster[0], `SELECT nextval('other')`))
}

// Who alters a sequence while numbers of it are drawn waits, and is not refused for bounds that are not his.
func TestBlocksAreAlteredWhileTheyAreDrawn(t *testing.T) {
	conn := newNode(t, 1)
	mustExec(t, conn, `SET mtm.gateway = on; SET mtm.sequence_mode = block; CREATE SEQUENCE s`)
	second := connectAs(t, conn.Config().Database, "postgres")
	mustExec(t, second, `SET mtm.gateway = on`)
	pid := second.PgConn().PID()
	for _, sql := range []string{`ALTER SEQUENCE s RESTART WITH 5000`, `ALTER SEQUENCE s START WITH 70`, `ALTER SEQUENCE s MAXVALUE 1000000 CACHE 3`} {
		mustExec(t, conn, `BEGIN; UPDATE mtm.blocks SET next = next + 100; SELECT mtm.fence_block('s'::regclass, 40, 71, 40)`)
		done := make(chan error, 1)
		go func() {
			_, err := second.PgConn().Exec(testContext(t), sql).ReadAll()
			done <- err
		}()
		require.Eventually(t, func() bool {
			return query(t, conn, fmt.Sprintf(`SELECT cardinality(pg_blocking_pids(%d))`, pid))[0] == "1"
		}, 10*time.Second, time.Millisecond)
		mustExec(t, conn, `COMMIT`)
		require.NoError(t, <-done, sql)
	}
}

// LIKE ... INCLUDING IDENTITY copies what this node has of a sequence, which another may have likewise.
func TestBlocksOfAnotherType(t *testing.T) {
	conn := newNode(t, 1)
	for _, sql := range []string{`SET mtm.gateway = on`, `SET mtm.sequence_mode = block`, `CREATE TABLE small (id int GENERATED ALWAYS AS IDENTITY)`,
		`CREATE TABLE large (id bigint GENERATED ALWAYS AS IDENTITY)`, `CREATE TABLE as_large (LIKE large INCLUDING ALL)`, `CREATE TABLE as_small (LIKE small INCLUDING ALL)`} {
		mustExec(t, conn, sql)
	}
	require.Equal(t, []string{"as_large_id_seq|9223372036854775807", "as_small_id_seq|2147483647"},
		query(t, conn, `SELECT seqid::regclass, user_max FROM mtm.sequences WHERE seqid::regclass::text ~ '^as_' ORDER BY 1`))
}

func TestBlocksFollowEachOther(t *testing.T) {
	c := newBlockCluster(t)
	c.transact(1, committed, `CREATE SEQUENCE s`, ``)
	require.Empty(t, c.next(0, 1), "the numbers are those of the node that created it")
	require.Equal(t, []int64{1, 2, 3}, c.next(1, 3))
	c.tend(0, committed, committed)
	require.Equal(t, []int64{33, 34}, c.next(0, 2))
	c.next(1, 15)
	c.tend(1, committed, committed)
	for i, v := range c.next(1, 14) { // what it has left it uses first
		require.EqualValues(t, 19+i, v)
	}
	c.tend(1, committed, committed)
	require.EqualValues(t, 65, c.next(1, 1)[0])
	c.transact(0, committed, `SELECT mtm.draw_block('s'::regclass, 1000)`, ``)
	mustExec(t, c.cluster[0], `SELECT mtm.use_block('s'::regclass, true)`)
	got := c.next(0, 1000)
	require.Len(t, got, 1000)
	require.EqualValues(t, got[0]+999, got[999])

	// What only looks like RESTART, where no value has been given yet, costs one value.
	c.transact(1, committed, "DROP SEQUENCE s;\nCREATE SEQUENCE s", ``)
	c.given = map[int64]int{}
	c.tend(0, committed, committed)
	require.Equal(t, []int64{33}, c.next(0, 1))
	c.transact(1, committed, `ALTER SEQUENCE s OWNED BY NONE /* no restart */`, ``)
	require.Equal(t, []int64{2}, c.next(1, 1))
	c.next(0, 31)
	c.tend(0, committed, committed)
	require.Equal(t, []int64{65}, c.next(0, 1))

	// A drawer who does not know what others have drawn is told so.
	_, err := c.cluster[2].Exec(testContext(t), `SELECT mtm.follow_block('public', 's', 40, 50)`)
	require.Equal(t, "40001", sqlState(err))
	_, err = c.cluster[0].Exec(testContext(t), `ALTER SEQUENCE s CYCLE`, pgx.QueryExecModeSimpleProtocol)
	require.Equal(t, "0A000", sqlState(err))
	_, err = c.cluster[0].Exec(testContext(t), `SELECT mtm.alter_sequences()`, pgx.QueryExecModeSimpleProtocol)
	require.Equal(t, "0A000", sqlState(err))
	for _, sql := range []string{`CREATE SEQUENCE f CYCLE`, `CREATE SEQUENCE f MAXVALUE 100`, `CREATE UNLOGGED SEQUENCE f`} {
		mustExec(t, c.cluster[0], `DELETE FROM heard; `+sql)
		require.Equal(t, []string{"step"}, query(t, c.cluster[0], `SELECT mode FROM mtm.sequences WHERE seqid = 'f'::regclass`))
		mustExec(t, c.cluster[0], `DROP SEQUENCE f`)
	}
}

// A copy of a node has none of its numbers; a database that is given back has all that follow.
func TestBlocksOfACopyAndAfterUninstall(t *testing.T) {
	conn := newNode(t, 1)
	mustExec(t, conn, `SET mtm.gateway = on; SET mtm.sequence_mode = block; CREATE TABLE t (id serial, x int)`)
	mustExec(t, conn, `BEGIN; INSERT INTO t SELECT FROM generate_series(1, 20); SET LOCAL search_path = ''`)
	a, err := ReadAdaptations(testContext(t), conn)
	require.NoError(t, err)
	mustExec(t, conn, `COMMIT`)
	copied := connectAs(t, newDatabase(t), "postgres")
	mustExec(t, copied, `CREATE TABLE t (id int NOT NULL, x int);
		CREATE SEQUENCE t_id_seq AS int START 32 MINVALUE 1 MAXVALUE 32; ALTER SEQUENCE t_id_seq OWNED BY t.id; SELECT setval('t_id_seq', 20)`)
	_, err = InstallCopy(testContext(t), copied, Params{NodeID: 2, Nodes: []Node{{ID: 1}, {ID: 2}}}, a)
	require.NoError(t, err)
	mustExec(t, copied, `SET default_transaction_read_only = off`)
	_, err = copied.Exec(testContext(t), `SELECT nextval('t_id_seq')`)
	require.Equal(t, "2200H", sqlState(err))
	require.Equal(t, []string{"33|f"}, query(t, copied, `SELECT next, open FROM mtm.blocks`))

	require.NoError(t, Uninstall(testContext(t), conn))
	require.Equal(t, []string{"33"}, query(t, conn, `SELECT nextval('t_id_seq')`))
	require.Equal(t, []string{"1|1|2147483647"}, query(t, conn, `SELECT seqstart, seqmin, seqmax FROM pg_sequence`))
	mustExec(t, conn, `TRUNCATE t RESTART IDENTITY`)
	require.Equal(t, []string{"1"}, query(t, conn, `SELECT nextval('t_id_seq')`))
}
