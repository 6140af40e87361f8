package gateway

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"mtm"
)

// psql runs a script by psql, straight or through the gateway.
func psql(t testing.TB, port int, script string) string {
	cmd := exec.Command(program("psql"), "-X", "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-U", "postgres", "-d", "postgres", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return process.ReplaceAllString(string(out), "PID")
}

var process = regexp.MustCompile(`PID \d+`)

// TestPsqlSeesPostgreSQL runs scripts on PostgreSQL and through the gateway: what psql prints must be the same.
func TestPsqlSeesPostgreSQL(t *testing.T) {
	h := start(t)
	for name, script := range map[string]string{
		"autocommit": "insert into t values (1, 'a') returning *; select * from t; update t set v = 'b'; delete from t where id = 5;\n" +
			"insert into t values (1, 'dup');\nselect * from nowhere;\nselekt;\ninsert into t values (;\ninsert into t\n;\n",
		"blocks": "begin; insert into t values (1, 'a'); savepoint s; insert into t values (1, 'b'); rollback to s; commit;\n" +
			"select * from t;\nbegin; select 1/0; select 1; commit;\nselect * from t; commit; rollback; end;\n" +
			"begin read only; insert into t values (2, 'x'); rollback; begin; begin; set transaction read only; insert into t values (2, 'x'); rollback;\n",
		"strings": `insert into t values (1, 'a')\; insert into t values (2, 'b')\; select count(*) from t;
insert into t values (3, 'a')\; insert into t values (1, 'b')\; select count(*) from t;
select count(*) from t;
begin\; insert into t values (4, 'c')\; commit\; insert into t values (5, 'c')\; select * from t order by 1;
insert into t values (6, 'c')\; rollback\; select count(*) from t;
insert into t values (7, 'c')\; begin\; insert into t values (8, 'd');
commit;
select count(*) from t;
select 1\; select 2\; selekt 3;
select 1\; begin\; select 'ä'\; select nope;
rollback;
create table z (a int)\; insert into z values (1)\; select * from z\; drop table z;
`,
		"chain": "begin isolation level repeatable read; insert into t values (1, 'a'); commit and chain; show transaction_isolation;\n" +
			"insert into t values (2, 'b'); rollback and chain; show transaction_isolation; commit; select * from t; show transaction_isolation;\n" +
			"begin isolation level repeatable read; insert into t values (7, 'a'); commit and chain; select 1/0; commit and chain; show transaction_isolation; show transaction_read_only; insert into t values (8, 'a'); commit;\n" +
			"begin; select 1/0; rollback and chain; insert into t values (9, 'a'); commit; select 1\\; savepoint s\\; select 2;\nselect 1\\; commit and chain\\; select 2;\n" +
			"create index concurrently ti on t (v); begin; drop index concurrently ti; rollback; drop index concurrently ti;\n" +
			"begin isolation level repeatable read\\; insert into t values (3, 'a')\\; commit and chain\\; show transaction_isolation\\; commit;\n",
		"guard": "show default_transaction_read_only; show transaction_read_only; select current_setting('transaction_read_only');\n" +
			"begin; show transaction_read_only; show default_transaction_read_only; commit;\n" +
			"set default_transaction_read_only = on; show default_transaction_read_only; insert into t values (1, 'x'); begin read write; insert into t values (1, 'x'); commit;\n" +
			"set default_transaction_read_only = off; insert into t values (2, 'x'); show transaction_read_only;\n" +
			"set session characteristics as transaction read only; insert into t values (3, 'x'); reset default_transaction_read_only; insert into t values (4, 'x');\n" +
			"discard all; insert into t values (5, 'x'); select * from t; deallocate all; insert into t values (6, 'y');\n",
		"ddl": "create table d (a serial primary key, b text default 'x');\ninsert into d (b) values ('1'), ('2') returning *;\n" +
			"alter table d add column c int default 5;\nselect * from d;\nbegin; create index on d (c); drop table d; rollback;\n" +
			"create table e as select * from d;\nselect * into f from d; select * from f;\n create view dv as select * from d; create table d (a int);\n" +
			"create function ff() returns int begin atomic; select 1; select 2; end; select ff(); drop function ff();\n" +
			"do $$ begin insert into d (b) values ('do'); end $$; select count(*) from d;\ntruncate d; drop view dv; drop table d, e, f; drop table nowhere;\n",
		"temporary": "create temp table tt (a int); insert into tt values (1), (2); select * from tt; begin; insert into tt values (3); commit; select count(*) from tt;\n" +
			"alter table tt add column b int; create index on tt (a); select * from tt; drop table tt; insert into t values (1, 'x'); create temp view q as select 1; select * from q;\n",
		"cursors": "begin; declare c cursor for select generate_series(1, 5); fetch 2 from c; move 1 in c; fetch all from c; close c; commit;\n" +
			"begin; declare c cursor with hold for select generate_series(1, 5); commit; fetch 2 from c; close c;\n",
		"prepared": "prepare p (int) as insert into t values ($1, 'p'); execute p(1); execute p(2); execute p(1); select * from t; select name from pg_prepared_statements; deallocate p;\n" +
			"begin; execute p(1); rollback; prepare q as select 1; execute q;\n" +
			"prepare r as insert into t values (20, 'r')\\; execute r;\nexecute r; deallocate r\\; execute r;\ndeallocate q\\; delete from t returning id;\n",
		"local": "vacuum t; analyze t; checkpoint; reindex table t; cluster t; begin; vacuum t; rollback; create database dd; drop database dd; alter system set work_mem = '5MB'; alter system reset work_mem;\n" +
			"select 1\\; vacuum t;\n",
		"copy": "copy t from stdin;\n1\ta\n2\tb\n\\.\ncopy t to stdout;\ncopy t from stdin;\n3\ta\n1\tb\n\\.\nselect count(*) from t;\nbegin;\ncopy t from stdin;\n5\tx\n\\.\ncommit;\n" +
			"copy t (id) from stdin;\nnonsense\n\\.\n select count(*) from t; copy (select 1) to stdout; copy (delete from t returning id) to stdout;\ncopy nowhere from stdin;\n",
		"session": "set search_path = pg_catalog; show search_path; reset search_path; listen x; notify x, 'y'; select 1; unlisten x; set time zone 'UTC'; explain (costs off) delete from t; explain (costs off, analyze, timing off, summary off) insert into t values (9, 'e'); lock t; begin; lock t; commit; select * from t for update;\n",
		"gdesc":   "select 1 as a, 'x'::text as b \\gdesc\nselect 'insert into t values (11, ''g'')' \\gexec\nselect * from t \\g\n\\set FETCH_COUNT 2\nselect * from generate_series(1, 5);\ninsert into t select generate_series(100, 110); select count(*) from t;\n",
		"syntax":  "insert into t values (1, 'unterminated);\n select 2';\n select 'a\\'; \n';\nset standard_conforming_strings = off; set escape_string_warning = off; select 'a\\'; commit; --';\n select 'x\\'y';\n",
	} {
		t.Run(name, func(t *testing.T) {
			fresh(t, h)
			want := psql(t, pg.port, script)
			fresh(t, h)
			require.Equal(t, want, psql(t, h.port, script))
		})
	}
}

// messages decodes, from a slot made by the caller, what a test wrote.
func messages(t *testing.T, h *harness) []string {
	conn := <-h.fake.pool.conns
	defer func() { h.fake.pool.conns <- conn }()
	rows, err := conn.Query(bg, "select data from pg_logical_slot_get_changes('s', null, null)")
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

func TestStreamCarriesWhatTheOthersNeed(t *testing.T) {
	h := start(t)
	fresh(t, h)
	_, err := h.fake.pool.Exec(bg, "select pg_create_logical_replication_slot('s', 'test_decoding', false, true)")
	if code(err) == "58P01" {
		t.Skip("test_decoding is not installed")
	}
	require.NoError(t, err)
	defer func() {
		_, err := h.fake.pool.Exec(bg, "select pg_drop_replication_slot('s')")
		require.NoError(t, err)
	}()
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			conn := h.connect(t, mode)
			_, err := conn.Exec(bg, "set search_path = public, pg_temp")
			require.NoError(t, err)
			exec := func(text string, args ...any) string {
				_, err := conn.Exec(bg, text, args...)
				require.NoError(t, err, text)
				return strings.Join(messages(t, h), "\n")
			}
			out := exec("create table dd (a int primary key)")
			require.Contains(t, out, `"text" : "create table dd (a int primary key)"`)
			require.Contains(t, out, `"role" : "postgres"`)
			require.Contains(t, out, `"search_path" : "public, pg_temp"`)
			require.Contains(t, out, "prefix: mtm.ddlend")
			require.Regexp(t, `prefix: mtm, sz: \d+ content:wait=`, out)
			require.Contains(t, out, "PREPARE TRANSACTION 'mtm-1-1-")
			out = exec("insert into dd values ($1)", 1)
			require.Contains(t, out, "INSERT")
			require.NotContains(t, out, "mtm.ddl")
			require.Regexp(t, `prefix: mtm, sz: \d+ content:wait=`, out)
			out = exec("set mtm.wait_peer_commits = off")
			require.NotContains(t, out, "PREPARE")
			require.Regexp(t, `content:wait=off`, exec("insert into dd values ($1)", 2))
			require.NotContains(t, exec("create temp table ddt (a int)"), "PREPARE")
			require.NotContains(t, exec("insert into ddt values ($1)", 2), "PREPARE")
			require.NotContains(t, exec("alter table ddt add b int"), "PREPARE")
			require.Contains(t, exec("alter table dd add b int"), "PREPARE")
			require.NotContains(t, exec("drop table ddt"), "PREPARE")
			require.NotContains(t, exec("select * from dd"), "PREPARE")
			out = exec("drop table dd")
			require.Contains(t, out, `"text" : "drop table dd"`)
		})
	}
}

