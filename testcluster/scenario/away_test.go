package scenario

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// TestAway measures how a node comes back that missed much, while the others write all they can. It is for "make away":
//
//	MTM_AWAY        how long node 3 is away, under pgbench -N on nodes 1 and 2
//	MTM_AWAY_MIB    instead: how much is written meanwhile, in transactions of 2000 rows of 1 KB
//	MTM_AWAY_PPROF  a file for a profile of 5 s of node 3's mtmd as it catches up
func TestAway(t *testing.T) {
	text, mib := os.Getenv("MTM_AWAY"), os.Getenv("MTM_AWAY_MIB")
	switch {
	case mib != "":
		n, err := strconv.ParseInt(mib, 10, 64)
		require.NoError(t, err)
		awayForVolume(t, n<<20)
	case text != "":
		d, err := time.ParseDuration(text)
		require.NoError(t, err)
		awayForTime(t, d)
	default:
		t.Skip("make away runs it")
	}
}

// comeBack starts node 3 and gives how long it takes until it is online, and what it was at.
func comeBack(t *testing.T, c *testcluster.Cluster) time.Duration {
	survivors := []map[string]time.Duration{cpuTime(t, c.Node(1)), cpuTime(t, c.Node(2))}
	began := time.Now()
	c.Node(3).Start()
	t.Logf("PostgreSQL and mtmd answer after %v", time.Since(began).Round(10*time.Millisecond))
	if out := os.Getenv("MTM_AWAY_PPROF"); out != "" {
		go profile(t, c.Node(3).HTTP(), out)
	}
	last := ""
	for end := time.Now().Add(time.Hour); time.Now().Before(end); {
		st := c.Node(3).Status()
		if st.Status != last {
			t.Logf("%s after %v", st.Status, time.Since(began).Round(10*time.Millisecond))
			last = st.Status
		}
		if st.Status == "online" && len(st.GenMembersOnline) == 3 {
			took := time.Since(began)
			t.Logf("processor time meanwhile: node 3: %s; node 1: %s; node 2: %s", tellTime(nil, cpuTime(t, c.Node(3))),
				tellTime(survivors[0], cpuTime(t, c.Node(1))), tellTime(survivors[1], cpuTime(t, c.Node(2))))
			return took
		}
		time.Sleep(20 * time.Millisecond) // pacing: it is asked for its status
	}
	t.Fatal("it does not come back")
	return 0
}

