package logrep

import (
	"slices"
	"strconv"
	"strings"

	"mtm"
	"mtm/logrep/pgoutput"
)

// relation is what capture remembers of a table: its last relation message and whether its changes are replicated.
type relation struct {
	body       []byte // of the 'R' message
	name       string // schema.table
	replicated bool
	own        *pgoutput.Relation // of a table of ours whose rows speak to the other nodes; else nil
}

// capturedTxn is one transaction on its way out of the slot.
type capturedTxn struct {
	out     *payloadWriter // nil: only counted, nobody wants the content
	rels    map[uint32]*relation
	wrote   map[uint32]*relation // which relation message the payload holds last
	changes map[uint32]int       // what is replicated in it, by sub-transaction (0 if it is not streamed)
	aborted []uint32
	flags   mtm.PayloadFlags
	origin  bool    // it came here by replication
	table   string  // the first replicated table it changed
	ddl     []byte  // a DDL statement whose end has not come yet
	ddlXID  uint32  // … and its sub-transaction
	before  bool    // what changes now comes before it: event triggers do it
	open    mtm.GID // a session says that it holds it open, and that this is all
	xid     uint64  // … and its transaction id
	told    bool    // … and it was delivered
	late    bool    // … and it changed something all the same
	claims  bool    // … or so it says: that cannot be verified of an earlier life

	announced []announcement // of what users prepared
	orders    map[uint32]int // how many it holds of what is to become of such transactions, by sub-transaction
}

func newCapturedTxn(out *payloadWriter) *capturedTxn {
	return &capturedTxn{
		out: out, rels: map[uint32]*relation{}, wrote: map[uint32]*relation{}, changes: map[uint32]int{}, orders: map[uint32]int{},
	}
}

// replicated reports whether anything in it concerns other nodes.
func (t *capturedTxn) replicated() bool {
	for _, n := range t.changes {
		if n > 0 {
			return true
		}
	}
	return false
}

// change adds a row change or truncate of rels, writing their relation messages first where the payload lacks them.
func (t *capturedTxn) change(subxid uint32, kind byte, body []byte, rels ...*relation) error {
	t.changes[subxid]++
	t.late = t.late || t.told
	if t.table == "" {
		t.table = rels[0].name
	}
	if t.out == nil {
		return nil
	}
	if !t.before {
		if err := t.sendDDL(); err != nil {
			return err
		}
	}
	for _, rel := range rels {
		id, _ := pgoutput.RelationID(rel.body)
		if t.wrote[id] == rel {
			continue
		}
		if err := t.out.frame(0, 'R', rel.body); err != nil {
			return err
		}
		t.wrote[id] = rel
	}
	return t.out.frame(subxid, kind, body)
}

// said takes what was certainly said by mtm itself: DDL travels, mtm's own notes to itself are heeded.
func (t *capturedTxn) said(subxid uint32, m *pgoutput.Logical) error {
	switch m.Prefix {
	case prefixDDL:
		if err := t.sendDDL(); err != nil {
			return err
		}
		t.ddl, t.ddlXID, t.before = logicalBody(m), subxid, false
		return nil
	case prefixDDLBefore, prefixDDLRun:
		t.before = m.Prefix == prefixDDLBefore
		return nil
	case prefixDDLEnd:
		if scope := string(m.Content); t.ddl != nil && (scope == scopeTemporary || scope == scopeNothing) {
			t.ddl = nil // it is about this session's own objects, or IF EXISTS found none
			return nil
		}
		if err := t.sendDDL(); err != nil {
			return err
		}
	case prefixRows, prefixMissing:
		if err := t.sendDDL(); err != nil {
			return err
		}
	case prefixSetval, prefixBlock:
		if err := t.sendDDL(); err != nil {
			return err
		}
		t.changes[subxid]++
		t.late = t.late || t.told
	case mtm.OpenPrefix:
		t.sayOpen(string(m.Content))
		return nil
	case prefixRecovered:
		t.origin = true
		return nil
	default:
		return nil
	}
	if t.out == nil {
		return nil
	}
	return t.out.frame(subxid, 'M', logicalBody(m))
}

// logicalBody is m as the other nodes get it.
func logicalBody(m *pgoutput.Logical) []byte { return pgoutput.Append(nil, m, false, 0)[1:] }

// sayOpen reads a message with prefix mtm.OpenPrefix.
func (t *capturedTxn) sayOpen(text string) {
	words := strings.Fields(text[:min(len(text), 128)])
	if len(words) != 2 {
		return
	}
	gid, ours := mtm.ParseGID(words[0])
	xid, err := strconv.ParseUint(words[1], 10, 64)
	if ours && err == nil {
		t.open, t.xid = gid, xid
	}
}

// sendDDL adds the DDL statement whose end has not come yet, now that it is to be sent.
func (t *capturedTxn) sendDDL() error {
	body := t.ddl
	if t.ddl = nil; body == nil {
		return nil
	}
	t.flags |= mtm.PayloadDDL
	t.changes[t.ddlXID]++
	t.late = t.late || t.told
	if t.table == "" {
		t.table = "DDL"
	}
	if t.out == nil {
		return nil
	}
	return t.out.frame(t.ddlXID, 'M', body)
}

// The prefixes of logical messages that mean something here.
const (
	prefixNote   = "mtm"        // metadata of the transaction: words like "wait=off"
	prefixDDL    = "mtm.ddl"    // a DDL statement, see ddlMessage; what PostgreSQL changed for it follows
	prefixDDLEnd = "mtm.ddlend" // up to here; the content is the scope of the statement. It may come twice
	// From the one to the other, event triggers change what the statement has not changed yet.
	prefixDDLBefore, prefixDDLRun = "mtm.ddlbefore", "mtm.ddlrun"

	// What the statement computed where it ran, after mtm.ddl: see rowsMessage, missingMessage.
	prefixRows, prefixMissing = "mtm.rows", "mtm.missing"

	// A client called setval(): see setvalMessage.
	prefixSetval = "mtm.setval"

	// Numbers of a sequence were drawn, or it began anew: see blockMessage.
	prefixBlock = "mtm.block"

	// Nothing of it concerns other nodes.
	scopeTemporary, scopeNothing = "temporary", "nothing"
)

// noteFlags reads the words of a note: wait=off (or false, 0, no), isolation=serializable.
func noteFlags(note string) (flags mtm.PayloadFlags) {
	words := strings.FieldsFunc(note, func(r rune) bool { return strings.ContainsRune(" \t\r\n,;", r) })
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch strings.ToLower(value) {
		case "off", "false", "0", "no":
			if name == "wait" {
				flags |= mtm.PayloadWaitLocal
			}
		case "serializable":
			if name == "isolation" {
				flags |= mtm.PayloadSerializable
			}
		}
	}
	return flags
}

// rollbackTo takes back one sub-transaction.
func (t *capturedTxn) rollbackTo(subxid uint32) {
	delete(t.changes, subxid)
	delete(t.orders, subxid)
	t.announced = slices.DeleteFunc(t.announced, func(a announcement) bool { return a.subxid == subxid })
	t.aborted = append(t.aborted, subxid)
}

func (t *capturedTxn) finish() (mtm.Payload, error) {
	if err := t.sendDDL(); err != nil {
		return mtm.Payload{}, err
	}
	if !t.replicated() {
		t.flags |= mtm.PayloadEmpty
	}
	return t.out.finish(t.aborted, t.flags)
}

func (t *capturedTxn) abort() error {
	if t == nil || t.out == nil {
		return nil
	}
	return t.out.abort()
}