func TestRefusals(t *testing.T) {
	h := start(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			conn := h.connect(t, mode)
			for text, want := range map[string]string{
				"prepare transaction 'mtm-1-1-1'": "22023",
				"commit prepared 'mtm-1-1-1'":     "22023",
			} {
				_, err := conn.Exec(bg, text)
				require.Equal(t, want, code(err), text)
				require.Equal(t, byte('I'), conn.PgConn().TxStatus())
			}
			_, err := conn.Exec(bg, "do 'begin insert into t values (9, $$x$$); commit; end'")
			var told *pgconn.PgError
			require.ErrorAs(t, err, &told)
			require.Equal(t, []string{"2D000", "invalid transaction termination"}, []string{told.Code, told.Message})
			require.Contains(t, told.Detail, "inside of CALL or DO")
			require.Contains(t, told.Hint, "once per transaction")
			require.Equal(t, "PL/pgSQL function inline_code_block line 1 at COMMIT", told.Where)
			tx, err := conn.Begin(bg)
			require.NoError(t, err)
			_, err = tx.Exec(bg, "lock pg_class in access exclusive mode")
			require.Equal(t, "0A000", code(err))
			require.Equal(t, byte('E'), conn.PgConn().TxStatus())
			require.NoError(t, tx.Rollback(bg))
			// A node that is not online.
			h.fake.mu.Lock()
			h.fake.refuse = mtm.NotOnline(mtm.StatusRecovery, "catching up")
			h.fake.mu.Unlock()
			_, err = conn.Exec(bg, "select * from t")
			require.Equal(t, "57P03", code(err))
			_, err = conn.Exec(bg, "insert into t values (1, 'x')")
			require.Equal(t, "57P03", code(err))
			var s string
			require.NoError(t, conn.QueryRow(bg, "show server_version").Scan(&s))
			h.fake.mu.Lock()
			h.fake.refuse = nil
			h.fake.mu.Unlock()
			_, err = conn.Exec(bg, "select * from t")
			require.NoError(t, err)
		})
	}
}

