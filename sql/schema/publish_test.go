package schema

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm"
)

func someState() State {
	return State{
		Status: mtm.StatusOnline, Connected: mtm.Nodes(1, 2, 3), Online: mtm.Nodes(1, 2),
		Generation: mtm.Generation{Num: 7, Members: mtm.Nodes(1, 2), Configured: mtm.Nodes(1, 2, 3)},
		Peers: []PeerState{
			{ID: 1, Enabled: true, Connected: true, Mode: ReceiverDisabled},
			{ID: 2, Enabled: true, Connected: true, SenderPID: 11, ReceiverPID: 12, Workers: 4, Mode: ReceiverNormal},
		},
	}
}

const (
	statusDown = "2|disabled|{}|||{}|{1,2,3}"
	statusUp   = "2|online|{1,2,3}|7|{1,2}|{1,2}|{1,2,3}"
)

// announced makes node 2 with a daemon that has published, and returns the daemon's session.
func announced(t *testing.T) (conn, daemon *pgx.Conn) {
	conn = newNode(t, 2)
	daemon = connectWith(t, conn.Config().Database, "postgres") // under the guard
	require.NoError(t, Announce(testContext(t), daemon, "v1.2", time.Second))
	require.NoError(t, Publish(testContext(t), daemon, someState()))
	return conn, daemon
}

// died waits until PostgreSQL has ended the session of process pid.
func died(t *testing.T, conn *pgx.Conn, daemon *pgx.Conn) {
	pid := daemon.PgConn().PID()
	require.NoError(t, daemon.Close(testContext(t)))
	_, err := conn.Exec(testContext(t), `SELECT pg_terminate_backend($1, 10000)`, int32(pid))
	require.NoError(t, err)
}

func TestStatusBeforeTheDaemonCame(t *testing.T) {
	conn := newNode(t, 2)
	require.Equal(t, []string{statusDown}, query(t, conn, `SELECT * FROM mtm.status()`))
	require.Equal(t, []string{"f|||"}, query(t, conn, `SELECT * FROM mtm.daemon()`))
	require.Equal(t, []string{
		"1|host=n1 user=u|f|f|f|||0|disabled",
		"2|postgres://u@n2:5432/db|t|f|f|||0|disabled",
		"3|host=n3|f|f|f|||0|disabled",
	}, query(t, conn, `SELECT * FROM mtm.nodes()`))
}

func TestStatusIsLive(t *testing.T) {
	conn, _ := announced(t)
	require.Equal(t, []string{statusUp}, query(t, conn, `SELECT * FROM mtm.status()`))
	require.Equal(t, []string{"t|v1.2|t"}, query(t, conn, `SELECT alive, version, last_seen - since < '1 min' FROM mtm.daemon()`))
	require.Equal(t, []string{"1|f|t|t|||0|disabled", "2|t|t|t|11|12|4|normal", "3|f|f|f|||0|disabled"}, query(t, conn,
		`SELECT id, is_self, enabled, connected, sender_pid, receiver_pid, n_workers, receiver_mode FROM mtm.nodes()`))
}

func TestRecoveryIsTold(t *testing.T) {
	conn, daemon := announced(t)
	require.Equal(t, []string{"|"}, query(t, conn, `SELECT * FROM mtm.recovery()`))
	s := someState()
	s.Status, s.Donor, s.Behind = mtm.StatusCatchup, 3, 12345
	require.NoError(t, Publish(testContext(t), daemon, s))
	require.Equal(t, []string{"3|12345"}, query(t, conn, `SELECT * FROM mtm.recovery()`))
	died(t, conn, daemon)
	require.Equal(t, []string{"|"}, query(t, conn, `SELECT * FROM mtm.recovery()`))
}

func TestStatusTypes(t *testing.T) {
	conn := newNode(t, 2)
	require.Equal(t, []string{"integer|text|integer[]|bigint|integer[]|integer[]|integer[]"}, query(t, conn,
		`SELECT string_agg(format_type(u.t, NULL), '|' ORDER BY o)
		 FROM pg_proc, unnest(proallargtypes) WITH ORDINALITY u(t, o) WHERE oid = 'mtm.status'::regproc`))
	require.Equal(t, []string{"my_node_id,status,connected,gen_num,gen_members,gen_members_online,gen_configured",
		"id,conninfo,is_self,enabled,connected,sender_pid,receiver_pid,n_workers,receiver_mode"}, query(t, conn,
		`SELECT array_to_string(proargnames, ',') FROM pg_proc WHERE oid IN ('mtm.status'::regproc, 'mtm.nodes'::regproc)
		 ORDER BY proname DESC`))
}

// A stale row counts for nothing once the daemon's session is gone, but the last generation is told.
func TestStatusOfADeadDaemon(t *testing.T) {
	conn, daemon := announced(t)
	died(t, conn, daemon)
	require.Equal(t, []string{"2|disabled|{}|7|{1,2}|{}|{1,2,3}"}, query(t, conn, `SELECT * FROM mtm.status()`))
	require.Equal(t, []string{"f|v1.2|t"}, query(t, conn, `SELECT alive, version, last_seen < now() FROM mtm.daemon()`))
	require.Equal(t, []string{"0|0"}, query(t, conn,
		`SELECT count(*) FILTER (WHERE connected OR enabled), sum(n_workers) FROM mtm.nodes()`))
}

