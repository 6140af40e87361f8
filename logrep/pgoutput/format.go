package pgoutput

import "encoding/binary"

// Append writes m as PostgreSQL would, after b. In a streamed chunk (streamed) messages inside a transaction carry xid.
func Append(b []byte, m Message, streamed bool, xid uint32) []byte {
	b = append(b, m.kind())
	if streamed && InTransaction(m.kind()) {
		b = be.AppendUint32(b, xid)
	}
	switch m := m.(type) {
	case *Insert:
		return appendTuple(append(be.AppendUint32(b, m.Relation), 'N'), m.New)
	case *Update:
		b = be.AppendUint32(b, m.Relation)
		if m.OldKind != 0 {
			b = appendTuple(append(b, m.OldKind), m.Old)
		}
		return appendTuple(append(b, 'N'), m.New)
	case *Delete:
		return appendTuple(append(be.AppendUint32(b, m.Relation), m.OldKind), m.Old)
	case *Truncate:
		return appendTruncate(b, m)
	case *Logical:
		b = appendString(be.AppendUint64(append(b, bit(m.Transactional, 1)), m.LSN), m.Prefix)
		return append(be.AppendUint32(b, uint32(len(m.Content))), m.Content...)
	case Relation:
		return appendRelation(b, m)
	case Type:
		return appendString(appendString(be.AppendUint32(b, m.ID), m.Schema), m.Name)
	case Origin:
		return appendString(be.AppendUint64(b, m.LSN), m.Name)
	}
	return appendFrame(b, m)
}

var be = binary.BigEndian

func appendFrame(b []byte, m Message) []byte {
	switch m := m.(type) {
	case Begin:
		return be.AppendUint32(be.AppendUint64(be.AppendUint64(b, m.FinalLSN), uint64(m.Time)), m.XID)
	case Commit:
		return appendEnd(append(b, m.Flags), m.LSN, m.EndLSN, m.Time)
	case BeginPrepare:
		return appendGID(appendEnd(b, m.PrepareLSN, m.EndLSN, m.Time), m.XID, m.GID)
	case Prepare:
		return appendGID(appendEnd(append(b, m.Flags), m.PrepareLSN, m.EndLSN, m.Time), m.XID, m.GID)
	case StreamPrepare:
		return appendGID(appendEnd(append(b, m.Flags), m.PrepareLSN, m.EndLSN, m.Time), m.XID, m.GID)
	case CommitPrepared:
		return appendGID(appendEnd(append(b, m.Flags), m.LSN, m.EndLSN, m.Time), m.XID, m.GID)
	case RollbackPrepared:
		b = appendEnd(append(b, m.Flags), m.PrepareEndLSN, m.EndLSN, m.PrepareTime)
		return appendGID(be.AppendUint64(b, uint64(m.RollbackTime)), m.XID, m.GID)
	case StreamStart:
		return append(be.AppendUint32(b, m.XID), bit(m.First, 1))
	case StreamCommit:
		return appendEnd(append(be.AppendUint32(b, m.XID), m.Flags), m.LSN, m.EndLSN, m.Time)
	case StreamAbort:
		return be.AppendUint32(be.AppendUint32(b, m.XID), m.SubXID)
	}
	return b // StreamStop
}

func appendEnd(b []byte, lsn, end uint64, time int64) []byte {
	return be.AppendUint64(be.AppendUint64(be.AppendUint64(b, lsn), end), uint64(time))
}

func appendGID(b []byte, xid uint32, gid string) []byte {
	return appendString(be.AppendUint32(b, xid), gid)
}

func appendString(b []byte, s string) []byte { return append(append(b, s...), 0) }

func bit(set bool, mask byte) byte {
	if set {
		return mask
	}
	return 0
}

func appendTuple(b []byte, t Tuple) []byte {
	b = be.AppendUint16(b, uint16(len(t)))
	for _, v := range t {
		b = append(b, v.Kind)
		if v.Kind == Text || v.Kind == Binary {
			b = append(be.AppendUint32(b, uint32(len(v.Data))), v.Data...)
		}
	}
	return b
}

func appendTruncate(b []byte, m *Truncate) []byte {
	b = append(be.AppendUint32(b, uint32(len(m.Relations))), bit(m.Cascade, 1)|bit(m.RestartIdentity, 2))
	for _, id := range m.Relations {
		b = be.AppendUint32(b, id)
	}
	return b
}

func appendRelation(b []byte, m Relation) []byte {
	b = appendString(appendString(be.AppendUint32(b, m.ID), m.Schema), m.Name)
	b = be.AppendUint16(append(b, m.Identity), uint16(len(m.Columns)))
	for _, c := range m.Columns {
		b = appendString(append(b, bit(c.Key, 1)), c.Name)
		b = be.AppendUint32(be.AppendUint32(b, c.Type), uint32(c.Mod))
	}
	return b
}