func TestConflictsAreRetriedOutsideOfBlocks(t *testing.T) {
	h := start(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			fresh(t, h)
			conn := h.connect(t, mode)
			lose := func(n int) {
				h.fake.mu.Lock()
				h.fake.conflict, h.fake.ages = n, nil
				h.fake.mu.Unlock()
			}
			lose(3)
			var id int
			require.NoError(t, conn.QueryRow(bg, "insert into t values ($1, 'x') returning id", 7).Scan(&id))
			require.Equal(t, 7, id)
			require.Len(t, h.fake.ages, 4)
			require.Equal(t, h.fake.ages[0], h.fake.ages[3])
			lose(100)
			_, err := conn.Exec(bg, "insert into t values ($1, 'x')", 8)
			require.Equal(t, "40001", code(err))
			lose(1)
			tx, err := conn.Begin(bg)
			require.NoError(t, err)
			_, err = tx.Exec(bg, "insert into t values ($1, 'x')", 9)
			require.NoError(t, err)
			require.Equal(t, "40001", code(tx.Commit(bg)))
			require.Equal(t, byte('I'), conn.PgConn().TxStatus())
			lose(0)
			require.Equal(t, 1, h.direct(t, "select count(*) from t"))
		})
	}
}

// TestWhoLostYields: before the next try it is asked whether those it lost against are over, once for each loss.
func TestWhoLostYields(t *testing.T) {
	h := start(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			fresh(t, h)
			conn := h.connect(t, mode)
			exec := func(sql string) error {
				_, err := conn.Exec(bg, sql)
				return err
			}
			yields := func() (gids []mtm.GID) {
				h.fake.mu.Lock()
				defer h.fake.mu.Unlock()
				gids, h.fake.yields = h.fake.yields, nil
				return gids
			}
			lose := func(n int) {
				h.fake.mu.Lock()
				defer h.fake.mu.Unlock()
				h.fake.conflict = n
			}
			yields()
			// In a block that another transaction ends.
			rival := Rival{GID: mtm.GID{Origin: 2, Gen: 1, Seq: 5}, Cause: mtm.Conflict("a transaction of node 2 was first"), Age: now() + 1e9}
			pid := int32(conn.PgConn().PID())
			require.NoError(t, exec("begin"))
			require.NoError(t, exec("insert into t values (1, 'x')"))
			require.True(t, h.Doom(pid, rival))
			require.Equal(t, "40001", code(exec("select 1")))
			require.NoError(t, exec("rollback"))
			require.NoError(t, exec("select 1"))
			require.Empty(t, yields(), "a read is none of it")
			require.NoError(t, exec("begin"))
			require.Equal(t, []mtm.GID{rival.GID}, yields())
			require.NoError(t, exec("insert into t values (1, 'x')"))
			// It was asked in vain and is the older: it is let be, up to its commit.
			require.True(t, h.Doom(pid, rival))
			require.NoError(t, exec("select 1"))
			// At the commit: with what the own transaction changed.
			lose(1)
			require.Equal(t, "40001", code(exec("commit")))
			require.NoError(t, exec("begin"))
			got := yields()
			require.Len(t, got, 1)
			require.EqualValues(t, 1, got[0].Origin)
			require.NoError(t, exec("insert into t values (1, 'x')"))
			require.NoError(t, exec("commit"))
			require.NoError(t, exec("begin"))
			require.NoError(t, exec("rollback"))
			require.Empty(t, yields(), "won by now")
			lose(2)
			require.NoError(t, exec("insert into t values (2, 'x')"))
			require.Len(t, yields(), 2, "a single statement, tried again by the gateway")
		})
	}
}

func TestErrorsAtPrepareAreThoseOfCommit(t *testing.T) {
	h := start(t)
	fresh(t, h)
	conn := h.connect(t, pgx.QueryExecModeSimpleProtocol)
	_, err := conn.Exec(bg, "begin; insert into child values (1, 99)")
	require.NoError(t, err)
	_, err = conn.Exec(bg, "commit")
	require.Equal(t, "23503", code(err))
	require.Equal(t, byte('I'), conn.PgConn().TxStatus())
	// Nobody is told that a statement is complete, and then that it is not.
	r := dialRaw(t, h.addr).login()
	for range 3 {
		r.send(&pgproto3.Query{String: "insert into child values (1, 99)"})
		require.Equal(t, []string{"ErrorResponse 23503", "ReadyForQuery I"}, r.until("ReadyForQuery"))
	}
	// What cannot be prepared, and whose COMMIT may be refused.
	_, err = conn.Exec(bg, "begin isolation level serializable; insert into t values (1, 'x'); notify x")
	require.NoError(t, err)
	_, err = conn.Exec(bg, "commit")
	require.Equal(t, "0A000", code(err))
	_, err = conn.Exec(bg, "begin; notify x")
	require.NoError(t, err)
	_, err = conn.Exec(bg, "commit")
	require.NoError(t, err)
	require.Equal(t, 0, h.direct(t, "select count(*) from t"))
}

