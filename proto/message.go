package proto

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"mtm"
	"mtm/proto/mtmpb"
)

// EncodeMessage makes m ready for the wire. The result shares m's payload and dependencies: neither may be changed
// afterwards. A body of no known type gives a message that DecodeMessage refuses.
func EncodeMessage(m mtm.Message) *mtmpb.Message {
	p := &mtmpb.Message{From: uint32(m.From), To: uint32(m.To)}
	switch b := m.Body.(type) {
	case mtm.Prepare:
		p.Body = &mtmpb.Message_Prepare{Prepare: &mtmpb.Prepare{
			Gid: encodeGID(b.GID), Age: b.Age, Deps: encodeDeps(b.Deps), Payload: encodePayload(b.Payload),
			Acceptors: uint64(b.Acceptors)}}
	case mtm.Vote:
		p.Body = &mtmpb.Message_Vote{Vote: &mtmpb.Vote{Gid: encodeGID(b.GID), Err: encodeError(b.Err)}}
	case mtm.Accept:
		p.Body = &mtmpb.Message_Accept{Accept: &mtmpb.Accept{
			Gid: encodeGID(b.GID), Ballot: encodeBallot(b.Ballot), Commit: b.Commit, Acceptors: uint64(b.Acceptors)}}
	case mtm.Accepted:
		p.Body = &mtmpb.Message_Accepted{Accepted: &mtmpb.Accepted{
			Gid: encodeGID(b.GID), Ballot: encodeBallot(b.Ballot), Commit: b.Commit}}
	case mtm.Collect:
		p.Body = &mtmpb.Message_Collect{Collect: &mtmpb.Collect{
			Gid: encodeGID(b.GID), Ballot: encodeBallot(b.Ballot), Acceptors: uint64(b.Acceptors)}}
	case mtm.Promised:
		p.Body = &mtmpb.Message_Promised{Promised: &mtmpb.Promised{Gid: encodeGID(b.GID),
			Ballot: encodeBallot(b.Ballot), Accepted: encodeBallot(b.Accepted), AcceptedCommit: b.AcceptedCommit}}
	case mtm.Rejected:
		p.Body = &mtmpb.Message_Rejected{Rejected: &mtmpb.Rejected{
			Gid: encodeGID(b.GID), Ballot: encodeBallot(b.Ballot), Promised: encodeBallot(b.Promised)}}
	case mtm.Decided:
		p.Body = &mtmpb.Message_Decided{Decided: &mtmpb.Decided{Gid: encodeGID(b.GID), Commit: b.Commit}}
	case mtm.Finished:
		p.Body = &mtmpb.Message_Finished{Finished: &mtmpb.Finished{Gid: encodeGID(b.GID)}}
	case mtm.Wound:
		p.Body = &mtmpb.Message_Wound{Wound: &mtmpb.Wound{Gid: encodeGID(b.GID), For: encodeGID(b.For)}}
	case mtm.Forget:
		p.Body = &mtmpb.Message_Forget{Forget: &mtmpb.Forget{Upto: b.Upto, Gen: b.Gen}}
	default:
		encodeGenerations(p, m.Body)
	}
	return p
}

// DecodeMessage is the reverse. Its error names what is wrong with p. The message shares p's bytes.
func DecodeMessage(p *mtmpb.Message) (mtm.Message, error) {
	from, err := decodeNode(p.GetFrom())
	if err != nil {
		return mtm.Message{}, fmt.Errorf("message from: %w", err)
	}
	to, err := decodeNode(p.GetTo())
	if err != nil {
		return mtm.Message{}, fmt.Errorf("message to: %w", err)
	}
	body, err := decodeBody(p)
	if err != nil {
		return mtm.Message{}, err
	}
	return mtm.Message{From: from, To: to, Body: body}, nil
}

