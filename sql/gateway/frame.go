package gateway

import (
	"encoding/binary"
	"errors"
	"io"
)

// errLength is a message whose length cannot be.
var errLength = errors.New("invalid message length")

// reader cuts a stream into messages: a type, four bytes of length, a body.
type reader struct {
	src  io.Reader
	buf  []byte
	r, w int
}

func newReader(src io.Reader) *reader { return &reader{src: src, buf: make([]byte, readBuffer)} }

// buffered is how many bytes were read and not yet taken.
func (r *reader) buffered() int { return r.w - r.r }

// fill reads until n bytes are buffered; n is at most readBuffer.
func (r *reader) fill(n int) error {
	for r.w-r.r < n {
		if err := r.more(); err != nil {
			return err
		}
	}
	return nil
}

// more reads what there is, once. The buffer must not be full.
func (r *reader) more() error {
	if r.r > 0 {
		copy(r.buf, r.buf[r.r:r.w])
		r.w -= r.r
		r.r = 0
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	return err
}

// header waits for the next message and tells its type and how long it is in all, without taking it.
func (r *reader) header() (typ byte, size int, err error) {
	if err := r.fill(5); err != nil {
		return 0, 0, err
	}
	n := binary.BigEndian.Uint32(r.buf[r.r+1:])
	if n < 4 || n > maxMessage {
		return r.buf[r.r], 0, errLength
	}
	return r.buf[r.r], 1 + int(n), nil
}

// fits reports whether a message of this size can be looked at in the buffer.
func fits(size int) bool { return size <= readBuffer }

// take gives the next n bytes, which must fit the buffer. They stay valid until the next call that reads.
func (r *reader) take(n int) ([]byte, error) {
	if err := r.fill(n); err != nil {
		return nil, err
	}
	b := r.buf[r.r : r.r+n]
	r.r += n
	if r.r == r.w && r.r < len(r.buf)/2 {
		// The next read may append behind b; there is room.
		return b, nil
	}
	return b, nil
}

// piece gives up to n of the bytes that come, as they come.
func (r *reader) piece(n int) ([]byte, error) {
	if r.buffered() == 0 {
		if err := r.fill(1); err != nil {
			return nil, err
		}
	}
	n = min(n, r.buffered())
	b := r.buf[r.r : r.r+n]
	r.r += n
	return b, nil
}

// appendTo takes n bytes and appends them to b.
func (r *reader) appendTo(b []byte, n int) ([]byte, error) {
	for n > 0 {
		p, err := r.piece(n)
		if err != nil {
			return b, err
		}
		b = append(b, p...)
		n -= len(p)
	}
	return b, nil
}

// discard takes n bytes and forgets them.
func (r *reader) discard(n int) error {
	for n > 0 {
		p, err := r.piece(n)
		if err != nil {
			return err
		}
		n -= len(p)
	}
	return nil
}
