package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Fail points let tests kill the daemon between any two steps of a commit: MTM_FAIL_AT=name or name:count sends
// SIGKILL to this process when the step is reached for the count-th time.
var failAt, failCount = parseFailPoint(os.Getenv("MTM_FAIL_AT"))

var failHits atomic.Int64

// failPoints names every step, in the order of a commit. Those of add-node are add-donor, add-rows, add-copied, add-swapped and add-saved. docs/testing.md lists them for people.
var failPoints = []string{
	"permit", "prepare-answered", "captured", "forward", "before-persist", "after-persist", "after-send", "after-do",
	"before-accept-send", "accept-persisted", "vote-persisted", "decide-appended", "finish-sent", "before-reply",
	"open-confirmed", "open-commit", "open-committed",
}

func parseFailPoint(text string) (string, int64) {
	name, count, ok := strings.Cut(text, ":")
	if !ok {
		return name, 1
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 {
		n = 1
	}
	return name, n
}

// failPoint marks a step.
func failPoint(name string) {
	if failAt == name && failHits.Add(1) == failCount {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal comes before anything else happens
	}
}
