package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"mtm"
)

// config is everything an operator can set: in the file, as --flag-with-dashes, or as MTM_NAME in the environment
// (flags win over the environment, and that over the file).
type config struct {
	NodeID        mtm.NodeID
	Cluster       string
	DataDir       string
	Postgres      string // libpq connection string of a superuser, to the replicated database
	Listen        string // clients
	PeerListen    string
	PeerAdvertise string
	HTTPListen    string
	TLSCA         string
	TLSCert       string
	TLSKey        string
	ClientTLSCert string
	ClientTLSKey  string
	LogLevel      string
	LogFormat     string
	Peers         map[mtm.NodeID]string // addresses to dial instead of the advertised ones
	TrustRemote   bool
	Referee       string // host:port of it; beReferee: this mtmd is one

	HeartbeatSend  time.Duration
	HeartbeatRecv  time.Duration
	PermitTimeout  time.Duration
	ResolveTimeout time.Duration
	MaxWorkers     int
	RetryAuto      int
	RetentionSize  int64 // bytes
	RetentionTime  time.Duration
}

// setting describes one key: its default and what it means. The type of the default is the type of the flag.
type setting struct {
	key  string
	def  any
	help string
}

var settings = []setting{
	{"node_id", 0, "this node's number in the cluster, 1 to 16"},
	{"cluster", "mtm", "name of the cluster, the same on every node and in its certificates"},
	{"data_dir", "", "directory of the journal; mtmd's own, on a disk that honours fsync"},
	{"postgres", "", "connection string of a superuser to the replicated database on the local PostgreSQL"},
	{"listen", "127.0.0.1:5433", "address for clients (the gateway)"},
	{"peer_listen", "127.0.0.1:7433", "address for the other nodes and for mtmctl (mutual TLS)"},
	{"peer_advertise", "", "address that the other nodes dial; default: peer_listen"},
	{"http_listen", "127.0.0.1:8433", "address for /metrics, /status and /healthz; empty: none"},
	{"tls_ca", "", "certificate of the cluster's authority"},
	{"tls_cert", "", "certificate of this node, made by mtmctl cert issue"},
	{"tls_key", "", "its private key"},
	{"client_tls_cert", "", "certificate shown to clients; empty: no TLS to clients"},
	{"client_tls_key", "", "its private key"},
	{"referee", "", "of two nodes: host:port of their referee; true: this mtmd is the referee, without a PostgreSQL"},
	{"log_level", "info", "debug, info, warn or error"},
	{"log_format", "text", "text or json"},
	{"trust_remote", false, "let clients of other machines in where pg_hba.conf asks the gateway for no proof"},
	{"heartbeat_send_timeout", 50 * time.Millisecond, "time between two heartbeats"},
	{"heartbeat_recv_timeout", 700 * time.Millisecond, "silence after which a peer counts as lost"},
	{"permit_timeout", 10 * time.Second, "how long a commit waits until the node may commit"},
	{"resolve_timeout", 60 * time.Second, "how long a commit waits for its outcome before the client gets 08007; it waits on while the node is online"},
	{"max_workers", 100, "connections that apply the other nodes' transactions, at most"},
	{"journal_retention", "16GB", "how much of the journal is kept for nodes that are away: kB, MB, GB or TB"},
	{"journal_retention_time", 24 * time.Hour, "for how long it is kept"},
	{"retry_autocommit", 5, "how often the gateway repeats a single statement that lost a conflict"},
}

// newFlags declares a flag for each setting.
func newFlags(fs *pflag.FlagSet) {
	for _, s := range settings {
		name := strings.ReplaceAll(s.key, "_", "-")
		switch def := s.def.(type) {
		case int:
			fs.Int(name, def, s.help)
		case bool:
			fs.Bool(name, def, s.help)
		case time.Duration:
			fs.Duration(name, def, s.help)
		case string:
			fs.String(name, def, s.help)
		}
	}
	fs.Lookup("referee").NoOptDefVal = beReferee
}

// loadConfig reads file (may be empty), the environment and the flags, and checks the whole.
func loadConfig(file string, fs *pflag.FlagSet) (config, error) {
	v := viper.New()
	v.SetConfigType("toml")
	v.SetEnvPrefix("MTM")
	v.AutomaticEnv()
	for _, s := range settings {
		v.SetDefault(s.key, s.def)
		if f := fs.Lookup(strings.ReplaceAll(s.key, "_", "-")); f != nil {
			if err := v.BindPFlag(s.key, f); err != nil {
				return config{}, err
			}
		}
	}
	if file != "" {
		v.SetConfigFile(file)
		if err := v.ReadInConfig(); err != nil {
			return config{}, fmt.Errorf("configuration file %s: %w", file, err)
		}
		if err := checkKeys(v, file); err != nil {
			return config{}, err
		}
	}
	return readConfig(v)
}

// checkKeys refuses misspelt settings: a setting that is silently ignored is worse than none.
func checkKeys(v *viper.Viper, file string) error {
	known := map[string]bool{}
	for _, s := range settings {
		known[s.key] = true
	}
	var bad []string
	for _, k := range v.AllKeys() {
		if !known[k] && !strings.HasPrefix(k, "peers.") {
			bad = append(bad, k)
		}
	}
	if len(bad) > 0 {
		sort.Strings(bad)
		return fmt.Errorf("configuration file %s: unknown setting %s (mtmd --help lists them)", file, strings.Join(bad, ", "))
	}
	return nil
}

