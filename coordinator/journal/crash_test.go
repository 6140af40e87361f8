package journal

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// childDir tells the test binary to be the process that is killed.
const childDir = "MTM_JOURNAL_CHILD"

// child appends for ever; for each sync it reports the index that is then safe.
func child() {
	j, err := Open(os.Getenv(childDir), Options{SegmentSize: minSegment, Logger: quiet})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	for {
		var batch []mtm.Record
		for n := rand.IntN(20); n >= 0; n-- {
			batch = append(batch, numbered(j.Last()+1+uint64(len(batch))))
		}
		sync := rand.IntN(3) > 0
		if _, err := j.Append(batch, sync); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		if sync {
			fmt.Println(j.Last())
		}
	}
}

func TestKilledProcessKeepsWhatItSynced(t *testing.T) {
	dir := t.TempDir()
	safe := uint64(0)
	for range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines, stop := bufio.NewScanner(out), rand.IntN(60)
		for n := 0; lines.Scan(); n++ {
			require.NotContains(t, lines.Text(), "error")
			if n == stop {
				require.NoError(t, cmd.Process.Kill())
			}
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			fmt.Sscan(lines.Text(), &safe)
		}
		var exit *exec.ExitError
		require.True(t, errors.As(cmd.Wait(), &exit))
		j := open(t, dir)
		require.GreaterOrEqual(t, j.Last(), safe)
		require.NoError(t, j.Replay(0, func(index uint64, r mtm.Record) error {
			if !reflect.DeepEqual(numbered(index), r) {
				return fmt.Errorf("record %d is another", index)
			}
			return nil
		}))
		if safe > 500 {
			require.NoError(t, j.Truncate(safe-500))
		}
		require.NoError(t, j.Close())
	}
	require.Greater(t, safe, uint64(500), "segments began and ended")
}

// numbered is a small record, and now and then one of 1 MiB, so that segments fill.
func numbered(index uint64) mtm.Record {
	if index%50 == 0 {
		return big(index)
	}
	return forget(index)
}

// TestPowerCutKeepsWhatWasSynced plays a disk that lost some of the sectors that were not synced.
func TestPowerCutKeepsWhatWasSynced(t *testing.T) {
	const sector = 512
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	j := open(t, dir)
	for range 40 {
		for n := r.IntN(10); n >= 0; n-- {
			appendN(t, j, 1+r.IntN(10), r.IntN(2) == 0)
		}
		require.NoError(t, j.Flush())
		synced := j.durable
		path, end := lastSegment(j)
		safe := endOf(t, path, synced)
		crash(t, j)
		for at := safe; at < end; at += sector - at%sector {
			if r.IntN(2) == 0 {
				patch(t, path, at, make([]byte, min(sector-at%sector, end-at))...)
			}
		}
		j = open(t, dir)
		require.GreaterOrEqual(t, j.Last(), synced)
		check(t, j, 0, j.Last())
	}
}

// endOf gives the offset behind the record of the given index.
func endOf(t *testing.T, path string, index uint64) int64 {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	s := newScanner(f, segHeader, 1)
	for s.next <= index {
		_, ok, err := s.scan()
		require.NoError(t, err)
		require.True(t, ok)
	}
	return s.offset
}

// lastSegment gives the path of the newest segment and where its frames end.
func lastSegment(j *Journal) (string, int64) {
	return j.segments[len(j.segments)-1].path, j.offset
}

// crash closes the files as a dying process would: nothing is flushed or noted.
// After a fdatasync that failed, the kernel may have what was written in its cache only, and not write it any more.
func TestWhatWasNotSyncedIsWrittenAgain(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for i := range uint64(5) {
		_, err := j.Append([]mtm.Record{forget(i)}, true)
		require.NoError(t, err)
	}
	synced := j.offset
	j.opts.Before = func(point string) error {
		if point == "sync" {
			return syscall.EIO
		}
		return nil
	}
	_, err := j.Append([]mtm.Record{forget(6), forget(7), forget(8)}, true)
	require.ErrorIs(t, err, syscall.EIO)
	end := j.offset
	require.Greater(t, end, synced)
	crash(t, j)
	j = open(t, dir)
	require.Equal(t, end-synced, j.rewritten)
	_, err = j.Append([]mtm.Record{forget(9)}, true)
	require.NoError(t, err)
	one := j.offset - end
	crash(t, j)
	require.Equal(t, one, open(t, dir).rewritten, "those before are known to be synced")
}

func crash(t *testing.T, j *Journal) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed = ErrClosed
	require.NoError(t, j.release())
}

func patch(t *testing.T, path string, offset int64, b ...byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(b, offset)
	require.NoError(t, errors.Join(err, f.Close()))
}

