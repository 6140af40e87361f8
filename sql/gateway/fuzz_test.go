package gateway

import (
	"bytes"
	"testing"

	"mtm"
	"mtm/sql/statement"
)

func FuzzReader(f *testing.F) {
	f.Add([]byte{'Q', 0, 0, 0, 5, 0})
	f.Add([]byte{'Q', 255, 255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newReader(bytes.NewReader(data))
		used := 0
		for {
			_, size, err := r.header()
			if err != nil {
				return
			}
			if fits(size) {
				msg, err := r.take(size)
				if err != nil {
					return
				}
				if !bytes.Equal(msg, data[used:used+size]) {
					t.Fatal("not what was sent")
				}
			} else if r.discard(size) != nil {
				return
			}
			used += size
		}
	})
}

func FuzzClientMessages(f *testing.F) {
	f.Add(byte('P'), []byte("n\x00select 1\x00\x00\x00"))
	f.Add(byte('B'), []byte("p\x00s\x00\x00\x00\x00\x00\x00\x00"))
	f.Add(byte('E'), []byte("\x00\x00\x00\x00\x00"))
	f.Add(byte('P'), []byte("\x00begin\x00\x00\x00"))
	srv := &Server{cache: statement.NewCache(1 << 16)}
	f.Fuzz(func(t *testing.T, typ byte, body []byte) {
		s := srv.newSession(nil, nil)
		m := meta{typ: typ, n: 5 + len(body)}
		s.batch = append([]byte{typ, 0, 0, 0, 0}, body...)
		s.describeMessage(&m, s.batch[5:])
		if m.n != len(s.batch) {
			t.Fatalf("%d bytes, not %d", len(s.batch), m.n)
		}
	})
}

func FuzzStartup(f *testing.F) {
	f.Add([]byte("\x00\x03\x00\x00user\x00a\x00options\x00-c x=1\x00\x00"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) < 4 {
			return
		}
		st, err := parseStartup(packet)
		if err != nil {
			return
		}
		again, err := parseStartup(st.guarded()[4:])
		if err != nil || again.get("options") == "" {
			t.Fatalf("%q becomes %q: %v", packet, st.guarded(), err)
		}
		startsReadOnly(st.params)
	})
}

func FuzzError(f *testing.F) {
	f.Add(appendError(nil, 'E', "ERROR", &mtm.Error{Code: "42601", Msg: "m", Detail: "d", Hint: "h"})[5:])
	f.Add([]byte("P12\x00\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		e := parseError(body)
		msg, at := begin(nil, 'E')
		msg = end(append(msg, body...), at)
		shiftPosition(msg, 5)
		withoutChannelBinding(append(msg, 0, 0, 0, 0))
		round := parseError(appendError(nil, 'E', "ERROR", e)[5:])
		if round.Code != e.Code || round.Msg != e.Msg {
			t.Fatalf("%v becomes %v", e, round)
		}
	})
}
