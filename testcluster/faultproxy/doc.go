// Package faultproxy is a TCP proxy that behaves as a bad network does. It serves the links between the nodes of a dev
// cluster: one listener per pair (who dials, who is dialled), one rule per pair (who sends, who receives).
//
// It is ours, and not Shopify/toxiproxy (read and tried at v2.5.0, as a library), because a partition there is not
// one:
//
//   - toxiproxy's timeout toxic throws bytes away and closes the connections when it is removed. TCP does not: what was
//     sent before and during a partition arrives after it, late. Old messages that arrive late are what a commit
//     protocol must survive, so they must happen.
//   - A connection that is closed during it is seen closed on the other side at once. A cut cable tells nobody; the
//     time to notice a silent peer could not be measured.
//   - It has no loss, and a rule of a direction would have to be set on two proxies, one with upstream and the other
//     with downstream.
//
// What a rule does to bytes on their way: Blocked holds them, and the end or reset of the connection, until the rule is
// lifted, and then delivers all in order; Delay lets them arrive later; Loss makes a segment wait for a
// retransmission, 200 ms and twice as long for each further loss, and all behind it with it, as TCP would.
// A connection that is reset "late" ends for who dialled it only: what is on its way still arrives, behind what his next one brings, and, where he sends
// again what was not acknowledged, twice.
//
// A connection opened while either direction is blocked is not made to the other side before both are open; he who
// dials sees it accepted and silent, because the kernel answers for a listener: the one way in which this differs from
// a cut cable. Blocked bytes are bounded (see queueLen); beyond it the sender's socket fills up, as it would.
package faultproxy
