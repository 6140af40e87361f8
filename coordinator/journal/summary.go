package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"mtm"
	"mtm/proto"
)

// summary says what the records of one segment are about, so that a search need not read it. That of the last segment
// is in memory; those of the others are files, which may be lost: they are made again from the segment.
type summary struct {
	Touched spanSets              // transactions with a payload or an outcome in it
	Commits spanSets              // those that it says to be committed
	Spills  map[string]spillRef   // spill files that it names
	Marks   map[mtm.NodeID]uint64 // per member, the highest generation of which it holds the mark
}

// spillRef is where a spill file is named last.
type spillRef struct {
	Index uint64 // of the record
	Size  int64  // bytes of the file
}

func newSummary() *summary {
	return &summary{Touched: spanSets{}, Commits: spanSets{}, Spills: map[string]spillRef{}, Marks: map[mtm.NodeID]uint64{}}
}

// fact is what a summary keeps of one record.
type fact struct {
	gid     mtm.GID // zero: none
	commits bool
	spill   string
	size    int64
	mark    mtm.Generation // num 0: none
}

func factOf(r mtm.Record) fact {
	switch r := r.(type) {
	case mtm.RecPrepare:
		return fact{gid: r.GID, spill: r.Payload.Spill, size: r.Payload.Size}
	case mtm.RecRecover:
		return fact{gid: r.GID, commits: true, spill: r.Payload.Spill, size: r.Payload.Size}
	case mtm.RecDecide:
		return fact{gid: r.GID, commits: r.Commit}
	case mtm.RecMark:
		return fact{mark: r.Gen}
	}
	return fact{}
}

func (s *summary) note(index uint64, f fact) {
	for _, id := range f.mark.Members.IDs() {
		s.Marks[id] = max(s.Marks[id], f.mark.Num)
	}
	if f.gid.IsZero() {
		return
	}
	s.Touched.add(f.gid)
	if f.commits {
		s.Commits.add(f.gid)
	}
	if f.spill != "" {
		s.Spills[f.spill] = spillRef{Index: index, Size: f.size}
	}
}

const (
	sumMagic  = "mtmsum\x00\x01" // the last byte is the version of the format
	sumSuffix = ".sum"
	sumHeader = len(sumMagic) + 4
)

func (j *Journal) sumPath(base uint64) string {
	return filepath.Join(j.dir, "sum", fmt.Sprintf("%020d%s", base, sumSuffix))
}

// encode: magic, CRC-32C of the rest, the rest by encoding/gob.
func (s *summary) encode() ([]byte, error) {
	var body bytes.Buffer
	if err := gob.NewEncoder(&body).Encode(s); err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32([]byte(sumMagic), crc32.Checksum(body.Bytes(), castagnoli))
	return append(b, body.Bytes()...), nil
}

var errSummary = errors.New("damaged summary")

func decodeSummary(b []byte) (*summary, error) {
	if len(b) < sumHeader || string(b[:len(sumMagic)]) != sumMagic ||
		binary.LittleEndian.Uint32(b[len(sumMagic):]) != crc32.Checksum(b[sumHeader:], castagnoli) {
		return nil, errSummary
	}
	s := newSummary()
	if err := gob.NewDecoder(bytes.NewReader(b[sumHeader:])).Decode(s); err != nil {
		return nil, errSummary
	}
	return s, nil
}

// saveSummary writes the summary of a segment that is full. It is not synced: a crash costs another reading.
func (j *Journal) saveSummary(base uint64, s *summary) {
	b, err := s.encode()
	path := j.sumPath(base)
	if err == nil {
		err = os.WriteFile(path+tmpSuffix, b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+tmpSuffix, path)
	}
	if err != nil {
		j.log.Warn("journal: cannot write the summary of a segment; it will be read again when it is needed", "path", path, "error", err)
	}
}

// summaryOf gives the summary of a full segment, and makes it if it is lost.
func (j *Journal) summaryOf(s segment, last uint64) (*summary, error) {
	b, err := os.ReadFile(j.sumPath(s.base))
	if err == nil {
		if sum, err := decodeSummary(b); err == nil {
			return sum, nil
		}
	}
	sum := newSummary()
	err = replaySegment(s, s.base, last, func(index uint64, r mtm.Record) error {
		sum.note(index, factOf(r))
		return nil
	})
	if err != nil {
		return nil, err
	}
	j.saveSummary(s.base, sum)
	return sum, nil
}

// read adds a frame.
func (s *summary) read(f frame) error {
	rec, err := proto.ParseRecord(f.data)
	if err == nil {
		s.note(f.index, factOf(rec))
	}
	return err
}
