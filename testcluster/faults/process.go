package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	sigKill = syscall.SIGKILL
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

func signal(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%v to process %d: %w", sig, pid, err)
	}
	return nil
}

// backend chooses a child of a node's postmaster; 0: there is none.
func (in *Injector) backend(ctx context.Context, id int) (pid int, name string) {
	postmaster := in.Dev.Info(ctx).Nodes[id-1].PostgresPid
	if postmaster == 0 {
		return 0, "PostgreSQL is down"
	}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", postmaster))
	var pids []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	if len(pids) == 0 {
		return 0, "no backend"
	}
	pid = pids[in.rng.IntN(len(pids))]
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return pid, strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
