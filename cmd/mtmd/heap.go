package main

import (
	"os"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// spareHeap is how much garbage a small heap may gather before it is collected, in bytes: a daemon lives on some 3 MiB, and would
// collect several times a second under load.
const spareHeap = 12 << 20

// collectSeldom has the garbage collector let spareHeap gather, or as much as there is live, whichever is more. GOGC in the
// environment goes before.
func collectSeldom() {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	percent := 100
	var after func(*[2]*int)
	after = func(sign *[2]*int) { // runs after each collection
		runtimemetrics.Read(live)
		want := gcPercent(live[0].Value.Uint64())
		if 4*want < 3*percent || 4*want > 5*percent {
			percent = want
			debug.SetGCPercent(want)
		}
		runtime.SetFinalizer(sign, after)
	}
	runtime.SetFinalizer(new([2]*int), after)
}

// gcPercent is GOGC for that many live bytes: 100 to 800.
func gcPercent(live uint64) int {
	return int(min(max(spareHeap*100/max(live, 1), 100), 800))
}
