package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"
)

// floor is what must at least be reached, as a share of the stock system's rate.
type floor struct {
	workload string
	clients  int
	share    float64
}

var floors = []floor{{"N", 1, 0.25}, {"N", 16, 0.12}, {"S", 4, 0.45}}

// writeReport writes Markdown and gives how many floors were missed.
func writeReport(w io.Writer, host string, p plan, cells []cell, equal error, took time.Duration) (missed int) {
	fmt.Fprintf(w, "%s. pgbench -M prepared, scale %d, %d turns of %d s per cell, %s in all.\n", host, p.scale, p.rounds, p.seconds, took.Round(time.Second))
	fmt.Fprintf(w, "Latencies in ms: p50 / p95 / p99. In brackets: share of the stock single system's rate.\n")
	for _, load := range p.workloads {
		fmt.Fprintf(w, "\n### %s\n\n| clients | %s |\n|---:|%s\n", load.title, titles(p.systems), strings.Repeat("---|", len(p.systems)))
		for _, clients := range p.clients {
			fmt.Fprintf(w, "| %d |", clients)
			for _, system := range p.systems {
				fmt.Fprintf(w, " %s |", cellText(cells, system, load.name, clients))
			}
			fmt.Fprintln(w)
		}
	}
	writePhases(w, p, cells)
	fmt.Fprintln(w)
	for _, f := range floors {
		one, base := find(cells, mtmOne, f.workload, f.clients), find(cells, stock, f.workload, f.clients)
		if one == nil || base == nil || base.tps == 0 {
			continue
		}
		share, word := one.tps/base.tps, "reached"
		if share < f.share {
			word = "MISSED"
			missed++
		}
		fmt.Fprintf(w, "Floor, %s with %d clients on one node: %.2f of stock; %.2f is asked for: %s.\n", f.workload, f.clients, share, f.share, word)
	}
	if slices.Contains(p.systems, mtmOne) || slices.Contains(p.systems, mtm3) {
		if equal == nil {
			fmt.Fprintln(w, "After the run all three nodes hold the same rows.")
		} else {
			fmt.Fprintf(w, "AFTER THE RUN THE NODES DIFFER: %v\n", equal)
		}
	}
	return missed
}

func find(cells []cell, system, workload string, clients int) *cell {
	for i, c := range cells {
		if c.system == system && c.workload == workload && c.clients == clients {
			return &cells[i]
		}
	}
	return nil
}

func cellText(cells []cell, system, workload string, clients int) string {
	c := find(cells, system, workload, clients)
	if c == nil || len(c.latencies) == 0 {
		return "–"
	}
	text := fmt.Sprintf("**%.0f**", c.tps)
	if base := find(cells, stock, workload, clients); base != nil && base.tps > 0 && system != stock {
		text += fmt.Sprintf(" (%.2f)", c.tps/base.tps)
	}
	text += fmt.Sprintf(" %.2f / %.2f / %.2f", c.percentile(0.5), c.percentile(0.95), c.percentile(0.99))
	if c.retries > 0 || c.failed > 0 {
		text += fmt.Sprintf("; %d retries, %d failed", c.retries, c.failed)
	}
	return text
}

// writePhases shows where the time of commits goes, for clients on one node.
func writePhases(w io.Writer, p plan, cells []cell) {
	names := map[string]bool{}
	for _, c := range cells {
		for name, h := range c.phases {
			if h.count > 0 {
				names[name] = true
			}
		}
	}
	if len(names) == 0 {
		return
	}
	var columns []string
	for name := range names {
		columns = append(columns, name)
	}
	sort.Strings(columns)
	fmt.Fprintf(w, "\n### Where the time goes: mean of each phase in ms (how often, per commit), clients on one node\n\n")
	fmt.Fprintf(w, "| workload | clients | %s |\n|---|---:|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, c := range cells {
		if len(c.phases) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s | %d |", c.workload, c.clients)
		commits := float64(max(1, len(c.latencies)))
		for _, name := range columns {
			h := c.phases.of(name)
			fmt.Fprintf(w, " %.3f (%.2f) |", h.mean(), h.count/commits)
		}
		fmt.Fprintln(w)
	}
}

// machine describes where this runs: processors, the time of a flush to the disk of dir, versions.
func machine(dir string) string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`).FindSubmatch(text); m != nil {
			model = string(m[1])
		}
	}
	commit := "unknown commit"
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		commit = string(bytes.TrimSpace(out))
	}
	return fmt.Sprintf("%d x %s, %s, fdatasync %s, mtm %s, %s", runtime.NumCPU(), model, runtime.Version(), flushTime(dir), commit, time.Now().Format("2006-01-02"))
}

// flushTime is the median of 200 writes of 8 kB, each followed by fdatasync.
func flushTime(dir string) string {
	f, err := os.Create(filepath.Join(dir, "flush"))
	if err != nil {
		return err.Error()
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 8192)
	var times []time.Duration
	for range 200 {
		start := time.Now()
		if _, err := f.WriteAt(block, 0); err != nil {
			return err.Error()
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return err.Error()
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return fmt.Sprintf("%.2f ms", times[100].Seconds()*1000)
}