func profile(t *testing.T, base, file string) {
	answer, err := http.Get(base + "/debug/pprof/profile?seconds=5")
	if err != nil {
		t.Log(err)
		return
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil {
		err = os.WriteFile(file, body, 0o644)
	}
	if err != nil {
		t.Log(err)
	}
}

// keptWAL is what PostgreSQL keeps for its slot.
func keptWAL(t *testing.T, c *testcluster.Cluster, node int) int64 {
	return one[int64](t, c.Node(node).ConnectPg(),
		"SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)::bigint FROM pg_replication_slots WHERE slot_type = 'logical'")
}

// awayOptions are about those of make bench.
var awayOptions = testcluster.Options{NoProxy: true, Socket: true, Settings: []string{"shared_buffers=512MB"}}

func awayForTime(t *testing.T, away time.Duration) {
	c := testcluster.Start(t, awayOptions)
	pgbench := testcluster.Program(c.Node(1).Info().PgBin, "pgbench")
	out, err := exec.Command(pgbench, "-i", "-q", "-s", "5", c.Node(1).URL()).CombinedOutput()
	require.NoError(t, err, string(out))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var texts [2]bytes.Buffer
	var running sync.WaitGroup
	for i := range texts {
		cmd := exec.CommandContext(ctx, pgbench, "-n", "-N", "-M", "prepared", "-c", "8", "-j", "2", "-T", "3600", "-P", "1", "--max-tries", "100", c.Node(i+1).URL())
		cmd.Stderr = &texts[i]
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		require.NoError(t, cmd.Start())
		running.Go(func() { cmd.Wait() }) //nolint:errcheck // it is interrupted
	}
	began := time.Now()
	wait := func(d time.Duration) int { time.Sleep(d); return int(time.Since(began).Seconds()) }
	wait(10 * time.Second)
	c.Node(3).Kill()
	from := wait(time.Second)
	back := wait(away)
	took := comeBack(t, c)
	online := wait(0)
	end := wait(5 * time.Second)
	cancel()
	running.Wait()
	tps := tpsOf(texts[0].String(), texts[1].String())
	part := func(from, to int) string {
		p := tps[min(from, len(tps)):min(to, len(tps))]
		if len(p) == 0 {
			return "-"
		}
		sum := 0.0
		for _, v := range p {
			sum += v
		}
		return fmt.Sprintf("mean %.0f, least second %.0f", sum/float64(len(p)), slices.Min(p))
	}
	t.Logf("online again %v after the order to start it; it was away for %v", took.Round(10*time.Millisecond), away)
	t.Logf("tps of the others: without node 3: %s; while it caught up: %s; after: %s", part(from, back), part(back, online), part(online+1, end))
	t.Logf("tps of each second, from the one before its start on: %.0f", tps[min(back-1, len(tps)):])
	c.RequireEqual()
}

// tpsOf adds what several pgbench -P 1 told of each second.
func tpsOf(texts ...string) (sum []float64) {
	for _, text := range texts {
		i := 0
		for line := range strings.SplitSeq(text, "\n") {
			var at, tps float64
			if n, _ := fmt.Sscanf(line, "progress: %f s, %f tps", &at, &tps); n == 2 {
				if i == len(sum) {
					sum = append(sum, 0)
				}
				sum[i] += tps
				i++
			}
		}
	}
	return sum
}

func awayForVolume(t *testing.T, volume int64) {
	c := testcluster.Start(t, awayOptions)
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE volume (node int, n bigint, i int, v text, PRIMARY KEY (node, n, i))")
	c.Node(3).Kill()
	for node := 1; node <= 2; node++ {
		c.Node(node).WaitFor("a generation without node 3", func(st testcluster.Status) bool { return st.Status == "online" && len(st.GenMembers) == 2 })
	}
	const txn = 2000 << 10 // bytes of values
	var written atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	for node := 1; node <= 2; node++ {
		db := c.Node(node).Connect()
		running.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				_, err := db.Exec(ctx, "INSERT INTO volume SELECT $1, $2::bigint, i, repeat(md5((i * $2::bigint)::text), 32) FROM generate_series(1, 2000) i", node, n)
				switch {
				case err == nil:
					written.Add(txn)
				case sqlState(err) == "40001" && ctx.Err() == nil:
					t.Logf("node %d: %v: %s", node, err, detailOf(err))
				case ctx.Err() == nil:
					t.Errorf("node %d: %v", node, err)
					return
				}
			}
		})
	}
	began, kept := time.Now(), int64(0)
	for written.Load() < volume && !t.Failed() {
		time.Sleep(time.Second)
		kept = max(kept, keptWAL(t, c, 1), keptWAL(t, c, 2))
	}
	missed, took := written.Load(), time.Since(began)
	rate := float64(missed) / took.Seconds()
	var since atomic.Int64 // WAL kept, once node 3 is back
	running.Go(func() {
		for ctx.Err() == nil {
			for node := 1; node <= 2; node++ {
				since.Store(max(since.Load(), keptWAL(t, c, node)))
			}
			time.Sleep(time.Second)
		}
	})
	back := comeBack(t, c)
	all := written.Load()
	cancel()
	running.Wait()
	mb := func(n float64) string { return fmt.Sprintf("%.1f MB", n/1e6) }
	t.Logf("missed %s, written in %v: %s/s; WAL that a survivor kept for its slot at most: %s; while node 3 caught up: %s",
		mb(float64(missed)), took.Round(time.Second), mb(rate), mb(float64(kept)), mb(float64(since.Load())))
	t.Logf("caught up with %s in %v: %s/s, while the others wrote %s/s", mb(float64(all)), back.Round(10*time.Millisecond),
		mb(float64(all)/back.Seconds()), mb(float64(all-missed)/back.Seconds()))
	require.Less(t, rate, float64(all)/back.Seconds(), "it catches up faster than a full load of the others writes")
	c.RequireEqual()
}
