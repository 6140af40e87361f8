package logrep

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"mtm"
	"mtm/logrep/pgoutput"
)

// applyTxn is one payload being applied in one transaction of a session.
//
// Small payloads go out in a single write, PREPARE TRANSACTION included. That is safe only because their statements
// are checked: each fails by itself unless it hits exactly one row, and PostgreSQL skips what follows a failure. In a
// large one the answers are counted here, before PREPARE is sent.
type applyTxn struct {
	*applySession
	job     *applyJob
	parser  pgoutput.Parser
	rels    map[uint32]*applyRel // by the sender's OID
	known   map[uint32][]byte    // the relation messages they came from
	checked bool

	run      [][]byte // consecutive INSERTs into runRel, not sent yet
	runRel   uint32
	runBytes int
	copying  bool   // they go by COPY: it is open
	copyBuf  []byte // rows not written yet

	gone      []*rowChange // consecutive DELETEs by content, of one table, not sent yet
	goneKeys  []string     // their rows
	goneBytes int

	skip int // depth of DDL whose own row changes are not applied

	state    *catalogState // what is known of tables
	deferred bool          // SET CONSTRAINTS was sent
	path     bool          // search_path is the usual one, not empty
	gather   *gather       // of recovery; nil: every change is sent by itself
	fk       *fkChecks     // nil: foreign keys are not checked

	runners map[string]string       // by role, see runner
	nrunner int                     // how many there have been
	views   map[*applyRel]*applyRel // see through
	nview   int
}

const (
	copyFrom     = 50      // consecutive INSERTs into one table that are worth a COPY
	runMaxBytes  = 1 << 20 // of INSERTs held back to see whether there will be that many
	checkedBytes = 32 << 10
)

// apply runs the payload and prepares it.
func (s *applySession) apply(job *applyJob) error {
	if s.nstmt > maxStmts {
		if err := s.forget(); err != nil {
			return err
		}
	}
	s.stale = false
	in, err := openPayload(job.payload, s.cfg.Spills)
	if err != nil {
		return err
	}
	defer in.close()
	t := &applyTxn{applySession: s, job: job, rels: map[uint32]*applyRel{}, known: map[uint32][]byte{}}
	t.fk = &fkChecks{seen: map[string]bool{}}
	t.checked = job.payload.Spill == "" && len(job.payload.Data) <= checkedBytes && !job.payload.Has(mtm.PayloadDDL)
	t.sendOnce("BEGIN", sentStmt{})
	if err := t.frames(in); err != nil {
		return errors.Join(err, t.stopCopy())
	}
	s.settled()
	return nil
}

// frames applies all of the payload and prepares it.
func (t *applyTxn) frames(in *payloadReader) error {
	for {
		f, err := in.next()
		if err == io.EOF {
			return t.prepare()
		}
		if err == nil {
			err = t.frame(f)
		}
		if err != nil {
			return err
		}
	}
}

// prepare ends the transaction under the job's gid.
func (t *applyTxn) prepare() error {
	if err := t.endHeld(); err != nil {
		return err
	}
	if err := t.checkReferences(); err != nil {
		return err
	}
	t.dropViews()
	t.dropRunners()
	if !t.checked {
		if err := t.drain(); err != nil {
			return err
		}
	}
	if t.job.isCancelled() {
		return errCancelled
	}
	t.sendOnce(t.job.gid.SQL("PREPARE TRANSACTION"), sentStmt{})
	t.sync()
	t.job.preparing = true
	if err := t.flush(); err != nil {
		return err
	}
	if err := t.answers(); err != nil {
		return err
	}
	return t.ready()
}

