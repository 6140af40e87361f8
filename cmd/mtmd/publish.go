package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"mtm"
	"mtm/coordinator"
	"mtm/sql/schema"
)

// progressEvery is how often at most a recovery's progress is published.
const progressEvery = 250 * time.Millisecond

// maxInDoubt is how many transactions in doubt are shown at most.
const maxInDoubt = 1000

// publisher keeps mtm.status() and mtm.nodes() true: it holds the session that says that the daemon lives.
type publisher struct {
	d       *daemon
	cluster func() *clusterState
	news    chan coordinator.Status

	configured mtm.NodeSet   // as mtm.nodes() shows it; none: not known
	shown      *clusterState // likewise
}

func newPublisher(d *daemon, cluster func() *clusterState) *publisher {
	return &publisher{d: d, cluster: cluster, news: make(chan coordinator.Status, 1)}
}

// changed leaves s for Run; only the newest counts. It never blocks, and has one caller.
func (p *publisher) changed(s coordinator.Status) {
	select {
	case <-p.news:
	default:
	}
	p.news <- s
}

// Run publishes until ctx ends; a PostgreSQL that is away is tried again.
func (p *publisher) Run(ctx context.Context) error {
	var last coordinator.Status
	for {
		err := p.session(ctx, &last)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.d.log.Warn("status is not published to PostgreSQL", keyError, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startupRetry):
		}
	}
}

func (p *publisher) session(ctx context.Context, last *coordinator.Status) error {
	conn, err := p.d.connect(ctx, "mtm_status")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := schema.Announce(ctx, conn, version, 5*time.Second); err != nil {
		return err
	}
	if last.ID != 0 {
		if err := p.publish(ctx, conn, *last); err != nil {
			return err
		}
	}
	desk := newQuestions(p.d, schema.NewDesk(conn))
	defer desk.wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	var said time.Time
	late := false // *last is not published yet
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-p.news:
			progress := *last
			progress.Behind, progress.InDoubt = s.Behind, s.InDoubt
			only := sameStatus(progress, s)
			if *last = s; only && time.Since(said) < progressEvery {
				late = true
				continue
			}
			said, late = time.Now(), false
			err = p.publish(ctx, conn, s)
		case <-alive.C:
			if late {
				late = false
				err = p.publish(ctx, conn, *last)
			} else {
				err = desk.look(ctx) // also, a PostgreSQL that was restarted forgot us
			}
		case <-p.d.asked:
			err = desk.look(ctx)
		case a := <-desk.ready:
			err = desk.desk.Answer(ctx, a.question, a.text, a.failure)
		}
		if err != nil {
			return err
		}
	}
}

func (p *publisher) publish(ctx context.Context, conn *pgx.Conn, s coordinator.Status) error {
	state := schema.State{
		Status: s.Status, Connected: s.Connected, Generation: s.Generation, Online: s.Online, Donor: s.Donor, Behind: s.Behind,
	}
	cluster := p.cluster()
	if p.configured != s.Generation.Configured || p.shown != cluster {
		if err := schema.SetNodes(ctx, conn, cluster.configuredNodes(s.Generation)); err != nil {
			return err
		}
		p.configured, p.shown = s.Generation.Configured, cluster
	}
	for _, n := range cluster.Nodes {
		if !s.Generation.Configured.Has(n.ID) {
			continue // dropped
		}
		mode := schema.ReceiverDisabled
		switch {
		case n.ID == s.Donor:
			mode = schema.ReceiverRecovery
		case s.Connected.Has(n.ID) && s.Online.Has(p.d.cfg.NodeID):
			mode = schema.ReceiverNormal
		}
		state.Peers = append(state.Peers, schema.PeerState{
			ID: n.ID, Enabled: s.Generation.Members.Has(n.ID), Connected: s.Connected.Has(n.ID), Mode: mode,
		})
	}
	for _, t := range s.InDoubt[:min(len(s.InDoubt), maxInDoubt)] {
		state.InDoubt = append(state.InDoubt, schema.InDoubt{GID: t.GID, Began: t.Age, Prepared: t.Prepared, Votes: t.Votes, WaitsFor: t.WaitsFor})
	}
	return schema.Publish(ctx, conn, state)
}

