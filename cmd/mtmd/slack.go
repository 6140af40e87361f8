package main

// The Go runtime's monitor thread wakes every 20 µs while anything happens at all: a third of all context switches of a busy mtmd,
// and three daemons of them on a small machine. Timer slack lets the kernel put its wake-ups off by a millisecond. Threads
// inherit it, so it must be set before the runtime starts the monitor: only a constructor runs that early. What it
// costs: a timer of ours may fire a millisecond late, which none of them minds (see docs/performance.md for what it gains).

/*
#include <sys/prctl.h>

__attribute__((constructor)) static void mtm_timer_slack(void) {
	prctl(PR_SET_TIMERSLACK, 1000000UL, 0UL, 0UL, 0UL); // nanoseconds
}
*/
import "C"
