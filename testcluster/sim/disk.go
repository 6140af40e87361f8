package main

import "mtm"

// disk is the journal: records that are appended, and durable after a sync.
type disk struct {
	records []mtm.Record
	base    int // where replay starts: the last checkpoint
	durable int // how many of records would survive a power cut
}

func (d *disk) append(r ...mtm.Record) { d.records = append(d.records, r...) }

// sync makes everything durable and returns what was not before.
func (d *disk) sync() []mtm.Record {
	fresh := d.records[d.durable:]
	d.durable = len(d.records)
	return fresh
}

// shorten: what precedes a checkpoint that is durable is not replayed any more. With elections it is kept for nodes
// that have to recover.
func (d *disk) shorten(i int, keep bool) {
	if keep {
		d.base = i
		return
	}
	d.dropBefore(i)
}

// dropBefore removes what precedes a checkpoint that is durable.
func (d *disk) dropBefore(i int) {
	d.records = append([]mtm.Record(nil), d.records[i:]...)
	d.durable -= i
}

// crash loses the unsynced tail, or all of it but a few records that happened to reach the disk.
func (d *disk) crash(w *world) {
	keep := d.durable
	if tail := len(d.records) - d.durable; tail > 0 && w.rng.IntN(2) == 0 {
		keep += w.rng.IntN(tail + 1)
	}
	d.records = append([]mtm.Record(nil), d.records[:keep]...)
	d.base = min(d.base, len(d.records))
	if w.plant == plantVote {
		for i := len(d.records) - 1; i >= 0; i-- {
			if g, ok := d.records[i].(mtm.RecGeneration); ok {
				g.Vote = g.Gen
				d.records[i] = g
				break
			}
		}
	}
	if w.plant == plantForget {
		for i := len(d.records) - 1; i >= 0; i-- {
			if _, ok := d.records[i].(mtm.RecAccept); ok {
				d.records = append(d.records[:i], d.records[i+1:]...)
				break
			}
		}
	}
	d.durable = len(d.records)
}
