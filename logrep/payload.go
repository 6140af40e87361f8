package logrep

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"mtm"
	"mtm/logrep/pgoutput"
)

// The framing of a payload, integers big-endian:
//
//	byte     version, 1
//	frame*   uint32 length ≥ 1, uint32 sub-transaction (0: none), length bytes of a pgoutput message without streaming xid
//	uint32   0, which ends the frames
//	uint32*  sub-transactions that were rolled back: frames with their number do not count
//	uint32   how many
//
// Each relation message comes before the first change that needs it. The list of what was rolled back comes last
// because a large transaction is written while it runs.
const (
	payloadVersion = 1
	frameHeader    = 8
	maxFrame       = 1<<30 + 1<<20 // PostgreSQL makes no message larger than 1 GiB
)

// ErrPayload is a payload that does not follow the framing.
var ErrPayload = errors.New("malformed payload")

// payloadWriter builds a payload in memory, and moves it to a spill file when it outgrows limit.
type payloadWriter struct {
	spills Spills
	limit  int
	data   []byte
	spill  SpillWriter
	size   int64
}

func newPayloadWriter(spills Spills, limit int) *payloadWriter {
	return &payloadWriter{spills: spills, limit: limit, data: []byte{payloadVersion}, size: 1}
}

// frame appends one message.
func (w *payloadWriter) frame(subxid uint32, kind byte, body []byte) error {
	w.data = binary.BigEndian.AppendUint32(w.data, uint32(len(body)+1))
	w.data = binary.BigEndian.AppendUint32(w.data, subxid)
	w.data = append(append(w.data, kind), body...)
	w.size += int64(frameHeader + 1 + len(body))
	return w.drain(w.limit)
}

// drain moves what exceeds limit to the spill file.
func (w *payloadWriter) drain(limit int) error {
	if w.spill == nil {
		if len(w.data) <= limit {
			return nil
		}
		if w.spills == nil {
			return errors.New("a large transaction, and nowhere to spill it")
		}
		spill, err := w.spills.Create()
		if err != nil {
			return fmt.Errorf("spill file: %w", err)
		}
		w.spill = spill
	}
	if len(w.data) < 64<<10 && limit > 0 {
		return nil
	}
	_, err := w.spill.Write(w.data)
	w.data = w.data[:0]
	if err != nil {
		return fmt.Errorf("spill file: %w", err)
	}
	return nil
}

// finish ends the payload. The writer is used up.
func (w *payloadWriter) finish(aborted []uint32, flags mtm.PayloadFlags) (mtm.Payload, error) {
	w.data = binary.BigEndian.AppendUint32(w.data, 0)
	for _, xid := range aborted {
		w.data = binary.BigEndian.AppendUint32(w.data, xid)
	}
	w.data = binary.BigEndian.AppendUint32(w.data, uint32(len(aborted)))
	w.size += int64(8 + 4*len(aborted))
	if w.spill == nil {
		return mtm.Payload{Data: slices.Clip(w.data), Size: w.size, Flags: flags}, nil
	}
	err := w.drain(0)
	if err == nil {
		err = w.spill.Commit()
	}
	if err != nil {
		return mtm.Payload{}, errors.Join(fmt.Errorf("spill file: %w", err), w.spill.Abort())
	}
	return mtm.Payload{Spill: w.spill.Name(), Size: w.size, Flags: flags}, nil
}

// abort throws away what was written.
func (w *payloadWriter) abort() error {
	w.data = nil
	if w.spill == nil {
		return nil
	}
	return w.spill.Abort()
}

// frame is one message of a payload.
type frame struct {
	kind byte
	body []byte
}

// payloadReader reads the frames of a payload that count.
type payloadReader struct {
	data    []byte // inline: what is left
	in      *bufio.Reader
	file    io.Closer
	left    int64 // of the spill file
	aborted map[uint32]bool
}

