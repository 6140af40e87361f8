package coordinator

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"mtm"
)

// The transcripts in testdata: events in, Ready out. Rewrite them with go test ./coordinator -rewrite, and read the
// difference.
//
//	cluster nodes=3               new nodes, started, with all links up; what that needs is not shown
//	permit node=1 gid= age=       the gate gave a number
//	prepared node=1 gid= [err= | unknown | open]
//	captured node=1 gid= [empty] [waitlocal] [spill=] [open]
//	confirmed node= gid=          lost node= gid=    of one that a session holds open
//	applied node=2 gid= [err=]    blocked node= waiter= holder=     finished node= gid=
//	cancel node= gid=             tick node= now=                   closed node= next=
//	up node= peer= [incarnation=] down node= peer=
//	deliver [from=] [to=] [type=] [all]    messages that wait in the network, oldest first; all: until none is left
//	drop [from=] [to=] [type=]    they are lost
//	say from= to= type= gid= [ballot=n,node] [commit] [for=] [upto=]    a message that nobody sent
//	restart node= [prepared=gid,…] [committed=gid,…] [lose=n]    with the journal less its last n records; no link is up
//	checkpoint node=              the journal is replaced by a checkpoint
//	status node= | outcome node= gid= | behind node= of=
//
// With elections (cluster nodes=3 elections), heartbeats and campaigns are not shown:
//
//	elapse nodes= to=             time passes for these nodes, in steps of 20 ms, and what they say about generations arrives
//	stream node= [gid= committed|aborted|undecided] [mark=] [end]    the donor's next message to a node that recovers
//	dropnode node= target=        an operator asks node to have target configured no more
//	referee node= kind=grant gen= [ok] [holder= holdergen=]    the referee's answer (cluster nodes=2 elections referee)
//	recovered node= at=           everything up to at is in PostgreSQL
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *stage
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "cluster" {
				s = newStage(t, argInt(d, "nodes", 3), Config{Elections: d.HasArg("elections"), Referee: d.HasArg("referee")})
				s.out.Reset()
				return "ok\n"
			}
			s.t = t
			s.command(d)
			return s.take()
		})
	})
}

// stage is a few nodes, and the messages between them.
type stage struct {
	t        *testing.T
	cfg      Config
	all      mtm.NodeSet
	nodes    map[mtm.NodeID]*Node
	journals map[mtm.NodeID][]mtm.Record
	lives    map[mtm.NodeID]uint64
	network  []mtm.Message
	now      uint64 // as elapse left it
	out      strings.Builder
	done     []string // every line, for tests that look for one
}

func newStage(t *testing.T, nodes int, cfg Config) *stage {
	s := &stage{
		t: t, nodes: map[mtm.NodeID]*Node{}, journals: map[mtm.NodeID][]mtm.Record{}, lives: map[mtm.NodeID]uint64{},
	}
	for id := mtm.NodeID(1); id <= mtm.NodeID(nodes); id++ {
		s.all = s.all.With(id)
	}
	s.cfg = cfg
	s.cfg.Generation = mtm.Generation{Num: 1, Members: s.all, Configured: s.all}
	s.cfg.MaxInFlight = 10
	if s.cfg.Reserve == 0 {
		s.cfg.Reserve = 100
	}
	for _, id := range s.all.IDs() {
		s.start(id)
	}
	for _, id := range s.all.IDs() {
		s.linkUp(id)
	}
	s.network = nil
	return s
}

func (s *stage) start(id mtm.NodeID, prepared ...mtm.GID) { s.startWith(id, prepared, nil) }

func (s *stage) startWith(id mtm.NodeID, prepared, committed []mtm.GID) {
	cfg := s.cfg
	cfg.ID = id
	cfg.Incarnation = s.lives[id] + 1
	n := New(cfg)
	for _, r := range s.journals[id] {
		n.Replay(r)
	}
	s.lives[id]++
	s.nodes[id] = n
	n.Start(prepared, committed...)
	s.drain(id)
}

func (s *stage) linkUp(id mtm.NodeID) {
	for _, peer := range s.all.Without(id).IDs() {
		s.step(id, PeerUp{Node: peer, Incarnation: s.lives[peer]})
	}
}

