package faultdisk

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// script writes, syncs and writes again; perl is in every Debian, and calls the C library.
const script = `
use IO::Handle;
open(my $f, '+>', "$ARGV[0]/a") or die; syswrite($f, "durable") or die; $f->sync or die;
sysseek($f, 0, 0); syswrite($f, "LOST"); sysseek($f, 0, 2); syswrite($f, " and lost");
open(my $g, '>', "$ARGV[0]/b") or die; syswrite($g, "never synced");
`

var library string // built once

func TestMain(m *testing.M) {
	code := m.Run()
	if library != "" {
		os.RemoveAll(filepath.Dir(library)) //nolint:errcheck // a directory of ours in /tmp
	}
	os.Exit(code)
}

func perl(t *testing.T, disk, data, text string) error {
	if library == "" {
		dir, err := os.MkdirTemp("", "mtm-disk-")
		require.NoError(t, err)
		library, err = Build(t.Context(), dir)
		require.NoError(t, err)
	}
	cmd := exec.Command("perl", "-e", text, data)
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+library, "MTM_FAULT_DISK="+disk)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	return err
}

func TestPowerLossTakesBackWhatWasNotSynced(t *testing.T) {
	disk, data := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	require.NoError(t, Make(disk))
	require.NoError(t, perl(t, disk, data, script))
	segment := filepath.Join(data, "segment")
	require.NoError(t, os.WriteFile(segment, []byte("synced, not synced\x00\x00"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(disk, "synced"), []byte("6 "+segment+"\n"), 0o600))
	pg, journal, err := PowerLoss(disk, data)
	require.NoError(t, err)
	require.EqualValues(t, 4+9+12, pg)
	require.EqualValues(t, 12, journal)
	for name, want := range map[string]string{"a": "durable", "b": "", "segment": "synced" + string(make([]byte, 14))} {
		text, err := os.ReadFile(filepath.Join(data, name))
		require.NoError(t, err)
		require.Equal(t, want, string(text), name)
	}
}

func TestDiskIsFullAndFails(t *testing.T) {
	disk, data := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	require.NoError(t, Make(disk))
	const write, sync = `open(my $f, '>', "$ARGV[0]/a") or die; syswrite($f, "x") or die "write: $!";`, `use IO::Handle; open(my $f, '>', "$ARGV[0]/a") or die; $f->sync or die "sync: $!";`
	require.NoError(t, perl(t, disk, data, write+sync))
	require.NoError(t, Set(disk, "enospc"))
	require.Error(t, perl(t, disk, data, write))
	require.NoError(t, perl(t, disk, data, sync))
	require.NoError(t, Set(disk, "eio"))
	require.NoError(t, perl(t, disk, data, write))
	require.Error(t, perl(t, disk, data, sync))
	require.NoError(t, Set(disk, "clock 1000000"))
	require.NoError(t, perl(t, disk, data, fmt.Sprintf("die if time < %d", time.Now().Unix()+900_000)))
	require.NoError(t, Set(disk, ""))
	require.NoError(t, perl(t, disk, data, write+sync))
}
