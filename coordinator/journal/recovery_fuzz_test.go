package journal

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/proto"
)

// segmentOf is the bytes of a segment with recs.
func segmentOf(recs ...mtm.Record) []byte {
	b := encodeSegHeader(1, "0123456789abcdef0123456789abcdef")
	for i, r := range recs {
		at := len(b)
		b = endFrame(proto.AppendRecord(beginFrame(b), r), at, uint64(i+1), uint64(i))
	}
	return b
}

// FuzzCursor: whatever a segment holds, reading it ends, by an error or at the end, and gives only what was written: the
// frames that follow each other and whose checksums are right.
func FuzzCursor(f *testing.F) {
	whole := segmentOf(prepare(gidOf(1, 1)), commit(gidOf(1, 1)), mtm.RecReserve{Upto: 3}, markOf(2, mtm.Nodes(1, 3), gidOf(1, 7)))
	f.Add(whole, uint64(4), uint64(1))
	f.Add(whole[:len(whole)-9], uint64(4), uint64(2))
	f.Add(whole, uint64(math.MaxUint64), uint64(4))
	f.Add([]byte("short"), uint64(9), uint64(1))
	path := filepath.Join(f.TempDir(), "1.seg")
	f.Fuzz(func(t *testing.T, b []byte, durable, from uint64) {
		require.NoError(t, os.WriteFile(path, b, 0o600))
		from = max(1, from)
		j := &Journal{segments: []*segment{{path: path, base: 1}}, durable: durable, next: durable + 1, size: 1 << 20}
		c := newCursor(j, from)
		defer c.close()
		for n := 0; ; n++ {
			rec, at, err := c.next()
			if rec == nil || err != nil {
				return
			}
			require.GreaterOrEqual(t, at.index, from)
			require.LessOrEqual(t, n, len(b)/frameHeader)
			again, err := readAt(at)
			require.NoError(t, err)
			require.Equal(t, rec, again)
		}
	})
}

// FuzzSummary: what decodes, encodes and decodes to the same; nothing panics.
func FuzzSummary(f *testing.F) {
	s := newSummary()
	for i, r := range []mtm.Record{prepare(gidOf(1, 4)), commit(gidOf(1, 4)), markOf(3, mtm.Nodes(1, 2)),
		mtm.RecPrepare{GID: gidOf(2, 1), Payload: mtm.Payload{Spill: "0123456789abcdef0123456789abcdef", Size: 9}}} {
		s.note(uint64(i), factOf(r))
	}
	b, err := s.encode()
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(sumMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= sumHeader { // else nearly nothing gets past the checksum
			binary.LittleEndian.PutUint32(b[len(sumMagic):], crc32.Checksum(b[sumHeader:], castagnoli))
		}
		s, err := decodeSummary(b)
		if err != nil {
			return
		}
		b, err = s.encode()
		require.NoError(t, err)
		again, err := decodeSummary(b)
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}

func TestSpansAgreeWithASet(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var s spans
		set := map[uint64]bool{}
		for range rng.IntN(40) {
			p := mtm.Span{First: uint64(rng.IntN(60))}
			p.Last = p.First + uint64(rng.IntN(8))
			s = s.add(p)
			for n := p.First; n <= p.Last; n++ {
				set[n] = true
			}
		}
		check := func() {
			for i, p := range s {
				require.LessOrEqual(t, p.First, p.Last)
				require.True(t, i == 0 || s[i-1].Last+1 < p.First, "%v", s)
			}
			for n := range uint64(70) {
				require.Equal(t, set[n], s.has(n), "%d in %v", n, s)
			}
		}
		check()
		for range 20 {
			p := mtm.Span{First: uint64(rng.IntN(60))}
			p.Last = p.First + uint64(rng.IntN(5))
			all := true
			for n := p.First; n <= p.Last; n++ {
				all = all && set[n]
			}
			require.Equal(t, all, s.covers(p), "%v in %v", p, s)
		}
		limit := 1 + rng.IntN(5)
		before := append(spans(nil), s...)
		if s = s.cut(limit); len(before) > limit {
			require.Len(t, s, limit)
			for n := before[0].First; n <= before[len(before)-limit].Last; n++ {
				set[n] = true
			}
		}
		check()
	}
	edge := spans{}.add(mtm.Span{First: 0, Last: math.MaxUint64}).add(mtm.Span{First: math.MaxUint64, Last: math.MaxUint64})
	require.Equal(t, spans{{First: 0, Last: math.MaxUint64}}, edge)
	require.True(t, edge.has(0) && edge.has(math.MaxUint64))
}