// frame applies one message.
func (t *applyTxn) frame(f frame) error {
	if t.skip > 0 && f.kind != 'M' && f.kind != 'R' {
		return nil
	}
	if f.kind != 'D' && len(t.gone) > 0 {
		if err := t.endGone(); err != nil {
			return err
		}
	}
	if f.kind == 'I' {
		return t.insert(f.body)
	}
	if f.kind == 'R' {
		rel, id, err := t.relation(f.body)
		if err != nil {
			return err
		}
		if t.rels[id] == rel {
			return nil
		}
		if err := t.endRun(); err != nil {
			return err
		}
		t.rels[id], t.known[id] = rel, f.body
		t.findPath(rel)
		return nil
	}
	if err := t.endRun(); err != nil {
		return err
	}
	if f.kind != 'U' && f.kind != 'D' {
		if err := t.gather.flush(); err != nil {
			return err
		}
	}
	m, err := t.parser.Parse(f.kind, f.body)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *pgoutput.Update:
		return t.update(m)
	case *pgoutput.Delete:
		return t.delete(m)
	case *pgoutput.Truncate:
		return t.truncate(m)
	case *pgoutput.Logical:
		return t.logical(m)
	}
	return fmt.Errorf("%w: message %q", ErrPayload, f.kind)
}

// findPath has functions of rel find what they name without a schema, as where the row came from.
func (t *applyTxn) findPath(rel *applyRel) {
	if rel.quirk&quirkPath != 0 && !t.path {
		t.path = true
		t.sendOnce(usualPath, sentStmt{})
	}
}

func (t *applyTxn) rel(id uint32) (*applyRel, error) {
	if rel := t.rels[id]; rel != nil {
		return rel, nil
	}
	return nil, fmt.Errorf("%w: no relation %d", ErrPayload, id)
}

func (t *applyTxn) update(m *pgoutput.Update) error {
	rel, err := t.rel(m.Relation)
	if err != nil {
		return err
	}
	if err := t.learnFacts(rel); err != nil {
		return err
	}
	m.Old, m.New = rel.strip(m.Old), rel.strip(m.New)
	c := &rowChange{rel: rel}
	if err := c.update(m); err != nil {
		return err
	}
	if held, err := t.gatherChange(c, m.OldKind); held || err != nil {
		return err
	}
	t.refer(rel, m.New, c.set)
	if err := t.change(c); err != nil || !t.fkFull() {
		return err
	}
	return t.checkSoFar()
}

func (t *applyTxn) delete(m *pgoutput.Delete) error {
	rel, err := t.rel(m.Relation)
	if err != nil {
		return err
	}
	if err := t.learnFacts(rel); err != nil {
		return err
	}
	m.Old = rel.strip(m.Old)
	c := &rowChange{rel: rel}
	if err := c.identify(m.OldKind, m.Old); err != nil {
		return err
	}
	if held, err := t.gatherChange(c, m.OldKind); held || err != nil {
		return err
	}
	if held, err := t.hold(c, m); held || err != nil {
		return err
	}
	return t.change(c)
}

func (t *applyTxn) change(c *rowChange) error {
	rel := c.rel
	c.rel = t.through(rel)
	return t.sendRow(c.stmt(t.checked || t.guarded(rel)), c.params, sentStmt{rel: rel, one: true})
}

// insert holds an INSERT back until it is clear whether it is one of many.
func (t *applyTxn) insert(body []byte) error {
	id, ok := pgoutput.RelationID(body)
	if !ok {
		return pgoutput.ErrMalformed
	}
	if t.gather != nil {
		if held, err := t.gatherInsert(id, body); held || err != nil {
			return err
		}
	}
	if (t.copying || len(t.run) > 0) && id != t.runRel {
		if err := t.endRun(); err != nil {
			return err
		}
	}
	if t.fkFull() {
		if err := t.endRun(); err != nil {
			return err
		}
		if err := t.checkSoFar(); err != nil {
			return err
		}
	}
	t.runRel = id
	if t.copying {
		return t.copyRow(body)
	}
	if len(t.run) == 0 {
		rel, err := t.rel(id)
		if err != nil {
			return err
		}
		if err := t.learnFacts(rel); err != nil {
			return err
		}
	}
	t.run = append(t.run, body)
	t.runBytes += len(body)
	switch {
	case len(t.run) >= copyFrom:
		return t.startCopy()
	case t.runBytes > runMaxBytes:
		return t.endRun()
	}
	return nil
}

// endHeld sends all that was held back.
func (t *applyTxn) endHeld() error {
	if err := t.endRun(); err != nil {
		return err
	}
	return t.endGone()
}

