// Package admin is what an operator does to a cluster, over the admin service of its nodes: check and join nodes
// (Init), and ask them (Status). mtmctl is its face; the dev cluster uses it too.
//
// It keeps one promise: Init that fails leaves no node changed. It never talks to PostgreSQL; each node's mtmd does.
package admin