func readConfig(v *viper.Viper) (config, error) {
	c := config{
		NodeID: mtm.NodeID(v.GetInt("node_id")), Cluster: v.GetString("cluster"), DataDir: v.GetString("data_dir"),
		Postgres: v.GetString("postgres"), Listen: v.GetString("listen"), PeerListen: v.GetString("peer_listen"),
		PeerAdvertise: v.GetString("peer_advertise"), HTTPListen: v.GetString("http_listen"), TLSCA: v.GetString("tls_ca"),
		TLSCert: v.GetString("tls_cert"), TLSKey: v.GetString("tls_key"), ClientTLSCert: v.GetString("client_tls_cert"),
		ClientTLSKey: v.GetString("client_tls_key"), LogLevel: v.GetString("log_level"), LogFormat: v.GetString("log_format"),
		TrustRemote: v.GetBool("trust_remote"), HeartbeatSend: v.GetDuration("heartbeat_send_timeout"),
		HeartbeatRecv: v.GetDuration("heartbeat_recv_timeout"), PermitTimeout: v.GetDuration("permit_timeout"),
		ResolveTimeout: v.GetDuration("resolve_timeout"), MaxWorkers: v.GetInt("max_workers"),
		RetryAuto: v.GetInt("retry_autocommit"), Referee: v.GetString("referee"), Peers: map[mtm.NodeID]string{},
	}
	if c.Referee == "false" {
		c.Referee = ""
	}
	var err error
	if c.RetentionSize, err = parseSize(v.GetString("journal_retention")); err != nil {
		return c, fmt.Errorf("setting journal_retention: %w", err)
	}
	c.RetentionTime = v.GetDuration("journal_retention_time")
	if c.PeerAdvertise == "" {
		c.PeerAdvertise = c.PeerListen
	}
	for key, addr := range v.GetStringMapString("peers") {
		id, err := strconv.Atoi(key)
		if err != nil || !mtm.NodeID(id).Valid() {
			return c, fmt.Errorf("setting peers: %q is not a node number (1 to %d)", key, mtm.MaxNodes)
		}
		c.Peers[mtm.NodeID(id)] = addr
	}
	return c, c.check()
}

// check names the first thing that is wrong, and how to mend it.
func (c config) check() error {
	if c.isReferee() {
		return c.checkReferee()
	}
	if !c.NodeID.Valid() {
		return fmt.Errorf("setting node_id is %d: it must be 1 to %d, and differ from every other node's", c.NodeID, mtm.MaxNodes)
	}
	for key, val := range map[string]string{
		"cluster": c.Cluster, "data_dir": c.DataDir, "postgres": c.Postgres, "listen": c.Listen,
		"peer_listen": c.PeerListen, "tls_ca": c.TLSCA, "tls_cert": c.TLSCert, "tls_key": c.TLSKey,
	} {
		if val == "" {
			return fmt.Errorf("setting %s is empty: it is required (mtmd --help says what it means)", key)
		}
	}
	addrs := map[string]string{"listen": c.Listen, "peer_listen": c.PeerListen, "peer_advertise": c.PeerAdvertise, "http_listen": c.HTTPListen}
	if c.Referee != "" {
		addrs["referee"] = c.Referee
	}
	for id, a := range c.Peers {
		addrs[fmt.Sprintf("peers.%d", id)] = a
	}
	for key, a := range addrs {
		if _, _, err := net.SplitHostPort(a); err != nil && a != "" {
			return fmt.Errorf("setting %s is %q: it must be host:port (%v)", key, a, err)
		}
	}
	for key, path := range map[string]string{"tls_ca": c.TLSCA, "tls_cert": c.TLSCert, "tls_key": c.TLSKey} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("setting %s: %w (make it with: mtmctl cert issue)", key, err)
		}
	}
	if (c.ClientTLSCert == "") != (c.ClientTLSKey == "") {
		return fmt.Errorf("settings client_tls_cert and client_tls_key: set both, or neither")
	}
	if c.HeartbeatSend <= 0 || c.HeartbeatRecv < 2*c.HeartbeatSend {
		return fmt.Errorf("setting heartbeat_recv_timeout is %v: it must be at least twice heartbeat_send_timeout (%v)", c.HeartbeatRecv, c.HeartbeatSend)
	}
	if c.RetentionTime <= 0 {
		return fmt.Errorf("setting journal_retention_time is %v: it must be above 0", c.RetentionTime)
	}
	if c.MaxWorkers < 2 || c.RetryAuto < 0 || c.PermitTimeout <= 0 || c.ResolveTimeout <= 0 {
		return fmt.Errorf("settings max_workers (at least 2), retry_autocommit (at least 0), permit_timeout and resolve_timeout (above 0): out of range")
	}
	_, err := c.level()
	return err
}

// parseSize reads "16GB", as PostgreSQL's settings are written: a number above 0 and a unit.
func parseSize(text string) (int64, error) {
	for i, unit := range []string{"kB", "MB", "GB", "TB"} {
		number, ok := strings.CutSuffix(text, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if shift := 10 * (i + 1); err == nil && n > 0 && n < 1<<(62-shift) {
			return n << shift, nil
		}
	}
	return 0, fmt.Errorf("%q is no size: it must be a number above 0 with kB, MB, GB or TB", text)
}

func (c config) level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return l, fmt.Errorf("setting log_level is %q: it must be debug, info, warn or error", c.LogLevel)
	}
	return l, nil
}
