package logrep

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

type bytesFile struct{ *bytes.Reader }

func (bytesFile) Close() error { return nil }

// readAll gives the frames of a payload, and its error unless that is the end.
func readAll(r *payloadReader) (frames []frame, err error) {
	for {
		f, err := r.next()
		if err == io.EOF {
			return frames, nil
		}
		if err != nil {
			return frames, err
		}
		frames = append(frames, f)
	}
}

func TestPayloadRoundTrip(t *testing.T) {
	spills := newDirSpills(t)
	for _, limit := range []int{1 << 20, 16} {
		w := newPayloadWriter(spills, limit)
		var want []frame
		for i := range uint32(2000) {
			body := bytes.Repeat([]byte{byte(i)}, int(i%100))
			require.NoError(t, w.frame(i%5, 'I', body))
			if i%5 != 3 {
				want = append(want, frame{'I', body})
			}
		}
		p, err := w.finish([]uint32{3, 7}, mtm.PayloadDDL)
		require.NoError(t, err)
		require.Equal(t, limit == 16, p.Spill != "")
		r, err := openPayload(p, spills)
		require.NoError(t, err)
		got, err := readAll(r)
		require.NoError(t, err)
		require.Equal(t, len(want), len(got))
		for i := range want {
			require.Equal(t, want[i].kind, got[i].kind)
			require.True(t, bytes.Equal(want[i].body, got[i].body))
		}
		r.close()
	}
}

// failingSpill fails at a chosen step, as a full disk does.
type failingSpill struct {
	at      string
	aborted bool
}

var errDisk = errors.New("no space left")

func (s *failingSpill) Create() (SpillWriter, error)           { return s, s.fail("create") }
func (s *failingSpill) Open(string) (io.ReadSeekCloser, error) { return nil, s.fail("open") }
func (s *failingSpill) Write(b []byte) (int, error)            { return len(b), s.fail("write") }
func (s *failingSpill) Name() string                           { return "f" }
func (s *failingSpill) Commit() error                          { return s.fail("commit") }
func (s *failingSpill) Abort() error                           { s.aborted = true; return nil }
func (s *failingSpill) fail(step string) error {
	if s.at == step {
		return errDisk
	}
	return nil
}

func TestSpillFailuresAreErrors(t *testing.T) {
	for _, at := range []string{"create", "write", "commit"} {
		s := &failingSpill{at: at}
		w := newPayloadWriter(s, 10)
		err := w.frame(0, 'I', make([]byte, 100<<10))
		if err == nil {
			_, err = w.finish(nil, 0)
		} else {
			require.NoError(t, w.abort())
		}
		require.ErrorIs(t, err, errDisk, at)
		require.Equal(t, at != "create", s.aborted, at)
	}
	_, err := openPayload(mtm.Payload{Spill: "x"}, &failingSpill{at: "open"})
	require.ErrorIs(t, err, errDisk)
}

// A payload says the same inline and in a file, and nothing in it can crash its reader.
func FuzzPayload(f *testing.F) {
	w := newPayloadWriter(nil, 1<<20)
	require.NoError(f, w.frame(0, 'R', []byte("abc")))
	require.NoError(f, w.frame(9, 'I', []byte("x")))
	p, err := w.finish([]uint32{9}, 0)
	require.NoError(f, err)
	f.Add(p.Data)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		inline, err := openInline(data)
		file, fileErr := openSpill(bytesFile{bytes.NewReader(data)})
		require.Equal(t, err == nil, fileErr == nil)
		if err != nil {
			return
		}
		a, err := readAll(inline)
		b, fileErr := readAll(file)
		require.Equal(t, err == nil, fileErr == nil)
		require.Equal(t, a, b)
	})
}
