package referee

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"mtm"
)

var (
	bucket = []byte("referee")
	rowKey = []byte("row")
)

// stored is the row as state.db keeps it.
type stored struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	Pair    uint64 `json:"pair"`
	Holder  int    `json:"holder"`
	Gen     uint64 `json:"gen"`
	Floor   uint64 `json:"floor"`
}

const storeVersion = 1

// store keeps the row on disk.
type store struct {
	db      *bbolt.DB
	cluster string
}

func openStore(dir, cluster string) (*store, mtm.RefereeState, error) {
	var st mtm.RefereeState
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, st, err
	}
	path := filepath.Join(dir, "state.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, st, fmt.Errorf("referee: %s: %w (does another mtmd use it?)", path, err)
	}
	s := &store{db: db, cluster: cluster}
	if st, err = s.load(); err != nil {
		db.Close()
		return nil, st, fmt.Errorf("referee: %s: %w", path, err)
	}
	return s, st, nil
}

func (s *store) load() (st mtm.RefereeState, err error) {
	var text []byte
	err = s.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucket); b != nil {
			text = append(text, b.Get(rowKey)...)
		}
		return nil
	})
	if err != nil || text == nil {
		return st, err
	}
	var row stored
	if err := json.Unmarshal(text, &row); err != nil {
		return st, fmt.Errorf("its row is damaged: %w", err)
	}
	switch {
	case row.Version != storeVersion:
		return st, fmt.Errorf("it was written by another version of mtmd (%d)", row.Version)
	case row.Cluster != s.cluster:
		return st, fmt.Errorf("it belongs to cluster %q, and setting cluster is %q", row.Cluster, s.cluster)
	}
	return mtm.RefereeState{Pair: mtm.NodeSet(row.Pair), Holder: mtm.NodeID(row.Holder), Gen: row.Gen, Floor: row.Floor}, nil
}

// save is durable when it returns.
func (s *store) save(st mtm.RefereeState) error {
	text, err := json.Marshal(stored{storeVersion, s.cluster, uint64(st.Pair), int(st.Holder), st.Gen, st.Floor})
	if err != nil {
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		return b.Put(rowKey, text)
	})
}

func (s *store) close() error { return s.db.Close() }
