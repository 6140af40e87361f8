package main

import "golang.org/x/sys/unix"

// clock counts milliseconds since it was made. It goes on while the process is stopped and while the machine sleeps: a
// lease runs out meanwhile, whoever looks at it afterwards.
type clock struct{ zero int64 }

func newClock() clock { return clock{zero: bootNanos()} }

// now is in milliseconds.
func (c clock) now() uint64 { return uint64(bootNanos()-c.zero) / 1e6 }

func bootNanos() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("mtmd: CLOCK_BOOTTIME: " + err.Error()) // Linux has it since 2.6.39
	}
	return ts.Nano()
}