// openPayload checks the ends of p and makes it ready to read.
func openPayload(p mtm.Payload, spills Spills) (*payloadReader, error) {
	if p.Spill == "" {
		return openInline(p.Data)
	}
	if spills == nil {
		return nil, errors.New("a spilled payload, and nowhere to find it")
	}
	file, err := spills.Open(p.Spill)
	if err != nil {
		return nil, fmt.Errorf("spill file: %w", err)
	}
	r, err := openSpill(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

func openInline(data []byte) (*payloadReader, error) {
	if len(data) < 9 || data[0] != payloadVersion {
		return nil, fmt.Errorf("%w: %d bytes", ErrPayload, len(data))
	}
	n := int64(binary.BigEndian.Uint32(data[len(data)-4:]))
	end := int64(len(data)) - 4 - 4*n
	if end < 5 {
		return nil, fmt.Errorf("%w: %d sub-transactions", ErrPayload, n)
	}
	return &payloadReader{data: data[1:end], aborted: xidSet(data[end : len(data)-4])}, nil
}

func openSpill(file io.ReadSeekCloser) (*payloadReader, error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if size < 9 {
		return nil, fmt.Errorf("%w: %d bytes", ErrPayload, size)
	}
	tail, err := readAt(file, size-4, 4)
	if err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(tail))
	end := size - 4 - 4*n
	if end < 5 {
		return nil, fmt.Errorf("%w: %d sub-transactions", ErrPayload, n)
	}
	xids, err := readAt(file, end, 4*n)
	if err != nil {
		return nil, err
	}
	head, err := readAt(file, 0, 1)
	if err != nil {
		return nil, err
	}
	if head[0] != payloadVersion {
		return nil, fmt.Errorf("%w: version %d", ErrPayload, head[0])
	}
	return &payloadReader{in: bufio.NewReaderSize(file, 64<<10), file: file, left: end - 1, aborted: xidSet(xids)}, nil
}

func readAt(file io.ReadSeeker, at, n int64) ([]byte, error) {
	if _, err := file.Seek(at, io.SeekStart); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err := io.ReadFull(file, b)
	return b, err
}

func xidSet(b []byte) map[uint32]bool {
	if len(b) == 0 {
		return nil
	}
	set := make(map[uint32]bool, len(b)/4)
	for ; len(b) >= 4; b = b[4:] {
		set[binary.BigEndian.Uint32(b)] = true
	}
	return set
}

// next is the next frame that counts, and io.EOF after the last. The frame stays valid.
func (r *payloadReader) next() (frame, error) {
	for {
		head, err := r.take(4)
		if err != nil {
			return frame{}, err
		}
		n := binary.BigEndian.Uint32(head)
		if n == 0 {
			return frame{}, r.end()
		}
		if head, err = r.take(4); err != nil {
			return frame{}, err
		}
		subxid := binary.BigEndian.Uint32(head)
		if n > maxFrame {
			return frame{}, fmt.Errorf("%w: a frame of %d bytes", ErrPayload, n)
		}
		b, err := r.take(int(n))
		if err != nil {
			return frame{}, err
		}
		if subxid == 0 || b[0] == 'R' || !r.aborted[subxid] {
			return frame{kind: b[0], body: b[1:]}, nil
		}
	}
}

// end checks that the end marker is where the frames end.
func (r *payloadReader) end() error {
	if len(r.data) != 0 || r.left != 0 {
		return fmt.Errorf("%w: bytes after its end", ErrPayload)
	}
	return io.EOF
}

func (r *payloadReader) take(n int) ([]byte, error) {
	if r.in == nil {
		if n > len(r.data) {
			return nil, fmt.Errorf("%w: cut short", ErrPayload)
		}
		b := r.data[:n:n]
		r.data = r.data[n:]
		return b, nil
	}
	if int64(n) > r.left {
		return nil, fmt.Errorf("%w: cut short", ErrPayload)
	}
	r.left -= int64(n)
	b := make([]byte, n)
	if _, err := io.ReadFull(r.in, b); err != nil {
		return nil, fmt.Errorf("spill file: %w", err)
	}
	return b, nil
}

func (r *payloadReader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// Describe says in words what p holds, for logs and tests: one line per message, at most limit of them.
func Describe(p mtm.Payload, spills Spills, limit int) ([]string, error) {
	r, err := openPayload(p, spills)
	if err != nil {
		return nil, err
	}
	defer r.close()
	var lines []string
	var parser pgoutput.Parser
	for len(lines) < limit {
		f, err := r.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return lines, err
		}
		m, err := parser.Parse(f.kind, f.body)
		if err != nil {
			return lines, err
		}
		lines = append(lines, fmt.Sprintf("%c %+v", f.kind, m))
	}
	return lines, nil
}
