package journal

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// state.db has two buckets: the caller's keys, and the journal's own.
var (
	bucketUser = []byte("keys")
	bucketOwn  = []byte("journal")
)

const (
	keyID     = "id"
	keyBegun  = "begun"  // the log's first segment was made
	keyFirst  = "first"  // Truncate
	keyLast   = "last"   // synced when the journal was closed
	keyReplay = "replay" // Checkpoint
	keyGone   = "gone"   // what Truncate gave up
)

// maxValue bounds what Put takes: state.db is for small things.
const maxValue = 1 << 20

// openState opens state.db, and gives the journal its id if it has none. fresh: no log was begun yet.
func (j *Journal) openState() (fresh bool, err error) {
	path := filepath.Join(j.dir, "state.db")
	j.state, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return false, fmt.Errorf("journal: %s: %w", path, err)
	}
	err = j.state.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(bucketUser); err != nil {
			return err
		}
		own, err := tx.CreateBucketIfNotExists(bucketOwn)
		if err != nil {
			return err
		}
		if own.Get([]byte(keyID)) == nil {
			if err := own.Put([]byte(keyID), []byte(randomName())); err != nil {
				return err
			}
		}
		j.id = string(own.Get([]byte(keyID)))
		fresh = own.Get([]byte(keyBegun)) == nil
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("journal: %s: %w", path, err)
	}
	if j.first, err = j.getIndex(keyFirst); err != nil {
		return false, err
	}
	j.first = max(j.first, 1)
	if j.replay, err = j.getIndex(keyReplay); err != nil {
		return false, err
	}
	if j.gone, err = j.loadGone(); err != nil {
		return false, err
	}
	return fresh, nil
}

// randomName is 128 random bits as 32 hex digits.
func randomName() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: it ends the process instead
	return hex.EncodeToString(b[:])
}

// Get gives the value of key, nil if it has none.
func (j *Journal) Get(key string) (value []byte, err error) {
	err = j.state.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bucketUser).Get([]byte(key)); v != nil {
			value = append([]byte{}, v...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("journal: get %q: %w", key, err)
	}
	return value, nil
}

// Put gives key a value of at most 1 MiB; nil removes it. It is on disk when Put returns. Put costs several
// milliseconds on a slow disk: it is for what changes rarely.
func (j *Journal) Put(key string, value []byte) error {
	if len(value) > maxValue {
		return fmt.Errorf("journal: put %q: %d bytes, at most %d", key, len(value), maxValue)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	return j.put(bucketUser, key, value)
}

func (j *Journal) putState(key string, value []byte) error { return j.put(bucketOwn, key, value) }

// put fails for good, as Append does: after an fsync that failed nobody knows what is on disk.
func (j *Journal) put(bucket []byte, key string, value []byte) error {
	if key == "" || len(key) > bbolt.MaxKeySize {
		return fmt.Errorf("journal: put: a key of %d bytes", len(key))
	}
	err := j.before("put")
	if err != nil {
		return j.fail("put", err)
	}
	err = j.state.Update(func(tx *bbolt.Tx) error {
		if value == nil {
			return tx.Bucket(bucket).Delete([]byte(key))
		}
		return tx.Bucket(bucket).Put([]byte(key), value)
	})
	if err != nil {
		return j.fail("put", err)
	}
	return nil
}

func encodeIndex(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// getIndex reads one of the journal's own numbers; 0 if it was never written.
func (j *Journal) getIndex(key string) (n uint64, err error) {
	err = j.state.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketOwn).Get([]byte(key))
		if len(v) == 8 {
			n = binary.LittleEndian.Uint64(v)
		} else if v != nil {
			return fmt.Errorf("%d bytes", len(v))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("journal: get %q: %w", key, err)
	}
	return n, nil
}