func decodeBody(p *mtmpb.Message) (mtm.Body, error) {
	var d decoder
	var body mtm.Body
	switch b := p.GetBody().(type) {
	case *mtmpb.Message_Prepare:
		body = mtm.Prepare{GID: d.gid(b.Prepare.GetGid()), Age: b.Prepare.GetAge(),
			Deps: d.deps(b.Prepare.GetDeps()), Payload: d.payload(b.Prepare.GetPayload()), Acceptors: d.nodes(b.Prepare.GetAcceptors())}
	case *mtmpb.Message_Vote:
		body = mtm.Vote{GID: d.gid(b.Vote.GetGid()), Err: d.error(b.Vote.GetErr())}
	case *mtmpb.Message_Accept:
		body = mtm.Accept{GID: d.gid(b.Accept.GetGid()), Ballot: d.ballot(b.Accept.GetBallot()),
			Commit: b.Accept.GetCommit(), Acceptors: d.nodes(b.Accept.GetAcceptors())}
	case *mtmpb.Message_Accepted:
		body = mtm.Accepted{GID: d.gid(b.Accepted.GetGid()), Ballot: d.ballot(b.Accepted.GetBallot()),
			Commit: b.Accepted.GetCommit()}
	case *mtmpb.Message_Collect:
		body = mtm.Collect{GID: d.gid(b.Collect.GetGid()), Ballot: d.ballot(b.Collect.GetBallot()),
			Acceptors: d.nodes(b.Collect.GetAcceptors())}
	case *mtmpb.Message_Promised:
		body = mtm.Promised{GID: d.gid(b.Promised.GetGid()), Ballot: d.ballot(b.Promised.GetBallot()),
			Accepted: d.optBallot(b.Promised.GetAccepted()), AcceptedCommit: b.Promised.GetAcceptedCommit()}
	case *mtmpb.Message_Rejected:
		body = mtm.Rejected{GID: d.gid(b.Rejected.GetGid()), Ballot: d.ballot(b.Rejected.GetBallot()),
			Promised: d.ballot(b.Rejected.GetPromised())}
	case *mtmpb.Message_Decided:
		body = mtm.Decided{GID: d.gid(b.Decided.GetGid()), Commit: b.Decided.GetCommit()}
	case *mtmpb.Message_Finished:
		body = mtm.Finished{GID: d.gid(b.Finished.GetGid())}
	case *mtmpb.Message_Wound:
		body = mtm.Wound{GID: d.gid(b.Wound.GetGid()), For: d.gid(b.Wound.GetFor())}
	case *mtmpb.Message_Forget:
		body = mtm.Forget{Upto: b.Forget.GetUpto(), Gen: b.Forget.GetGen()}
	default:
		body = d.generations(p)
	}
	if body == nil {
		return nil, fmt.Errorf("message of an unknown kind, perhaps of a newer version than %d", WireVersion)
	}
	if d.err != nil {
		return nil, fmt.Errorf("%T: %w", body, d.err)
	}
	return body, nil
}

// ParseMessage is DecodeMessage of encoded bytes, at most MaxRecord of them.
func ParseMessage(data []byte) (mtm.Message, error) {
	if len(data) > MaxRecord {
		return mtm.Message{}, fmt.Errorf("message of %d bytes: at most %d may be", len(data), MaxRecord)
	}
	var p mtmpb.Message
	if err := proto.Unmarshal(data, &p); err != nil {
		return mtm.Message{}, fmt.Errorf("message: %w", err)
	}
	return DecodeMessage(&p)
}

// decoder keeps the first error, so that a decoding reads as a list of fields.
type decoder struct{ err error }

func (d *decoder) note(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) gid(p *mtmpb.GID) mtm.GID {
	g, err := decodeGID(p)
	d.note(err)
	return g
}

func (d *decoder) optBallot(p *mtmpb.Ballot) mtm.Ballot {
	b, err := decodeBallot(p)
	d.note(err)
	return b
}

func (d *decoder) ballot(p *mtmpb.Ballot) mtm.Ballot {
	b := d.optBallot(p)
	if b.IsZero() {
		d.note(fmt.Errorf("ballot: %w", errMissing))
	}
	return b
}

func (d *decoder) error(p *mtmpb.Error) *mtm.Error {
	e, err := decodeError(p)
	d.note(err)
	return e
}

func (d *decoder) deps(p []*mtmpb.OriginDeps) mtm.Deps {
	deps, err := decodeDeps(p)
	d.note(err)
	return deps
}

func (d *decoder) payload(p *mtmpb.Payload) mtm.Payload {
	payload, err := decodePayload(p)
	d.note(err)
	return payload
}

func (d *decoder) node(n uint32) mtm.NodeID {
	id, err := decodeNode(n)
	d.note(err)
	return id
}

func (d *decoder) generation(p *mtmpb.Generation) mtm.Generation {
	g, err := decodeGeneration(p)
	d.note(err)
	return g
}
