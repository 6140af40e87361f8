package proto

import (
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"mtm"
	"mtm/proto/mtmpb"
)

var (
	gid    = mtm.GID{Origin: 3, Gen: 7, Seq: math.MaxUint64}
	ballot = mtm.Ballot{N: 9, Node: 2}
	deps   = mtm.Deps{{Origin: 1, Upto: 100, Except: []uint64{3, 99, 100}}, {Origin: 16, Upto: 0}}
	inline = mtm.Payload{Data: []byte("data"), Size: 4, Flags: mtm.PayloadDDL | mtm.PayloadWaitLocal}
	spill  = mtm.Payload{Spill: "0123456789abcdef0123456789abcdef", Size: 1 << 40}
)

var gen = mtm.Generation{Num: 3, Members: mtm.Nodes(1, 2), Configured: mtm.Nodes(1, 2, 16)}

// bodies holds every message type at least once.
var bodies = []mtm.Body{
	mtm.Prepare{GID: gid, Age: 1, Deps: deps, Payload: inline, Acceptors: mtm.Nodes(1, 16)},
	mtm.Prepare{GID: gid, Payload: spill},
	mtm.Prepare{GID: gid},
	mtm.Vote{GID: gid},
	mtm.Vote{GID: gid, Err: &mtm.Error{Code: "23505", Msg: "m", Detail: "d", Hint: "h"}},
	mtm.Accept{GID: gid, Ballot: mtm.Ballot{N: 0, Node: 3}, Commit: true, Acceptors: mtm.Nodes(2)},
	mtm.Accepted{GID: gid, Ballot: ballot},
	mtm.Collect{GID: gid, Ballot: ballot, Acceptors: mtm.Nodes(1, 2, 3)},
	mtm.Promised{GID: gid, Ballot: ballot},
	mtm.Promised{GID: gid, Ballot: ballot, Accepted: mtm.Ballot{N: 0, Node: 3}, AcceptedCommit: true},
	mtm.Rejected{GID: gid, Ballot: ballot, Promised: mtm.Ballot{N: 10, Node: 1}},
	mtm.Decided{GID: gid, Commit: true},
	mtm.Finished{GID: gid},
	mtm.Wound{GID: gid, For: mtm.GID{Origin: 1}},
	mtm.Forget{Upto: 5},
	mtm.Forget{Upto: 5, Gen: 2},
	mtm.Heartbeat{Sent: 1, Gen: gen, Donors: mtm.Nodes(2), LastOnline: 4, Connected: mtm.Nodes(1, 2), Leave: mtm.Left},
	mtm.HeartbeatAck{Sent: 1},
	mtm.Campaign{Gen: gen},
	mtm.CampaignVote{Gen: gen, OK: true, LastOnline: 4, Highest: 6},
	mtm.Elected{Gen: gen, Donors: mtm.Nodes(1)},
	mtm.Recover{Stream: 1, Gen: 2, LastOnline: 1, Undecided: []mtm.GID{gid},
		Have: []mtm.OriginHave{{Origin: 2, Upto: 7, Above: []mtm.Span{{First: 9, Last: 9}, {First: 11, Last: 20}}}}},
	mtm.RecoverTxn{Stream: 1, Seq: 2, Life: 3, GID: gid, Age: 4, Deps: deps, Payload: inline, Fate: mtm.FateAborted, Acceptors: mtm.Nodes(4)},
	mtm.RecoverAck{Stream: 1, Seq: 2},
	mtm.RecoverDone{Stream: 1, Seq: 2, Life: 3, Gen: 4, Behind: 5, Large: true, Forgotten: mtm.Deps{{Origin: 1, Upto: 9}}},
}

// records holds every record type at least once.
var records = []mtm.Record{
	mtm.RecPrepare{GID: gid, Age: 1, Deps: deps, Payload: inline, LSN: 0x16B374D848, Acceptors: mtm.Nodes(1, 2)},
	mtm.RecPrepare{GID: gid, Payload: spill},
	mtm.RecPromise{GID: gid, Ballot: ballot, Acceptors: mtm.Nodes(5)},
	mtm.RecAccept{GID: gid, Ballot: mtm.Ballot{Node: 3}, Commit: true, Acceptors: mtm.Nodes(6)},
	mtm.RecDecide{GID: gid, Commit: true},
	mtm.RecReserve{Upto: 1},
	mtm.RecForget{Origin: 2, Upto: 3},
	mtm.RecCheckpoint{},
	mtm.RecCheckpoint{Generation: mtm.Generation{Num: 3, Members: mtm.Nodes(1, 2), Configured: mtm.Nodes(1, 2, 16)}},
	mtm.RecCheckpointEnd{},
	mtm.RecPrepare{GID: gid, Payload: spill, Recovered: true},
	mtm.RecGeneration{Gen: gen, Donors: mtm.Nodes(1), LastOnline: 2, Vote: gen, Barred: mtm.Nodes(16), Since: 7},
	mtm.RecMark{Gen: gen, Prepared: []mtm.GID{gid}, Forgotten: mtm.Deps{{Origin: 1, Upto: 9}}},
	mtm.RecRecover{GID: gid, Age: 4, Deps: deps, Payload: inline, At: 9},
	mtm.RecVoid{Above: 8},
	mtm.RecBase{Have: []mtm.OriginHave{{Origin: 2, Upto: 7, Above: []mtm.Span{{First: 9, Last: 12}}}}, Gen: 5},
	mtm.RecHave{Origin: 2, Spans: []mtm.Span{{First: 9, Last: 9}}},
}

