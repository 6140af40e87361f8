package notify

import (
	"context"
	"fmt"

	"mtm"
)

// own is what this node's clients listen to.
type own struct {
	holders map[string]int    // sessions
	since   map[string]uint64 // the version with which it came
	version uint64            // grows with each change
	log     []change          // the latest changes; the last one made version
}

type change struct {
	name string
	add  bool
}

// logLength is how many changes are remembered: who has an older version is told everything.
const logLength = 1024

func newOwn() own {
	return own{holders: map[string]int{}, since: map[string]uint64{}, version: 1}
}

func (o *own) note(name string, add bool) {
	o.version++
	if add {
		o.since[name] = o.version
	} else {
		delete(o.since, name)
	}
	if len(o.log) == 2*logLength {
		o.log = append(o.log[:0], o.log[logLength:]...)
	}
	o.log = append(o.log, change{name, add})
}

// from is what changed since version known.
func (o *own) from(known uint64) *Channels {
	c := &Channels{Base: known, Version: o.version}
	if known == 0 || known > o.version || o.version-known > uint64(len(o.log)) {
		c.Base = 0
		for name := range o.since {
			c.Add = append(c.Add, []byte(name))
		}
		return c
	}
	last := map[string]bool{}
	for _, ch := range o.log[uint64(len(o.log))-(o.version-known):] {
		last[ch.name] = ch.add
	}
	for name, add := range last {
		if add {
			c.Add = append(c.Add, []byte(name))
		} else {
			c.Drop = append(c.Drop, []byte(name))
		}
	}
	return c
}

// Listen says that a client is about to LISTEN. It returns when what another node in reach commits from now on will come here,
// or after listenWait. nil is undone by one Unlisten; an error is for the client.
func (r *Relay) Listen(ctx context.Context, channel string) *mtm.Error {
	if checkName([]byte(channel)) != nil {
		return nil // PostgreSQL has its own word about that
	}
	r.meet()
	r.mu.Lock()
	if r.own.holders[channel] == 0 {
		if len(r.own.holders) >= MaxChannels {
			r.mu.Unlock()
			return &mtm.Error{
				Code: "53400", Msg: fmt.Sprintf("the clients of this node listen to %d channels already", MaxChannels),
				Hint: "UNLISTEN what is not needed, or tell things apart by the payload instead of the channel.",
			}
		}
		r.own.note(channel, true)
		r.changed.tell()
	}
	r.own.holders[channel]++
	version := r.own.since[channel]
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, listenWait)
	defer cancel()
	err := await(ctx, &r.mu, &r.changed, func() bool {
		for _, p := range r.peers {
			if p != nil && p.gone.IsZero() && p.known < version && p.fails < maxFails {
				return false
			}
		}
		return true
	})
	if err != nil {
		r.cfg.Log.Warn("not all nodes in reach have heard yet that a client listens", keyChannel, channel, keyError, err)
	}
	return nil
}

// Unlisten takes one Listen back.
func (r *Relay) Unlisten(channel string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.own.holders[channel]--; {
	case r.own.holders[channel] > 0:
		return
	case r.own.since[channel] != 0:
		r.own.note(channel, false)
		r.changed.tell()
	}
	delete(r.own.holders, channel)
}

// tellChannels keeps a node informed of what this one's clients listen to.
func (r *Relay) tellChannels(ctx context.Context, p *peer) {
	for {
		if r.up(ctx, p, func() bool { return p.again || p.known != r.own.version }) != nil {
			return
		}
		r.mu.Lock()
		p.again = false
		c := r.own.from(p.known)
		r.mu.Unlock()
		a, err := r.cfg.Call(ctx, p.id, Message{From: r.cfg.Node, Life: r.cfg.Life, Channels: c})
		r.mu.Lock()
		if err == nil {
			p.fails = 0
		}
		switch {
		case err != nil:
			p.again = true
			p.fails++
		case a.Version == c.Version:
			p.known = c.Version
		default: // it has lost them
			p.known, p.again = 0, true
		}
		r.changed.tell()
		r.mu.Unlock()
		if err != nil {
			r.cfg.Log.Debug("tell a node which channels clients listen to", keyNode, p.id, keyError, err)
			rest(ctx, retryAfter)
		}
	}
}

// receiveChannels takes what another node's clients listen to, and answers when the session listens too.
func (r *Relay) receiveChannels(ctx context.Context, from mtm.NodeID, life uint64, c *Channels) (Answer, error) {
	r.mu.Lock()
	if len(r.stale) > maxStale {
		r.mu.Unlock()
		return Answer{}, fmt.Errorf("notifications: node %d has much to listen to already", r.cfg.Node)
	}
	p := r.peer(from)
	switch {
	case p.life == life && c.Version <= p.version: // repeated
	case c.Base == 0:
		r.forgetOf(p, life)
		r.take(p, c)
	case p.life != life || c.Base != p.version:
		r.mu.Unlock()
		return Answer{}, nil
	default:
		r.take(p, c)
	}
	if len(p.channels) > MaxChannels {
		r.forget(p)
		r.mu.Unlock()
		return Answer{}, fmt.Errorf("notifications: more than %d channels", MaxChannels)
	}
	version, aim := p.version, r.aim
	r.mu.Unlock()
	if err := await(ctx, &r.mu, &r.changed, func() bool { return r.effect >= aim }); err != nil {
		return Answer{}, fmt.Errorf("notifications: node %d cannot listen at the moment: %w", r.cfg.Node, err)
	}
	return Answer{Version: version}, nil
}

// forgetOf prepares for all of p's channels anew; mu is held. What waits for clients of an earlier life is nobody's.
func (r *Relay) forgetOf(p *peer, life uint64) {
	if p.life != 0 && p.life != life {
		p.queue, p.marks, p.bytes = nil, nil, 0
	}
	for name := range p.channels {
		r.want(name, -1)
	}
	p.life, p.channels = life, map[string]bool{}
}

// take applies a change; mu is held.
func (r *Relay) take(p *peer, c *Channels) {
	p.version = c.Version
	for _, name := range c.Drop {
		if p.channels[string(name)] {
			delete(p.channels, string(name))
			r.want(string(name), -1)
		}
	}
	for _, name := range c.Add {
		if !p.channels[string(name)] {
			p.channels[string(name)] = true
			r.want(string(name), 1)
		}
	}
}

// want counts the nodes whose clients listen to a channel; mu is held.
func (r *Relay) want(name string, by int) {
	r.union[name] += by
	if r.union[name] == 0 {
		delete(r.union, name)
	}
	if r.live {
		r.stale[name] = true
	}
	r.aim++
	r.wakeSession()
}