func (s *stage) step(id mtm.NodeID, ev Event) {
	s.nodes[id].Step(ev)
	s.drain(id)
}

// drain does what a loop does: it journals, and puts messages into the network.
func (s *stage) drain(id mtm.NodeID) {
	r := s.nodes[id].Ready()
	say := func(format string, args ...any) {
		line := fmt.Sprintf("%d: %s", id, fmt.Sprintf(format, args...))
		s.done = append(s.done, line)
		fmt.Fprintln(&s.out, line)
	}
	for _, m := range r.Forward {
		say("forward to %d: %s", m.To, describe(m.Body))
		s.network = append(s.network, m)
	}
	for _, a := range r.Start {
		say("start %s", describe(a))
	}
	for _, rec := range r.Persist {
		say("persist %s", describe(rec))
		s.journals[id] = append(s.journals[id], rec)
	}
	for _, m := range r.Send {
		if aboutGenerations(m.Body) {
			s.network = append(s.network, m)
			continue
		}
		say("send to %d: %s", m.To, describe(m.Body))
		s.network = append(s.network, m)
	}
	for _, a := range r.Do {
		say("do %s", describe(a))
	}
	for _, rep := range r.Reply {
		say("reply %s", describe(rep))
	}
}

// take returns what was said since the last time.
func (s *stage) take() string {
	text := s.out.String()
	s.out.Reset()
	if text == "" {
		return "nothing\n"
	}
	return text
}

// matching takes the messages out of the network that f wants.
func (s *stage) matching(f func(mtm.Message) bool) (taken []mtm.Message) {
	var left []mtm.Message
	for _, m := range s.network {
		if f(m) {
			taken = append(taken, m)
		} else {
			left = append(left, m)
		}
	}
	s.network = left
	return taken
}

func (s *stage) deliver(f func(mtm.Message) bool) int {
	taken := s.matching(f)
	for _, m := range taken {
		s.step(m.To, Received{Message: m})
	}
	return len(taken)
}

func anyMessage(mtm.Message) bool { return true }

// settle delivers until nothing is under way.
func (s *stage) settle() {
	for i := 0; s.deliver(anyMessage) > 0; i++ {
		require.Less(s.t, i, 100, "the messages never end")
	}
}

func (s *stage) restart(id mtm.NodeID, lose int, prepared ...mtm.GID) {
	s.restartWith(id, lose, prepared, nil)
}

func (s *stage) restartWith(id mtm.NodeID, lose int, prepared, committed []mtm.GID) {
	s.journals[id] = s.journals[id][:len(s.journals[id])-lose]
	s.network = nil
	s.startWith(id, prepared, committed)
}

