// Package dmq is the message queue between the nodes: gRPC streams over mutual TLS, one per direction and pair of nodes.
//
// Each node dials each other one. The stream A→B carries A's messages and heartbeats; B's acknowledgements come back on
// it. A payload that lies in a spill file travels on a connection of its own, so that nothing waits behind it.
//
// What the sink may rely on, for each peer:
//
//   - Between PeerUp and the next PeerDown, every message that the peer's Send accepted between its own PeerUp and
//     PeerDown arrives exactly once, in the order of the Sends; large payloads alone may be overtaken. A connection that
//     breaks and comes back within DownGrace changes nothing of it, and is not reported.
//   - Whatever could not be delivered is told: PeerDown comes at both ends, then PeerUp. What was queued is dropped.
//   - PeerUp comes when both directions work, and carries the peer's incarnation. Calls about one peer never overlap.
//
// How: each end of a link has a session number that grows whenever the end reports PeerDown. A stream begins with both
// ends (incarnation and session) and the sequence that the receiver has; while both ends are what they were, the
// sender repeats from there. Any difference means that something was lost, and takes both ends down (link.go).
//
// Messages of elections and leases are urgent: they overtake the others, and are lost with the connection that they were
// sent on.
//
// Suspend is for a node that lives and cannot work: it takes all links down and keeps them so.
//
// What it costs: a message there and one back took 31 µs, and 6.6 µs each with 256 under way (TLS, loopback, both nodes
// in one process, 2-core AMD EPYC, 2026-11-21, go test ./dmq -run xxx -bench . -benchtime 20000x); half of it is system
// calls.
//
// The package knows nothing of what messages mean, keeps nothing on disk but the spill files it is given to fill, and
// trusts a peer for no more than its certificate says.
package dmq
