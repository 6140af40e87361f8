package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"mtm"
	"mtm/proto"
)

func TestMain(m *testing.M) {
	if os.Getenv(childDir) != "" {
		child()
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func open(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := Open(dir, Options{SegmentSize: minSegment, Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { j.Close() })
	return j
}

func forget(n uint64) mtm.Record { return mtm.RecForget{Origin: 1, Upto: n} }

// big is a record of about 1 MiB that depends on n.
func big(n uint64) mtm.Record {
	data := bytes.Repeat([]byte{byte(n), byte(n >> 8)}, proto.MaxInline/2)
	return mtm.RecPrepare{GID: mtm.GID{Origin: 2, Seq: n}, Payload: mtm.Payload{Data: data, Size: int64(len(data))}}
}

func appendN(t testing.TB, j *Journal, n int, sync bool) {
	t.Helper()
	for range n {
		next := j.Last() + 1
		got, err := j.Append([]mtm.Record{forget(next)}, sync)
		require.NoError(t, err)
		require.Equal(t, next, got)
	}
}

// check expects the records from first to last to be forget(index).
func check(t testing.TB, j *Journal, from, last uint64) {
	t.Helper()
	next := max(from, j.First())
	require.NoError(t, j.Replay(from, func(index uint64, r mtm.Record) error {
		require.Equal(t, next, index)
		require.Equal(t, forget(index), r)
		next++
		return nil
	}))
	require.Equal(t, last+1, next)
	require.Equal(t, last, j.Last())
}

func TestReplayGivesWhatWasAppended(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	require.EqualValues(t, 1, j.First())
	require.EqualValues(t, 0, j.Last())
	check(t, j, 0, 0)
	first, err := j.Append([]mtm.Record{forget(1), forget(2), forget(3)}, false)
	require.NoError(t, err)
	require.EqualValues(t, 1, first)
	check(t, j, 0, 3)
	appendN(t, j, 200, false)
	check(t, j, 100, 203)
	for _, i := range []uint64{1, 64, 65, 66, 203} {
		r, err := j.Read(i)
		require.NoError(t, err)
		require.Equal(t, forget(i), r)
	}
	_, err = j.Read(204)
	require.Error(t, err)
	id := j.ID()
	require.NoError(t, j.Close())
	require.ErrorIs(t, j.Sync(), ErrClosed)

	j = open(t, dir)
	require.Equal(t, id, j.ID())
	check(t, j, 0, 203)
	stop := errors.New("stop")
	require.ErrorIs(t, j.Replay(7, func(uint64, mtm.Record) error { return stop }), stop)
}

func TestBigRecordsFillSegments(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	var batch []mtm.Record
	for n := uint64(1); n <= 10; n++ { // one batch over three segments
		batch = append(batch, big(n))
	}
	_, err := j.Append(batch, true)
	require.NoError(t, err)
	require.Greater(t, len(j.segments), 2)
	verify := func() {
		next := uint64(1)
		require.NoError(t, j.Replay(0, func(index uint64, r mtm.Record) error {
			require.Equal(t, big(next), r)
			next++
			return nil
		}))
		require.EqualValues(t, 11, next)
	}
	verify()
	require.NoError(t, j.Close())
	j = open(t, dir)
	verify()
	r, err := j.Read(4)
	require.NoError(t, err)
	require.Equal(t, big(4), r)
}

func TestRecordOutsideBoundsLeavesNoTrace(t *testing.T) {
	j := open(t, t.TempDir())
	huge := mtm.RecPrepare{GID: mtm.GID{Origin: 1}, Payload: mtm.Payload{Data: make([]byte, proto.MaxInline+1)}}
	_, err := j.Append([]mtm.Record{forget(1), huge}, true)
	require.ErrorContains(t, err, "inline")
	_, err = j.Append([]mtm.Record{mtm.RecForget{Origin: 99}}, true)
	require.ErrorContains(t, err, "node 99")
	appendN(t, j, 2, true)
	check(t, j, 0, 2)
}

func TestTruncateGivesUpWholeSegments(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for n := uint64(1); n <= 20; n++ {
		_, err := j.Append([]mtm.Record{big(n)}, false)
		require.NoError(t, err)
	}
	before := len(j.segments)
	require.NoError(t, j.Truncate(15))
	require.Less(t, len(j.segments), before)
	require.EqualValues(t, 15, j.First())
	_, err := j.Read(14)
	require.ErrorIs(t, err, ErrTruncated)
	require.ErrorIs(t, j.Replay(1, nil), ErrTruncated)
	require.Error(t, j.Truncate(22))
	require.NoError(t, j.Truncate(3), "already")
	require.NoError(t, j.Close())

	j = open(t, dir)
	require.EqualValues(t, 15, j.First())
	require.EqualValues(t, 20, j.Last())
	r, err := j.Read(15)
	require.NoError(t, err)
	require.Equal(t, big(15), r)
	require.NoError(t, j.Truncate(21))
	require.EqualValues(t, 21, j.First())
	require.EqualValues(t, 20, j.Last())
	check(t, j, 0, 20)
	require.NoError(t, j.Close())
	j = open(t, dir)
	appendN(t, j, 1, true)
	check(t, j, 0, 21)
}

func TestReplayDuringAppendAndTruncate(t *testing.T) {
	j := open(t, t.TempDir())
	for n := uint64(1); n <= 12; n++ {
		_, err := j.Append([]mtm.Record{big(n)}, false)
		require.NoError(t, err)
	}
	seen := 0
	err := j.Replay(0, func(index uint64, _ mtm.Record) error {
		seen++
		if index == 1 {
			_, err := j.Append([]mtm.Record{big(13)}, true)
			require.NoError(t, err)
			require.NoError(t, j.Truncate(12))
		}
		return nil
	})
	require.ErrorIs(t, err, ErrTruncated)
	require.Less(t, seen, 12)
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	_, err := Open(dir, Options{})
	require.ErrorContains(t, err, fmt.Sprintf("in use by another process (pid %d)", os.Getpid()))
	require.NoError(t, j.Close())
	open(t, dir)
}

func TestKeysLast(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	v, err := j.Get("cluster")
	require.NoError(t, err)
	require.Nil(t, v)
	require.NoError(t, j.Put("cluster", []byte("shop")))
	require.NoError(t, j.Put("gone", []byte("x")))
	require.NoError(t, j.Put("gone", nil))
	require.Error(t, j.Put("large", make([]byte, maxValue+1)))
	require.NoError(t, j.Close())
	j = open(t, dir)
	v, err = j.Get("cluster")
	require.NoError(t, err)
	require.Equal(t, "shop", string(v))
	v, err = j.Get("gone")
	require.NoError(t, err)
	require.Nil(t, v)
}

func TestFailureIsFinal(t *testing.T) {
	for _, point := range []string{"write", "sync", "create"} {
		t.Run(point, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir)
			appendN(t, j, 3, true)
			failNext(t, point, syscall.ENOSPC)
			_, err := j.Append([]mtm.Record{big(4), big(5), big(6), big(7), big(8)}, true)
			require.ErrorIs(t, err, syscall.ENOSPC)
			_, again := j.Append([]mtm.Record{forget(4)}, true)
			require.Equal(t, err, again)
			require.Equal(t, err, j.Sync())
			require.Equal(t, err, j.Flush())
			require.Equal(t, err, j.Truncate(2))
			require.Equal(t, err, j.Put("k", []byte("v")))
			_, again = j.Read(1)
			require.Equal(t, err, again)
			require.NoError(t, j.Close())

			j = open(t, dir)
			require.GreaterOrEqual(t, j.Last(), uint64(3))
			r, err := j.Read(3)
			require.NoError(t, err)
			require.Equal(t, forget(3), r)
		})
	}
}

// failNext makes the fail point give err once.
func failNext(t *testing.T, point string, err error) {
	t.Cleanup(func() { hook = func(string) error { return nil } })
	hook = func(p string) error {
		if p != point {
			return nil
		}
		hook = func(string) error { return nil }
		return err
	}
}

func TestFailedPutIsFinal(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	appendN(t, j, 3, true)
	failNext(t, "put", syscall.EIO)
	require.ErrorIs(t, j.Put("k", []byte("v")), syscall.EIO)
	_, err := j.Append([]mtm.Record{forget(4)}, false)
	require.ErrorIs(t, err, syscall.EIO)
	require.NoError(t, j.Close())
	check(t, open(t, dir), 0, 3)
	require.Error(t, open(t, t.TempDir()).Put("", nil))
}

func TestSpills(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	s := j.Spills()
	w, err := s.Create()
	require.NoError(t, err)
	_, err = w.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = s.Open(w.Name())
	require.ErrorIs(t, err, os.ErrNotExist, "not committed yet")
	require.NoError(t, w.Commit())
	require.NoError(t, w.Abort(), "too late, and no harm")
	r, err := s.Open(w.Name())
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, "hello", string(text))

	aborted, err := s.Create()
	require.NoError(t, err)
	require.NoError(t, aborted.Abort())
	_, err = s.Create() // left over by a crash
	require.NoError(t, err)
	names, err := s.Names()
	require.NoError(t, err)
	require.Equal(t, []string{w.Name()}, names)
	require.NoError(t, j.Close())

	j = open(t, dir)
	files, err := os.ReadDir(filepath.Join(dir, "spill"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	for _, bad := range []string{"", "../state.db", "../../etc/passwd", w.Name() + "x"} {
		_, err = j.Spills().Open(bad)
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorIs(t, j.Spills().Remove(bad), os.ErrNotExist)
	}
	require.NoError(t, j.Spills().Remove(w.Name()))
	require.NoError(t, j.Spills().Remove(w.Name()))
}
