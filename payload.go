package mtm

// Payload is what one transaction changed, as its origin's PostgreSQL encoded it: a sequence of pgoutput messages,
// each after its length (logrep documents the framing), relation messages first, so that it can be understood
// alone. Small ones travel as Data; a large one lies in a spill file of the journal, named by Spill.
type Payload struct {
	Data  []byte // framed messages, when Spill is empty
	Spill string // name of the spill file; empty for a small payload
	Size  int64  // bytes of framed messages, wherever they lie
	Flags PayloadFlags
}

// PayloadFlags say what the deciding code must know of the content.
type PayloadFlags uint32

// The flags.
const (
	PayloadDDL          PayloadFlags = 1 << iota // contains a DDL statement
	PayloadEmpty                                 // nothing in it is replicated: the origin may commit alone
	PayloadWaitLocal                             // mtm.wait_peer_commits = off: answer when the origin has committed
	PayloadStreamed                              // PostgreSQL cannot prepare it: an open session of its origin holds it
	PayloadSerializable                          // its isolation level was SERIALIZABLE
)

// OpenPrefix is the prefix of the logical message with which a session says that it has done all that a transaction does
// and holds it open: its gid and its transaction id follow, in decimal, then blanks up to OpenPad bytes. So much makes
// PostgreSQL decode a transaction that is in progress.
const (
	OpenPrefix = "mtm.open"
	OpenPad    = 256 << 10
)

// TokenPrefix begins each token by which capture knows that a logical message is the gateway's. A token has no blanks; the message's
// content follows it after one. No client must ever see one that is new.
const TokenPrefix = "mtm-token-"

// Has reports whether all of f is set.
func (p Payload) Has(f PayloadFlags) bool { return p.Flags&f == f }

// Deps is what a transaction may have seen: for each origin, everything up to Upto but for what Except lists. A node
// applies the transaction only after all of it that the node holds prepared has been finished here.
type Deps []OriginDeps

// OriginDeps is the part of Deps that concerns one origin.
type OriginDeps struct {
	Origin NodeID
	Upto   uint64   // highest sequence that was decided at the origin of the transaction
	Except []uint64 // those up to Upto that were not, ascending
}

// Covers reports whether the transaction that carries d may have seen what g did.
func (d Deps) Covers(g GID) bool {
	for _, o := range d {
		if o.Origin != g.Origin {
			continue
		}
		if g.Seq > o.Upto {
			return false
		}
		for _, s := range o.Except {
			if s == g.Seq {
				return false
			}
		}
		return true
	}
	return false
}
