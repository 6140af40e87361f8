// Package notify carries NOTIFY from node to node.
//
// PostgreSQL keeps notifications out of the WAL, and tells them only to sessions that LISTEN to their very channel. So each node
// tells the others which channels its clients listen to, and keeps one session to its own PostgreSQL (session.go) that listens to
// what the others asked for. What arrives there goes to those nodes, and the session there says it again, by pg_notify. That sees
// every notification that PostgreSQL delivers, whoever made it: a statement, a function, a trigger, a session past the gateway.
//
// What it keeps true:
//
//   - In order, and after the commit: notifications leave in the order in which their node's PostgreSQL delivers them, and are
//     said again on another node only when that node has committed all that the first one had when they were delivered
//     (Config.Have, Config.Caught). So whoever is told finds the rows.
//   - Once: a batch has a number, and is repeated until it is acknowledged; the receiver takes each number of a sender's life
//     once. What the session itself says it does not pass on.
//   - LISTEN counts, for all nodes in reach, from its answer on: Listen returns when they listen (or after listenWait).
//   - Nobody's memory is another's to fill: the number of channels, the bytes of each queue and of each message are bounded.
//
// What it does not: a notification is lost when this node's PostgreSQL, the daemon or the session fails before it was passed on,
// when a node is out of reach for longer than forgetAfter, and when a queue is full. Each is logged and counted (Config.Lost).
package notify