func (s *stage) command(d *datadriven.TestData) {
	id := mtm.NodeID(argInt(d, "node", 0))
	gid := argGID(s.t, d, "gid")
	var failure *mtm.Error
	if code := argString(d, "err"); code != "" {
		failure = &mtm.Error{Code: code, Msg: "failed"}
	}
	switch d.Cmd {
	case "permit":
		s.step(id, Permitted{GID: gid, Age: uint64(argInt(d, "age", 0))})
	case "prepared":
		s.step(id, Prepared{GID: gid, Err: failure, Unknown: d.HasArg("unknown"), Open: d.HasArg("open")})
	case "confirmed":
		s.step(id, Confirmed{GID: gid})
	case "lost":
		s.step(id, Lost{GID: gid})
	case "captured":
		s.step(id, Captured{GID: gid, LSN: mtm.LSN(gid.Seq), Payload: argPayload(d, gid)})
	case "applied":
		s.step(id, Applied{GID: gid, Err: failure})
	case "finished":
		s.step(id, Finished{GID: gid})
	case "cancel":
		s.step(id, Cancelled{GID: gid, Err: failure})
	case "blocked":
		s.step(id, Blocked{Waiter: argGID(s.t, d, "waiter"), Holder: argGID(s.t, d, "holder")})
	case "tick":
		s.step(id, Tick{Now: uint64(argInt(d, "now", 0))})
	case "closed":
		s.step(id, GateClosed{Next: uint64(argInt(d, "next", 0)), Seq: uint64(argInt(d, "seq", 0))})
	case "referee":
		s.step(id, RefereeSaid{Answer: argAnswer(d)})
	case "recovered":
		s.step(id, Recovered{At: uint64(argInt(d, "at", 0))})
	case "leave":
		s.step(id, Leave{})
	case "recaptured":
		s.step(id, Recaptured{Prepared: argGIDs(d, "prepared")})
	case "stream":
		s.stream(id, d)
	case "elapse":
		s.elapse(strings.Split(argString(d, "nodes"), ","), uint64(argInt(d, "to", 0)))
	case "up":
		s.step(id, PeerUp{Node: mtm.NodeID(argInt(d, "peer", 0)), Incarnation: uint64(argInt(d, "incarnation", 1))})
	case "down":
		s.step(id, PeerDown{Node: mtm.NodeID(argInt(d, "peer", 0))})
	case "deliver":
		if d.HasArg("all") {
			s.settle()
			return
		}
		s.deliver(argFilter(d))
	case "drop":
		fmt.Fprintf(&s.out, "%d lost\n", len(s.matching(argFilter(d))))
	case "say":
		from, to := mtm.NodeID(argInt(d, "from", 0)), mtm.NodeID(argInt(d, "to", 0))
		s.step(to, Received{Message: mtm.Message{From: from, To: to, Body: argBody(s.t, d)}})
	case "restart":
		s.restartWith(id, argInt(d, "lose", 0), argGIDs(d, "prepared"), argGIDs(d, "committed"))
	case "checkpoint":
		s.journals[id] = s.nodes[id].Checkpoint()
		for _, r := range s.journals[id] {
			fmt.Fprintln(&s.out, describe(r))
		}
	case "dropnode":
		s.step(id, DropNode{Node: mtm.NodeID(argInt(d, "target", 0))})
	case "status":
		st := s.nodes[id].Status()
		fmt.Fprintf(&s.out, "%s connected=%v in-flight=%d undecided=%d in-doubt=%v\n",
			st.Status, st.Connected, st.InFlight, st.Undecided, gidsOf(st.InDoubt))
		if s.cfg.Elections {
			fmt.Fprintf(&s.out, "%v online=%v lease until %d\n", st.Generation, st.Online, st.LeaseEnd)
			if st.Dropped {
				s.out.WriteString("dropped\n")
			}
		}
	case "behind":
		of := s.nodes[mtm.NodeID(argInt(d, "of", 0))]
		fmt.Fprintf(&s.out, "%v\n", s.nodes[id].Behind(of.gen.Num, of.Have()))
	case "outcome":
		fmt.Fprintf(&s.out, "%q\n", s.nodes[id].Outcome(gid))
	default:
		d.Fatalf(s.t, "unknown command")
	}
}

func gidsOf(list []Doubt) []mtm.GID {
	gids := []mtm.GID{}
	for _, d := range list {
		gids = append(gids, d.GID)
	}
	return gids
}

func argString(d *datadriven.TestData, key string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) > 0 {
			return strings.Join(a.Vals, ",")
		}
	}
	return ""
}

func argInt(d *datadriven.TestData, key string, otherwise int) int {
	if v, err := strconv.Atoi(argString(d, key)); err == nil {
		return v
	}
	return otherwise
}

func argGID(t *testing.T, d *datadriven.TestData, key string) mtm.GID {
	text := argString(d, key)
	if text == "" {
		return mtm.GID{}
	}
	gid, ok := mtm.ParseGID(text)
	if !ok {
		d.Fatalf(t, "bad gid %q", text)
	}
	return gid
}

func argGIDs(d *datadriven.TestData, key string) (gids []mtm.GID) {
	for _, text := range strings.Split(argString(d, key), ",") {
		if g, ok := mtm.ParseGID(text); ok {
			gids = append(gids, g)
		}
	}
	return gids
}

func argAnswer(d *datadriven.TestData) mtm.RefereeAnswer {
	kinds := map[string]mtm.RefereeKind{"probe": mtm.RefereeProbe, "grant": mtm.RefereeGrant, "clear": mtm.RefereeClear}
	return mtm.RefereeAnswer{
		Kind: kinds[argString(d, "kind")], Gen: uint64(argInt(d, "gen", 0)), OK: d.HasArg("ok"),
		Holder: mtm.NodeID(argInt(d, "holder", 0)), HolderGen: uint64(argInt(d, "holdergen", 0)),
	}
}