// report is the node's status as JSON tells it.
type report struct {
	NodeID           int           `json:"node_id"`
	Status           string        `json:"status"`
	Connected        []int         `json:"connected"`
	GenNum           uint64        `json:"gen_num"`
	GenMembers       []int         `json:"gen_members"`
	GenMembersOnline []int         `json:"gen_members_online"`
	GenConfigured    []int         `json:"gen_configured"`
	Cluster          string        `json:"cluster"`
	Version          string        `json:"version"`
	Detail           string        `json:"detail,omitempty"`
	InFlight         int           `json:"in_flight"`
	InDoubt          int           `json:"in_doubt"`
	Doubts           []doubtReport `json:"in_doubt_list,omitempty"`
	Paused           bool          `json:"paused,omitempty"`       // elections are on hold here
	CountsOn         []int         `json:"counts_on"`              // the nodes that decide what is undecided here
	Joining          bool          `json:"joining,omitempty"`      // it has its copy, and is no member yet
	Donor            int           `json:"donor,omitempty"`        // whom it recovers from
	Behind           uint64        `json:"bytes_behind,omitempty"` // of the donor's journal

	Referee *refereeReport `json:"referee,omitempty"`
}

func (d *daemon) report() report {
	r := report{NodeID: int(d.cfg.NodeID), Status: string(mtm.StatusDisabled), Cluster: d.cfg.Cluster, Version: version}
	if e := d.gate.lease.why(); e != nil {
		r.Detail = e.Detail
	}
	l := d.current.Load()
	if l == nil || l.status.Load() == nil {
		return r
	}
	s := l.status.Load()
	r.Status, r.Detail = string(s.Status), ""
	if s.Dropped {
		r.Detail = droppedDetail
	}
	if missing := s.Generation.Members.Minus(s.Connected); missing != 0 && !s.Dropped {
		r.Detail = fmt.Sprintf("nodes %v are out of reach", missing)
	}
	if r.Referee = l.referee.report(); s.Generation.Sole() && s.Generation.Members.Has(d.cfg.NodeID) {
		r.Detail = "it goes on alone, by the referee's grant: what it commits is on no other node until the other one is back"
	}
	r.Connected, r.GenMembers, r.GenMembersOnline = ints(s.Connected), ints(s.Generation.Members), ints(s.Online)
	r.GenNum, r.GenConfigured = s.Generation.Num, ints(s.Generation.Configured)
	r.CountsOn, r.Joining, r.Paused = ints(s.CountsOn), s.Joining, s.Held
	for _, t := range s.InDoubt[:min(len(s.InDoubt), maxInDoubt)] {
		r.Doubts = append(r.Doubts, reportDoubt(t))
	}
	r.InFlight, r.InDoubt, r.Donor, r.Behind = s.InFlight, len(s.InDoubt), int(s.Donor), s.Behind
	return r
}

// doubtReport is a transaction in doubt, as mtm.in_doubt shows it.
type doubtReport struct {
	GID      string  `json:"gid"`
	Age      float64 `json:"age_seconds,omitempty"`
	Prepared bool    `json:"prepared"`
	Votes    []int   `json:"votes"`
	WaitsFor []int   `json:"waits_for"`
}

func reportDoubt(t coordinator.Doubt) doubtReport {
	r := doubtReport{GID: t.GID.String(), Prepared: t.Prepared, Votes: ints(t.Votes), WaitsFor: ints(t.WaitsFor)}
	if t.Age > 0 {
		r.Age = time.Since(time.UnixMicro(int64(t.Age))).Seconds()
	}
	return r
}

func ints(s mtm.NodeSet) []int {
	out := make([]int, 0, s.Len())
	for _, id := range s.IDs() {
		out = append(out, int(id))
	}
	return out
}
