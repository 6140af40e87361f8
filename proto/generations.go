package proto

import (
	"fmt"

	"mtm"
	"mtm/proto/mtmpb"
)

// This file maps what is said and remembered of generations and recovery.

func encodeGenerations(p *mtmpb.Message, body mtm.Body) {
	switch b := body.(type) {
	case mtm.Heartbeat:
		p.Body = &mtmpb.Message_Beat{Beat: &mtmpb.Beat{Sent: b.Sent, Gen: encodeGeneration(b.Gen), Donors: uint64(b.Donors),
			LastOnline: b.LastOnline, Connected: uint64(b.Connected), Leave: uint32(b.Leave)}}
	case mtm.HeartbeatAck:
		p.Body = &mtmpb.Message_BeatAck{BeatAck: &mtmpb.BeatAck{Sent: b.Sent}}
	case mtm.Campaign:
		p.Body = &mtmpb.Message_Campaign{Campaign: &mtmpb.Campaign{Gen: encodeGeneration(b.Gen)}}
	case mtm.CampaignVote:
		p.Body = &mtmpb.Message_CampaignVote{CampaignVote: &mtmpb.CampaignVote{
			Gen: encodeGeneration(b.Gen), Ok: b.OK, LastOnline: b.LastOnline, Highest: b.Highest}}
	case mtm.Elected:
		p.Body = &mtmpb.Message_Elected{Elected: &mtmpb.Elected{Gen: encodeGeneration(b.Gen), Donors: uint64(b.Donors)}}
	case mtm.Recover:
		p.Body = &mtmpb.Message_Recover{Recover: &mtmpb.Recover{Stream: b.Stream, Gen: b.Gen, LastOnline: b.LastOnline,
			Have: encodeHave(b.Have), Undecided: encodeGIDs(b.Undecided)}}
	case mtm.RecoverTxn:
		p.Body = &mtmpb.Message_RecoverTxn{RecoverTxn: &mtmpb.RecoverTxn{Stream: b.Stream, Seq: b.Seq, Life: b.Life,
			Gid: encodeGID(b.GID), Age: b.Age, Deps: encodeDeps(b.Deps), Payload: encodePayload(b.Payload), Fate: uint32(b.Fate),
			Acceptors: uint64(b.Acceptors)}}
	case mtm.RecoverDone:
		p.Body = &mtmpb.Message_RecoverDone{RecoverDone: &mtmpb.RecoverDone{Stream: b.Stream, Seq: b.Seq, Life: b.Life,
			Gen: b.Gen, Behind: b.Behind, Large: b.Large, Forgotten: encodeDeps(b.Forgotten)}}
	case mtm.RecoverAck:
		p.Body = &mtmpb.Message_RecoverAck{RecoverAck: &mtmpb.RecoverAck{Stream: b.Stream, Seq: b.Seq}}
	}
}

// generations decodes them; nil: the message is of another kind.
func (d *decoder) generations(p *mtmpb.Message) mtm.Body {
	switch b := p.GetBody().(type) {
	case *mtmpb.Message_Beat:
		return mtm.Heartbeat{Sent: b.Beat.GetSent(), Gen: d.generation(b.Beat.GetGen()), Donors: d.nodes(b.Beat.GetDonors()),
			LastOnline: b.Beat.GetLastOnline(), Connected: d.nodes(b.Beat.GetConnected()), Leave: d.leave(b.Beat.GetLeave())}
	case *mtmpb.Message_BeatAck:
		return mtm.HeartbeatAck{Sent: b.BeatAck.GetSent()}
	case *mtmpb.Message_Campaign:
		return mtm.Campaign{Gen: d.generation(b.Campaign.GetGen())}
	case *mtmpb.Message_CampaignVote:
		v := b.CampaignVote
		return mtm.CampaignVote{Gen: d.generation(v.GetGen()), OK: v.GetOk(), LastOnline: v.GetLastOnline(), Highest: v.GetHighest()}
	case *mtmpb.Message_Elected:
		return mtm.Elected{Gen: d.generation(b.Elected.GetGen()), Donors: d.nodes(b.Elected.GetDonors())}
	case *mtmpb.Message_Recover:
		r := b.Recover
		return mtm.Recover{Stream: r.GetStream(), Gen: r.GetGen(), LastOnline: r.GetLastOnline(),
			Have: d.have(r.GetHave()), Undecided: d.gids(r.GetUndecided())}
	case *mtmpb.Message_RecoverTxn:
		t := b.RecoverTxn
		return mtm.RecoverTxn{Stream: t.GetStream(), Seq: t.GetSeq(), Life: t.GetLife(), GID: d.gid(t.GetGid()), Age: t.GetAge(),
			Deps: d.deps(t.GetDeps()), Payload: d.payload(t.GetPayload()), Fate: d.fate(t.GetFate()),
			Acceptors: d.nodes(t.GetAcceptors())}
	case *mtmpb.Message_RecoverDone:
		r := b.RecoverDone
		return mtm.RecoverDone{Stream: r.GetStream(), Seq: r.GetSeq(), Life: r.GetLife(), Gen: r.GetGen(), Behind: r.GetBehind(),
			Large: r.GetLarge(), Forgotten: d.deps(r.GetForgotten())}
	case *mtmpb.Message_RecoverAck:
		return mtm.RecoverAck{Stream: b.RecoverAck.GetStream(), Seq: b.RecoverAck.GetSeq()}
	}
	return nil
}

