package faultproxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// Direction is from whom to whom bytes travel, by number of node.
type Direction struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// Reverse is the way back.
func (d Direction) Reverse() Direction { return Direction{From: d.To, To: d.From} }

// String is "1->2".
func (d Direction) String() string { return fmt.Sprintf("%d->%d", d.From, d.To) }

// Rule is what happens to bytes in one direction. The zero value is a good network.
type Rule struct {
	Blocked bool          `json:"blocked"`
	Delay   time.Duration `json:"delay_ns"` // one way, 0 to MaxDelay
	Loss    float64       `json:"loss"`     // chance that a segment is lost, 0 to 0.9
}

// MaxDelay is the longest Delay.
const MaxDelay = time.Minute

// rto is how long a lost segment waits for its first retransmission: Linux's minimum (TCP_RTO_MIN).
const rto = 200 * time.Millisecond

// segmentSize is the number of bytes that are lost together: what fits an Ethernet frame.
const segmentSize = 1448

// Check refuses what makes no sense.
func (r Rule) Check() error {
	if r.Delay < 0 || r.Delay > MaxDelay {
		return fmt.Errorf("delay %v: must be 0 to %v", r.Delay, MaxDelay)
	}
	if !(r.Loss >= 0 && r.Loss <= 0.9) {
		return fmt.Errorf("loss %v: must be 0 to 0.9", r.Loss)
	}
	return nil
}

// lateness is how much later than on a good network n bytes arrive that are sent now.
func (r Rule) lateness(n int) time.Duration {
	late := r.Delay
	for sent := 0; sent < n && r.Loss > 0; sent += segmentSize {
		for wait := rto; rand.Float64() < r.Loss && wait <= MaxDelay; wait *= 2 {
			late += wait
		}
	}
	return late
}

// ruleBook holds the rules in force.
type ruleBook struct {
	mu      sync.Mutex
	rules   map[Direction]Rule
	changed chan struct{} // closed at the next change
}

// get gives the rule of d and a channel that closes when any rule changes.
func (b *ruleBook) get(d Direction) (Rule, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rules[d], b.changed
}

// set replaces the rules that are named.
func (b *ruleBook) set(rules map[Direction]Rule) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.Copy(b.rules, rules)
	b.announce()
}

// clear makes the network good.
func (b *ruleBook) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.rules)
	b.announce()
}

// all copies the rules.
func (b *ruleBook) all() map[Direction]Rule {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.rules)
}

func (b *ruleBook) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// waitOpen waits until neither direction is blocked; false means that stop was closed first.
func (b *ruleBook) waitOpen(stop <-chan struct{}, ds ...Direction) bool {
	for {
		blocked := false
		var changed <-chan struct{}
		for _, d := range ds {
			var r Rule
			if r, changed = b.get(d); r.Blocked {
				blocked = true
				break
			}
		}
		if !blocked {
			return true
		}
		select {
		case <-changed:
		case <-stop:
			return false
		}
	}
}
