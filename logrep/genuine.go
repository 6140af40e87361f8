package logrep

import (
	"strings"

	"mtm"
	"mtm/logrep/pgoutput"
)

// What the other nodes believe must come from mtm, and anybody may write logical messages, under any prefix. So capture heeds
//
//   - rows of tables that only their owner can write: mtm.prepared, and mtm.said, through which functions of the schema that
//     clients cannot call (event triggers) speak;
//   - messages of the gateway, which runs in the client's own session: they begin with a token that the gateway gave out for this one
//     message, and that the client does not know (Config.Genuine);
//   - notes (prefixNote) of anybody: they say of a transaction what its client may say of it.

// The tables of ours whose rows speak to the other nodes.
const (
	tableSaid     = "mtm.said"
	tablePrepared = "mtm.prepared"
)

// logical takes a logical message.
func (s *captureStream) logical(t *capturedTxn, subxid uint32, m *pgoutput.Logical) error {
	switch m.Prefix {
	case prefixNote:
		t.flags |= noteFlags(string(m.Content))
	case prefixDDL, prefixDDLEnd, mtm.OpenPrefix:
		token, content, _ := strings.Cut(string(m.Content), " ")
		if s.cfg.Genuine == nil || !s.cfg.Genuine(token) {
			t.claims = t.claims || m.Prefix == mtm.OpenPrefix
			return nil
		}
		m.Content = []byte(content)
		return t.said(subxid, m)
	}
	return nil
}

// ownRow takes a change of a table of ours.
func (s *captureStream) ownRow(t *capturedTxn, subxid uint32, kind byte, body []byte, rel *pgoutput.Relation) error {
	if kind == 'D' || t.origin {
		return nil
	}
	m, err := s.parser.Parse(kind, body)
	if err != nil {
		return err
	}
	var tuple pgoutput.Tuple
	insert, inserted := m.(*pgoutput.Insert)
	if inserted {
		tuple = insert.New
	} else {
		tuple = m.(*pgoutput.Update).New
	}
	if len(tuple) != len(rel.Columns) {
		return pgoutput.ErrMalformed
	}
	row := map[string]pgoutput.Value{}
	for i, c := range rel.Columns {
		row[c.Name] = tuple[i]
	}
	if rel.Name == "prepared" {
		return t.preparedRow(subxid, inserted, row)
	}
	if !inserted {
		return nil
	}
	return t.said(subxid, &pgoutput.Logical{Transactional: true, Prefix: string(row["prefix"].Data), Content: row["content"].Data})
}
