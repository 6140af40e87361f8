package proto

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"mtm"
	"mtm/proto/mtmpb"
)

// errMissing: a part that every sender sets is not there.
var errMissing = errors.New("missing")

func encodeGID(g mtm.GID) *mtmpb.GID {
	return &mtmpb.GID{Origin: uint32(g.Origin), Gen: g.Gen, Seq: g.Seq}
}

func decodeGID(p *mtmpb.GID) (mtm.GID, error) {
	if p == nil {
		return mtm.GID{}, fmt.Errorf("gid: %w", errMissing)
	}
	origin, err := decodeNode(p.Origin)
	return mtm.GID{Origin: origin, Gen: p.Gen, Seq: p.Seq}, err
}

func decodeNode(n uint32) (mtm.NodeID, error) {
	if n < 1 || n > mtm.MaxNodes {
		return 0, fmt.Errorf("node %d: ids are 1 to %d", n, mtm.MaxNodes)
	}
	return mtm.NodeID(n), nil
}

func encodeBallot(b mtm.Ballot) *mtmpb.Ballot {
	if b.IsZero() {
		return nil
	}
	return &mtmpb.Ballot{N: b.N, Node: uint32(b.Node)}
}

// decodeBallot gives the zero ballot for none; whether that will do is for the caller to say.
func decodeBallot(p *mtmpb.Ballot) (mtm.Ballot, error) {
	if p == nil {
		return mtm.Ballot{}, nil
	}
	node, err := decodeNode(p.Node)
	if err != nil {
		return mtm.Ballot{}, fmt.Errorf("ballot: %w", err)
	}
	return mtm.Ballot{N: p.N, Node: node}, nil
}

// encodeError keeps what can be told in UTF-8 within MaxText. The cause goes into the detail: it is text by now.
func encodeError(e *mtm.Error) *mtmpb.Error {
	if e == nil {
		return nil
	}
	detail := e.Detail
	if e.Err != nil {
		detail = strings.TrimPrefix(detail+": "+e.Err.Error(), ": ")
	}
	code := e.Code
	if !validCode(code) {
		code = "XX000"
	}
	return &mtmpb.Error{Code: code, Msg: cut(e.Msg), Detail: cut(detail), Hint: cut(e.Hint)}
}

func decodeError(p *mtmpb.Error) (*mtm.Error, error) {
	if p == nil {
		return nil, nil
	}
	if !validCode(p.Code) {
		return nil, fmt.Errorf("error: %q is no SQLSTATE", cut(p.Code))
	}
	return &mtm.Error{Code: p.Code, Msg: cut(p.Msg), Detail: cut(p.Detail), Hint: cut(p.Hint)}, nil
}

func validCode(code string) bool {
	if len(code) != 5 {
		return false
	}
	for i := range len(code) {
		if c := code[i]; (c < '0' || c > '9') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// cut makes text valid UTF-8, as protobuf demands, and at most MaxText bytes long.
func cut(text string) string {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	if len(text) <= MaxText {
		return text
	}
	end := MaxText
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

func encodeDeps(d mtm.Deps) []*mtmpb.OriginDeps {
	if len(d) == 0 {
		return nil
	}
	all := make([]*mtmpb.OriginDeps, len(d))
	for i, o := range d {
		all[i] = &mtmpb.OriginDeps{Origin: uint32(o.Origin), Upto: o.Upto, Except: o.Except}
	}
	return all
}

func decodeDeps(all []*mtmpb.OriginDeps) (mtm.Deps, error) {
	if len(all) == 0 {
		return nil, nil
	}
	var seen mtm.NodeSet
	total := 0
	deps := make(mtm.Deps, 0, min(len(all), mtm.MaxNodes))
	for _, p := range all {
		origin, err := decodeNode(p.GetOrigin())
		if err != nil {
			return nil, fmt.Errorf("deps: %w", err)
		}
		if seen.Has(origin) {
			return nil, fmt.Errorf("deps: node %d twice", origin)
		}
		seen = seen.With(origin)
		if total += len(p.Except); total > MaxExcept {
			return nil, fmt.Errorf("deps: more than %d exceptions", MaxExcept)
		}
		if err := checkExcept(p); err != nil {
			return nil, fmt.Errorf("deps of node %d: %w", origin, err)
		}
		deps = append(deps, mtm.OriginDeps{Origin: origin, Upto: p.Upto, Except: p.Except})
	}
	return deps, nil
}

func checkExcept(p *mtmpb.OriginDeps) error {
	for i, s := range p.Except {
		if s > p.Upto || (i > 0 && s <= p.Except[i-1]) {
			return fmt.Errorf("exception %d is out of order", s)
		}
	}
	return nil
}

// encodePayload fills in the size of what is inline: the receiver insists on it.
func encodePayload(p mtm.Payload) *mtmpb.Payload {
	if p.Spill == "" {
		p.Size = int64(len(p.Data))
	}
	return &mtmpb.Payload{Data: p.Data, Spill: p.Spill, Size: p.Size, Flags: uint32(p.Flags)}
}

// decodePayload holds Size to Data where there is data, so that nobody need check it again.
func decodePayload(p *mtmpb.Payload) (mtm.Payload, error) {
	switch {
	case p == nil:
		return mtm.Payload{}, fmt.Errorf("payload: %w", errMissing)
	case len(p.Data) > MaxInline:
		return mtm.Payload{}, fmt.Errorf("payload: %d bytes inline, at most %d may be", len(p.Data), MaxInline)
	case p.Spill == "" && p.Size != int64(len(p.Data)):
		return mtm.Payload{}, fmt.Errorf("payload: size %d with %d bytes of data", p.Size, len(p.Data))
	case p.Spill != "" && (len(p.Data) > 0 || p.Size < 0):
		return mtm.Payload{}, errors.New("payload: a spill file with inline data or a negative size")
	case p.Spill != "" && !validSpill(p.Spill):
		return mtm.Payload{}, fmt.Errorf("payload: %q cannot name a spill file", cut(p.Spill))
	}
	return mtm.Payload{Data: p.Data, Spill: p.Spill, Size: p.Size, Flags: mtm.PayloadFlags(p.Flags)}, nil
}

// validSpill keeps a name from leading out of the spill directory.
func validSpill(name string) bool {
	if len(name) > MaxSpill || name[0] == '.' {
		return false
	}
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func encodeGeneration(g mtm.Generation) *mtmpb.Generation {
	return &mtmpb.Generation{Num: g.Num, Members: uint64(g.Members), Configured: uint64(g.Configured)}
}

func decodeGeneration(p *mtmpb.Generation) (mtm.Generation, error) {
	if p == nil {
		return mtm.Generation{}, nil
	}
	members, configured := mtm.NodeSet(p.Members), mtm.NodeSet(p.Configured)
	if !allNodes.Contains(members.Union(configured)) {
		return mtm.Generation{}, fmt.Errorf("generation %d: impossible nodes", p.Num)
	}
	return mtm.Generation{Num: p.Num, Members: members, Configured: configured}, nil
}

// allNodes is every node that may exist.
var allNodes = func() (all mtm.NodeSet) {
	for id := mtm.NodeID(1); id <= mtm.MaxNodes; id++ {
		all = all.With(id)
	}
	return all
}()
