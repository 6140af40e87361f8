package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
)

// phases is the histogram mtm_commit_phase_seconds of mtmd, by phase.
type phases map[string]*histogram

type histogram struct {
	sum     float64             // seconds
	count   float64             // observations
	buckets map[float64]float64 // by upper bound: observations up to it
}

const phaseMetric = "mtm_commit_phase_seconds"

// readPhases asks mtmd's /metrics.
func readPhases(ctx context.Context, base string) (phases, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s/metrics: %s", base, resp.Status)
	}
	return parsePhases(resp.Body)
}

var phaseLine = regexp.MustCompile(`^` + phaseMetric + `_(sum|count|bucket)\{(.*)\} (\S+)`)
var labelForm = regexp.MustCompile(`(\w+)="([^"]*)"`)

// parsePhases reads Prometheus' text format.
func parsePhases(text io.Reader) (phases, error) {
	all := phases{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		m := phaseLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, fmt.Errorf("metric line %q: %w", lines.Text(), err)
		}
		labels := map[string]string{}
		for _, l := range labelForm.FindAllStringSubmatch(m[2], -1) {
			labels[l[1]] = l[2]
		}
		h := all.of(labels["phase"])
		switch m[1] {
		case "sum":
			h.sum = value
		case "count":
			h.count = value
		case "bucket":
			bound, err := strconv.ParseFloat(labels["le"], 64)
			if err != nil {
				return nil, fmt.Errorf("metric line %q: %w", lines.Text(), err)
			}
			h.buckets[bound] = value
		}
	}
	return all, lines.Err()
}

func (p phases) of(name string) *histogram {
	if p[name] == nil {
		p[name] = &histogram{buckets: map[float64]float64{}}
	}
	return p[name]
}

// minus is what was observed after old.
func (p phases) minus(old phases) phases { return p.combine(old, -1) }

// plus joins two.
func (p phases) plus(o phases) phases { return p.combine(o, 1) }

func (p phases) combine(o phases, sign float64) phases {
	all := phases{}
	for _, one := range []struct {
		from phases
		sign float64
	}{{p, 1}, {o, sign}} {
		for name, h := range one.from {
			to := all.of(name)
			to.sum += one.sign * h.sum
			to.count += one.sign * h.count
			for bound, n := range h.buckets {
				to.buckets[bound] += one.sign * n
			}
		}
	}
	return all
}

// mean is in milliseconds.
func (h *histogram) mean() float64 {
	if h.count == 0 {
		return 0
	}
	return h.sum / h.count * 1000
}
