package schema

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// blockNode is the node where clients are.
func blockNode(t *testing.T, id int) *pgx.Conn {
	conn := newNode(t, id)
	mustExec(t, conn, `SET mtm.gateway = on; SET mtm.sequence_mode = block`)
	return conn
}

func TestBlockSequencesOfOneNode(t *testing.T) {
	conn := blockNode(t, 1)
	c := cluster{conn}
	mustExec(t, conn, `CREATE SEQUENCE s`)
	require.Equal(t, []string{"33|1|32|32|f"}, query(t, conn, `SELECT next, seqmin, seqmax, seqstart, open FROM mtm.blocks, pg_sequence`))
	require.Equal(t, "1 2 3", c.next(t, "s", 3))
}
