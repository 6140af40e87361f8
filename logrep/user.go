package logrep

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
	"mtm/logrep/pgoutput"
)

// This file is about transactions that users prepare (PREPARE TRANSACTION 'x') and end from any session of any node.
//
// Such a transaction is prepared in PostgreSQL as GID.UserName of the transaction that announces it: an ordinary one, which
// inserts the user's name into mtm.prepared, and whose payload holds the user's changes before its message "mtm.prepare".
// A member that applies it prepares first the user's transaction, then the announcement, and votes for both. So when the
// announcement is committed the user's transaction is prepared on every member, and it is known by the user's name.
//
// It ends by another ordinary transaction, the order: it notes in mtm.prepared whether to commit. Two orders for the same
// transaction meet at that row, like any two updates. Whoever has committed the order carries it out in its own
// PostgreSQL before it calls the order finished, and then deletes the row. So what depends on the order finds it carried out.
//
// All that must be remembered is in mtm.prepared, and changes with the transactions themselves:
//
//   - a user's transaction whose row is not there, and whose announcement is not prepared, belongs to one that failed;
//   - a row with an order means that the transaction has yet to be ended here.
//
// The coordinator knows nothing of this: a user's transaction is not in doubt, blocks no switch and no number.

// The prefixes of messages about them. Capture makes them from the rows of mtm.prepared, which clients cannot write, and in their
// sub-transactions: what was rolled back to a savepoint is no order. What a client says under these prefixes is nothing.
const (
	prefixUserPrepare = "mtm.prepare"
	prefixUserFinish  = "mtm.finish"
)

// userPrepareMessage is the content of "mtm.prepare": a row of mtm.prepared that was inserted.
type userPrepareMessage struct {
	V        int    `json:"v"` // 1
	GID      string `json:"gid"`
	Name     string `json:"name"`
	Owner    string `json:"owner"`
	Prepared string `json:"prepared"`
}

// userFinishMessage is the content of "mtm.finish": such a row that was updated.
type userFinishMessage struct {
	V       int    `json:"v"` // 1
	GID     string `json:"gid"`
	Commits bool   `json:"commits"`
}

// parseUser reads the content of a message, into v; version is in it.
func parseUser(content []byte, v any, version *int) error {
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("%w: prepared transaction: %v", ErrPayload, err)
	}
	if *version != 1 {
		return &mtm.Error{Code: mtm.CodeNotSupported, Msg: fmt.Sprintf("message version %d about a prepared transaction is not known", *version),
			Hint: "Upgrade mtmd on this node."}
	}
	return nil
}

// Announces says that gid announces, or orders, something about a user's transaction: when it ends, mtm.prepared is to be
// looked at. It is said before the user's transaction can be prepared.
func (c *Catalog) Announces(gid mtm.GID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.user[gid] = true
}

func (c *Catalog) announces(gid mtm.GID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.user[gid]
}

// AnnouncesNot takes that back: gid was not prepared, nor is anything that it was to announce.
func (c *Catalog) AnnouncesNot(gid mtm.GID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.user, gid)
}

// userPrepared keeps what a user prepared here until its announcement comes, which is a moment later, or its rollback.
func (s *captureStream) userPrepared(t *capturedTxn, gid mtm.GID, lsn mtm.LSN) error {
	if gid.Origin != s.cfg.Node || t.origin || t.out == nil {
		return t.abort()
	}
	s.mu.Lock()
	again := lsn <= s.delivered
	s.delivered = max(s.delivered, lsn)
	s.mu.Unlock()
	if again {
		return t.abort()
	}
	if err := errors.Join(s.user[gid].abort(), t.sendDDL()); err != nil {
		return err
	}
	if s.cfg.Catalog.announces(gid) {
		for other := range s.user { // a rollback that is replicated, for PostgreSQL 16 and later, is not told
			if !s.cfg.Catalog.announces(other) {
				if err := s.forgetUser(other.UserName()); err != nil {
					return err
				}
			}
		}
		s.user[gid] = t
		return nil
	}
	// A session of an earlier life prepared it, and will not announce it.
	s.cfg.Catalog.Announces(gid)
	s.sink.Captured(gid, lsn, mtm.Payload{Flags: mtm.PayloadEmpty})
	return t.abort()
}

// announcement is what t.announce takes, in that sub-transaction, about the transaction that a user prepared as gid.
type announcement struct {
	subxid uint32
	gid    string
	body   []byte
}

