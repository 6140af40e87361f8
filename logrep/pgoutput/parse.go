package pgoutput

import (
	"encoding/binary"
	"fmt"
)

// Peek is what routing a message needs: its type; in a streamed chunk the (sub-)transaction that it belongs to; and
// the fields after both. Messages that frame transactions carry no such xid, not even in a chunk.
func Peek(msg []byte, streamed bool) (kind byte, xid uint32, body []byte, err error) {
	if len(msg) == 0 {
		return 0, 0, nil, ErrMalformed
	}
	kind, body = msg[0], msg[1:]
	if !streamed || !InTransaction(kind) {
		return kind, 0, body, nil
	}
	if len(body) < 4 {
		return 0, 0, nil, ErrMalformed
	}
	return kind, binary.BigEndian.Uint32(body), body[4:], nil
}

// InTransaction reports whether kind is the type of a message inside a transaction, which in a streamed chunk starts
// with an xid.
func InTransaction(kind byte) bool {
	switch kind {
	case 'R', 'Y', 'I', 'U', 'D', 'T', 'M':
		return true
	}
	return false
}

// RelationID is the table that an 'I', 'U', 'D' or 'R' message is about, given its body; ok is false if it is cut short.
func RelationID(body []byte) (id uint32, ok bool) {
	if len(body) < 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(body), true
}

// Parser parses messages. It keeps scratch space: what Parse returned is valid until the next call, and only as long
// as the message it was given. The zero value is ready.
type Parser struct {
	old, new Tuple
	insert   Insert
	update   Update
	delete   Delete
}

// Parse decodes the message of type kind that consists of body: what Peek gave. Trailing bytes are an error.
func (p *Parser) Parse(kind byte, body []byte) (Message, error) {
	r := &reader{b: body}
	m := p.parse(kind, r)
	if r.err == nil && len(r.b) != 0 {
		r.fail()
	}
	if r.err != nil {
		return nil, fmt.Errorf("message %q: %w", kind, r.err)
	}
	return m, nil
}

func (p *Parser) parse(kind byte, r *reader) Message {
	switch kind {
	case 'I':
		return p.parseInsert(r)
	case 'U':
		return p.parseUpdate(r)
	case 'D':
		return p.parseDelete(r)
	case 'T':
		return parseTruncate(r)
	case 'M':
		return parseLogical(r)
	case 'R':
		return parseRelation(r)
	case 'Y':
		return Type{ID: r.uint32(), Schema: r.string(), Name: r.string()}
	case 'O':
		return Origin{LSN: r.uint64(), Name: r.string()}
	}
	return parseFrame(kind, r)
}

// parseFrame decodes the messages that begin and end transactions.
func parseFrame(kind byte, r *reader) Message {
	switch kind {
	case 'B':
		return Begin{FinalLSN: r.uint64(), Time: r.int64(), XID: r.uint32()}
	case 'C':
		return Commit{Flags: r.byte(), LSN: r.uint64(), EndLSN: r.uint64(), Time: r.int64()}
	case 'b':
		return BeginPrepare{PrepareLSN: r.uint64(), EndLSN: r.uint64(), Time: r.int64(), XID: r.uint32(), GID: r.string()}
	case 'P':
		return parsePrepare(r)
	case 'p':
		return StreamPrepare(parsePrepare(r))
	case 'K':
		return CommitPrepared(parsePrepare2(r))
	case 'r':
		return RollbackPrepared{
			Flags: r.byte(), PrepareEndLSN: r.uint64(), EndLSN: r.uint64(),
			PrepareTime: r.int64(), RollbackTime: r.int64(), XID: r.uint32(), GID: r.string(),
		}
	case 'S':
		return StreamStart{XID: r.uint32(), First: r.flag(1)}
	case 'E':
		return StreamStop{}
	case 'c':
		return StreamCommit{XID: r.uint32(), Flags: r.byte(), LSN: r.uint64(), EndLSN: r.uint64(), Time: r.int64()}
	case 'A':
		return StreamAbort{XID: r.uint32(), SubXID: r.uint32()}
	}
	r.fail()
	return nil
}

func parsePrepare(r *reader) Prepare {
	return Prepare{
		Flags: r.byte(), PrepareLSN: r.uint64(), EndLSN: r.uint64(), Time: r.int64(), XID: r.uint32(), GID: r.string(),
	}
}

func parsePrepare2(r *reader) CommitPrepared {
	p := parsePrepare(r)
	return CommitPrepared{Flags: p.Flags, LSN: p.PrepareLSN, EndLSN: p.EndLSN, Time: p.Time, XID: p.XID, GID: p.GID}
}

func (p *Parser) parseInsert(r *reader) Message {
	p.insert.Relation = r.uint32()
	if r.byte() != 'N' {
		r.fail()
	}
	p.new = r.tuple(p.new)
	p.insert.New = p.new
	return &p.insert
}

func (p *Parser) parseUpdate(r *reader) Message {
	u := &p.update
	*u = Update{Relation: r.uint32()}
	mark := r.byte()
	if mark == 'K' || mark == 'O' {
		u.OldKind = mark
		p.old = r.tuple(p.old)
		u.Old = p.old
		mark = r.byte()
	}
	if mark != 'N' {
		r.fail()
	}
	p.new = r.tuple(p.new)
	u.New = p.new
	return u
}

func (p *Parser) parseDelete(r *reader) Message {
	d := &p.delete
	*d = Delete{Relation: r.uint32(), OldKind: r.byte()}
	if d.OldKind != 'K' && d.OldKind != 'O' {
		r.fail()
	}
	p.old = r.tuple(p.old)
	d.Old = p.old
	return d
}

func parseTruncate(r *reader) Message {
	n := r.uint32()
	options := r.byte()
	if options > 3 || uint64(n)*4 != uint64(len(r.b)) {
		r.fail()
		return nil
	}
	t := &Truncate{Cascade: options&1 != 0, RestartIdentity: options&2 != 0}
	for ; n > 0; n-- {
		t.Relations = append(t.Relations, r.uint32())
	}
	return t
}

func parseLogical(r *reader) Message {
	m := &Logical{Transactional: r.flag(1), LSN: r.uint64(), Prefix: r.string()}
	size := r.uint32()
	if uint64(size) != uint64(len(r.b)) {
		r.fail()
		return nil
	}
	m.Content = r.bytes(int(size))
	return m
}

func parseRelation(r *reader) Message {
	rel := Relation{ID: r.uint32(), Schema: r.string(), Name: r.string(), Identity: r.byte()}
	n := int(r.uint16())
	if n*10 > len(r.b) { // each column takes ten bytes at least
		r.fail()
		return nil
	}
	rel.Columns = make([]Column, 0, n)
	for ; n > 0 && r.err == nil; n-- {
		rel.Columns = append(rel.Columns, Column{Key: r.flag(1), Name: r.string(), Type: r.uint32(), Mod: int32(r.uint32())})
	}
	return rel
}
