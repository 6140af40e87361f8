package mtm

import (
	"fmt"
	"strconv"
	"strings"
)

// GIDPrefix starts the name of every prepared transaction that belongs to mtm. Users may not use it (22023).
const GIDPrefix = "mtm-"

// GID names one distributed transaction: "mtm-<origin>-<generation>-<sequence>". The sequence is dense per origin
// and never used twice, so (Origin, Seq) alone is unique.
type GID struct {
	Origin NodeID
	Gen    uint64
	Seq    uint64
}

// IsZero reports whether g names nothing.
func (g GID) IsZero() bool { return g == GID{} }

// String is the name that PostgreSQL sees in PREPARE TRANSACTION.
func (g GID) String() string {
	return fmt.Sprintf("%s%d-%d-%d", GIDPrefix, g.Origin, g.Gen, g.Seq)
}

// SQL is a complete statement about g: verb is PREPARE TRANSACTION, COMMIT PREPARED or ROLLBACK PREPARED.
// A GID holds only digits, dashes and letters, so quoting it is safe.
func (g GID) SQL(verb string) string { return verb + " '" + g.String() + "'" }

// userSuffix ends the name of what a user prepared.
const userSuffix = "-user"

// UserName is the name under which PostgreSQL holds a transaction that a user prepared, by a name of his own. g is the
// transaction that tells all nodes of it.
func (g GID) UserName() string { return g.String() + userSuffix }

// ParseUserName reads what UserName wrote.
func ParseUserName(text string) (g GID, ok bool) {
	name, found := strings.CutSuffix(text, userSuffix)
	if !found {
		return GID{}, false
	}
	return ParseGID(name)
}

// Less orders transactions of one origin by age, and of several by origin.
func (g GID) Less(h GID) bool {
	if g.Origin != h.Origin {
		return g.Origin < h.Origin
	}
	return g.Seq < h.Seq
}

// ParseGID reads what String wrote. ok is false for any other text, a user's own gid among them.
func ParseGID(text string) (g GID, ok bool) {
	rest, found := strings.CutPrefix(text, GIDPrefix)
	if !found {
		return GID{}, false
	}
	parts := strings.Split(rest, "-")
	if len(parts) != 3 {
		return GID{}, false
	}
	origin, err1 := strconv.ParseUint(parts[0], 10, 8)
	gen, err2 := strconv.ParseUint(parts[1], 10, 64)
	seq, err3 := strconv.ParseUint(parts[2], 10, 64)
	g = GID{Origin: NodeID(origin), Gen: gen, Seq: seq}
	if err1 != nil || err2 != nil || err3 != nil || !g.Origin.Valid() || g.String() != text {
		return GID{}, false
	}
	return g, true
}
