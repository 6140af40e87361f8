// Package mtm is the vocabulary that every other package shares: who takes part (NodeID, NodeSet), what is
// committed (GID, Ballot, Generation, Payload), what nodes say to each other (Message), what a node must
// remember (Record), and how failure is told (Error).
//
// It is layer 0: it imports the standard library only, and never time, net, os, sync, log or math/rand, so that
// the deciding code above it stays pure. The theory is in docs/design.md and in coordinator/doc.go.
package mtm
