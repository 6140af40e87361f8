package mtm

import "fmt"

// Generation says who may commit: every member must prepare, a majority of the configured must accept (S5).
type Generation struct {
	Num        uint64
	Members    NodeSet
	Configured NodeSet
}

// String is "gen 3 {1,2} of {1,2,3}".
func (g Generation) String() string {
	return fmt.Sprintf("gen %d %v of %v", g.Num, g.Members, g.Configured)
}

// LSN is a position in PostgreSQL's WAL, in bytes.
type LSN uint64

// String is PostgreSQL's notation, "16/B374D848".
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// Status is what a node says of itself, in the words of mtm.status().
type Status string

// The values of Status (REFERENCE: mtm.status()).
const (
	StatusOnline   Status = "online"   // member of its generation, serving
	StatusIsolated Status = "isolated" // online in its generation, but some members are out of reach
	StatusRecovery Status = "recovery" // applying what it missed; elected
	StatusCatchup  Status = "catchup"  // applying what it missed; not yet elected
	StatusDisabled Status = "disabled" // needs recovery, not yet clear from whom; or not initialised
)
