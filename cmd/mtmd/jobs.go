package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"google.golang.org/grpc/status"

	"mtm"
	"mtm/cert"
	"mtm/cmd/mtmctl/admin"
	"mtm/proto/mtmpb"
	"mtm/sql/schema"
)

// This file does what administrators ask for in SQL: mtm.add_node(), mtm.drop_node() and mtm.check_query(). A session begins a job, and follows it by further
// questions; a job that nobody follows is ended.

const (
	jobPatience  = 10 * time.Second // without a question
	maxArgument  = 16000            // bytes of base64
	maxArguments = 64
	reportPiece  = 300 // bytes: schema's answers have room for a little more
)

// jobs does one job at a time.
type jobs struct {
	d    *daemon
	todo chan *job
	wait time.Duration // jobPatience

	mu        sync.Mutex
	now       *job             // the last one
	arguments map[int32]string // by PostgreSQL process, in base64
}

// job is what one session has begun.
type job struct {
	pid int32
	do  func(ctx context.Context, tell func(string)) (string, error)

	mu       sync.Mutex
	followed time.Time
	answer   string // to AskProgress
	report   string
}

func newJobs(d *daemon) *jobs {
	return &jobs{d: d, todo: make(chan *job, 1), wait: jobPatience, arguments: map[int32]string{}}
}

// Run does the jobs, until ctx ends.
func (j *jobs) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case one := <-j.todo:
			one.run(ctx, j.wait)
		}
	}
}

// run does a job for as long as somebody follows it.
func (one *job) run(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(patience / 10)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			one.mu.Lock()
			alone := time.Since(one.followed) > patience
			one.mu.Unlock()
			if alone {
				cancel(errors.New("the session that asked for it is gone, or was cancelled"))
			}
		}
	}()
	result, err := one.do(ctx, func(text string) { one.tell("r"+text, "") })
	cancel(nil)
	<-ended
	if err != nil {
		one.tell("f", reportOf(err))
		return
	}
	one.tell("d"+result, "")
}

func (one *job) tell(answer, report string) {
	one.mu.Lock()
	defer one.mu.Unlock()
	one.answer, one.report = answer, report
}

func (one *job) ended() bool { return one.answer != "" && one.answer[0] != 'r' }

// reportOf is an error as JSON in ASCII, so that it can be cut anywhere.
func reportOf(err error) string {
	e := &mtm.Error{}
	if !errors.As(err, &e) {
		e = &mtm.Error{Code: "55000", Msg: err.Error()}
	}
	text, _ := json.Marshal(map[string]string{"code": e.Code, "msg": e.Msg, "detail": e.Detail, "hint": e.Hint})
	var b strings.Builder
	for _, r := range string(text) {
		if r < 0x80 {
			b.WriteRune(r)
			continue
		}
		for _, u := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, "\\u%04x", u)
		}
	}
	return b.String()
}

// answer answers an administrator's questions. known: it is one.
func (j *jobs) answer(q schema.Question) (text string, failure *mtm.Error, known bool) {
	verb, rest := q.Text[:1], q.Text[1:]
	switch verb {
	case schema.AskArgument, schema.AskMore, schema.AskAdd, schema.AskDrop, schema.AskCheck, schema.AskProgress, schema.AskReport:
	default:
		return "", nil, false
	}
	if !q.Admin {
		return "", &mtm.Error{Code: "42501", Msg: "only superusers and members of " + schema.AdminRole + " may do that"}, true
	}
	switch verb {
	case schema.AskArgument, schema.AskMore:
		failure = j.note(q.PID, verb == schema.AskMore, rest)
	case schema.AskAdd:
		failure = j.beginAdd(q.PID)
	case schema.AskDrop:
		failure = j.beginDrop(q.PID, rest)
	case schema.AskCheck:
		failure = j.beginCheck(q.PID)
	case schema.AskProgress:
		text, failure = j.progress(q.PID)
	case schema.AskReport:
		text, failure = j.reported(q.PID, rest)
	}
	return text, failure, true
}

// note keeps a part of an argument.
func (j *jobs) note(pid int32, more bool, part string) *mtm.Error {
	j.mu.Lock()
	defer j.mu.Unlock()
	whole := part
	if more {
		whole = j.arguments[pid] + part
	} else if len(j.arguments) >= maxArguments {
		clear(j.arguments) // of sessions that did not go on
	}
	if len(whole) > maxArgument {
		delete(j.arguments, pid)
		return &mtm.Error{Code: "22023", Msg: "the argument is too long"}
	}
	j.arguments[pid] = whole
	return nil
}

// argument takes the argument that was noted in parts.
func (j *jobs) argument(pid int32) ([]byte, error) {
	j.mu.Lock()
	word := j.arguments[pid]
	delete(j.arguments, pid)
	j.mu.Unlock()
	return base64.StdEncoding.DecodeString(word)
}

func (j *jobs) begin(pid int32, do func(context.Context, func(string)) (string, error)) *mtm.Error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.now != nil {
		j.now.mu.Lock()
		ended := j.now.ended()
		j.now.mu.Unlock()
		if !ended {
			return &mtm.Error{Code: "55006", Msg: "a node is being added or dropped, or a query compared, by another session of this node"}
		}
	}
	one := &job{pid: pid, do: do, followed: time.Now(), answer: "rbeginning"}
	select {
	case j.todo <- one:
	default: // nobody does them: the node does not serve
		return &mtm.Error{Code: "55000", Msg: "this node is not part of a cluster that serves"}
	}
	j.now = one
	return nil
}

