package pgoutput

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// ErrMalformed is a message that does not follow the protocol.
var ErrMalformed = errors.New("malformed pgoutput message")

// reader takes fields off a message. After the first short read everything is zero and err is set.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() { r.b, r.err = nil, ErrMalformed }

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail()
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) int64() int64 { return int64(r.uint64()) }

func (r *reader) string() string {
	n := bytes.IndexByte(r.b, 0)
	if n < 0 {
		r.fail()
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n+1:]
	return s
}

// tuple reads TupleData into dst, which it reuses.
func (r *reader) tuple(dst Tuple) Tuple {
	n := int(r.uint16())
	dst = dst[:0]
	if n > len(r.b) { // each column takes a byte at least
		r.fail()
		return dst
	}
	for ; n > 0 && r.err == nil; n-- {
		v := Value{Kind: r.byte()}
		switch v.Kind {
		case Null, Unchanged:
		case Text, Binary:
			size := r.uint32()
			if uint64(size) > uint64(len(r.b)) {
				r.fail()
				return dst
			}
			v.Data = r.bytes(int(size))
		default:
			r.fail()
		}
		dst = append(dst, v)
	}
	return dst
}

func (r *reader) flag(mask byte) (set bool) {
	b := r.byte()
	if b&^mask != 0 {
		r.fail()
	}
	return b&mask != 0
}
