package journal

import (
	"encoding/binary"
	"path/filepath"
	"syscall"
	"testing"

	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"mtm"
)

// The choice of the log. Each operation makes one record of about 200 bytes durable.
func BenchmarkOneRecord(b *testing.B) {
	payload := make([]byte, 170)
	b.Run("fdatasync", func(b *testing.B) { // the floor: a write and fdatasync into an allocated file
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		require.NoError(b, err)
		defer f.Close()
		require.NoError(b, allocate(f, 64<<20))
		require.NoError(b, f.Sync())
		data, off := make([]byte, 224), int64(0)
		for b.Loop() {
			_, err := f.WriteAt(data, off)
			require.NoError(b, err)
			require.NoError(b, syscall.Fdatasync(int(f.Fd())))
			off = (off + 224) % (60 << 20)
		}
	})
	b.Run("journal", func(b *testing.B) {
		j, err := Open(b.TempDir(), Options{})
		require.NoError(b, err)
		defer j.Close()
		recs := []mtm.Record{mtm.RecPrepare{GID: mtm.GID{Origin: 1, Seq: 1}, Payload: mtm.Payload{Data: payload}}}
		for b.Loop() {
			_, err := j.Append(recs, true)
			require.NoError(b, err)
		}
	})
	b.Run("raft-wal", func(b *testing.B) {
		w, err := raftwal.Open(b.TempDir(), raftwal.WithLogger(hclog.NewNullLogger()))
		require.NoError(b, err)
		defer w.Close()
		index := uint64(0)
		for b.Loop() {
			index++
			require.NoError(b, w.StoreLog(&raft.Log{Index: index, Data: payload}))
		}
	})
	b.Run("bbolt", func(b *testing.B) {
		db, err := bbolt.Open(filepath.Join(b.TempDir(), "db"), 0o600, nil)
		require.NoError(b, err)
		defer db.Close()
		index := uint64(0)
		for b.Loop() {
			index++
			require.NoError(b, db.Update(func(tx *bbolt.Tx) error {
				bucket, err := tx.CreateBucketIfNotExists([]byte("log"))
				if err != nil {
					return err
				}
				return bucket.Put(binary.BigEndian.AppendUint64(nil, index), payload)
			}))
		}
	})
}

// BenchmarkAppendUnsynced is what a record costs that does not sync: the CPU's part of Append.
func BenchmarkAppendUnsynced(b *testing.B) {
	j, err := Open(b.TempDir(), Options{})
	require.NoError(b, err)
	defer j.Close()
	recs := []mtm.Record{mtm.RecAccept{GID: mtm.GID{Origin: 1, Seq: 1}, Ballot: mtm.Ballot{Node: 1}, Commit: true}}
	for b.Loop() {
		_, err := j.Append(recs, false)
		require.NoError(b, err)
	}
}
