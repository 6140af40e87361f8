// Package referee is the third, data-less vote of a two-node cluster: a Server that keeps one row, and the Client by
// which a node asks it. What is granted is decided by generations.Arbiter; the theory is in docs/design-generations.md.
//
// It owns the file state.db in its directory. Whatever it answered is durable before the answer leaves; when the disk
// fails it ends and answers nothing more. It holds no data, starts no PostgreSQL, and dials nobody.
package referee
