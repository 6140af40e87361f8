package initcopy

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const dumped = `--
-- PostgreSQL database dump
--

\restrict abc

SET statement_timeout = 0;
SET transaction_timeout = 0;

--
-- Name: t; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.t (a integer DEFAULT 1);


--
-- Name: f(); Type: FUNCTION; Schema: public; Owner: postgres
--

CREATE FUNCTION public.f() RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT 1;
 SELECT 2;
END;


--
-- Name: mtm; Type: PUBLICATION; Schema: -; Owner: postgres
--

CREATE PUBLICATION mtm FOR ALL TABLES;


--
-- Name: !mtm_ddl; Type: EVENT TRIGGER; Schema: -; Owner: 
--

CREATE EVENT TRIGGER "!mtm_ddl" ON ddl_command_end EXECUTE FUNCTION mtm.on_ddl();


--
-- PostgreSQL database dump complete
--

\unrestrict abc
`

// TestScriptIsSplitByObjects: what psql alone understands is not run, nor what another version set; mtm's own objects are known.
func TestScriptIsSplitByObjects(t *testing.T) {
	var kept []object
	for _, o := range split(dumped) {
		if !ours(o.kind, o.name) {
			kept = append(kept, o)
		}
	}
	require.Len(t, kept, 2)
	require.Equal(t, object{"t", "TABLE", "\nCREATE TABLE public.t (a integer DEFAULT 1);\n\n\n"}, kept[0])
	require.Equal(t, "FUNCTION", kept[1].kind)
	require.Contains(t, kept[1].sql, "SELECT 2;\nEND;")
	require.Empty(t, split(""))
	require.False(t, ours("PUBLICATION", "mtm2"))
	require.False(t, ours("TABLE", "mtm"))
	require.True(t, ours("COMMENT", "PUBLICATION mtm"))
}

func TestPiecesMeetAndDoNotOverlap(t *testing.T) {
	require.Equal(t, `COPY (SELECT a FROM ONLY t) TO STDOUT`, Piece{Table: "t", Columns: "a"}.copySQL())
	require.Equal(t, `COPY (SELECT a FROM ONLY t WHERE ctid >= '(0,0)' AND ctid < '(16384,0)') TO STDOUT`, Piece{Table: "t", Columns: "a", To: 16384}.copySQL())
	require.Equal(t, `COPY (SELECT a FROM ONLY t WHERE ctid >= '(16384,0)') TO STDOUT`, Piece{Table: "t", Columns: "a", From: 16384}.copySQL())
}

func TestNoPasswordOnTheCommandLine(t *testing.T) {
	require.Equal(t, "postgres://u@h/db?sslmode=disable", withoutPassword("postgres://u:secret@h/db?sslmode=disable"))
	require.Equal(t, "host=h user=u  dbname=d", withoutPassword(`host=h user=u password='se\'c ret' dbname=d`))
	require.Equal(t, "host=h user=u dbname=d", withoutPassword("host=h user=u dbname=d"))
}

func TestSequencesGoPastWhatAnEarlierNodeGave(t *testing.T) {
	d := Description{Sequences: []Sequence{{Name: "s.x", Last: 5, Called: true, Table: "s.t", Column: "id", Up: true}, {Name: "y", Last: -3}}}
	require.Equal(t, []string{
		"SELECT setval('s.x', 5, true) WHERE (SELECT 5 BETWEEN seqmin AND seqmax FROM pg_sequence WHERE seqrelid = 's.x'::regclass)",
		"SELECT setval('y', -3, false) WHERE (SELECT -3 BETWEEN seqmin AND seqmax FROM pg_sequence WHERE seqrelid = 'y'::regclass)",
	}, sequencesSQL(d, false))
	require.Equal(t, "SELECT setval('s.x', v, true) FROM (SELECT max(id)::bigint FROM s.t) x (v) WHERE v > 5 AND "+
		"(SELECT v BETWEEN seqmin AND seqmax FROM pg_sequence WHERE seqrelid = 's.x'::regclass)", sequencesSQL(d, true)[1])
}
