package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// diskFaults lets tests make the journal's disk bad (testcluster/faultdisk): MTM_FAULT_DISK names a directory in which the file
// fault says "slow MICROSECONDS", "eio" or "enospc", and in which we keep, in the file synced, how far the log is durable, so that a power
// cut can lose the rest. Without the variable both are nil.
func diskFaults() (before func(point string) error, synced func(path string, offset int64)) {
	dir := os.Getenv("MTM_FAULT_DISK")
	if dir == "" {
		return nil, nil
	}
	before = func(point string) error {
		text, _ := os.ReadFile(filepath.Join(dir, "fault")) // absent: a good disk
		kind, number, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
		syncs := point == "sync" || point == "put"
		switch {
		case kind == "slow" && syncs:
			n, _ := strconv.Atoi(number)
			time.Sleep(time.Duration(n) * time.Microsecond)
		case kind == "eio" && syncs:
			return syscall.EIO
		case kind == "enospc" && point != "sync":
			return syscall.ENOSPC
		}
		return nil
	}
	file, err := os.Create(filepath.Join(dir, "synced"))
	if err != nil {
		return before, nil
	}
	return before, func(path string, offset int64) {
		// One write of one length: whoever reads it after we were killed finds this one or the last.
		if _, err := file.WriteAt(fmt.Appendf(nil, "%020d %s\n", offset, path), 0); err != nil {
			panic(err)
		}
	}
}
