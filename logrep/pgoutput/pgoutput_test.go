package pgoutput

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func samples() []Message {
	row := Tuple{{Kind: Text, Data: []byte("1")}, {Kind: Null}, {Kind: Unchanged}, {Kind: Binary, Data: []byte{}}}
	return []Message{
		Begin{1, 2, 3}, Commit{0, 1, 2, 3}, BeginPrepare{1, 2, 3, 4, "mtm-1-1-1"}, Prepare{0, 1, 2, 3, 4, "g"},
		StreamPrepare{0, 1, 2, 3, 4, "g"}, CommitPrepared{0, 1, 2, 3, 4, "g"}, RollbackPrepared{0, 1, 2, 3, 4, 5, "g"},
		StreamStart{7, true}, StreamStop{}, StreamCommit{7, 0, 1, 2, 3}, StreamAbort{7, 8}, Origin{9, "mtm_w1"},
		Relation{5, "public", "t", 'd', []Column{{true, "id", 23, -1}, {false, "v", 25, -1}}}, Type{16400, "public", "mood"},
		&Insert{5, row}, &Update{5, 0, nil, row}, &Update{5, 'K', row, row}, &Delete{5, 'O', row},
		&Truncate{true, false, []uint32{5, 6}}, &Logical{true, 3, "mtm.ddl", []byte("{}")},
	}
}

func TestParseIsTheInverseOfAppend(t *testing.T) {
	for _, m := range samples() {
		for _, streamed := range []bool{false, true} {
			raw := Append(nil, m, streamed, 77)
			kind, xid, body, err := Peek(raw, streamed)
			require.NoError(t, err)
			require.Equal(t, streamed && InTransaction(kind), xid == 77)
			got, err := new(Parser).Parse(kind, body)
			require.NoError(t, err, "%T", m)
			require.Equal(t, m, got)
		}
	}
}

func TestEveryTruncatedMessageIsRefused(t *testing.T) {
	for _, m := range samples() {
		raw := Append(nil, m, false, 0)
		for n := 1; n < len(raw); n++ {
			_, err := new(Parser).Parse(raw[0], raw[1:n])
			require.ErrorIs(t, err, ErrMalformed, "%T cut at %d", m, n)
		}
		_, err := new(Parser).Parse(raw[0], append(raw[1:len(raw):len(raw)], 0))
		require.ErrorIs(t, err, ErrMalformed, "%T with a byte too many", m)
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range samples() {
		f.Add(Append(nil, m, false, 0), false)
		f.Add(Append(nil, m, true, 9), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, streamed bool) {
		kind, xid, body, err := Peek(raw, streamed)
		if err != nil {
			return
		}
		m, err := new(Parser).Parse(kind, body)
		if err != nil {
			return
		}
		require.Equal(t, raw, Append(nil, m, streamed, xid))
	})
}
