// Command mtmd runs beside one PostgreSQL and makes it a node of a synchronous multimaster cluster.
//
// This package is assembly: it joins the brain (coordinator) with its drivers (journal, dmq, logrep, sql), which do
// not know each other. main.go reads the configuration, daemon.go brings the parts up and down, loop.go owns the
// brain, gate.go stands between client sessions and the brain.
package main
