package journal

import (
	"encoding/binary"
	"hash/crc32"

	"mtm/proto"
)

// A frame is one record in a segment: a header, the record, zeros up to the next multiple of 8.
//
//	0  uint32  length of the record
//	4  uint32  CRC-32C of everything after it, padding excluded
//	8  uint64  index of the record
//	16 uint64  highest index that was synced when this frame was written
const (
	frameHeader = 24
	frameAlign  = 8
	maxFrame    = frameHeader + proto.MaxRecord + 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame is a parsed one; data points into what was parsed.
type frame struct {
	index, durable uint64
	data           []byte
	size           int // with header and padding
}

func alignFrame(n int) int { return (n + frameAlign - 1) &^ (frameAlign - 1) }

// beginFrame reserves the header of a frame in buf; the caller appends the record and calls endFrame.
func beginFrame(buf []byte) []byte {
	var header [frameHeader]byte
	return append(buf, header[:]...)
}

// endFrame fills in the header of the frame that starts at start, and pads it.
func endFrame(buf []byte, start int, index, durable uint64) []byte {
	f := buf[start:]
	binary.LittleEndian.PutUint32(f[0:], uint32(len(f)-frameHeader))
	binary.LittleEndian.PutUint64(f[8:], index)
	binary.LittleEndian.PutUint64(f[16:], durable)
	binary.LittleEndian.PutUint32(f[4:], crc32.Checksum(f[8:], castagnoli))
	var zeros [frameAlign]byte
	return append(buf, zeros[:alignFrame(len(f))-len(f)]...)
}

// parseFrame reads the frame at the start of b. ok is false if there is none, or not all of it, or it is damaged.
func parseFrame(b []byte) (f frame, ok bool) {
	if len(b) < frameHeader {
		return frame{}, false
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n == 0 || frameHeader+n > maxFrame || frameHeader+n > int64(len(b)) {
		return frame{}, false
	}
	end := frameHeader + int(n)
	if crc32.Checksum(b[8:end], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return frame{}, false
	}
	return frame{
		index: binary.LittleEndian.Uint64(b[8:]), durable: binary.LittleEndian.Uint64(b[16:]),
		data: b[frameHeader:end], size: alignFrame(end),
	}, true
}

// frameSize tells from a header alone how long the frame claims to be; 0 if that is impossible.
func frameSize(header []byte) int {
	n := int64(binary.LittleEndian.Uint32(header))
	if n == 0 || frameHeader+n > maxFrame {
		return 0
	}
	return alignFrame(frameHeader + int(n))
}
