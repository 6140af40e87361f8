package main

import (
	"fmt"
	"strings"

	"mtm"
	"mtm/coordinator"
)

// body writes a message, a record, an action or an event so that a person can read it.
func body(v any) string {
	name := fmt.Sprintf("%T", v)
	name = name[strings.LastIndexByte(name, '.')+1:]
	switch v := v.(type) {
	case mtm.Prepare:
		return fmt.Sprintf("%s %s age=%d deps=%v %s%s", name, v.GID, v.Age, v.Deps, v.Payload.Data, v.Payload.Spill)
	case mtm.RecPrepare:
		return fmt.Sprintf("%s %s %s%s", name, v.GID, v.Payload.Data, v.Payload.Spill)
	case coordinator.Apply:
		return fmt.Sprintf("%s %s %s%s", name, v.GID, v.Payload.Data, v.Payload.Spill)
	}
	return fmt.Sprintf("%s%+v", name, v)
}

func (w *world) traceEvent(n *node, ev coordinator.Event) {
	if w.out == nil {
		return
	}
	switch ev := ev.(type) {
	case coordinator.Tick:
	case coordinator.Received:
		switch ev.Message.Body.(type) {
		case mtm.Heartbeat, mtm.HeartbeatAck:
			return
		}
		w.tracef("n%d <- n%d %s", n.id, ev.Message.From, body(ev.Message.Body))
	default:
		w.tracef("n%d event %s", n.id, body(ev))
	}
}

func (w *world) traceReady(n *node, r coordinator.Ready) {
	if w.out == nil {
		return
	}
	for _, m := range r.Forward {
		w.tracef("   n%d forward to n%d %s", n.id, m.To, body(m.Body))
	}
	for _, a := range r.Start {
		w.tracef("   n%d start %s", n.id, body(a))
	}
	for _, rec := range r.Persist {
		w.tracef("   n%d persist %s", n.id, body(rec))
	}
	for _, m := range r.Send {
		switch m.Body.(type) {
		case mtm.Heartbeat, mtm.HeartbeatAck:
			continue
		}
		w.tracef("   n%d send to n%d %s", n.id, m.To, body(m.Body))
	}
	for _, a := range r.Do {
		w.tracef("   n%d do %s", n.id, body(a))
	}
	for _, rep := range r.Reply {
		w.tracef("   n%d reply %s %v", n.id, rep.GID, rep.Err)
	}
}