func argPayload(d *datadriven.TestData, gid mtm.GID) mtm.Payload {
	p := mtm.Payload{Data: []byte(gid.String()), Spill: argString(d, "spill")}
	if p.Spill != "" {
		p.Data = nil
	}
	if d.HasArg("empty") {
		p.Flags |= mtm.PayloadEmpty
	}
	if d.HasArg("open") {
		p.Flags |= mtm.PayloadStreamed
	}
	if d.HasArg("waitlocal") {
		p.Flags |= mtm.PayloadWaitLocal
	}
	return p
}

func argFilter(d *datadriven.TestData) func(mtm.Message) bool {
	from, to, kind := argInt(d, "from", 0), argInt(d, "to", 0), argString(d, "type")
	return func(m mtm.Message) bool {
		return (from == 0 || m.From == mtm.NodeID(from)) && (to == 0 || m.To == mtm.NodeID(to)) &&
			(kind == "" || kind == typeName(m.Body))
	}
}

func argBody(t *testing.T, d *datadriven.TestData) mtm.Body {
	gid, commit := argGID(t, d, "gid"), d.HasArg("commit")
	var b mtm.Ballot
	fmt.Sscanf(argString(d, "ballot"), "%d,%d", &b.N, &b.Node)
	switch kind := argString(d, "type"); kind {
	case "Accept":
		return mtm.Accept{GID: gid, Ballot: b, Commit: commit}
	case "Collect":
		return mtm.Collect{GID: gid, Ballot: b}
	case "Decided":
		return mtm.Decided{GID: gid, Commit: commit}
	case "Vote":
		return mtm.Vote{GID: gid}
	case "Finished":
		return mtm.Finished{GID: gid}
	case "Wound":
		return mtm.Wound{GID: gid, For: argGID(t, d, "for")}
	case "Forget":
		return mtm.Forget{Upto: uint64(argInt(d, "upto", 0))}
	case "Prepare":
		return mtm.Prepare{GID: gid, Age: uint64(argInt(d, "age", 0)), Payload: argPayload(d, gid)}
	default:
		d.Fatalf(t, "cannot say %q", kind)
		return nil
	}
}

func typeName(v any) string {
	name := fmt.Sprintf("%T", v)
	return name[strings.LastIndexByte(name, '.')+1:]
}

func word(commit bool) string {
	if commit {
		return "commit"
	}
	return "abort"
}