// preparedRow takes a row of mtm.prepared that a session here has inserted or updated.
func (t *capturedTxn) preparedRow(subxid uint32, inserted bool, row map[string]pgoutput.Value) error {
	text := func(column string) string { return string(row[column].Data) }
	m := &pgoutput.Logical{Transactional: true}
	var err error
	if inserted {
		m.Prefix = prefixUserPrepare
		m.Content, err = json.Marshal(userPrepareMessage{V: 1, GID: text("gid"), Name: text("name"), Owner: text("owner"), Prepared: text("prepared")})
		t.announced = append(t.announced, announcement{subxid, text("gid"), logicalBody(m)})
		return err
	}
	if row["commits"].Kind != pgoutput.Text {
		return nil
	}
	if err := t.sendDDL(); err != nil {
		return err
	}
	m.Prefix = prefixUserFinish
	if m.Content, err = json.Marshal(userFinishMessage{V: 1, GID: text("gid"), Commits: text("commits") == "t"}); err != nil {
		return err
	}
	t.orders[subxid]++
	t.changes[subxid]++
	t.late = t.late || t.told
	t.flags |= mtm.PayloadDDL
	if t.table == "" {
		t.table = tablePrepared
	}
	if t.out == nil {
		return nil
	}
	return t.out.frame(subxid, 'M', logicalBody(m))
}

// The refusals of what concerns users' prepared transactions.
var (
	errHeldOrder = &mtm.Error{
		Code: mtm.CodeNotSupported, Msg: "cannot end a prepared transaction in a transaction that has used temporary objects, NOTIFY or WITH HOLD",
		Hint: "Use COMMIT PREPARED or ROLLBACK PREPARED by itself.",
	}
	errPreparedOrder = &mtm.Error{
		Code: mtm.CodeNotSupported, Msg: "cannot PREPARE a transaction that has ended a prepared transaction",
		Hint: "Use COMMIT PREPARED or ROLLBACK PREPARED by itself.",
	}
	errForeignAnnouncement = &mtm.Error{
		Code: "55000", Msg: "this transaction announces a prepared transaction that is not its own",
		Hint: "mtm.announce_prepared() is for the gateway. Use PREPARE TRANSACTION.",
	}
	errLostUser = &mtm.Error{
		Code: "40001", Msg: "what was to be prepared did not come out of the write-ahead log", Hint: "Repeat the transaction.",
	}
)

// withUser is the announcement t with the user's changes before it, or t if it announces nothing. An *mtm.Error refuses it.
func (s *captureStream) withUser(gid mtm.GID, t *capturedTxn) (*capturedTxn, error) {
	if len(t.orders) > 0 {
		s.cfg.Catalog.Announces(gid)
	}
	user := s.user[gid]
	if len(t.announced) == 0 {
		return t, nil
	}
	delete(s.user, gid)
	switch {
	case len(t.announced) > 1 || t.announced[0].gid != gid.UserName():
		return t, cmp.Or[error](user.abort(), errForeignAnnouncement)
	case user == nil:
		return t, errLostUser
	case len(user.orders) > 0 || len(user.announced) > 0:
		return t, cmp.Or[error](user.abort(), errPreparedOrder)
	}
	user.flags |= t.flags | mtm.PayloadDDL
	user.changes[0]++
	return user, errors.Join(user.out.frame(0, 'M', t.announced[0].body), t.abort())
}

// forgetUser: what a user prepared here is over.
func (s *captureStream) forgetUser(name string) error {
	gid, ok := mtm.ParseUserName(name)
	if !ok {
		return nil
	}
	t := s.user[gid]
	delete(s.user, gid)
	return t.abort()
}

// announce prepares what the payload has held so far as the user's transaction, and begins the announcement.
func (t *applyTxn) announce(content []byte) error {
	var m userPrepareMessage
	if err := parseUser(content, &m, &m.V); err != nil {
		return err
	}
	if m.GID != t.job.gid.UserName() {
		return fmt.Errorf("%w: %s announces %q", ErrPayload, t.job.gid, m.GID)
	}
	if err := t.endHeld(); err != nil {
		return err
	}
	if t.fk != nil {
		if err := t.checkReferences(); err != nil {
			return err
		}
		t.fk = &fkChecks{seen: map[string]bool{}}
	}
	t.dropViews()
	t.dropRunners()
	if err := t.drain(); err != nil {
		return err
	}
	if t.job.isCancelled() {
		return errCancelled
	}
	t.cfg.Catalog.Announces(t.job.gid)
	t.job.user = true
	t.sendOnce("PREPARE TRANSACTION "+quoteLiteral(m.GID), sentStmt{})
	t.sendOnce("BEGIN", sentStmt{})
	t.deferred = false
	if t.fk == nil {
		t.sendOnce(sayRecovered, sentStmt{})
	}
	rows, err := t.rows("INSERT INTO mtm.prepared VALUES ($1, $2, $3::pg_catalog.name, $4::pg_catalog.timestamptz) "+
		"ON CONFLICT (name) DO NOTHING RETURNING '1'", m.Name, m.GID, m.Owner, m.Prepared)
	if err == nil && len(rows) == 0 {
		err = &mtm.Error{Code: "42710", Msg: fmt.Sprintf("transaction identifier %q is already in use", m.Name)}
	}
	return err
}

