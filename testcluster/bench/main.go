package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// plan says what is measured.
type plan struct {
	systems   []string
	workloads []workload
	clients   []int
	seconds   int
	rounds    int
	scale     int
	settings  []string
	mtmdSet   []string
	check     bool
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := fs.Bool("quick", false, "fewer and shorter cells: about three minutes")
	systems := fs.String("systems", strings.Join(systemNames, ","), "which systems; there are also "+bare2pc+" and "+bareRelay+", the least that any such system costs")
	workloads := fs.String("workloads", "", "which workloads (default all): "+strings.Join(workloadNames(), ","))
	clients := fs.String("clients", "", "numbers of clients (default 1,4,16,64)")
	seconds := fs.Int("seconds", 0, "length of one turn (default 5)")
	rounds := fs.Int("rounds", 0, "turns of each system per cell (default 2)")
	scale := fs.Int("scale", 10, "pgbench's scale: 100,000 accounts each")
	out := fs.String("o", "", "write the report to this file too")
	check := fs.Bool("check", false, "exit 1 if a floor is missed")
	var settings, mtmdSet list
	fs.Var(&settings, "set", "key=value for every PostgreSQL; repeated")
	fs.Var(&mtmdSet, "mtmd-set", "key=value for mtmd; repeated")
	if err := fs.Parse(args); err != nil {
		return err
	}
	p := plan{scale: *scale, seconds: 5, rounds: 2, clients: []int{1, 4, 16, 64}, settings: settings, mtmdSet: mtmdSet, check: *check}
	if *quick {
		p.seconds, p.rounds, p.clients, p.scale = 2, 2, []int{1, 4, 16}, min(*scale, 5)
	}
	if *seconds > 0 {
		p.seconds = *seconds
	}
	if *rounds > 0 {
		p.rounds = *rounds
	}
	var err error
	if p.workloads, err = chooseWorkloads(*workloads); err != nil {
		return err
	}
	if p.systems, err = chooseSystems(*systems); err != nil {
		return err
	}
	if p.clients, err = chooseClients(*clients, p.clients); err != nil {
		return err
	}
	report := io.Writer(os.Stdout)
	if *out != "" {
		f, err := os.Create(*out)
		if err != nil {
			return err
		}
		defer f.Close()
		report = io.MultiWriter(os.Stdout, f)
	}
	return measure(ctx, p, report)
}

// measure runs the whole plan and writes the report.
func measure(ctx context.Context, p plan, report io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "mtm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	start := time.Now()
	b := &bench{plan: p, dir: dir, log: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "[%4.0f s] "+format+"\n", append([]any{time.Since(start).Seconds()}, args...)...)
	}}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.start(ctx); err != nil {
		return err
	}
	cells, err := b.run(ctx)
	if err != nil {
		return err
	}
	equal := b.compare(ctx)
	missed := writeReport(report, machine(dir), p, cells, equal, time.Since(start))
	if p.check && (missed > 0 || equal != nil) {
		return errors.New("a floor was missed, or the nodes differ")
	}
	return nil
}

func chooseSystems(text string) ([]string, error) {
	var chosen []string
	for name := range strings.SplitSeq(text, ",") {
		found := false
		for _, known := range append([]string{bare2pc, bareRelay}, systemNames...) {
			found = found || known == name
		}
		if !found {
			return nil, fmt.Errorf("system %q: there are %s, %s, %s", name, strings.Join(systemNames, ", "), bare2pc, bareRelay)
		}
		chosen = append(chosen, name)
	}
	return chosen, nil
}

func chooseClients(text string, def []int) ([]int, error) {
	if text == "" {
		return def, nil
	}
	var chosen []int
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 200 {
			return nil, fmt.Errorf("clients %q: must be numbers from 1 to 200", text)
		}
		chosen = append(chosen, n)
	}
	return chosen, nil
}
