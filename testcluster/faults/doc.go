// Package faults is what can go wrong with a real cluster, as a library: processes that die, freeze or are told to end, links
// that are cut, one way or both, delayed, lossy or reset, steps of a commit at which mtmd dies, disks that are slow, full, broken or lose
// what was not synced, clocks that jump.
//
// An Injector does such things to a dev cluster, chosen by a seed, and undoes all of them with Mend. The seed repeats the choice of
// faults and of the pauses between them, not what they meet.
package faults