func TestSlowStatementGivesItsPermitBack(t *testing.T) {
	h := start(t, func(c *Config) { c.SlowStatement = 5 * time.Millisecond })
	fresh(t, h)
	_, err := h.fake.pool.Exec(bg, "insert into t values (1, 'x')")
	require.NoError(t, err)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			slow := h.Stats().Slow
			blocker, err := pgx.Connect(bg, directURL("postgres"))
			require.NoError(t, err)
			defer blocker.Close(bg)
			_, err = blocker.Exec(bg, "begin; update t set v = 'blocker' where id = 1")
			require.NoError(t, err)
			conn := h.connect(t, mode)
			_, err = conn.Exec(bg, "/* "+name+" */ update t set v = $1 where id = 2", name) // known from now on
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() {
				_, err := conn.Exec(bg, "/* "+name+" */ update t set v = $1 where id = 1", name)
				done <- err
			}()
			require.Eventually(t, func() bool { return h.Stats().Slow > slow && h.fake.permits.Load() == 0 }, 5*time.Second, time.Millisecond)
			_, err = blocker.Exec(bg, "commit")
			require.NoError(t, err)
			require.NoError(t, <-done)
		})
	}
}

func TestClientThatDoesNotReadHoldsNoPermit(t *testing.T) {
	h := start(t, func(c *Config) { c.SlowStatement = time.Millisecond })
	fresh(t, h)
	r := dialRaw(t, h.addr).login()
	r.send(&pgproto3.Query{String: "insert into t select i, repeat('x', 10000) from generate_series(1, 0) i returning *"})
	r.until("ReadyForQuery")
	r.send(&pgproto3.Query{String: "insert into t select i, repeat('x', 10000) from generate_series(1, 3000) i returning *"})
	require.Eventually(t, func() bool { return len(h.fake.waitedFor()) > 0 || h.failures() > 0 && h.fake.permits.Load() == 0 }, 9*time.Second, time.Millisecond)
	names := r.until("ReadyForQuery")
	if h.fake.waitedFor() == nil {
		require.Contains(t, names, "ErrorResponse 40001")
	}
}

func (f *fakeCommits) waitedFor() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waited
}

func (h *harness) failures() int {
	h.fake.mu.Lock()
	defer h.fake.mu.Unlock()
	return len(h.fake.failed)
}

func TestCancel(t *testing.T) {
	h := start(t)
	fresh(t, h)
	conn := h.connect(t, pgx.QueryExecModeExec)
	ask := func(text string, begun func()) error {
		done := make(chan error, 1)
		go func() {
			_, err := conn.Exec(bg, text)
			done <- err
		}()
		begun()
		require.NoError(t, conn.PgConn().CancelRequest(bg))
		return <-done
	}
	running := func() {
		require.Eventually(t, func() bool {
			return h.direct(t, "select count(*) from pg_stat_activity where query = 'select pg_sleep(100)' and state = 'active'") == 1
		}, 5*time.Second, time.Millisecond)
	}
	require.Equal(t, "57014", code(ask("select pg_sleep(100)", running)))
	h.fake.mu.Lock()
	h.fake.hold, h.fake.waits = make(chan struct{}), make(chan mtm.GID, 1)
	h.fake.mu.Unlock()
	require.Equal(t, "57014", code(ask("insert into t values (1, 'x')", func() { <-h.fake.waits })))
	require.Equal(t, 0, h.direct(t, "select count(*) from t"))
	h.fake.mu.Lock()
	h.fake.hold, h.fake.waits = nil, nil
	h.fake.onPermit = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	h.fake.mu.Unlock()
	require.Equal(t, "57014", code(ask("insert into t values (1, 'x')", func() {
		require.Eventually(t, func() bool {
			h.Server.mu.Lock()
			defer h.Server.mu.Unlock()
			for _, s := range h.sessions {
				s.mu.Lock()
				waits := s.abort != nil
				s.mu.Unlock()
				if waits {
					return true
				}
			}
			return false
		}, 5*time.Second, time.Millisecond)
	})))
	h.fake.mu.Lock()
	h.fake.onPermit = nil
	h.fake.mu.Unlock()
	_, err := conn.Exec(bg, "insert into t values (1, 'x')")
	require.NoError(t, err)
}

func TestClientGoneWhileItsCommitWaits(t *testing.T) {
	h := start(t)
	fresh(t, h)
	h.fake.mu.Lock()
	h.fake.hold, h.fake.waits = make(chan struct{}), make(chan mtm.GID, 1)
	h.fake.mu.Unlock()
	conn := h.connect(t, pgx.QueryExecModeExec)
	go conn.Exec(bg, "insert into t values (1, 'x')")
	gid := <-h.fake.waits
	require.NoError(t, conn.PgConn().Conn().Close())
	<-h.fake.cancelOf(gid)
	require.Eventually(t, func() bool { return h.Stats().Sessions == 0 }, 5*time.Second, time.Millisecond)
	require.Equal(t, 0, h.direct(t, "select count(*) from t"))
}

