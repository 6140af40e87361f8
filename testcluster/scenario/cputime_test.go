package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mtm/testcluster"
)

// cpuTime is the processor time, of mtmd and of PostgreSQL's processes by what they are, that node n has used. Empty where /proc is not.
func cpuTime(t *testing.T, n *testcluster.Node) map[string]time.Duration {
	used := map[string]time.Duration{}
	info := n.Info()
	used["mtmd"] = processTime(info.MtmdPid)
	rows, err := n.ConnectPg().Query(t.Context(), "SELECT pid, coalesce(nullif(application_name, ''), backend_type) FROM pg_stat_activity")
	if err != nil {
		t.Logf("processor time of node %d: %v", n.ID, err)
		return used
	}
	for rows.Next() {
		var pid int
		var what string
		if err := rows.Scan(&pid, &what); err == nil {
			used[what] += processTime(pid)
		}
	}
	used["postmaster and what has ended"] = processTime(info.PostgresPid) + endedTime(info.PostgresPid)
	return used
}

// tellTime lists the most of what was used since before.
func tellTime(before, after map[string]time.Duration) string {
	type one struct {
		what string
		d    time.Duration
	}
	var all []one
	for what, d := range after {
		if d -= before[what]; d >= 20*time.Millisecond {
			all = append(all, one{what, d})
		}
	}
	slices.SortFunc(all, func(a, b one) int { return int(b.d - a.d) })
	var text []string
	for _, o := range all {
		text = append(text, fmt.Sprintf("%s %.2f s", o.what, o.d.Seconds()))
	}
	return strings.Join(text, ", ")
}

func processTime(pid int) time.Duration { return statTime(pid, 13) }
func endedTime(pid int) time.Duration   { return statTime(pid, 15) } // of its children

// statTime adds two fields of /proc/PID/stat, counted from 0: hundredths of a second.
func statTime(pid, field int) time.Duration {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	sum := 0
	for _, i := range []int{field - 2, field - 1} {
		v, _ := strconv.Atoi(fields[i])
		sum += v
	}
	return time.Duration(sum) * 10 * time.Millisecond
}
