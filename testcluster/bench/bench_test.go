package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLogOfPgbench(t *testing.T) {
	var r result
	log := "0 1 5000 0 1700000000 1 0\n1 1 7000 0 1700000000 2 3\n0 2 failed 0 1700000000 3 9\n"
	require.NoError(t, parseLog(strings.NewReader(log), &r))
	require.Equal(t, []int32{5000, 7000}, r.latencies)
	require.Equal(t, 12, r.retries)
	require.Equal(t, 1, r.failed)
	require.Error(t, parseLog(strings.NewReader("0 1 5000\n"), &r))
	tps, err := parseTPS([]byte("x\ntps = 123.5 (without initial connection time)\n"))
	require.NoError(t, err)
	require.InDelta(t, 123.5, tps, 0)
	_, err = parseTPS([]byte("nothing"))
	require.Error(t, err)
}

func TestPercentileIsNearestRank(t *testing.T) {
	var r result
	for i := 100; i >= 1; i-- {
		r.latencies = append(r.latencies, int32(i*1000))
	}
	require.InDelta(t, 50, r.percentile(0.5), 0)
	require.InDelta(t, 95, r.percentile(0.95), 0)
	require.InDelta(t, 99, r.percentile(0.99), 0)
	require.InDelta(t, 100, r.percentile(1), 0)
	require.Zero(t, (&result{}).percentile(0.5))
}

func TestPhases(t *testing.T) {
	text := `# HELP mtm_commit_phase_seconds x
mtm_commit_phase_seconds_bucket{phase="persist",le="0.001"} 3
mtm_commit_phase_seconds_bucket{phase="persist",le="+Inf"} 4
mtm_commit_phase_seconds_sum{phase="persist"} 0.008
mtm_commit_phase_seconds_count{phase="persist"} 4
other_sum{phase="persist"} 9
`
	old, err := parsePhases(strings.NewReader(text))
	require.NoError(t, err)
	now, err := parsePhases(strings.NewReader(strings.ReplaceAll(strings.ReplaceAll(text, "} 4", "} 6"), "0.008", "0.018")))
	require.NoError(t, err)
	d := now.minus(old)
	require.InDelta(t, 5, d["persist"].mean(), 1e-9)
	require.InDelta(t, 2, d["persist"].count, 0)
	require.InDelta(t, 4, d.plus(d)["persist"].count, 0)
	require.Zero(t, d.of("none").mean())
}

func TestReportComparesWithStockAndChecksFloors(t *testing.T) {
	p := plan{systems: []string{stock, mtmOne, mtm3}, workloads: workloads[:1], clients: []int{1}, seconds: 5, rounds: 2, scale: 10}
	cells := []cell{
		{system: stock, workload: "N", clients: 1, result: result{tps: 1000, latencies: []int32{1000}}},
		{system: mtmOne, workload: "N", clients: 1, result: result{tps: 200, latencies: []int32{5000}, retries: 2},
			phases: phases{"persist": {sum: 0.002, count: 2}}},
		{system: mtm3, workload: "N", clients: 1},
	}
	var out strings.Builder
	require.Equal(t, 1, writeReport(&out, "host", p, cells, nil, time.Minute))
	require.Contains(t, out.String(), "| 1 | **1000** 1.00 / 1.00 / 1.00 | **200** (0.20) 5.00 / 5.00 / 5.00; 2 retries, 0 failed | – |")
	require.Contains(t, out.String(), "| N | 1 | 1.000 (2.00) |")
	require.Contains(t, out.String(), "0.20 of stock; 0.25 is asked for: MISSED")
}

func TestChoices(t *testing.T) {
	_, err := chooseSystems("stock,nonsense")
	require.ErrorContains(t, err, "nonsense")
	_, err = chooseWorkloads("N,x")
	require.ErrorContains(t, err, `"x"`)
	_, err = chooseClients("1,0", nil)
	require.Error(t, err)
	got, err := chooseClients("1,16", nil)
	require.NoError(t, err)
	require.Equal(t, []int{1, 16}, got)
}
