package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// state is what DIR/cluster.json holds.
type state struct {
	Version      int         `json:"version"` // 1
	Name         string      `json:"name"`
	Database     string      `json:"database"`
	Mtmd         string      `json:"mtmd"` // path of the program
	MtmdEnv      []string    `json:"mtmd_env,omitempty"`
	PostgresOnly bool        `json:"postgres_only,omitempty"`
	Template     template    `json:"template"` // what nodes that are added get
	Proxy        *proxyState `json:"proxy"`    // nil: peers dial each other directly
	Nodes        []*node     `json:"nodes"`
	FaultDisk    string      `json:"fault_disk,omitempty"` // the library that makes disks bad; "": none
	Referee      *node       `json:"referee,omitempty"`    // an mtmd without PostgreSQL; its number is 0
}

// template is what all nodes are made with.
type template struct {
	PgBin        string   `json:"pg_bin"`
	Locale       string   `json:"locale"`
	Encoding     string   `json:"encoding"`
	Settings     []string `json:"settings,omitempty"`
	HBA          []string `json:"hba,omitempty"`
	MtmdSettings []string `json:"mtmd_settings,omitempty"`
}

// proxyState is the fault proxy: its process, where it is told what to do, and the address of each link "1-2".
type proxyState struct {
	Proc
	Control string            `json:"control"`
	Links   map[string]string `json:"links"`
}

// node is one PostgreSQL and its mtmd. Paths are absolute.
type node struct {
	ID        int    `json:"id"`
	PgBin     string `json:"pg_bin"`
	PgVersion string `json:"pg_version"`
	PgMajor   int    `json:"pg_major"`
	PgData    string `json:"pg_data"`
	PgLog     string `json:"pg_log"`
	PgPort    int    `json:"pg_port"`
	PgSocket  string `json:"pg_socket,omitempty"` // directory of PostgreSQL's Unix socket; "": it has none
	MtmdConf  string `json:"mtmd_conf"`
	MtmdData  string `json:"mtmd_data"`
	MtmdLog   string `json:"mtmd_log"`
	Port      int    `json:"port"`      // the gateway's
	PeerPort  int    `json:"peer_port"` // the real one, behind the proxy
	HTTPPort  int    `json:"http_port"`
	Postgres  Proc   `json:"postgres"`
	Disk      string `json:"disk,omitempty"` // directory of package faultdisk; "": the disk is good
	Preload   string `json:"preload,omitempty"`
	Mtmd      Proc   `json:"mtmd"`
}

func statePath(dir string) string { return filepath.Join(dir, "cluster.json") }

// loadState reads DIR/cluster.json.
func loadState(dir string) (*state, error) {
	text, err := os.ReadFile(statePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no dev cluster in %s (start one: mtmctl devcluster start --dir %s)", dir, dir)
	} else if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", statePath(dir), err)
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("%s: version %d is not known to this mtmctl", statePath(dir), s.Version)
	}
	return &s, nil
}

// save replaces DIR/cluster.json in one step, so that no reader sees half of it.
func (s *state) save(dir string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	temp := statePath(dir) + ".new"
	if err := os.WriteFile(temp, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, statePath(dir))
}

// lock keeps other callers from changing the cluster in dir until the returned function is called.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "cluster.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, "another mtmctl to finish with "+dir, func(context.Context) error {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil // closing gives the lock up
}