func TestTornTailIsCutOff(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	appendN(t, j, 5, true)
	path, synced := lastSegment(j)
	appendN(t, j, 5, false) // one batch, never synced
	require.NoError(t, j.Flush())
	crash(t, j)
	patch(t, path, synced+frameHeader+1, 0xff, 0xff) // its first record is torn, the others are whole
	j = open(t, dir)
	check(t, j, 0, 5)
	appendN(t, j, 1, true) // takes the place of the torn one; those behind it must not come back
	crash(t, j)
	j = open(t, dir)
	check(t, j, 0, 6)
}

func TestEveryTornLengthIsCutOff(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	appendN(t, j, 2, true)
	path, synced := lastSegment(j)
	appendN(t, j, 1, false)
	require.NoError(t, j.Flush())
	_, end := lastSegment(j)
	crash(t, j)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for cut := synced; cut < end-frameAlign; cut++ {
		torn := make([]byte, len(whole))
		copy(torn, whole[:cut])
		require.NoError(t, os.WriteFile(path, torn, 0o600))
		j := open(t, dir)
		check(t, j, 0, 2)
		crash(t, j)
	}
}

func corrupt(t *testing.T, dir string) *CorruptError {
	t.Helper()
	_, err := Open(dir, Options{SegmentSize: minSegment, Logger: quiet})
	var c *CorruptError
	require.ErrorAs(t, err, &c)
	require.ErrorContains(t, err, "add-node")
	return c
}

func TestDamageToSyncedRecordsIsToldWithItsPlace(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	appendN(t, j, 3, true)
	path, offset := lastSegment(j)
	appendN(t, j, 3, true)
	crash(t, j)
	patch(t, path, offset+frameHeader+1, 0xff)
	c := corrupt(t, dir)
	require.Equal(t, path, c.Path)
	require.Equal(t, offset, c.Offset)
	require.EqualValues(t, 4, c.Index)
}

func TestLossAfterACleanCloseIsTold(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	appendN(t, j, 3, true)
	path, offset := lastSegment(j)
	appendN(t, j, 1, true)
	require.NoError(t, j.Close())
	patch(t, path, offset, make([]byte, 64)...)
	require.EqualValues(t, 4, corrupt(t, dir).Index)
}

func TestDamageInASealedSegmentIsTold(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for n := uint64(1); n <= 10; n++ {
		_, err := j.Append([]mtm.Record{big(n)}, false)
		require.NoError(t, err)
	}
	first := j.segments[0].path
	require.NoError(t, j.Close())
	patch(t, first, segHeader+1<<20+1<<19, 0xff) // in the second record
	j = open(t, dir)
	var c *CorruptError
	require.ErrorAs(t, j.Replay(0, func(uint64, mtm.Record) error { return nil }), &c)
	require.EqualValues(t, 2, c.Index)
	_, err := j.Read(2)
	require.ErrorAs(t, err, &c)
	require.NoError(t, j.Close())

	patch(t, first, 9, 1)
	require.Contains(t, corrupt(t, dir).What, "header")
	require.NoError(t, os.Remove(first))
	require.EqualValues(t, 1, corrupt(t, dir).Index)
	require.NoError(t, os.RemoveAll(filepath.Dir(first)))
	require.Contains(t, corrupt(t, dir).What, "gone")
}

func TestSegmentOfAnotherJournalIsRefused(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	a, b := open(t, one), open(t, two)
	path, _ := lastSegment(a)
	other, _ := lastSegment(b)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
	require.NoError(t, os.Rename(path, other))
	require.Contains(t, corrupt(t, two).What, "another journal")
}

func TestUnfinishedSegmentIsRemoved(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	appendN(t, j, 3, true)
	require.NoError(t, j.Close())
	require.NoError(t, os.WriteFile(segmentPath(j.logDir(), 4)+tmpSuffix, []byte("x"), 0o600))
	j = open(t, dir)
	check(t, j, 0, 3)
	files, err := os.ReadDir(j.logDir())
	require.NoError(t, err)
	require.Len(t, files, 1)
}

// FuzzParseFrame: no bytes make it panic, and what it accepts is what endFrame writes.
func FuzzParseFrame(f *testing.F) {
	f.Add(endFrame(append(beginFrame(nil), "hello"...), 0, 7, 6))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, ok := parseFrame(b); ok {
			again := endFrame(append(beginFrame(nil), fr.data...), 0, fr.index, fr.durable)
			require.Equal(t, fr.size, len(again))
			n := frameHeader + len(fr.data)
			require.Equal(t, b[:n], again[:n])
		}
	})
}
