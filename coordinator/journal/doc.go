// Package journal keeps what a node must remember over a crash: an append-only log of mtm.Record, a handful of small
// keys (bbolt), and the payloads too large for the log (spill files). One directory, one process.
//
//	DIR/LOCK        held with flock by the process that has the journal open
//	DIR/state.db    bbolt: the journal's id, the log's first record, and the caller's keys
//	DIR/log/N.seg   segments of the log; N is the index of the first record, 20 digits
//	DIR/spill/NAME  spill files; NAME.tmp while they are written
//	DIR/sum/N.sum   what the full segment N is about; made again if lost
//
// What holds:
//
//   - Records have consecutive indexes from 1. Append gives them in order, and after a crash the log is a prefix of what
//     was appended, with at least everything that was synced.
//
//   - One Append with sync costs one write and one fdatasync, whatever the number of records, but where a segment ends.
//     Segments are allocated in advance, so that no append makes a file grow.
//
//   - A record is synced, or an error says that nobody knows. After a failed write or fdatasync the journal refuses
//     everything: the kernel may have dropped the pages, so a second fdatasync that succeeds would prove nothing
//     (Rebello et al., Can Applications Recover from fsync Failures?, 2020). The process must end. The next one reads what
//     the kernel has, and writes what may not be on disk once more before it relies on it.
//
//   - A torn tail (records that were never synced, half there) is cut off when the journal is opened. Damage to
//     what was synced is an error, a *CorruptError that says where, and never cut off: each record tells how far the log
//     had been synced when it was written, and so convicts those before it; Close and Truncate leave such a mark, too. What
//     no mark covers, the records that were synced last before a crash, cannot be told from a torn tail.
//
//   - What a restart does not need (Checkpoint) is kept for nodes that have to recover, as Retention says. A Streamer reads it
//     for them, durable records only, and says nothing rather than leave anything out (ErrTruncated). A spill file that the
//     kept log names stays until the last segment that names it is given up (DropSpill, SweepSpills).
//
// It decides nothing, and never retries I/O.
//
// # Speed of a stream
//
// To a node that lacks all: 459,000 transactions a second, 238 MiB of log, from the page cache; PostgreSQL, on the other side, takes a
// tenth of that. To one that lacks the last transaction only: after 84 ms, in which one segment is read (300,000 transactions with
// payloads of 400 bytes, 162 MiB; 2026-11-21; go test ./coordinator/journal -run xxx -bench Stream -benchtime 3x).
//
// # Why a log of our own
//
// What it takes to make one record of about 200 bytes durable (2026-11-21; go test ./coordinator/journal -run xxx -bench .
// -benchtime 3000x; 2-core AMD EPYC, virtual disk, ext4):
//
//	write and fdatasync alone   113 µs
//	this journal                113 µs
//	hashicorp/raft-wal          110 µs
//	bbolt                       256 µs
//	this journal, without sync    0.9 µs
//
// On the same disk fallocate did as well as files filled with zeros (105 to 125 µs each, four runs), so segments are
// only fallocated. raft-wal is as fast. It was not taken because each of its appends syncs, because it reads records without
// comparing a checksum, and because it cuts its tail back to the last whole batch without telling damage to synced
// records from a torn write.
package journal
