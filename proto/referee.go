package proto

import (
	"fmt"

	"mtm"
	"mtm/proto/mtmpb"
)

//go:generate protoc --go_out=mtmpb --go_opt=paths=source_relative --go-grpc_out=mtmpb --go-grpc_opt=paths=source_relative referee.proto

// EncodeRefereeRequest writes a question to the referee.
func EncodeRefereeRequest(r mtm.RefereeRequest) *mtmpb.RefereeRequest {
	return &mtmpb.RefereeRequest{
		Version: WireVersion, Kind: uint32(r.Kind), Node: uint32(r.Node), Gen: r.Gen, Configured: uint64(r.Configured), Since: r.Since,
	}
}

// DecodeRefereeRequest reads one; an error says what is not well formed. An unknown kind is passed on, to be refused.
func DecodeRefereeRequest(p *mtmpb.RefereeRequest) (mtm.RefereeRequest, error) {
	if v := p.GetVersion(); v < MinWireVersion || v > WireVersion {
		return mtm.RefereeRequest{}, fmt.Errorf("version %d of the referee's protocol is not known: %d to %d are", v, MinWireVersion, WireVersion)
	}
	var d decoder
	r := mtm.RefereeRequest{
		Kind: mtm.RefereeKind(p.GetKind()), Node: d.node(p.GetNode()), Gen: p.GetGen(), Configured: d.nodes(p.GetConfigured()),
		Since: p.GetSince(),
	}
	return r, d.err
}

// EncodeRefereeAnswer writes the answer; which question it answers the call tells.
func EncodeRefereeAnswer(a mtm.RefereeAnswer) *mtmpb.RefereeAnswer {
	return &mtmpb.RefereeAnswer{
		Version: WireVersion, Ok: a.OK, Holder: uint32(a.Holder), HolderGen: a.HolderGen, Floor: a.Floor, Why: a.Why,
	}
}

// DecodeRefereeAnswer reads the answer to q.
func DecodeRefereeAnswer(q mtm.RefereeRequest, p *mtmpb.RefereeAnswer) (mtm.RefereeAnswer, error) {
	if v := p.GetVersion(); v < MinWireVersion || v > WireVersion {
		return mtm.RefereeAnswer{}, fmt.Errorf("version %d of the referee's protocol is not known: %d to %d are", v, MinWireVersion, WireVersion)
	}
	var d decoder
	a := mtm.RefereeAnswer{
		Kind: q.Kind, Gen: q.Gen, OK: p.GetOk(), HolderGen: p.GetHolderGen(), Floor: p.GetFloor(), Why: p.GetWhy(),
	}
	if p.GetHolder() != 0 {
		a.Holder = d.node(p.GetHolder())
	}
	if len(a.Why) > MaxText {
		a.Why = a.Why[:MaxText]
	}
	return a, d.err
}
