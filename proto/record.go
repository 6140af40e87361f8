package proto

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"mtm"
	"mtm/proto/mtmpb"
)

// AppendRecord appends r, encoded, to buf: one byte of version, then protobuf. r must satisfy CheckRecord; a record of no
// known type is a mistake in the program, and panics.
func AppendRecord(buf []byte, r mtm.Record) []byte {
	buf = append(buf, RecordVersion)
	buf, err := proto.MarshalOptions{}.MarshalAppend(buf, encodeRecord(r))
	if err != nil { // only text that is not UTF-8 can fail, and CheckRecord admits none
		panic(fmt.Sprintf("proto: record %T: %v", r, err))
	}
	return buf
}

func encodeRecord(r mtm.Record) *mtmpb.Record {
	switch r := r.(type) {
	case mtm.RecPrepare:
		return &mtmpb.Record{Body: &mtmpb.Record_Prepare{Prepare: &mtmpb.RecPrepare{Gid: encodeGID(r.GID), Age: r.Age,
			Deps: encodeDeps(r.Deps), Payload: encodePayload(r.Payload), Lsn: uint64(r.LSN), Recovered: r.Recovered,
			Acceptors: uint64(r.Acceptors)}}}
	case mtm.RecPromise:
		return &mtmpb.Record{Body: &mtmpb.Record_Promise{Promise: &mtmpb.RecPromise{
			Gid: encodeGID(r.GID), Ballot: encodeBallot(r.Ballot), Acceptors: uint64(r.Acceptors)}}}
	case mtm.RecAccept:
		return &mtmpb.Record{Body: &mtmpb.Record_Accept{Accept: &mtmpb.RecAccept{
			Gid: encodeGID(r.GID), Ballot: encodeBallot(r.Ballot), Commit: r.Commit, Acceptors: uint64(r.Acceptors)}}}
	case mtm.RecDecide:
		return &mtmpb.Record{Body: &mtmpb.Record_Decide{Decide: &mtmpb.RecDecide{
			Gid: encodeGID(r.GID), Commit: r.Commit}}}
	case mtm.RecReserve:
		return &mtmpb.Record{Body: &mtmpb.Record_Reserve{Reserve: &mtmpb.RecReserve{Upto: r.Upto}}}
	case mtm.RecForget:
		return &mtmpb.Record{Body: &mtmpb.Record_Forget{Forget: &mtmpb.RecForget{
			Origin: uint32(r.Origin), Upto: r.Upto}}}
	case mtm.RecCheckpoint:
		return &mtmpb.Record{Body: &mtmpb.Record_Checkpoint{Checkpoint: &mtmpb.RecCheckpoint{
			Generation: encodeGeneration(r.Generation)}}}
	case mtm.RecCheckpointEnd:
		return &mtmpb.Record{Body: &mtmpb.Record_CheckpointEnd{CheckpointEnd: &mtmpb.RecCheckpointEnd{}}}
	default:
		if p := encodeRecovery(r); p != nil {
			return p
		}
		panic(fmt.Sprintf("proto: no encoding of record %T", r))
	}
}

// ParseRecord reads what AppendRecord appended. Its error names what is wrong. The record shares no bytes with data.
func ParseRecord(data []byte) (mtm.Record, error) {
	if len(data) == 0 {
		return nil, errors.New("record of no bytes")
	}
	if v := data[0]; v < MinRecordVersion || v > RecordVersion {
		return nil, fmt.Errorf("record of version %d: this daemon reads %d to %d", v, MinRecordVersion, RecordVersion)
	}
	if len(data) > MaxRecord {
		return nil, fmt.Errorf("record of %d bytes: at most %d may be", len(data), MaxRecord)
	}
	var p mtmpb.Record
	if err := proto.Unmarshal(data[1:], &p); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return decodeRecord(&p)
}

func decodeRecord(p *mtmpb.Record) (mtm.Record, error) {
	var d decoder
	var rec mtm.Record
	switch b := p.GetBody().(type) {
	case *mtmpb.Record_Prepare:
		rec = mtm.RecPrepare{GID: d.gid(b.Prepare.GetGid()), Age: b.Prepare.GetAge(), Deps: d.deps(b.Prepare.GetDeps()),
			Payload: d.payload(b.Prepare.GetPayload()), LSN: mtm.LSN(b.Prepare.GetLsn()), Recovered: b.Prepare.GetRecovered(),
			Acceptors: d.nodes(b.Prepare.GetAcceptors())}
	case *mtmpb.Record_Promise:
		rec = mtm.RecPromise{GID: d.gid(b.Promise.GetGid()), Ballot: d.ballot(b.Promise.GetBallot()),
			Acceptors: d.nodes(b.Promise.GetAcceptors())}
	case *mtmpb.Record_Accept:
		rec = mtm.RecAccept{GID: d.gid(b.Accept.GetGid()), Ballot: d.ballot(b.Accept.GetBallot()),
			Commit: b.Accept.GetCommit(), Acceptors: d.nodes(b.Accept.GetAcceptors())}
	case *mtmpb.Record_Decide:
		rec = mtm.RecDecide{GID: d.gid(b.Decide.GetGid()), Commit: b.Decide.GetCommit()}
	case *mtmpb.Record_Reserve:
		rec = mtm.RecReserve{Upto: b.Reserve.GetUpto()}
	case *mtmpb.Record_Forget:
		rec = mtm.RecForget{Origin: d.node(b.Forget.GetOrigin()), Upto: b.Forget.GetUpto()}
	case *mtmpb.Record_Checkpoint:
		rec = mtm.RecCheckpoint{Generation: d.generation(b.Checkpoint.GetGeneration())}
	case *mtmpb.Record_CheckpointEnd:
		rec = mtm.RecCheckpointEnd{}
	default:
		rec = d.recovery(p)
	}
	if rec == nil {
		return nil, fmt.Errorf("record of an unknown kind, perhaps of a newer version than %d", RecordVersion)
	}
	if d.err != nil {
		return nil, fmt.Errorf("%T: %w", rec, d.err)
	}
	return rec, nil
}

// CheckRecord reports whether ParseRecord will accept r: nodes exist, payload and dependencies are within the bounds.
func CheckRecord(r mtm.Record) error {
	_, err := decodeRecord(encodeRecord(r))
	return err
}

// AboutRecovery reports whether data, as AppendRecord wrote it, may be a record that another node's recovery needs: a
// payload, an outcome or a mark. It looks at the field number only.
func AboutRecovery(data []byte) bool {
	if len(data) < 2 {
		return true // ParseRecord says what is wrong
	}
	switch data[1] >> 3 {
	case 2, 3, 5, 6, 7, 8, 9, 12, 13: // mtm.proto, message Record: promise, accept, reserve, …
		return false
	}
	return true
}
