package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// workload is one way to call pgbench.
type workload struct {
	name   string // short, for flags
	title  string
	args   []string
	script string // of a custom one
	writes bool
}

var workloads = []workload{
	{name: "N", title: "pgbench -N (update, select, insert)", args: []string{"-N"}, writes: true},
	{name: "tpcb", title: "pgbench TPC-B (three updates, two of them of few rows)", writes: true},
	{name: "S", title: "pgbench -S (one select)", args: []string{"-S"}},
	{name: "update", title: "single-row update, autocommit", writes: true,
		script: "\\set aid random(1, 100000 * :scale)\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n"},
}

func workloadNames() (names []string) {
	for _, w := range workloads {
		names = append(names, w.name)
	}
	return names
}

func chooseWorkloads(text string) ([]workload, error) {
	if text == "" {
		return workloads, nil
	}
	var chosen []workload
	for name := range strings.SplitSeq(text, ",") {
		found := false
		for _, w := range workloads {
			if w.name == name {
				chosen, found = append(chosen, w), true
			}
		}
		if !found {
			return nil, fmt.Errorf("workload %q: there are %s", name, strings.Join(workloadNames(), ", "))
		}
	}
	return chosen, nil
}

// result is what one or more runs of pgbench gave together. Latencies are in microseconds.
type result struct {
	tps       float64
	latencies []int32
	failed    int // transactions given up after all tries
	retries   int
}

// add joins runs that were at the same time: their rates add up.
func (r *result) add(o result) {
	r.tps += o.tps
	r.merge(o)
}

// merge takes the samples of o without its rate.
func (r *result) merge(o result) {
	r.latencies = append(r.latencies, o.latencies...)
	r.failed += o.failed
	r.retries += o.retries
}

// percentile is the latency in milliseconds that a share p (0 to 1) of all transactions did not exceed.
func (r *result) percentile(p float64) float64 {
	if len(r.latencies) == 0 {
		return 0
	}
	sort.Slice(r.latencies, func(i, j int) bool { return r.latencies[i] < r.latencies[j] })
	i := int(p*float64(len(r.latencies))+0.999999) - 1
	return float64(r.latencies[min(max(i, 0), len(r.latencies)-1)]) / 1000
}

// pgbench runs one pgbench against url.
func pgbench(ctx context.Context, program, dir, url string, w workload, clients, seconds, scale int) (result, error) {
	work, err := os.MkdirTemp(dir, "run-")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(work)
	args := []string{
		"-n", "-M", "prepared", "-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, 2)), "-T", strconv.Itoa(seconds),
		"-s", strconv.Itoa(scale), "-l", "--log-prefix", filepath.Join(work, "log"), "--max-tries", "100",
	}
	args = append(args, w.args...)
	if w.script != "" {
		path := filepath.Join(work, "script.sql")
		if err := os.WriteFile(path, []byte(w.script), 0o600); err != nil {
			return result{}, err
		}
		args = append(args, "-f", path)
	}
	cmd := exec.CommandContext(ctx, program, append(args, url)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("pgbench: %w\n%s", err, bytes.TrimSpace(out))
	}
	r := result{}
	if r.tps, err = parseTPS(out); err != nil {
		return result{}, err
	}
	logs, err := filepath.Glob(filepath.Join(work, "log.*"))
	if err != nil {
		return result{}, err
	}
	for _, path := range logs {
		f, err := os.Open(path)
		if err != nil {
			return result{}, err
		}
		err = parseLog(f, &r)
		f.Close()
		if err != nil {
			return result{}, fmt.Errorf("pgbench's log: %w", err)
		}
	}
	return r, nil
}

var tpsLine = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \(without initial connection time\)`)

// parseTPS finds the rate in pgbench's output.
func parseTPS(out []byte) (float64, error) {
	m := tpsLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench told no rate:\n%s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// parseLog reads lines "client_id transaction_no time script_no time_epoch time_us [schedule_lag] retries" (pgbench's
// manual, Per-Transaction Logging, with --max-tries). A transaction that was given up has "failed" for its time.
func parseLog(log io.Reader, r *result) error {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 7 {
			return fmt.Errorf("line %q is not understood", lines.Text())
		}
		retries, err := strconv.Atoi(fields[len(fields)-1])
		if err != nil {
			return fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		r.retries += retries
		us, err := strconv.ParseInt(fields[2], 10, 32)
		if err != nil {
			r.failed++
			continue
		}
		r.latencies = append(r.latencies, int32(us))
	}
	return lines.Err()
}
