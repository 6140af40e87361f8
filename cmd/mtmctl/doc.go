// Command mtmctl is the operator's tool: it makes a cluster of nodes, asks them how they are, makes certificates, and
// runs whole clusters on this machine (devcluster).
//
// Results go to standard output, as text or JSON (--output); progress and errors go to standard error. Exit codes:
//
//	0  done
//	1  it failed
//	2  wrong usage: nothing was tried
//	3  a node could not be reached
//	4  a prerequisite is not met: nothing was changed
//	5  verify: nodes differ
//	6  verify: nothing differs for certain, but something changed all the time and could not be compared
package main
