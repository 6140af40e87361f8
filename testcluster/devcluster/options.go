package devcluster

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"

	"mtm"
)

// Options say what cluster to make. The zero value is three nodes on the newest PostgreSQL of this machine.
type Options struct {
	Nodes    int      // 1 to mtm.MaxNodes; 0 means 3
	PgBins   []string // directories with initdb and postgres; node n uses the n-th, or the last. Empty: found, see FindPgBin
	Database string   // the replicated database, created if it is not "postgres"; "" means postgres
	Locale   string   // for initdb; "" means C
	Encoding string   // for initdb; "" means UTF8
	Settings []string // "key=value" for postgresql.conf, after and above ours
	HBA      []string // lines that go before ours (trust on loopback) in pg_hba.conf

	Mtmd         string   // path of mtmd. Empty: found or built, see FindMtmd
	MtmdSettings []string // "key=value" for mtmd.toml; the value is TOML, or a plain word
	MtmdEnv      []string // "NAME=value" for mtmd's environment, at every start

	FaultDisks   bool // the disks of nodes can be made bad: SetDisk, PowerLoss; cc is needed
	Referee      bool // two nodes and a referee
	PostgresOnly bool // start PostgreSQL only
	NoInit       bool // start mtmd, but do not make a cluster of them
	NoProxy      bool // peers dial each other directly: for measurements; faults are refused then
	Socket       bool // mtmd reaches its PostgreSQL by a Unix socket, which costs less; lines of HBA must then say "local"

	// ProxyCommand runs the fault proxy as a process of its own ("--dir DIR" is appended); empty runs it in this one.
	ProxyCommand []string
	// DieWithParent ends every process when ours dies, however it dies. For tests.
	DieWithParent bool
	// Progress is told what is being done; may be nil.
	Progress func(format string, args ...any)
}

var settingForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*=`)

// withDefaults fills in what was left empty, and refuses what makes no sense.
func (o Options) withDefaults() (Options, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Nodes < 1 || o.Nodes > mtm.MaxNodes {
		return o, fmt.Errorf("%d nodes: must be 1 to %d", o.Nodes, mtm.MaxNodes)
	}
	if o.Referee && (o.Nodes != 2 || o.PostgresOnly) {
		return o, fmt.Errorf("a referee is for two nodes: give it with exactly 2 (there are %d), and with mtmd", o.Nodes)
	}
	if o.Database == "" {
		o.Database = "postgres"
	}
	if o.Locale == "" {
		o.Locale = "C"
	}
	if o.Encoding == "" {
		o.Encoding = "UTF8"
	}
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	for _, list := range [][]string{o.Settings, o.MtmdSettings, o.MtmdEnv} {
		for _, kv := range list {
			if !settingForm.MatchString(kv) {
				return o, fmt.Errorf("setting %q: must be key=value", kv)
			}
			if strings.ContainsAny(kv, "\n\x00") {
				return o, fmt.Errorf("setting %q: must be one line", kv)
			}
		}
	}
	return o, nil
}

// pgBin is the directory of programs for node id.
func (o Options) pgBin(id int) string { return o.PgBins[min(id, len(o.PgBins))-1] }

// deathSig is sig if processes shall end with ours.
func deathSig(die bool, sig syscall.Signal) syscall.Signal {
	if die {
		return sig
	}
	return 0
}