func TestWhoWaitsForAPermitIsNoObstacle(t *testing.T) {
	h := start(t)
	fresh(t, h)
	cause := mtm.Conflict("a transaction of node 2 was first")
	conn := h.connect(t, pgx.QueryExecModeExec)
	asked := make(chan struct{})
	h.fake.mu.Lock()
	h.fake.onPermit = func(ctx context.Context) error { close(asked); <-ctx.Done(); return ctx.Err() }
	h.fake.mu.Unlock()
	for _, sql := range []string{"begin", "insert into t values (1, 'x')"} {
		_, err := conn.Exec(bg, sql)
		require.NoError(t, err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(bg, "commit")
		done <- err
	}()
	<-asked
	require.True(t, h.Doom(int32(conn.PgConn().PID()), Rival{Cause: cause}))
	require.Equal(t, "40001", code(<-done))
	h.fake.mu.Lock()
	h.fake.onPermit = nil
	h.fake.mu.Unlock()
	require.Equal(t, byte('I'), conn.PgConn().TxStatus())
	_, err := conn.Exec(bg, "insert into t values (2, 'x')")
	require.NoError(t, err)
	require.Equal(t, 1, h.direct(t, "select count(*) from t"))
}

func TestDoom(t *testing.T) {
	h := start(t)
	fresh(t, h)
	cause := mtm.Conflict("a transaction of node 2 was first")
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			conn := h.connect(t, mode)
			pid := int32(conn.PgConn().PID())
			require.False(t, h.Doom(pid, Rival{Cause: cause}))
			_, err := conn.Exec(bg, "begin")
			require.NoError(t, err)
			_, err = conn.Exec(bg, "insert into t values (1, 'x')")
			require.NoError(t, err)
			// Idle in its block.
			require.True(t, h.Doom(pid, Rival{Cause: cause}))
			require.Eventually(t, func() bool {
				return h.direct(t, fmt.Sprintf("select count(*) from pg_locks where pid = %d and relation = 't'::regclass", pid)) == 0
			}, 5*time.Second, time.Millisecond)
			_, err = conn.Exec(bg, "select 1")
			require.Equal(t, "40001", code(err))
			_, err = conn.Exec(bg, "select 1")
			require.Equal(t, "25P02", code(err))
			tag, err := conn.Exec(bg, "commit")
			require.NoError(t, err)
			require.Equal(t, "ROLLBACK", tag.String())
			// Idle, and then it commits: a ROLLBACK without an error would look like a commit.
			for _, sql := range []string{"commit", "rollback to s"} {
				_, err = conn.Exec(bg, "begin")
				require.NoError(t, err)
				_, err = conn.Exec(bg, "savepoint s")
				require.NoError(t, err)
				_, err = conn.Exec(bg, "insert into t values (1, 'x')")
				require.NoError(t, err)
				require.True(t, h.Doom(pid, Rival{Cause: cause}))
				_, err = conn.Exec(bg, sql)
				require.Equal(t, "40001", code(err), sql)
				if conn.PgConn().TxStatus() == 'E' {
					require.NotEqual(t, "commit", sql)
					_, err = conn.Exec(bg, "rollback")
					require.NoError(t, err)
				}
				require.Equal(t, byte('I'), conn.PgConn().TxStatus(), sql)
			}
			// Running a statement in its block.
			_, err = conn.Exec(bg, "begin")
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() {
				_, err := conn.Exec(bg, "select pg_sleep(100)")
				done <- err
			}()
			require.Eventually(t, func() bool {
				return h.direct(t, fmt.Sprintf("select count(*) from pg_stat_activity where pid = %d and wait_event = 'PgSleep'", pid)) == 1
			}, 5*time.Second, time.Millisecond)
			require.True(t, h.Doom(pid, Rival{Cause: cause}))
			require.Equal(t, "40001", code(<-done))
			_, err = conn.Exec(bg, "rollback")
			require.NoError(t, err)
			require.Equal(t, byte('I'), conn.PgConn().TxStatus())
		})
	}
}