// The next daemon has said nothing yet: what its predecessor wrote is not its word.
func TestStatusOfANewDaemon(t *testing.T) {
	conn, daemon := announced(t)
	died(t, conn, daemon)
	next := connectAs(t, conn.Config().Database, "postgres")
	require.NoError(t, Announce(testContext(t), next, "v1.3", time.Second))
	require.Equal(t, []string{"disabled"}, query(t, conn, `SELECT status FROM mtm.status()`))
	require.Equal(t, []string{"t|v1.3"}, query(t, conn, `SELECT alive, version FROM mtm.daemon()`))
	require.NoError(t, Publish(testContext(t), conn, someState())) // by another session
	require.Equal(t, []string{statusUp}, query(t, conn, `SELECT * FROM mtm.status()`))
}

func TestSecondDaemonIsRefused(t *testing.T) {
	conn, _ := announced(t)
	var e *mtm.Error
	require.ErrorAs(t, Announce(testContext(t), conn, "v2", time.Millisecond), &e)
	require.Equal(t, "55006", e.Code)
	require.Equal(t, []string{statusUp}, query(t, conn, `SELECT * FROM mtm.status()`))
}

func TestAUserCannotPretendToBeTheDaemon(t *testing.T) {
	conn, daemon := announced(t)
	died(t, conn, daemon)
	user := ordinary(t, conn)
	mustExec(t, user, `SELECT pg_advisory_lock(1836346733, 1)`)
	require.Equal(t, []string{"disabled"}, query(t, conn, `SELECT status FROM mtm.status()`))
	_, err := user.Exec(testContext(t), `UPDATE mtm.daemon_state SET pid = pg_backend_pid()`)
	require.ErrorContains(t, err, "42501")
}

func TestPublishWithoutAnnounce(t *testing.T) {
	conn := newNode(t, 2)
	var e *mtm.Error
	require.ErrorAs(t, Publish(testContext(t), conn, someState()), &e)
	require.Equal(t, "55000", e.Code)
}

func TestAnyoneMayAskAnywhere(t *testing.T) {
	conn, _ := announced(t)
	user := ordinary(t, conn)
	mustExec(t, user, `SET search_path = ''; BEGIN READ ONLY ISOLATION LEVEL SERIALIZABLE`)
	require.Equal(t, []string{statusUp}, query(t, user, `SELECT * FROM mtm.status()`))
	require.Len(t, query(t, user, `SELECT * FROM mtm.nodes()`), 3)
	require.Len(t, query(t, user, `SELECT * FROM mtm.daemon()`), 1)
	mustExec(t, user, `COMMIT`)
	for _, sql := range []string{`SELECT mtm.alter_sequences()`, `SELECT mtm.set_sequence(1, true, 'step')`,
		`SELECT * FROM mtm.node`, `CREATE TABLE mtm.x (a int)`} {
		_, err := user.Exec(testContext(t), sql)
		require.ErrorContains(t, err, "42501", sql)
	}
}

func TestSetNodes(t *testing.T) {
	conn := newNode(t, 2)
	require.NoError(t, SetNodes(testContext(t), conn, []Node{{ID: 2, ConnInfo: "a"}, {ID: 4, ConnInfo: "b"}}))
	require.Equal(t, []string{"2|a", "4|b"}, query(t, conn, `SELECT id, conninfo FROM mtm.nodes()`))
}

// ordinary is a session of a role that owns a schema of its own, and nothing else.
func ordinary(t *testing.T, conn *pgx.Conn) *pgx.Conn {
	mustExec(t, conn, `DO $$ BEGIN CREATE ROLE ordinary LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
		CREATE SCHEMA AUTHORIZATION ordinary`)
	return connectAs(t, conn.Config().Database, "ordinary")
}

func TestInDoubtIsLive(t *testing.T) {
	conn, daemon := announced(t)
	_, err := conn.Exec(testContext(t), `CREATE ROLE nobody_doubt LOGIN`)
	require.NoError(t, err)
	user := connectWith(t, conn.Config().Database, "nobody_doubt")
	const show = `SELECT gid, origin, age > '30 s' AND age < '1 h', prepared, votes, waits_for FROM mtm.in_doubt`
	require.Empty(t, query(t, user, show))
	s := someState()
	began := uint64(time.Now().Add(-time.Minute).UnixMicro())
	s.InDoubt = []InDoubt{
		{GID: mtm.GID{Origin: 3, Gen: 7, Seq: 11}, Began: began, Prepared: true, Votes: mtm.Nodes(2), WaitsFor: mtm.Nodes(1, 3)},
		{GID: mtm.GID{Origin: 1, Gen: 7, Seq: 12}, WaitsFor: mtm.Nodes(1, 2, 3)},
	}
	require.NoError(t, Publish(testContext(t), daemon, s))
	require.Equal(t, []string{"mtm-1-7-12|1||f|{}|{1,2,3}", "mtm-3-7-11|3|t|t|{2}|{1,3}"}, query(t, user, show))

	// While the daemon is down it is what PostgreSQL itself holds: nobody knows more.
	mustExec(t, conn, `BEGIN; SET TRANSACTION READ WRITE; SELECT pg_logical_emit_message(true, 'x', 'y'); PREPARE TRANSACTION 'mtm-3-7-11'`)
	defer mustExec(t, conn, `ROLLBACK PREPARED 'mtm-3-7-11'`)
	require.Len(t, query(t, user, show), 2)
	died(t, conn, daemon)
	require.Equal(t, []string{"mtm-3-7-11|3|f|t||"}, query(t, user, show))
}