func encodeRecovery(r mtm.Record) *mtmpb.Record {
	switch r := r.(type) {
	case mtm.RecGeneration:
		return &mtmpb.Record{Body: &mtmpb.Record_Generation{Generation: &mtmpb.RecGeneration{Gen: encodeGeneration(r.Gen),
			Donors: uint64(r.Donors), LastOnline: r.LastOnline, Vote: encodeGeneration(r.Vote), Barred: uint64(r.Barred),
			Since: r.Since}}}
	case mtm.RecMark:
		return &mtmpb.Record{Body: &mtmpb.Record_Mark{Mark: &mtmpb.RecMark{
			Gen: encodeGeneration(r.Gen), Prepared: encodeGIDs(r.Prepared), Forgotten: encodeDeps(r.Forgotten)}}}
	case mtm.RecRecover:
		return &mtmpb.Record{Body: &mtmpb.Record_Recover{Recover: &mtmpb.RecRecover{Gid: encodeGID(r.GID), Age: r.Age,
			Deps: encodeDeps(r.Deps), Payload: encodePayload(r.Payload), At: r.At}}}
	case mtm.RecVoid:
		return &mtmpb.Record{Body: &mtmpb.Record_Void{Void: &mtmpb.RecVoid{Above: r.Above}}}
	case mtm.RecBase:
		return &mtmpb.Record{Body: &mtmpb.Record_Base{Base: &mtmpb.RecBase{Have: encodeHave(r.Have), Gen: r.Gen}}}
	case mtm.RecHave:
		return &mtmpb.Record{Body: &mtmpb.Record_Have{Have: &mtmpb.RecHave{
			Origin: uint32(r.Origin), Spans: encodeSpans(r.Spans)}}}
	}
	return nil
}

// recovery decodes them; nil: the record is of another kind.
func (d *decoder) recovery(p *mtmpb.Record) mtm.Record {
	switch b := p.GetBody().(type) {
	case *mtmpb.Record_Generation:
		g := b.Generation
		return mtm.RecGeneration{Gen: d.generation(g.GetGen()), Donors: d.nodes(g.GetDonors()), LastOnline: g.GetLastOnline(),
			Vote: d.generation(g.GetVote()), Barred: d.nodes(g.GetBarred()), Since: g.GetSince()}
	case *mtmpb.Record_Mark:
		return mtm.RecMark{Gen: d.generation(b.Mark.GetGen()), Prepared: d.gids(b.Mark.GetPrepared()),
			Forgotten: d.deps(b.Mark.GetForgotten())}
	case *mtmpb.Record_Recover:
		r := b.Recover
		return mtm.RecRecover{GID: d.gid(r.GetGid()), Age: r.GetAge(), Deps: d.deps(r.GetDeps()),
			Payload: d.payload(r.GetPayload()), At: r.GetAt()}
	case *mtmpb.Record_Void:
		return mtm.RecVoid{Above: b.Void.GetAbove()}
	case *mtmpb.Record_Base:
		return mtm.RecBase{Have: d.have(b.Base.GetHave()), Gen: b.Base.GetGen()}
	case *mtmpb.Record_Have:
		return mtm.RecHave{Origin: d.node(b.Have.GetOrigin()), Spans: d.spans(b.Have.GetSpans())}
	}
	return nil
}

func encodeGIDs(gids []mtm.GID) []*mtmpb.GID {
	var all []*mtmpb.GID
	for _, g := range gids {
		all = append(all, encodeGID(g))
	}
	return all
}

func (d *decoder) gids(all []*mtmpb.GID) []mtm.GID {
	var gids []mtm.GID
	for _, p := range all {
		gids = append(gids, d.gid(p))
	}
	return gids
}

func encodeSpans(spans []mtm.Span) []*mtmpb.Span {
	var all []*mtmpb.Span
	for _, s := range spans {
		all = append(all, &mtmpb.Span{First: s.First, Last: s.Last})
	}
	return all
}

// spans must be ascending and disjoint, and none may be empty.
func (d *decoder) spans(all []*mtmpb.Span) []mtm.Span {
	var spans []mtm.Span
	for i, p := range all {
		s := mtm.Span{First: p.GetFirst(), Last: p.GetLast()}
		if s.Last < s.First || i > 0 && s.First <= spans[i-1].Last {
			d.note(fmt.Errorf("spans out of order: %d to %d", s.First, s.Last))
		}
		spans = append(spans, s)
	}
	return spans
}

func encodeHave(have []mtm.OriginHave) []*mtmpb.OriginHave {
	var all []*mtmpb.OriginHave
	for _, h := range have {
		all = append(all, &mtmpb.OriginHave{Origin: uint32(h.Origin), Upto: h.Upto, Above: encodeSpans(h.Above)})
	}
	return all
}

func (d *decoder) have(all []*mtmpb.OriginHave) []mtm.OriginHave {
	var have []mtm.OriginHave
	for _, p := range all {
		have = append(have, mtm.OriginHave{Origin: d.node(p.GetOrigin()), Upto: p.GetUpto(), Above: d.spans(p.GetAbove())})
	}
	return have
}

func (d *decoder) fate(n uint32) mtm.Fate {
	if n > uint32(mtm.FateAborted) {
		d.note(fmt.Errorf("fate %d is unknown", n))
	}
	return mtm.Fate(n)
}

func (d *decoder) leave(n uint32) mtm.Leave {
	if n > uint32(mtm.Left) {
		d.note(fmt.Errorf("step %d of leaving is unknown", n))
	}
	return mtm.Leave(n)
}

// nodes decodes a set of nodes, by the rule for those of a generation.
func (d *decoder) nodes(set uint64) mtm.NodeSet {
	return d.generation(&mtmpb.Generation{Num: 1, Members: set, Configured: set}).Members
}
