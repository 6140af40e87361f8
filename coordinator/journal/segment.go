package journal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	segMagic  = "mtmlog\x00\x01" // the last byte is the version of the format
	segHeader = 64
	segSuffix = ".seg"
	tmpSuffix = ".tmp"
	segSparse = 64 // every so many records, the offset of one is kept in memory
)

// segment is one file of the log. Its fields, but for path and base, belong to Journal.mu.
type segment struct {
	path   string
	base   uint64  // index of its first record
	sparse []int64 // offsets of base, base+segSparse, …
	count  uint64  // records that sparse covers; in a sealed segment all of them, or none
}

func segmentPath(dir string, base uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", base, segSuffix))
}

// encodeSegHeader: magic, base, id of the journal (32 hex digits), CRC-32C of it all, zeros.
func encodeSegHeader(base uint64, id string) []byte {
	h := make([]byte, segHeader)
	copy(h, segMagic)
	binary.LittleEndian.PutUint64(h[8:], base)
	copy(h[16:48], id)
	binary.LittleEndian.PutUint32(h[48:], crc32.Checksum(h[:48], castagnoli))
	return h
}

func checkSegHeader(f *os.File, s *segment, id string) error {
	h := make([]byte, segHeader)
	if _, err := f.ReadAt(h, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("journal: %w", err)
	}
	if bytes.Equal(h, encodeSegHeader(s.base, id)) {
		return nil
	}
	what := "the header of the segment is damaged"
	switch {
	case string(h[:7]) == segMagic[:7] && h[7] != segMagic[7]:
		what = fmt.Sprintf("the segment has format %d, this daemon reads %d", h[7], segMagic[7])
	case bytes.Equal(h, encodeSegHeader(binary.LittleEndian.Uint64(h[8:]), string(h[16:48]))):
		what = "the segment is of another journal, or another place in it"
	}
	return &CorruptError{Path: s.path, Offset: 0, Index: s.base, What: what}
}

// newSegment makes the segment that begins with record base.
func (j *Journal) newSegment(base uint64) (*segment, *os.File, error) {
	if err := j.before("create"); err != nil {
		return nil, nil, err
	}
	return createSegment(j.logDir(), j.id, base, j.size)
}

// createSegment makes an empty segment, size bytes of it allocated. When it returns, the file is there after a crash.
func createSegment(dir, id string, base uint64, size int64) (*segment, *os.File, error) {
	s := &segment{path: segmentPath(dir, base), base: base}
	f, err := os.OpenFile(s.path+tmpSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	err = allocate(f, size)
	if err == nil {
		_, err = f.WriteAt(encodeSegHeader(base, id), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(s.path+tmpSuffix, s.path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return s, f, nil
}

// allocate makes the file size bytes long and reserves the space, so that a full disk shows here and not in Append.
func allocate(f *os.File, size int64) error {
	err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
	if !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.ENOSYS) {
		return err
	}
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// listSegments gives the segments in dir in order, and removes those that were never finished.
func listSegments(dir string) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var all []*segment
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("journal: %w", err)
			}
			continue
		}
		digits, found := strings.CutSuffix(e.Name(), segSuffix)
		base, err := strconv.ParseUint(digits, 10, 64)
		if !found || err != nil || segmentPath(dir, base) != filepath.Join(dir, e.Name()) {
			return nil, fmt.Errorf("journal: %s is no part of a journal; move it away", filepath.Join(dir, e.Name()))
		}
		all = append(all, &segment{path: filepath.Join(dir, e.Name()), base: base})
	}
	slices.SortFunc(all, func(a, b *segment) int {
		if a.base < b.base {
			return -1
		}
		return 1
	})
	return all, nil
}

// scanner reads the frames of one segment in order.
type scanner struct {
	r      *bufio.Reader
	offset int64  // of the next frame
	next   uint64 // the index that it must have
	buf    []byte
}

// newScanner starts at offset, where the frame of index next is.
func newScanner(f io.ReaderAt, offset int64, next uint64) *scanner {
	const all = 1 << 62
	return &scanner{r: bufio.NewReaderSize(io.NewSectionReader(f, offset, all), 256<<10), offset: offset, next: next}
}

// scan gives the next frame, valid until the next call; ok is false where the good frames end.
func (s *scanner) scan() (f frame, ok bool, err error) {
	header, err := s.r.Peek(frameHeader)
	if err != nil {
		return frame{}, false, ignoreEOF(err)
	}
	size := frameSize(header)
	if size == 0 {
		return frame{}, false, nil
	}
	if cap(s.buf) < size {
		s.buf = make([]byte, size, size+size/2)
	}
	s.buf = s.buf[:size]
	if _, err := io.ReadFull(s.r, s.buf); err != nil {
		return frame{}, false, ignoreEOF(err)
	}
	f, ok = parseFrame(s.buf)
	if !ok || f.index != s.next {
		return frame{}, false, nil
	}
	s.next++
	s.offset += int64(size)
	return f, true, nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// reset makes s read on from where it is, with nothing buffered.
func (s *scanner) reset(f io.ReaderAt) {
	const all = 1 << 62
	s.r.Reset(io.NewSectionReader(f, s.offset, all))
}
