package gateway

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"mtm"
	"mtm/sql/statement"
)

// This file tells the rest of mtm which channels clients listen to. A LISTEN is announced before it runs, so that it counts for all
// nodes when it is answered. PostgreSQL is asked afterwards what came of it, and of what happened out of sight (in DO, for one).

// announce has the other nodes tell of the channel of a LISTEN that is about to run.
func (s *session) announce(ctx context.Context, st *statement.Statement) *mtm.Error {
	if s.srv.conf.Channels == nil || st.Channel == "" && !st.Has(statement.MayListen) {
		return nil
	}
	s.mu.Lock()
	s.relisten = s.relisten || st.Has(statement.MayListen)
	known := st.Channel == "" || s.channels[st.Channel] || !s.reads(st.Channel)
	s.mu.Unlock()
	if known {
		return nil
	}
	return s.holdChannel(ctx, st.Channel)
}

// reads reports whether a name means the same in UTF-8 as in the client's encoding; mu is held.
func (s *session) reads(name string) bool {
	return s.utf8 || strings.IndexFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// maxSessionChannels bounds what one session may listen to: the channels of a node are bounded, and for all its clients.
const maxSessionChannels = 1000

func (s *session) holdChannel(ctx context.Context, channel string) *mtm.Error {
	s.mu.Lock()
	many := len(s.channels) >= maxSessionChannels
	s.mu.Unlock()
	if many {
		return &mtm.Error{Code: "53400", Msg: fmt.Sprintf("this session listens to %d channels already", maxSessionChannels),
			Hint: "UNLISTEN what is not needed, or tell things apart by the payload instead of the channel."}
	}
	if e := s.srv.conf.Channels.Listen(ctx, channel); e != nil {
		return e
	}
	s.mu.Lock()
	if s.channels == nil {
		s.channels = map[string]bool{}
	}
	s.channels[channel] = true
	s.mu.Unlock()
	return nil
}

// relistens: PostgreSQL is to be asked what the session listens to, and it can be; mu is held. For the client's goroutine.
func (s *session) relistens() bool {
	return s.relisten && s.tx == 'I' && s.syncs == 0 && !s.ext.open && len(s.ext.metas) == 0
}

// relistened makes the list of channels what PostgreSQL says.
func (s *session) relistened(ctx context.Context) error {
	s.mu.Lock()
	s.relisten = false
	s.mu.Unlock()
	st, err := s.do(roleRows, injChannels)
	if err != nil || st.err != nil {
		return err
	}
	listens := map[string]bool{}
	for _, word := range strings.Fields(st.value) {
		if name, err := hex.DecodeString(word); err == nil && utf8.Valid(name) {
			listens[string(name)] = true
		}
	}
	var fresh []string
	s.mu.Lock()
	for name := range s.channels {
		if !listens[name] {
			delete(s.channels, name)
			s.srv.conf.Channels.Unlisten(name)
		}
	}
	for name := range listens {
		if !s.channels[name] {
			fresh = append(fresh, name)
		}
	}
	s.mu.Unlock()
	for _, name := range fresh {
		if e := s.holdChannel(ctx, name); e != nil {
			s.emit(appendError(nil, 'N', "WARNING", e))
			return nil
		}
	}
	return nil
}

// listensNoMore: the session ends.
func (s *session) listensNoMore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.channels {
		s.srv.conf.Channels.Unlisten(name)
	}
	s.channels = nil
}

// noteListen notes that a command may have changed what the session listens to; mu is held.
func (s *session) noteListen(tag string) {
	switch tag {
	case "LISTEN", "UNLISTEN", "DISCARD ALL":
		s.relisten = s.srv.conf.Channels != nil
	}
}

// noteHeard looks at a notification, without type and length: whoever hears one listens, however that came about.
func (s *session) noteHeard(msg []byte) {
	if s.srv.conf.Channels == nil || len(msg) < 4 {
		return
	}
	channel, _, ok := cut(msg[4:])
	s.mu.Lock()
	if ok && !s.channels[string(channel)] && !s.relisten && s.reads(string(channel)) {
		s.relisten = true
		if s.tx == 'I' && s.syncs == 0 {
			s.wake()
		}
	}
	s.mu.Unlock()
}
