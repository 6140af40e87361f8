package devcluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Proc is one process that the cluster started: its id, and when it started, because ids are used again.
type Proc struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
}

// pollEvery is the pause between two looks at a process or an address that is waited for.
const pollEvery = 20 * time.Millisecond

// Alive reports whether the process still runs. A zombie does not, once its last thread has ended: until then it holds
// its files and locks.
func (p Proc) Alive() bool {
	if p.Pid <= 0 {
		return false
	}
	st, err := readStat(p.Pid)
	return err == nil && st.start == p.Start && st.state != 'X' && (st.state != 'Z' || st.threads > 1)
}

// Stopped reports whether the process is frozen by SIGSTOP.
func (p Proc) Stopped() bool {
	st, err := readStat(p.Pid)
	return err == nil && st.state == 'T' && st.start == p.Start
}

// Signal sends sig to the process, if it is alive.
func (p Proc) Signal(sig syscall.Signal) error {
	if !p.Alive() {
		return nil
	}
	if err := syscall.Kill(p.Pid, sig); err != nil && err != syscall.ESRCH {
		return fmt.Errorf("signal %v to process %d: %w", sig, p.Pid, err)
	}
	return nil
}

// WaitGone waits until the process has ended.
func (p Proc) WaitGone(ctx context.Context) error {
	return poll(ctx, fmt.Sprintf("end of process %d", p.Pid), func(context.Context) error {
		if p.Alive() {
			return errStillRuns
		}
		return nil
	})
}

var errStillRuns = fmt.Errorf("it still runs")

// family is p and all its descendants. Parents come first.
func (p Proc) family() []Proc {
	children := map[int][]Proc{}
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil {
			children[st.parent] = append(children[st.parent], Proc{Pid: pid, Start: st.start})
		}
	}
	all := []Proc{p}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i].Pid]...)
	}
	return all
}

// freezeFamily stops p and its descendants. The parent is stopped first, so that it makes no more children.
func (p Proc) freezeFamily() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for _, child := range p.family() {
		if err := child.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
	}
	return nil
}

// thawFamily lets p and its descendants go on.
func (p Proc) thawFamily() error {
	for _, child := range p.family() {
		if err := child.Signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	return nil
}

// killFamily ends p and its descendants by SIGKILL, as a power cut would, and waits for their end. The parent is
// frozen first: a postmaster that sees a child die would restart the others.
func (p Proc) killFamily(ctx context.Context) error {
	if !p.Alive() {
		return nil
	}
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	all := p.family()
	for _, one := range all {
		if err := one.Signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	for _, one := range all {
		if err := one.WaitGone(ctx); err != nil {
			return err
		}
	}
	return nil
}

type procStat struct {
	state   byte
	parent  int
	threads int
	start   uint64
}

// readStat reads /proc/PID/stat (proc(5)). The command's name may hold spaces and brackets, so fields count from the
// last closing one.
func readStat(pid int) (procStat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	end := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) < 20 {
		return procStat{}, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	parent, err1 := strconv.Atoi(fields[1])
	threads, err2 := strconv.Atoi(fields[17])
	start, err3 := strconv.ParseUint(fields[19], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return procStat{}, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	return procStat{state: fields[0][0], parent: parent, threads: threads, start: start}, nil
}

// command is a program to be run in the background.
type command struct {
	path     string
	args     []string
	env      []string            // added to ours
	log      string              // its output is appended here
	cred     *syscall.Credential // nil: as ourselves
	deathSig syscall.Signal      // sent to it when we die; 0: it lives on
}

// start runs c in a session of its own and does not wait for it.
func (c command) start() (Proc, error) {
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Proc{}, fmt.Errorf("open log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(c.path, c.args...)
	cmd.Dir = "/"
	cmd.Env = append(cleanEnv(), c.env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: c.cred, Pdeathsig: c.deathSig}
	if err := cmd.Start(); err != nil {
		return Proc{}, fmt.Errorf("start %s: %w", c.path, err)
	}
	p := Proc{Pid: cmd.Process.Pid}
	if st, err := readStat(p.Pid); err == nil {
		p.Start = st.start
	}
	// Reap it if it ends before us; the goroutine ends with the process, which this package's callers end.
	go cmd.Wait() //nolint:errcheck // how it ended is in its log
	return p, nil
}

// run runs a program to its end and gives its output in the error.
func (c command) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, c.path, c.args...)
	cmd.Dir = "/"
	cmd.Env = append(cleanEnv(), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", c.path, strings.Join(c.args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// cleanEnv is our environment less what would change how PostgreSQL or mtmd behave, so that a cluster is the same
// whoever starts it.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "PG"), strings.HasPrefix(name, "LC_"), name == "LANG", name == "LANGUAGE":
		case strings.HasPrefix(name, "MTM_"), name == "NOTIFY_SOCKET":
		default:
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C")
}

// poll calls try until it gives nil or ctx is over. The error names what was waited for and the last failure.
func poll(ctx context.Context, what string, try func(context.Context) error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting for %s (%w): %w", what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// tail is the last lines of a log, for an error message.
func tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	defer f.Close()
	const most = 16 << 10
	if st, err := f.Stat(); err == nil && st.Size() > most {
		if _, err := f.Seek(-most, 2); err != nil {
			return "(" + err.Error() + ")"
		}
	}
	buf := make([]byte, most)
	n, _ := f.Read(buf)
	all := strings.Split(strings.TrimRight(string(buf[:n]), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
