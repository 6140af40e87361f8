// Package faultdisk makes the disk of one PostgreSQL and its mtmd bad: slow, full, failing at fsync, or losing what was not synced when
// the power goes; and PostgreSQL's wall clock jump. PostgreSQL is preloaded with a library in C (preload.c.txt), mtmd asks by itself
// (cmd/mtmd, MTM_FAULT_DISK); both look into one directory.
package faultdisk

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

//go:embed preload.c.txt
var source []byte

// Build compiles the library into dir with cc, and gives its path. Without a compiler it is an error.
func Build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "faultdisk.so")
	cmd := exec.CommandContext(ctx, "cc", "-shared", "-fPIC", "-O2", "-o", path, "-x", "c", "-", "-ldl")
	cmd.Stdin = bytes.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cc (needed for disk faults): %w\n%s", err, out)
	}
	return path, nil
}

// Make makes the directory of one disk, which any user may write to.
func Make(dir string) error {
	for _, d := range []string{dir, filepath.Join(dir, "undo")} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return err
		}
		if err := os.Chmod(d, 0o777); err != nil {
			return err
		}
	}
	return nil
}

// Set says what is wrong from now on: "slow 20000" (microseconds more for each sync), "eio" (syncs fail), "enospc" (writes fail),
// "clock 3600" (PostgreSQL's clock is so many seconds ahead), "" (nothing).
func Set(dir, fault string) error {
	temp := filepath.Join(dir, "fault.new")
	if err := os.WriteFile(temp, []byte(fault), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, "fault"))
}

// PowerLoss takes back what was written below pgData, and to the journal, and not synced. All processes must be dead. It gives how
// many bytes of each were lost.
func PowerLoss(dir, pgData string) (pg, journal int64, err error) {
	files := map[string]string{}
	err = filepath.WalkDir(pgData, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		files[fmt.Sprintf("%d-%d", st.Dev, st.Ino)] = path
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	undos, err := os.ReadDir(filepath.Join(dir, "undo"))
	if err != nil {
		return 0, 0, err
	}
	for _, u := range undos {
		log := filepath.Join(dir, "undo", u.Name())
		if path, ok := files[u.Name()]; ok {
			n, err := takeBack(log, path)
			if err != nil {
				return 0, 0, err
			}
			pg += n
		}
		if err := os.Remove(log); err != nil {
			return 0, 0, err
		}
	}
	journal, err = cutJournal(dir)
	return pg, journal, err
}

// takeBack plays an undo file back, the last write first. Each is three numbers in this machine's order (offset, length, the
// file's size) and the bytes that were there.
func takeBack(log, path string) (lost int64, err error) {
	text, err := os.ReadFile(log)
	if err != nil || len(text) == 0 {
		return 0, err
	}
	const head = 24
	var starts []int
	for at := 0; at+head <= len(text); {
		n := binary.NativeEndian.Uint64(text[at+8:])
		if n > uint64(len(text)-at-head) {
			break // killed in the middle of it: the write itself was not begun
		}
		starts = append(starts, at)
		at += head + int(n)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for i := len(starts) - 1; i >= 0; i-- {
		at := starts[i]
		offset, n, size := binary.NativeEndian.Uint64(text[at:]), binary.NativeEndian.Uint64(text[at+8:]), binary.NativeEndian.Uint64(text[at+16:])
		if _, err := f.WriteAt(text[at+head:at+head+int(n)], int64(offset)); err != nil {
			return 0, err
		}
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		if grown := info.Size() - int64(size); grown > 0 {
			lost += grown
			if err := f.Truncate(int64(size)); err != nil {
				return 0, err
			}
		}
		lost += int64(n)
	}
	return lost, nil
}

// cutJournal makes zero what the journal's last segment holds beyond what was synced: DIR/synced says "OFFSET PATH".
func cutJournal(dir string) (lost int64, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "synced"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	number, path, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	offset, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s/synced: %w", dir, err)
	}
	old, err := os.ReadFile(path)
	if err != nil || int64(len(old)) <= offset {
		return 0, err
	}
	lost = int64(len(bytes.TrimRight(old[offset:], "\x00")))
	return lost, errors.Join(os.Truncate(path, offset), os.Truncate(path, int64(len(old))))
}