// TestDoomedBlockStillParses: who prepares a statement (PQprepare) does not expect a conflict there, and pgbench takes the
// statement for prepared all the same.
func TestDoomedBlockStillParses(t *testing.T) {
	h := start(t)
	fresh(t, h)
	cause := mtm.Conflict("a transaction of node 2 was first")
	conn := h.connect(t, pgx.QueryExecModeExec)
	pg := conn.PgConn()
	pid := int32(pg.PID())
	exec := func(sql string) error {
		_, err := pg.Exec(bg, sql).ReadAll()
		return err
	}
	prepare := func(name, sql string) error {
		_, err := pg.Prepare(bg, name, sql, nil)
		return err
	}
	run := func(name string) error { return pg.ExecPrepared(bg, name, nil, nil, nil).Read().Err }
	require.NoError(t, prepare("commit", "commit"))
	require.NoError(t, prepare("rollback", "rollback"))
	doomed := func() {
		require.NoError(t, exec("begin"))
		require.NoError(t, exec("insert into t values (1, 'x'); create table made_here (i int)"))
		require.True(t, h.Doom(pid, Rival{Cause: cause}))
		require.Eventually(t, func() bool {
			return h.direct(t, fmt.Sprintf("select count(*) from pg_locks where pid = %d and relation = 't'::regclass", pid)) == 0
		}, 5*time.Second, time.Millisecond)
	}
	t.Run("then it runs", func(t *testing.T) {
		doomed()
		require.NoError(t, prepare("one", "update t set v = 'y'"))
		require.NoError(t, prepare("two", "select 1"))
		require.Equal(t, byte('T'), pg.TxStatus())
		require.Equal(t, "40001", code(run("one")))
		require.Equal(t, byte('E'), pg.TxStatus())
		require.Equal(t, "25P02", code(run("two")))
		require.NoError(t, run("rollback"))
		require.Equal(t, byte('I'), pg.TxStatus())
		require.NoError(t, run("one"))
		require.NoError(t, run("two"))
	})
	t.Run("what the block made", func(t *testing.T) {
		doomed()
		require.Equal(t, "40001", code(prepare("three", "select * from made_here")))
		require.NoError(t, exec("rollback"))
	})
	t.Run("commit", func(t *testing.T) {
		doomed()
		require.Equal(t, "40001", code(run("commit")))
		require.Equal(t, byte('I'), pg.TxStatus())
	})
	t.Run("rollback", func(t *testing.T) {
		doomed()
		require.NoError(t, run("rollback"))
		require.Equal(t, byte('I'), pg.TxStatus())
		doomed()
		require.NoError(t, exec("rollback and chain"))
		require.Equal(t, byte('T'), pg.TxStatus())
		require.NoError(t, run("two"))
		require.NoError(t, exec("rollback; select 1"))
	})
	t.Run("several statements, large parameters, function call", func(t *testing.T) {
		doomed()
		require.Equal(t, "40001", code(exec("select 1; select 2")))
		require.NoError(t, exec("rollback"))
		doomed()
		res := pg.ExecParams(bg, "select $1", [][]byte{make([]byte, 200_000)}, nil, nil, nil).Read()
		require.Equal(t, "40001", code(res.Err))
		require.Equal(t, byte('E'), pg.TxStatus())
		require.NoError(t, exec("rollback"))
		doomed()
		require.Equal(t, "40001", code(exec("select '"+strings.Repeat("x", 5<<20)+"'")))
		require.NoError(t, exec("rollback"))
	})
	t.Run("a Parse that runs is waited for, once", func(t *testing.T) {
		require.NoError(t, exec("begin"))
		done := make(chan error, 1)
		lock := h.connect(t, pgx.QueryExecModeSimpleProtocol)
		_, err := lock.Exec(bg, "begin; lock table t")
		require.NoError(t, err)
		go func() { done <- prepare("four", "select * from t") }()
		waits := fmt.Sprintf("select count(*) from pg_stat_activity where pid = %d and wait_event_type = 'Lock'", pid)
		require.Eventually(t, func() bool { return h.direct(t, waits) == 1 }, 5*time.Second, time.Millisecond)
		require.True(t, h.Doom(pid, Rival{Cause: cause}))
		require.True(t, h.Doom(pid, Rival{Cause: cause}))
		require.Equal(t, "40001", code(<-done))
		require.NoError(t, exec("rollback"))
		require.NoError(t, exec("begin"))
		go func() { done <- prepare("four", "select * from t") }()
		require.Eventually(t, func() bool { return h.direct(t, waits) == 1 }, 5*time.Second, time.Millisecond)
		require.True(t, h.Doom(pid, Rival{Cause: cause}))
		_, err = lock.Exec(bg, "rollback")
		require.NoError(t, err)
		require.NoError(t, <-done)
		require.Equal(t, "40001", code(run("four")))
		require.NoError(t, exec("rollback"))
	})
	psql(t, h.port, "drop table if exists made_here")
}

// direct connects to PostgreSQL itself.
func direct(t testing.TB) *pgx.Conn {
	conn, err := pgx.Connect(bg, directURL("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(bg) })
	return conn
}

// TestDoomedWhileItIsAskedAbout: a COMMIT that meets a conflict while the gateway asks PostgreSQL what the block did says so.
func TestDoomedWhileItIsAskedAbout(t *testing.T) {
	cause := mtm.Conflict("a transaction of node 2 was first")
	for name, c := range map[string]struct{ catalog, does, end string }{
		"does it write":          {"pg_namespace", "select pg_advisory_xact_lock(1)", "commit"},
		"can it be prepared":     {"pg_trigger", "insert into t select count(*), 'x' from t", "commit"},
		"can a user prepare it":  {"pg_trigger", "insert into t select count(*), 'x' from t", "prepare transaction 'mine'"},
		"can it be, and chained": {"pg_trigger", "insert into t select count(*), 'x' from t", "commit and chain"},
	} {
		for _, how := range []string{"simple", "extended"} {
			if name == "can a user prepare it" && how == "extended" {
				continue // refused without a question
			}
			t.Run(name+", "+how, func(t *testing.T) {
				h := start(t)
				fresh(t, h)
				h.notifies.Store(true)
				conn := h.connect(t, pgx.QueryExecModeSimpleProtocol).PgConn()
				pid := int32(conn.PID())
				exec := func(sql string) error {
					if how == "extended" {
						return conn.ExecParams(bg, sql, nil, nil, nil, nil).Read().Err
					}
					_, err := conn.Exec(bg, sql).ReadAll()
					return err
				}
				// Whatever it prepares is prepared before the lock.
				for _, sql := range []string{"begin", "select 1", c.does, c.end, "begin", c.does} {
					if err := exec(sql); sql != c.end {
						require.NoError(t, err)
					} else if conn.TxStatus() != 'I' {
						require.NoError(t, exec("rollback"))
					}
				}
				waits := fmt.Sprintf("select count(*) from pg_stat_activity where pid = %d and wait_event_type = 'Lock'", pid)
				watch, lock := direct(t), direct(t)
				blocked := func() (n int) {
					require.NoError(t, watch.QueryRow(bg, waits).Scan(&n))
					return n
				}
				require.Zero(t, blocked())
				_, err := lock.Exec(bg, "begin; lock table pg_catalog."+c.catalog)
				require.NoError(t, err)
				done := make(chan error, 1)
				go func() { done <- exec(c.end) }()
				require.Eventually(t, func() bool { return blocked() == 1 }, 5*time.Second, time.Millisecond)
				require.True(t, h.Doom(pid, Rival{Cause: cause}))
				require.Equal(t, "40001", code(<-done))
				_, err = lock.Exec(bg, "rollback")
				require.NoError(t, err)
				require.NoError(t, exec("rollback"))
				require.NoError(t, exec("select 1"))
			})
		}
	}
}

func TestResultsOfAnySize(t *testing.T) {
	h := start(t)
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			fresh(t, h)
			conn := h.connect(t, mode)
			var s string
			require.NoError(t, conn.QueryRow(bg, "select repeat('x', $1::int)", 5_000_000).Scan(&s))
			require.Len(t, s, 5_000_000)
			_, err := conn.Exec(bg, "insert into t values ($1, $2)", 1, s[:3_000_000])
			require.NoError(t, err)
			require.Equal(t, 3_000_000, h.direct(t, "select length(v) from t"))
			_, err = conn.Exec(bg, "update t set v = v || $1 where id = $2 returning v", s[:1000], 1)
			require.NoError(t, err)
			_, err = conn.Exec(bg, "select $1", s[:70_000])
			require.NoError(t, err)
			rows, err := conn.Query(bg, "select generate_series(1, 200000)")
			require.NoError(t, err)
			n := 0
			for rows.Next() {
				n++
			}
			require.NoError(t, rows.Err())
			require.Equal(t, 200_000, n)
		})
	}
}

