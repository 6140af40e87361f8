// Package generations decides who may commit now. It is pure, like coordinator, which owns a Machine and drives it.
//
// A generation is (number, members, configured). A node lives in one, moves only upwards, and may commit in it when it
// is online there: LastOnline equals its number. What survives a crash is State.
//
// # Rules, each kept by the line that names it
//
//   - V1: a node votes for at most one generation of each number, durably before it answers, and for none below its
//     own generation or its last vote.
//   - V2: it votes only for members out of its current generation and the proposer, all within its clique.
//   - V3: it does not vote for a generation without a node whose heartbeat it acknowledged within the last lease, and
//     for none at all within a lease of its own start (it forgot whom it had acknowledged). So when a generation is
//     elected, whoever it excludes answers no reads any more (S7).
//     A lease that its holder has given back is over (leave.go).
//     Nor does it give a lease, while it stays in its generation, to whom any of its votes excludes, were it the vote
//     before the last: a candidate that was frozen may win with old votes.
//   - V4: a node that voted for n never becomes online below n (S6).
//   - E1: elected is who has the vote of every proposed member, and they are a majority of the configured.
//   - C1: the configured nodes change one at a time, by a generation that has the votes of a majority of the old and of the
//     new ones, each of them (but for who is added) online in the generation that the change starts from. See
//     configure.go, and docs/design-generations.md for why.
//   - C2: a node votes only for generations with the configured nodes of its own generation, or for a change of them.
//   - D1: donors are the voters with the highest LastOnline; they hold everything that was ever committed, since every
//     commit was prepared by all members of its generation.
//   - L1: a lease runs from the sending of the newest heartbeat that a majority (self counted) has acknowledged.
//
// The theory is Postgres Pro multimaster's (generations, campaigner); the leases are ours.
package generations