// describe writes a message, a record, an action or a reply in one line.
func describe(v any) string {
	switch v := v.(type) {
	case mtm.Prepare:
		return fmt.Sprintf("Prepare %s deps %s", v.GID, describeDeps(v.Deps))
	case mtm.Vote:
		if v.Err != nil {
			return fmt.Sprintf("Vote %s no: %s %s", v.GID, v.Err.Code, v.Err.Detail)
		}
		return fmt.Sprintf("Vote %s yes", v.GID)
	case mtm.Accept:
		return fmt.Sprintf("Accept %s %v %s", v.GID, v.Ballot, word(v.Commit))
	case mtm.Accepted:
		return fmt.Sprintf("Accepted %s %v %s", v.GID, v.Ballot, word(v.Commit))
	case mtm.Collect:
		return fmt.Sprintf("Collect %s %v", v.GID, v.Ballot)
	case mtm.Promised:
		if v.Accepted.IsZero() {
			return fmt.Sprintf("Promised %s %v, nothing accepted", v.GID, v.Ballot)
		}
		return fmt.Sprintf("Promised %s %v, accepted %v %s", v.GID, v.Ballot, v.Accepted, word(v.AcceptedCommit))
	case mtm.Rejected:
		return fmt.Sprintf("Rejected %s %v, promised %v", v.GID, v.Ballot, v.Promised)
	case mtm.Decided:
		return fmt.Sprintf("Decided %s %s", v.GID, word(v.Commit))
	case mtm.Finished:
		return fmt.Sprintf("Finished %s", v.GID)
	case mtm.Wound:
		return fmt.Sprintf("Wound %s for %s", v.GID, v.For)
	case mtm.Forget:
		return fmt.Sprintf("Forget up to %d", v.Upto)
	case mtm.RecoverAck:
		return fmt.Sprintf("RecoverAck up to %d", v.Seq)
	case mtm.RecPrepare:
		if v.Recovered {
			return fmt.Sprintf("prepare %s, again", v.GID)
		}
		return fmt.Sprintf("prepare %s", v.GID)
	case mtm.RecPromise:
		return fmt.Sprintf("promise %s %v", v.GID, v.Ballot)
	case mtm.RecAccept:
		return fmt.Sprintf("accept %s %v %s", v.GID, v.Ballot, word(v.Commit))
	case mtm.RecDecide:
		if v.Firm {
			return fmt.Sprintf("decide %s %s, firm", v.GID, word(v.Commit))
		}
		return fmt.Sprintf("decide %s %s", v.GID, word(v.Commit))
	case mtm.RecReserve:
		return fmt.Sprintf("reserve below %d", v.Upto)
	case mtm.RecForget:
		return fmt.Sprintf("forget origin %d up to %d", v.Origin, v.Upto)
	case mtm.RecCheckpoint:
		return fmt.Sprintf("checkpoint %v", v.Generation)
	case mtm.RecCheckpointEnd:
		return "end of checkpoint"
	case mtm.Recover:
		return fmt.Sprintf("Recover in gen %d, have %v, undecided %v", v.Gen, v.Have, v.Undecided)
	case mtm.RecGeneration:
		return fmt.Sprintf("generation %v donors %v, online in %d, vote %d", v.Gen, v.Donors, v.LastOnline, v.Vote.Num)
	case mtm.RecMark:
		return fmt.Sprintf("mark of gen %d, prepared %v", v.Gen.Num, v.Prepared)
	case mtm.RecRecover:
		return fmt.Sprintf("recover %s at %d", v.GID, v.At)
	case mtm.RecVoid:
		return fmt.Sprintf("void above %d", v.Above)
	case StreamJournal:
		return fmt.Sprintf("StreamJournal to %d, aborted %v, look up %v", v.To, v.Aborted, v.LookUp)
	case StreamAcked:
		return fmt.Sprintf("StreamAcked to %d up to %d", v.To, v.Seq)
	case ApplyRecovered:
		return fmt.Sprintf("ApplyRecovered %s at %d", v.GID, v.At)
	case Recapture:
		return "Recapture"
	case Gone:
		return "Gone"
	case AskReferee:
		return fmt.Sprintf("AskReferee: %v", v.Request)
	case TellOutcome:
		return fmt.Sprintf("TellOutcome %s to %d", v.GID, v.To)
	case Apply:
		return fmt.Sprintf("Apply %s", v.GID)
	case CancelApply:
		return fmt.Sprintf("CancelApply %s", v.GID)
	case Confirm:
		return fmt.Sprintf("Confirm %s", v.GID)
	case Finish:
		if v.Open {
			return fmt.Sprintf("Finish %s %s in its session", v.GID, word(v.Commit))
		}
		return fmt.Sprintf("Finish %s %s", v.GID, word(v.Commit))
	case AckCapture:
		return fmt.Sprintf("AckCapture %v", v.LSN)
	case OpenGate:
		return fmt.Sprintf("OpenGate gen %d, %d to below %d, limit %d", v.Gen, v.First, v.Below, v.Limit)
	case CloseGate:
		return fmt.Sprintf("CloseGate: %s", v.Reason.Detail)
	case Release:
		return fmt.Sprintf("Release %s", v.GID)
	case DropPayload:
		return fmt.Sprintf("DropPayload %s", v.Spill)
	case Reply:
		if v.Err != nil {
			return fmt.Sprintf("%s failed: %s %s", v.GID, v.Err.Code, v.Err.Detail)
		}
		return fmt.Sprintf("%s committed", v.GID)
	}
	return fmt.Sprintf("%T", v)
}

func describeDeps(deps mtm.Deps) string {
	var parts []string
	for _, d := range deps {
		text := fmt.Sprintf("%d:%d", d.Origin, d.Upto)
		if len(d.Except) > 0 {
			text += fmt.Sprintf(" but %v", d.Except)
		}
		parts = append(parts, text)
	}
	return "(" + strings.Join(parts, ", ") + ")"
}