func TestStatementsLongerThanTheLexerReads(t *testing.T) {
	h := start(t)
	fresh(t, h)
	conn := h.connect(t, pgx.QueryExecModeSimpleProtocol)
	long := strings.Repeat("x", 5<<20)
	for i, text := range []string{"insert into t values (1, '" + long + "')", "begin", "insert into t values (2, '" + long + "')", "commit"} {
		tag, err := conn.Exec(bg, text)
		require.NoError(t, err, i)
		require.Equal(t, []string{"INSERT 0 1", "BEGIN", "INSERT 0 1", "COMMIT"}[i], tag.String())
	}
	require.EqualValues(t, 2, h.Stats().Prepared)
	require.Equal(t, 10<<20, h.direct(t, "select sum(length(v)) from t"))
	res, err := conn.PgConn().Exec(bg, "select '"+long+"'").ReadAll()
	require.NoError(t, err)
	require.Len(t, res[0].Rows[0][0], 5<<20)
	_, err = conn.Exec(bg, "insert into t values (3, '"+long+"'); commit")
	require.Equal(t, "42601", code(err))
	_, err = conn.Exec(bg, "insert into t values (1, '"+long+"')")
	require.Equal(t, "23505", code(err))
	require.Equal(t, 2, h.direct(t, "select count(*) from t"))
}

func TestPgbench(t *testing.T) {
	h := start(t)
	args := []string{"-h", "127.0.0.1", "-p", fmt.Sprint(h.port), "-U", "postgres", "postgres"}
	out, err := exec.Command(program("pgbench"), append([]string{"-i", "-s", "1"}, args...)...).CombinedOutput()
	require.NoError(t, err, string(out))
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, script := range []string{"tpcb-like", "select-only"} {
			out, err = exec.Command(program("pgbench"), append([]string{"-n", "-M", mode, "-b", script, "-c", "4", "-t", "20"}, args...)...).CombinedOutput()
			require.NoError(t, err, string(out))
			require.Contains(t, string(out), "number of failed transactions: 0")
		}
	}
	require.Equal(t, 3*80, h.direct(t, "select count(*) from pgbench_history"))
	require.Equal(t, 0, h.direct(t, "select (select sum(abalance) from pgbench_accounts) - (select sum(delta) from pgbench_history)"))
	psql(t, h.port, "drop table pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history")
}

// What PostgreSQL cannot prepare is held open by its session, in every protocol, and commits as any other.
func TestWhatCannotBePreparedIsHeldOpen(t *testing.T) {
	h := start(t)
	fresh(t, h)
	held := func() (n int) {
		h.fake.held.Range(func(any, any) bool { n++; return true })
		return n
	}
	conn := h.connect(t, pgx.QueryExecModeSimpleProtocol)
	exec := func(sql string) {
		t.Helper()
		_, err := conn.Exec(bg, sql)
		require.NoError(t, err, sql)
	}
	for i, sql := range []string{
		"notify x", "listen x", "create temp table tt (a int) on commit drop", "declare c cursor with hold for select 1",
		"select pg_export_snapshot()", "do $$begin create temp table deep (a int) on commit drop; end$$; declare d cursor with hold for select 1",
	} {
		exec("begin")
		exec(sql)
		exec(fmt.Sprintf("insert into t values (%d, 'x')", i))
		exec("commit")
		require.Equal(t, i+1, held(), sql)
	}
	exec("fetch c") // what belongs to the session stays
	exec("insert into t values (100, 'x')")
	require.Equal(t, 6, held(), "what can be prepared is")

	ext := h.connect(t, pgx.QueryExecModeExec)
	tx, err := ext.Begin(bg)
	require.NoError(t, err)
	_, err = tx.Exec(bg, "insert into t values (200, $1)", "x")
	require.NoError(t, err)
	_, err = tx.Exec(bg, "select pg_notify('x', $1)", "y")
	require.NoError(t, err)
	require.NoError(t, tx.Commit(bg))
	require.Equal(t, 7, held())
	// Deferred constraints are checked before anybody hears of it.
	exec("begin; notify x; insert into child values (1, 99)")
	_, err = conn.Exec(bg, "commit")
	require.Equal(t, "23503", code(err))
	require.Equal(t, 7, held())
	require.Equal(t, byte('I'), conn.PgConn().TxStatus())
	require.Equal(t, 8, h.direct(t, "select count(*) from t"))
}