// order notes what is to become of a user's transaction. check: it must be there.
func (t *applyTxn) order(content []byte, check bool) error {
	var m userFinishMessage
	if err := parseUser(content, &m, &m.V); err != nil {
		return err
	}
	t.cfg.Catalog.Announces(t.job.gid)
	if check {
		rows, err := t.rows("SELECT '1' FROM pg_catalog.pg_prepared_xacts WHERE gid = $1", m.GID)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return &mtm.Error{Code: "55000", Msg: "the prepared transaction is missing on another node",
				Detail: fmt.Sprintf("PostgreSQL does not have %q any more; somebody ended it there.", m.GID)}
		}
	}
	rows, err := t.rows("UPDATE mtm.prepared SET commits = $2::pg_catalog.bool WHERE gid = $1 AND commits IS NULL RETURNING '1'",
		m.GID, strconv.FormatBool(m.Commits))
	if err == nil && len(rows) == 0 {
		err = mtm.Conflict(fmt.Sprintf("%s was ended by another session.", m.GID))
	}
	return err
}

// hasUserTable reports whether mtm.prepared is there.
func hasUserTable(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	rows, err := query(ctx, conn, "SELECT 1 WHERE pg_catalog.to_regclass('mtm.prepared') IS NOT NULL")
	return len(rows) == 1, err
}

// carryOut ends what was ordered to end, and forgets it.
func carryOut(ctx context.Context, conn *pgconn.PgConn, catalog *Catalog) error {
	rows, err := query(ctx, conn, "SELECT gid, commits FROM mtm.prepared WHERE commits IS NOT NULL")
	for _, row := range rows {
		if err == nil {
			err = endUser(ctx, conn, string(row[0]), string(row[1]) == "t")
			catalog.changed()
		}
		if err == nil {
			_, err = query(ctx, conn, "DELETE FROM mtm.prepared WHERE gid = $1 AND commits IS NOT NULL", string(row[0]))
		}
	}
	if err != nil {
		return fmt.Errorf("end what users prepared: %w", err)
	}
	return nil
}

// endUser ends one. What is not there was ended before.
func endUser(ctx context.Context, conn *pgconn.PgConn, gid string, commit bool) error {
	verb := "ROLLBACK PREPARED "
	if commit {
		verb = "COMMIT PREPARED "
	}
	if err := run(ctx, conn, verb+quoteLiteral(gid)); err != nil && sqlState(err) != "42704" {
		return err
	}
	return nil
}

// startUser brings in order what an earlier process left: what was ordered is carried out, what was never announced is
// rolled back. Nothing may be preparing meanwhile, but sessions of the gateway, which nobody waits for any more.
func startUser(ctx context.Context, conn *pgconn.PgConn, catalog *Catalog) error {
	there, err := hasUserTable(ctx, conn)
	if err != nil || !there {
		return err
	}
	if err := carryOut(ctx, conn, catalog); err != nil {
		return err
	}
	rows, err := query(ctx, conn, "SELECT x.gid FROM pg_catalog.pg_prepared_xacts x WHERE x.database = pg_catalog.current_database() "+
		"AND x.gid ~ '^mtm-.*-user$' AND NOT EXISTS (SELECT FROM mtm.prepared p WHERE p.gid = x.gid)")
	if err != nil {
		return fmt.Errorf("list what users prepared: %w", err)
	}
	for _, row := range rows {
		gid, ours := mtm.ParseUserName(string(row[0]))
		if !ours {
			continue
		}
		pending, err := isPrepared(ctx, conn, gid)
		if err == nil && !pending {
			err = endUser(ctx, conn, string(row[0]), false)
		}
		if err != nil {
			return fmt.Errorf("end what users prepared: %w", err)
		}
	}
	found, err := listPrepared(ctx, conn)
	for _, x := range found {
		catalog.Announces(x.GID) // it may
	}
	return err
}

