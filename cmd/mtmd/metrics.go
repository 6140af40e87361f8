package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"mtm"
)

// metrics are what Prometheus reads at /metrics.
type metrics struct {
	registry *prometheus.Registry
	phases   *prometheus.HistogramVec
	outcomes *prometheus.CounterVec
	incident prometheus.Counter
	unheard  prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mtm_commit_phase_seconds", Help: "Time spent in each phase of commits that began on this node, and of journal writes.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 1.6, 24),
		}, []string{"phase"}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mtm_commits_total", Help: "Commits that began on this node, by SQLSTATE of the answer (00000: committed).",
		}, []string{"sqlstate"}),
		incident: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mtm_incidents_total", Help: "Writes that PostgreSQL committed without the cluster.",
		}),
		unheard: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mtm_notifications_lost_total", Help: "Notifications that did not reach another node's listeners, or not certainly.",
		}),
	}
	m.registry.MustRegister(m.phases, m.outcomes, m.incident, m.unheard, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) phase(name string, d time.Duration) {
	m.phases.WithLabelValues(name).Observe(d.Seconds())
}

func (m *metrics) committed(c *commit, err *mtm.Error) {
	code := "00000"
	if err != nil {
		code = err.Code
	}
	m.outcomes.WithLabelValues(code).Inc()
	if err == nil {
		m.phase("total", time.Since(c.began))
	}
}