// TestOurStatementsThatFailAreTold: whatever becomes of what the gateway runs beside a client's statement (a cancel request can hit it), he is told,
// at once, and nothing is half done. Here it fails because the client deallocated it.
func TestOurStatementsThatFailAreTold(t *testing.T) {
	h := start(t)
	fresh(t, h)
	failed := "ErrorResponse 26000"
	query := func(text string) *pgproto3.Query { return &pgproto3.Query{String: text} }
	insert := parse("", "insert into t values (2, 'x')")
	create := parse("", "create table never (a int)")
	cases := map[string]struct {
		which string
		begin string
		send  []pgproto3.FrontendMessage
		want  []string // what comes, up to the error
	}{
		"DDL":                   {"_mtm_begin", "", []pgproto3.FrontendMessage{create, bind, execute, sync_}, nil},
		"pipeline with DDL":     {"_mtm_begin", "", []pgproto3.FrontendMessage{insert, bind, execute, create, bind, execute, sync_}, nil},
		"before Sync":           {"_mtm_begin", "", []pgproto3.FrontendMessage{insert, bind, execute, flush}, nil},
		"COPY":                  {"_mtm_begin", "", []pgproto3.FrontendMessage{parse("", "copy t from stdin"), bind, execute, sync_}, nil},
		"DDL in a block":        {"_mtm_ddl", "begin", []pgproto3.FrontendMessage{create, bind, execute, sync_}, []string{"ParseComplete", "BindComplete"}},
		"end of DDL in a block": {"_mtm_ddl_end", "begin", []pgproto3.FrontendMessage{create, bind, execute, sync_}, []string{"ParseComplete", "BindComplete", "CommandComplete CREATE TABLE"}},
		"DDL as a Query":        {"_mtm_ddl", "begin", []pgproto3.FrontendMessage{query("create table never (a int)")}, nil},
		"end of DDL as a Query": {"_mtm_ddl_end", "begin", []pgproto3.FrontendMessage{query("create table never (a int)")}, []string{"CommandComplete CREATE TABLE"}},
		"a Query that fails":    {"_mtm_ddl_end", "begin", []pgproto3.FrontendMessage{query("create table t (a int)")}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := dialRaw(t, h.addr).login()
			// So that the session has them.
			for _, sql := range []string{"create table never (a int)", "drop table never", "deallocate " + c.which, c.begin} {
				r.send(query(sql))
				r.until("ReadyForQuery")
			}
			r.send(c.send...)
			want := append(slices.Clip(c.want), failed)
			if name == "a Query that fails" {
				want = []string{"ErrorResponse 42P07"}
			}
			require.Equal(t, want, r.until("ErrorResponse"))
			if name == "before Sync" {
				r.send(sync_)
			}
			state := "ReadyForQuery I"
			if c.begin != "" {
				state = "ReadyForQuery E"
			}
			require.Equal(t, []string{state}, r.until("ReadyForQuery"))
			r.send(query("rollback"))
			r.until("ReadyForQuery")
			r.send(query("insert into t values (1, 'x')"), query("delete from t"))
			require.Equal(t, "CommandComplete INSERT 0 1", r.until("ReadyForQuery")[0])
			require.Equal(t, "CommandComplete DELETE 1", r.until("ReadyForQuery")[0])
			require.Equal(t, 0, h.direct(t, "select count(*) from pg_class where relname = 'never'"))
		})
	}
	t.Run("the guard", func(t *testing.T) {
		fresh(t, h)
		r := dialRaw(t, h.addr).login()
		plain := h.Stats().Prepared
		for range 2 {
			r.send(query("set default_transaction_read_only = off"))
			r.until("ReadyForQuery")
			r.send(query("deallocate _mtm_guard_on"))
			r.until("ReadyForQuery")
		}
		r.send(query("set default_transaction_read_only = off"))
		r.until("ReadyForQuery")
		r.send(query("select writes()"))
		r.until("ReadyForQuery")
		require.Equal(t, 1, h.direct(t, "select count(*) from t"))
		require.Equal(t, plain+1, h.Stats().Prepared, "it was committed on this node only")
	})
	t.Run("the rollback of ours", func(t *testing.T) {
		fresh(t, h)
		r := dialRaw(t, h.addr).login()
		duplicate := query("insert into t values (1, 'x'), (1, 'x')")
		for range 2 {
			r.send(duplicate)
			require.Equal(t, []string{"ErrorResponse 23505", "ReadyForQuery I"}, r.until("ReadyForQuery"))
			r.send(query("deallocate _mtm_rollback"))
			r.until("ReadyForQuery")
		}
		r.send(duplicate)
		require.Equal(t, []string{"ErrorResponse 23505", "ReadyForQuery I"}, r.until("ReadyForQuery"))
		r.send(query("insert into t values (1, 'x')"))
		require.Equal(t, []string{"CommandComplete INSERT 0 1", "ReadyForQuery I"}, r.until("ReadyForQuery"))
	})
}

// What fails of what the gateway runs beside a client's statement, he is told. Here schema mtm is not installed.
func TestFailuresOfOursAreTold(t *testing.T) {
	h := start(t)
	const do = "do $$ begin create role never; end $$"
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		conn := h.connect(t, mode)
		refused := func(sql string) {
			t.Helper()
			_, err := conn.Exec(bg, sql)
			require.Equal(t, "42883", code(err), "%v: %s", mode, sql)
		}
		refused(do)
		_, err := conn.Exec(bg, "begin")
		require.NoError(t, err)
		refused(do)
		_, err = conn.Exec(bg, "select 1")
		require.Equal(t, "25P02", code(err))
		_, err = conn.Exec(bg, "rollback")
		require.NoError(t, err)
		if mode == pgx.QueryExecModeSimpleProtocol {
			refused("select 1; " + do + "; select 2")
			refused("begin; " + do + "; commit")
			_, err = conn.Exec(bg, "rollback")
			require.NoError(t, err)
		}
		_, err = conn.Exec(bg, "select 1")
		require.NoError(t, err)
	}
}