// of is the job that a session follows.
func (j *jobs) of(pid int32) (*job, *mtm.Error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.now == nil || j.now.pid != pid {
		return nil, &mtm.Error{Code: "55000", Msg: "mtmd was restarted meanwhile: see mtmctl status for what became of it"}
	}
	return j.now, nil
}

func (j *jobs) progress(pid int32) (string, *mtm.Error) {
	one, failure := j.of(pid)
	if failure != nil {
		return "", failure
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.followed = time.Now()
	return one.answer, nil
}

func (j *jobs) reported(pid int32, from string) (string, *mtm.Error) {
	one, failure := j.of(pid)
	at, err := strconv.Atoi(from)
	if failure != nil {
		return "", failure
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	if err != nil || at < 0 || at >= len(one.report) {
		return "", nil
	}
	return one.report[at:min(at+reportPiece, len(one.report))], nil
}

func (j *jobs) beginDrop(pid int32, number string) *mtm.Error {
	id, err := strconv.Atoi(number)
	if err != nil || !mtm.NodeID(id).Valid() {
		return &mtm.Error{Code: "22023", Msg: fmt.Sprintf("node %q: must be a number from 1 to %d", number, mtm.MaxNodes)}
	}
	return j.begin(pid, func(ctx context.Context, tell func(string)) (string, error) {
		if mtm.NodeID(id) == j.d.cfg.NodeID {
			return "", fmt.Errorf("node %d does not drop itself: ask another node", id)
		}
		nodes, done, err := j.d.adminNodes()
		if err != nil {
			return "", err
		}
		defer done()
		tell(fmt.Sprintf("dropping node %d", id))
		r, err := admin.Drop(ctx, nodes, id)
		if err != nil || len(r.NeededBy) == 0 {
			return "", err
		}
		return fmt.Sprintf("%.200s may hold transactions in doubt that count on node %d: leave it running until mtmctl status shows none",
			strings.Join(r.NeededBy, ", "), id), nil
	})
}

func (j *jobs) beginAdd(pid int32) *mtm.Error {
	text, err := j.argument(pid)
	var fresh admin.Node
	if err == nil {
		fresh, err = admin.ParseNode(string(text), true)
	}
	if err != nil {
		return &mtm.Error{Code: "22023", Msg: fmt.Sprintf("node %.100q: %v", text, err)}
	}
	return j.begin(pid, func(ctx context.Context, tell func(string)) (string, error) {
		return strconv.Itoa(fresh.ID), j.d.addNode(ctx, fresh, tell)
	})
}

// addNode is mtmctl add-node, by this node.
func (d *daemon) addNode(ctx context.Context, fresh admin.Node, tell func(string)) error {
	nodes, done, err := d.adminNodes()
	if err != nil {
		return err
	}
	defer done()
	addr := d.peerAddress(nodeState{ID: mtm.NodeID(fresh.ID), Peer: fresh.Peer})
	conn, err := admin.Dial(addr, fresh.ID, d.certFiles())
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	fresh.Admin = conn
	checks, err := admin.PrecheckAdd(ctx, d.cfg.Cluster, fresh, nodes)
	if err != nil {
		return &mtm.Error{Code: "55000", Msg: fmt.Sprintf("node %d cannot be added: %v", fresh.ID, err), Detail: failedChecks(checks), Err: err}
	}
	err = admin.Add(ctx, fresh, nodes, admin.AddOptions{Cluster: d.cfg.Cluster, Progress: func(p admin.AddProgress) { tell(admin.ProgressLine(p)) }})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// failedChecks lists what stands in the way of a new node.
func failedChecks(all []admin.NodeChecks) string {
	var lines []string
	for _, n := range all {
		who := n.Peer
		if n.Err != "" {
			lines = append(lines, who+": "+n.Err)
		}
		for _, c := range n.Checks {
			if c.Fatal() {
				lines = append(lines, fmt.Sprintf("%s: %s: %s (%s)", who, c.Name, c.Detail, c.Fix))
			}
		}
	}
	text := strings.Join(lines, "\n")
	return text[:min(len(text), 4000)]
}

func (d *daemon) certFiles() cert.Files {
	return cert.Files{CA: d.cfg.TLSCA, Cert: d.cfg.TLSCert, Key: d.cfg.TLSKey}
}

// adminNodes prepares to call the nodes of the cluster as an operator would; this one comes first.
func (d *daemon) adminNodes() (nodes []admin.Node, done func(), err error) {
	r, err := d.rosterOf()
	if err != nil {
		return nil, nil, err
	}
	var conns []*admin.Conn
	done = func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	state := r.now.Load()
	nodes = append(nodes, admin.Node{ID: int(d.cfg.NodeID), Peer: d.cfg.PeerAdvertise, Admin: self{d}})
	for _, n := range state.Nodes {
		s := r.status()
		if n.ID == d.cfg.NodeID || n.gone() || s != nil && !s.Generation.Configured.Has(n.ID) {
			continue
		}
		conn, err := d.dialNode(state, n.ID)
		if err != nil {
			done()
			return nil, nil, err
		}
		conns = append(conns, conn)
		nodes = append(nodes, admin.Node{ID: int(n.ID), Peer: n.Peer, Conninfo: n.Conninfo, Admin: conn})
	}
	return nodes, done, nil
}

// self calls this node's own admin service.
type self struct{ d *daemon }

// Call implements admin.Caller.
func (s self) Call(ctx context.Context, method string, in, out any) error {
	if in == nil {
		in = struct{}{}
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := (&adminServer{d: s.d}).Call(ctx, &mtmpb.AdminRequest{Method: method, Json: body})
	if err != nil {
		return errors.New(status.Convert(err).Message())
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer.GetJson(), out)
}
