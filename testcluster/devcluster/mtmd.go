package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mtm/cert"
)

const (
	mtmdStartWait = 60 * time.Second
	mtmdStopWait  = 30 * time.Second
	onlineWait    = 120 * time.Second
)

// FindMtmd gives the path of mtmd: $MTM_MTMD, else beside our own program, else in PATH, else built from the source
// around the working directory.
func FindMtmd(ctx context.Context) (string, error) {
	if path := os.Getenv("MTM_MTMD"); path != "" {
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), "mtmd")
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path, nil
		}
	}
	if path, err := exec.LookPath("mtmd"); err == nil {
		return filepath.Abs(path)
	}
	path, err := BuildMtmd(ctx)
	if err != nil {
		return "", fmt.Errorf("no mtmd beside this program, in PATH, nor from source: %w (run make build, or set MTM_MTMD)", err)
	}
	return path, nil
}

// BuildMtmd builds mtmd from the source around the working directory, into that tree's .cache.
func BuildMtmd(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	module, root, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if module != "mtm" {
		return "", errors.New("this is not the source tree of mtm")
	}
	dir := filepath.Join(root, ".cache", "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Built aside and moved: another test may run the old one now.
	temp := filepath.Join(dir, fmt.Sprintf("mtmd.%d", os.Getpid()))
	build := exec.CommandContext(ctx, "go", "build", "-o", temp, "./cmd/mtmd")
	build.Dir = root
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/mtmd: %w\n%s", err, text)
	}
	path := filepath.Join(dir, "mtmd")
	return path, os.Rename(temp, path)
}

var plainTOML = regexp.MustCompile(`^(true|false|[+-]?[0-9][0-9_]*(\.[0-9]+)?|["'\[{].*)$`)

// writeMtmdConf writes mtmd.toml. dial is where to reach each other node.
func (n *node) writeMtmdConf(s *state, files cert.Files, dial map[int]string, extra []string) error {
	if err := os.MkdirAll(n.MtmdData, 0o700); err != nil {
		return err
	}
	q := strconv.Quote
	lines := []string{
		"# written by mtmctl devcluster",
		"node_id = " + strconv.Itoa(n.ID),
		"cluster = " + q(s.Name),
		"data_dir = " + q(n.MtmdData),
		"postgres = " + q(n.localURL(s.Database)),
		"listen = " + q(addr(n.Port)),
		"peer_listen = " + q(addr(n.PeerPort)),
		"peer_advertise = " + q(addr(n.PeerPort)),
		"http_listen = " + q(addr(n.HTTPPort)),
		"tls_ca = " + q(files.CA),
		"tls_cert = " + q(files.Cert),
		"tls_key = " + q(files.Key),
	}
	for _, kv := range extra {
		key, value, _ := strings.Cut(kv, "=")
		if !plainTOML.MatchString(value) {
			value = q(value)
		}
		lines = append(lines, key+" = "+value)
	}
	if len(dial) > 0 {
		lines = append(lines, "", "[peers]")
		for _, other := range s.Nodes {
			if to := dial[other.ID]; to != "" {
				lines = append(lines, fmt.Sprintf("%d = %s", other.ID, q(to)))
			}
		}
	}
	return os.WriteFile(n.MtmdConf, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// launchMtmd runs mtmd of n, if it does not run.
func (n *node) launchMtmd(mtmd string, env []string, die bool) error {
	if n.Mtmd.Alive() {
		return nil
	}
	p, err := command{
		path: mtmd, args: []string{"--config", n.MtmdConf}, env: append(n.diskEnv(""), env...), log: n.MtmdLog,
		deathSig: deathSig(die, syscall.SIGKILL),
	}.start()
	if err != nil {
		return fmt.Errorf("node %d: %w", n.ID, err)
	}
	n.Mtmd = p
	return nil
}

// startMtmd runs mtmd of n and waits until it answers /status, whatever it says of itself.
func (n *node) startMtmd(ctx context.Context, mtmd string, env []string, die bool) error {
	err := n.launchMtmd(mtmd, env, die)
	if err != nil {
		return err
	}
	p := n.Mtmd
	ctx, cancel := context.WithTimeoutCause(ctx, mtmdStartWait, fmt.Errorf("after %v", mtmdStartWait))
	defer cancel()
	var ended error
	err = poll(ctx, fmt.Sprintf("mtmd of node %d", n.ID), func(ctx context.Context) error {
		if !p.Alive() {
			ended = fmt.Errorf("mtmd of node %d ended", n.ID)
			return nil
		}
		_, err := n.status(ctx)
		return err
	})
	if err == nil {
		err = ended
	}
	return n.explain(err)
}

// stopMtmd asks mtmd to end, and insists after half a minute.
func (n *node) stopMtmd(ctx context.Context) error {
	if !n.Mtmd.Alive() {
		return nil
	}
	if err := n.Mtmd.Signal(syscall.SIGCONT); err != nil { // a frozen one would never obey
		return err
	}
	if err := n.Mtmd.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	wait, cancel := context.WithTimeoutCause(ctx, mtmdStopWait, fmt.Errorf("after %v", mtmdStopWait))
	defer cancel()
	if err := n.Mtmd.WaitGone(wait); err != nil {
		kill := n.Mtmd.killFamily(ctx)
		return n.explain(errors.Join(fmt.Errorf("mtmd of node %d did not stop and was killed: %w", n.ID, err), kill))
	}
	return nil
}

// Status is what mtmd says of itself; its other fields are in Raw.
type Status struct {
	NodeID           int             `json:"node_id"`
	Status           string          `json:"status"`
	Connected        []int           `json:"connected"`
	GenNum           uint64          `json:"gen_num"`
	GenMembers       []int           `json:"gen_members"`
	GenMembersOnline []int           `json:"gen_members_online"`
	GenConfigured    []int           `json:"gen_configured"`
	Raw              json.RawMessage `json:"-"`
}

// status asks mtmd's /status.
func (n *node) status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.httpURL()+"/status", nil)
	if err != nil {
		return Status{}, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Status{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal(text, &s); err != nil {
		return Status{}, fmt.Errorf("%s/status: %w: %.200s", n.httpURL(), err, text)
	}
	s.Raw = text
	return s, nil
}

func (n *node) httpURL() string { return "http://" + addr(n.HTTPPort) }

// explain adds the tails of both logs to an error about n.
func (n *node) explain(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w\n--- %s:\n%s\n--- %s:\n%s", err, n.MtmdLog, tail(n.MtmdLog, 25), n.PgLog, tail(n.PgLog, 15))
}