// endRun sends the INSERTs that were held back, or ends their COPY.
func (t *applyTxn) endRun() error {
	if t.copying {
		return t.endCopy()
	}
	for _, body := range t.run {
		rel, row, err := t.parseInsert(body)
		if err != nil {
			return err
		}
		if err := t.insertRow(rel, row); err != nil {
			return err
		}
	}
	t.run, t.runBytes = t.run[:0], 0
	return nil
}

func (t *applyTxn) insertRow(rel *applyRel, row pgoutput.Tuple) error {
	params := make([][]byte, len(row))
	for i, v := range row {
		params[i] = v.Data
	}
	return t.sendRow(t.through(rel).insert(), params, sentStmt{rel: rel})
}

func (t *applyTxn) parseInsert(body []byte) (*applyRel, pgoutput.Tuple, error) {
	m, err := t.parser.Parse('I', body)
	if err != nil {
		return nil, nil, err
	}
	in := m.(*pgoutput.Insert)
	rel, err := t.rel(in.Relation)
	if err != nil {
		return nil, nil, err
	}
	row, err := rel.check(in.New)
	if err != nil {
		return nil, nil, err
	}
	t.refer(rel, row, nil)
	return rel, row, nil
}

// check makes sure that row can be inserted into rel.
func (rel *applyRel) check(row pgoutput.Tuple) (pgoutput.Tuple, error) {
	row = rel.strip(row)
	if len(row) != len(rel.Columns) {
		return nil, fmt.Errorf("insert into %s: %w", rel.name, pgoutput.ErrMalformed)
	}
	for _, v := range row {
		if v.Kind != pgoutput.Text && v.Kind != pgoutput.Null {
			return nil, fmt.Errorf("insert into %s: %w", rel.name, pgoutput.ErrMalformed)
		}
	}
	return row, nil
}

// truncate empties tables. PostgreSQL lists every one, partitions and children too; only of a partitioned table itself
// ONLY is not allowed.
func (t *applyTxn) truncate(m *pgoutput.Truncate) error {
	names := make([]string, 0, len(m.Relations))
	for _, id := range m.Relations {
		rel, err := t.rel(id)
		if err != nil {
			return err
		}
		t.forgetReferences(rel)
		kind, err := t.rows("SELECT relkind FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1)", rel.name)
		if err != nil {
			return err
		}
		if len(kind) == 1 && kind[0] == "p" {
			names = append(names, rel.name)
		} else {
			names = append(names, "ONLY "+rel.name)
		}
	}
	if len(names) > 1 {
		parents, err := t.wholePartitioned(names)
		if err != nil {
			return err
		}
		names = append(names, parents...)
	}
	sql := "TRUNCATE " + strings.Join(names, ", ")
	if m.RestartIdentity {
		sql += " RESTART IDENTITY"
	}
	if m.Cascade {
		sql += " CASCADE"
	}
	t.sendOnce(sql, sentStmt{})
	return nil
}

// wholePartitioned lists the partitioned tables of which every leaf is among tables, as truncate names them. The stream names
// leaves only, and a foreign key that belongs to a partitioned table wants that one truncated too.
func (t *applyTxn) wholePartitioned(tables []string) ([]string, error) {
	quoted := make([]string, len(tables))
	for i, name := range tables {
		quoted[i] = quoteLiteral(strings.TrimPrefix(name, "ONLY "))
	}
	return t.rows("WITH listed AS (SELECT pg_catalog.to_regclass(n) AS r FROM pg_catalog.unnest(ARRAY[" + strings.Join(quoted, ", ") +
		"]::pg_catalog.text[]) n) SELECT DISTINCT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) " +
		"FROM listed, pg_catalog.pg_partition_ancestors(r) a (relid) JOIN pg_catalog.pg_class c ON c.oid = a.relid " +
		"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'p' AND NOT EXISTS (" +
		"SELECT FROM pg_catalog.pg_partition_tree(a.relid) l WHERE l.isleaf AND l.relid NOT IN (SELECT r FROM listed))")
}