// landing: a session of this node may be ending its PREPARE: the WAL is flushed, and decoded, a moment before the gid can be
// seen. So a rollback of our own that finds nothing looks again a few times.
func (w *finishWorker) landing(job finishJob) bool {
	return !job.commit && job.gid.Origin == w.cfg.Node && job.tries < 4
}

// afterEnd does what the end of job asks for, if it concerns a user's transaction.
func (w *finishWorker) afterEnd(ctx context.Context, job finishJob) error {
	conn := w.s.conn
	if !job.commit {
		name := job.gid.UserName()
		rows, err := query(ctx, conn, "SELECT 1 FROM mtm.prepared WHERE gid = $1", name)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			err := run(ctx, conn, "ROLLBACK PREPARED "+quoteLiteral(name))
			if err != nil && (sqlState(err) != "42704" || w.landing(job)) {
				return err
			}
		}
	}
	if err := carryOut(ctx, conn, w.cfg.Catalog); err != nil {
		return err
	}
	w.cfg.Catalog.AnnouncesNot(job.gid)
	return nil
}

// undoUser makes sure that the user's transaction of a job that failed is not prepared: over s, or another session if that is lost.
func (a *Applier) undoUser(ctx context.Context, w *applyWorker, s *applySession, job *applyJob) (*applySession, error) {
	for n := 1; ; n++ {
		var err error
		if s == nil {
			s, err = a.connect(ctx, w)
		}
		if err == nil {
			if err = endUser(ctx, s.conn, job.gid.UserName(), false); err == nil {
				job.user = false
				return s, nil
			}
			if s.conn.IsClosed() {
				s.close()
				s = nil
			}
		}
		a.cfg.Log.Warn("cannot undo yet what a user prepared", keyGID, job.gid.String(), keyError, err)
		if err := backoff(ctx, n); err != nil {
			return s, err
		}
	}
}

// behindUser deals with a job that waits for what a user prepared: that may last for ever, so the job is refused, unless the
// user's transaction is about to be prepared, or to end.
func (m *lockMonitor) behindUser(ctx context.Context, job *applyJob, gid mtm.GID) error {
	rows, err := query(ctx, m.conn, "SELECT name FROM mtm.prepared WHERE gid = $1", gid.UserName())
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		m.sink.Blocked(job.gid, gid)
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(job.started) < m.cfg.DeadlockTimeout || job.isCancelled() {
		return nil
	}
	name := string(rows[0][0])
	job.behind.Store(&name)
	job.cancelled.Store(true)
	job.probe = time.Time{}
	signal(m.look)
	return nil
}

// endAhead ends what a user prepared and recovery waits for, if the order is on its way: until there everybody else waited
// for its locks, so nothing that comes before the order needs to come before its end. What blocks recovery here are locks
// that do not travel (FOR UPDATE, LOCK TABLE), of a node that was away meanwhile.
func (r *Recoverer) endAhead(ctx context.Context, conn *pgconn.PgConn, name string) error {
	r.mu.Lock()
	queue := append([]recoverJob(nil), r.queue...)
	r.mu.Unlock()
	for _, job := range queue {
		if m, ok := orderIn(job.payload, name); ok {
			return endUser(ctx, conn, name, m.Commits)
		}
	}
	return nil
}

// orderIn finds the order about name in a payload, if one is there.
func orderIn(p mtm.Payload, name string) (m userFinishMessage, ok bool) {
	if p.Spill != "" || !p.Has(mtm.PayloadDDL) {
		return m, false
	}
	in, err := openInline(p.Data)
	if err != nil {
		return m, false
	}
	var parser pgoutput.Parser
	for f, err := in.next(); err == nil; f, err = in.next() {
		if f.kind != 'M' || !strings.Contains(string(f.body), prefixUserFinish) {
			continue
		}
		l, err := parser.Parse(f.kind, f.body)
		if l, is := l.(*pgoutput.Logical); err == nil && is && l.Prefix == prefixUserFinish && parseUser(l.Content, &m, &m.V) == nil && m.GID == name {
			return m, true
		}
	}
	return m, false
}

// redo makes recovery of an announcement start afresh: an earlier try may have prepared the user's transaction.
func (s *recoverSession) redo(ctx context.Context, job recoverJob) error {
	if !job.payload.Has(mtm.PayloadDDL) {
		return nil
	}
	rows, err := query(ctx, s.conn, "SELECT 1 FROM pg_catalog.pg_prepared_xacts WHERE gid = $1", job.gid.UserName())
	if err != nil || len(rows) == 0 {
		return err
	}
	return endUser(ctx, s.conn, job.gid.UserName(), false)
}
