package dmq

import (
	"testing"

	"mtm"
)

// echo answers each message, from the sink.
type echo struct {
	*sink
	send func(mtm.Message)
	to   mtm.NodeID
}

func (e *echo) Received(m mtm.Message) {
	m.To = e.to
	e.send(m)
}

// direct hands messages to a channel.
type direct struct {
	*sink
	got chan mtm.Message
}

func (d *direct) Received(m mtm.Message) { d.got <- m }

func benchPair(b *testing.B) (*node, *direct) {
	dir := pki(b, "node-1", "node-2")
	la, lb := listen(b, "127.0.0.1:0"), listen(b, "127.0.0.1:0")
	d := &direct{newSink(), make(chan mtm.Message, 1<<16)}
	e := &echo{sink: newSink(), to: 1}
	a := start(b, dir, 1, la, map[mtm.NodeID]string{2: lb.Addr().String()}, func(c *Config) { c.Sink = d })
	n := start(b, dir, 2, lb, map[mtm.NodeID]string{1: la.Addr().String()}, func(c *Config) { c.Sink = e })
	e.send = n.Send
	d.waitUp(b, 1)
	e.waitUp(b, 1)
	return a, d
}

// BenchmarkRoundTrip: one message there, one back, over TLS on loopback.
func BenchmarkRoundTrip(b *testing.B) {
	a, d := benchPair(b)
	m := mtm.Message{To: 2, Body: mtm.Accept{GID: mtm.GID{Origin: 1, Gen: 1, Seq: 5}, Ballot: mtm.Ballot{Node: 1}, Commit: true}}
	for b.Loop() {
		a.Send(m)
		<-d.got
	}
}

// BenchmarkPipelined keeps 256 prepares of 500 bytes under way.
func BenchmarkPipelined(b *testing.B) {
	a, d := benchPair(b)
	m := mtm.Message{To: 2, Body: mtm.Prepare{GID: mtm.GID{Origin: 1, Gen: 1, Seq: 5},
		Payload: mtm.Payload{Data: make([]byte, 500)}}}
	for range 256 {
		a.Send(m)
	}
	for b.Loop() {
		a.Send(m)
		<-d.got
	}
}