func TestEveryKindIsHere(t *testing.T) {
	kinds := (&mtmpb.Message{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields()
	seen := map[string]bool{}
	for _, b := range bodies {
		m := EncodeMessage(mtm.Message{From: 1, To: 2, Body: b}).ProtoReflect()
		seen[string(m.WhichOneof(m.Descriptor().Oneofs().Get(0)).Name())] = true
	}
	require.Len(t, seen, kinds.Len())
	clear(seen)
	for _, r := range records {
		m := encodeRecord(r).ProtoReflect()
		seen[string(m.WhichOneof(m.Descriptor().Oneofs().Get(0)).Name())] = true
	}
	require.Len(t, seen, (&mtmpb.Record{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields().Len())
}

func TestMessagesRoundTrip(t *testing.T) {
	for _, b := range bodies {
		m := mtm.Message{From: 1, To: 16, Body: b}
		data, err := proto.Marshal(EncodeMessage(m))
		require.NoError(t, err)
		got, err := ParseMessage(data)
		require.NoError(t, err, "%T", b)
		require.Equal(t, m, got)
	}
}

func TestRecordsRoundTrip(t *testing.T) {
	for _, r := range records {
		require.NoError(t, CheckRecord(r))
		data := AppendRecord([]byte("before"), r)
		got, err := ParseRecord(data[len("before"):])
		require.NoError(t, err, "%T", r)
		require.Equal(t, r, got)
		clear(data)
		require.Equal(t, r, got, "nothing is shared")
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	msg := func(b mtm.Body) *mtmpb.Message { return EncodeMessage(mtm.Message{From: 1, To: 2, Body: b}) }
	with := func(p mtm.Payload) mtm.Body { return mtm.Prepare{GID: gid, Payload: p} }
	for _, c := range []struct {
		err string
		m   *mtmpb.Message
	}{
		{"from", nil},
		{"to", &mtmpb.Message{From: 1, To: 17}},
		{"unknown kind", &mtmpb.Message{From: 1, To: 2}},
		{"gid: missing", &mtmpb.Message{From: 1, To: 2, Body: &mtmpb.Message_Finished{}}},
		{"node 0", msg(mtm.Finished{})},
		{"ballot: missing", msg(mtm.Collect{GID: gid})},
		{"ballot: node 40", msg(mtm.Collect{GID: gid, Ballot: mtm.Ballot{N: 1, Node: 40}})},
		{"payload: missing", &mtmpb.Message{From: 1, To: 2, Body: &mtmpb.Message_Prepare{Prepare: &mtmpb.Prepare{Gid: encodeGID(gid)}}}},
		{"inline", msg(with(mtm.Payload{Data: make([]byte, MaxInline+1)}))},
		{"inline data", msg(with(mtm.Payload{Data: []byte("x"), Spill: "y"}))},
		{"negative", msg(with(mtm.Payload{Spill: "y", Size: -1}))},
		{"cannot name", msg(with(mtm.Payload{Spill: "../y"}))},
		{"cannot name", msg(with(mtm.Payload{Spill: ".."}))},
		{"cannot name", msg(with(mtm.Payload{Spill: strings.Repeat("y", MaxSpill+1)}))},
		{"twice", msg(mtm.Prepare{GID: gid, Deps: mtm.Deps{{Origin: 1}, {Origin: 1}}})},
		{"out of order", msg(mtm.Prepare{GID: gid, Deps: mtm.Deps{{Origin: 1, Upto: 9, Except: []uint64{2, 2}}}})},
		{"out of order", msg(mtm.Prepare{GID: gid, Deps: mtm.Deps{{Origin: 1, Upto: 9, Except: []uint64{10}}}})},
		{"exceptions", msg(mtm.Prepare{GID: gid, Deps: mtm.Deps{{Origin: 1, Except: make([]uint64, MaxExcept+1)}}})},
		{"no SQLSTATE", &mtmpb.Message{From: 1, To: 2, Body: &mtmpb.Message_Vote{
			Vote: &mtmpb.Vote{Gid: encodeGID(gid), Err: &mtmpb.Error{Code: "abc"}}}}},
	} {
		_, err := DecodeMessage(c.m)
		require.ErrorContains(t, err, c.err)
	}
}

func TestRecordOfAnotherVersion(t *testing.T) {
	_, err := ParseRecord(nil)
	require.Error(t, err)
	data := AppendRecord(nil, mtm.RecCheckpointEnd{})
	data[0] = RecordVersion + 1
	_, err = ParseRecord(data)
	require.ErrorContains(t, err, "version 2: this daemon reads 1 to 1")
	_, err = ParseRecord([]byte{RecordVersion})
	require.ErrorContains(t, err, "unknown kind")
	_, err = ParseRecord(append([]byte{RecordVersion}, make([]byte, MaxRecord)...))
	require.ErrorContains(t, err, "at most")
	require.ErrorContains(t, CheckRecord(mtm.RecForget{}), "node 0")
	require.ErrorContains(t, CheckRecord(mtm.RecCheckpoint{Generation: mtm.Generation{Members: 1}}), "impossible")
}

// The largest record that CheckRecord admits must fit into MaxRecord: the journal has no other bound.
func TestLargestRecordFits(t *testing.T) {
	except := make([]uint64, MaxExcept)
	for i := range except {
		except[i] = math.MaxUint64 - MaxExcept + uint64(i)
	}
	r := mtm.RecPrepare{GID: gid, Age: math.MaxUint64, LSN: math.MaxUint64,
		Deps:    mtm.Deps{{Origin: 1, Upto: math.MaxUint64, Except: except}},
		Payload: mtm.Payload{Data: make([]byte, MaxInline), Size: MaxInline, Flags: math.MaxUint32}}
	require.NoError(t, CheckRecord(r))
	data := AppendRecord(nil, r)
	require.Less(t, len(data), MaxRecord)
	_, err := ParseRecord(data)
	require.NoError(t, err)
}

func TestErrorBecomesWhatCanBeSent(t *testing.T) {
	long := strings.Repeat("é", MaxText)
	e := encodeError(&mtm.Error{Code: "bad", Msg: "latin \xe9", Detail: "where", Hint: long, Err: errors.New("why")})
	got, err := decodeError(e)
	require.NoError(t, err)
	require.Equal(t, "XX000", got.Code)
	require.Equal(t, "latin \uFFFD", got.Msg)
	require.Equal(t, "where: why", got.Detail)
	require.LessOrEqual(t, len(got.Hint), MaxText)
	require.True(t, utf8.ValidString(got.Hint))
	_, err = proto.Marshal(e)
	require.NoError(t, err)
}

// FuzzParseMessage: no bytes make it panic, and what it accepts survives another round trip.
func FuzzParseMessage(f *testing.F) {
	for _, b := range bodies {
		data, err := proto.Marshal(EncodeMessage(mtm.Message{From: 1, To: 2, Body: b}))
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseMessage(data)
		if err != nil {
			return
		}
		again, err := DecodeMessage(EncodeMessage(m))
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}

// FuzzParseRecord, likewise.
func FuzzParseRecord(f *testing.F) {
	for _, r := range records {
		f.Add(AppendRecord(nil, r))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if err != nil {
			return
		}
		require.NoError(t, CheckRecord(r))
		again, err := ParseRecord(AppendRecord(nil, r))
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func TestRefereeMessagesComeBack(t *testing.T) {
	q := mtm.RefereeRequest{Kind: mtm.RefereeGrant, Node: 2, Gen: 9, Configured: mtm.Nodes(1, 2), Since: 4}
	back, err := DecodeRefereeRequest(EncodeRefereeRequest(q))
	require.NoError(t, err)
	require.Equal(t, q, back)
	a := mtm.RefereeAnswer{Kind: q.Kind, Gen: q.Gen, Holder: 1, HolderGen: 8, Floor: 4, Why: "no"}
	got, err := DecodeRefereeAnswer(q, EncodeRefereeAnswer(a))
	require.NoError(t, err)
	require.Equal(t, a, got)
	for _, bad := range []*mtmpb.RefereeRequest{{}, {Version: 1}, {Version: 1, Node: 17, Configured: 6}, {Version: 1, Node: 1, Configured: 1}} {
		_, err := DecodeRefereeRequest(bad)
		require.Error(t, err, "%v", bad)
	}
	_, err = DecodeRefereeAnswer(q, &mtmpb.RefereeAnswer{Version: 1, Holder: 99})
	require.Error(t, err)
}
