package dmq

import (
	"context"
	"fmt"
	"sync"

	protobuf "google.golang.org/protobuf/proto"

	"mtm"
	"mtm/proto/mtmpb"
)

// urgent reports whether a message overtakes others: a lease, or an election, must not wait behind data. Who handles
// them bears that some are lost.
func urgent(b mtm.Body) bool {
	switch b.(type) {
	case mtm.Heartbeat, mtm.HeartbeatAck, mtm.Campaign, mtm.CampaignVote, mtm.Elected:
		return true
	}
	return false
}

func (l *link) sendUrgent(m *mtmpb.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up {
		return
	}
	if len(l.urgent) >= maxUrgent {
		l.urgent = l.urgent[1:]
	}
	l.urgent = append(l.urgent, m)
	signal(l.wake)
}

// takeUrgent gives what waits for stream s, as a frame of its own in bytes; nil: nothing.
func (l *link) takeUrgent(s *stream) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s != l.out || len(l.urgent) == 0 {
		return nil
	}
	f := mtmpb.LinkFrame{}
	for bytes := 0; len(l.urgent) > 0; l.urgent = l.urgent[1:] {
		if bytes += protobuf.Size(l.urgent[0]) + 8; bytes > maxState {
			break
		}
		f.Messages = append(f.Messages, l.urgent[0])
	}
	text, err := protobuf.Marshal(&f)
	if err != nil {
		l.logger().Error("urgent messages that cannot be sent", keyError, err)
	}
	return text
}

// gotUrgent hands on what a frame carries besides its messages.
func (in *incoming) gotUrgent(text []byte) error {
	if len(text) > maxState {
		return fmt.Errorf("%d bytes of urgent messages", len(text))
	}
	var f mtmpb.LinkFrame
	if err := protobuf.Unmarshal(text, &f); err != nil {
		return err
	}
	for _, p := range f.Messages {
		m, err := in.l.decode(p)
		if err != nil {
			return err
		}
		if !urgent(m.Body) {
			return fmt.Errorf("%T among urgent messages", m.Body)
		}
		if up, _ := in.l.isUp(); up {
			in.l.cfg.Sink.Urgent(m)
		}
	}
	return nil
}

// rest says whether the queue is suspended.
type rest struct {
	mu      sync.Mutex
	resting bool
	changed chan struct{} // closed and replaced when resting changes
}

func newRest() *rest { return &rest{changed: make(chan struct{})} }

func (r *rest) set(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resting != on {
		r.resting = on
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

func (r *rest) now() (bool, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.resting, r.changed
}

// over waits for the end of it; false: ctx ended first.
func (r *rest) over(ctx context.Context) bool {
	for {
		on, changed := r.now()
		if !on {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
