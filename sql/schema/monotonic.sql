-- Monotonic sequences: what a node gives is beyond every value that came to it in rows of other nodes, in columns that count by that
-- sequence. Triggers on their tables, for who applies rows only, see what comes, and move this node's sequence on, before the row is
-- committed anywhere. The sequence stays in the node's class (sequences.sql), so ids never meet; what was moved on and rolled back leaves gaps.

-- As in mtm.identity_work: it leaves no lock behind.
CREATE OR REPLACE FUNCTION mtm.has_monotonic() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found boolean;
BEGIN
    found := EXISTS (SELECT FROM mtm.sequences JOIN pg_sequence ON seqrelid = seqid WHERE mode = 'monotonic');
    RAISE EXCEPTION USING ERRCODE = 'MTM00';
EXCEPTION WHEN SQLSTATE 'MTM00' THEN
    RETURN found;
END $$;

-- Moves a sequence on until what it gives next is beyond seen. Others may call nextval() meanwhile, and nothing may ever go back: so
-- it is nextval() that moves it, by the whole way at once. For that the step is another, in a sub-transaction that nobody else sees and that is
-- rolled back; what nextval() did stays. The bound makes it fail, and be tried again, if others have moved the sequence on meanwhile, so that
-- many who do this at once do not drive it before them. If nothing of the range is beyond seen, it stays where it is.
CREATE OR REPLACE FUNCTION mtm.advance(seq oid, seen numeric) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s pg_sequence;
    last bigint;
    called boolean;
    next numeric;
    n numeric;          -- how many values are to be passed over
    slack numeric;      -- how many more others may have taken
BEGIN
    SELECT * INTO s FROM pg_sequence WHERE seqrelid = seq;
    IF NOT FOUND OR s.seqcycle THEN
        RETURN;
    END IF;
    LOOP
        EXECUTE format('SELECT last_value, is_called FROM %s', seq::regclass) INTO last, called;
        next := last::numeric + CASE WHEN called THEN s.seqincrement ELSE 0 END;
        n := floor((seen - next) / s.seqincrement) + 1;
        IF n <= 0 OR next + n * s.seqincrement NOT BETWEEN s.seqmin AND s.seqmax THEN
            RETURN;
        END IF;
        BEGIN
            IF NOT called THEN -- nextval() gives it as it is
                n := 1;
            END IF;
            n := least(n, floor(9e18 / abs(s.seqincrement)));
            slack := 8 + floor(n / 8);
            UPDATE pg_sequence SET seqcache = 1,
                seqincrement = CASE WHEN called THEN n * s.seqincrement ELSE s.seqincrement END,
                seqmax = CASE WHEN s.seqincrement > 0 THEN least(s.seqmax, next + (n - 1 + slack) * s.seqincrement) ELSE s.seqmax END,
                seqmin = CASE WHEN s.seqincrement < 0 THEN greatest(s.seqmin, next + (n - 1 + slack) * s.seqincrement) ELSE s.seqmin END
            WHERE seqrelid = seq;
            PERFORM nextval(seq::regclass);
            RAISE EXCEPTION USING ERRCODE = 'MTM00';
        EXCEPTION WHEN SQLSTATE 'MTM00' OR sequence_generator_limit_exceeded THEN
            NULL;
        END;
    END LOOP;
END $$;

-- Arguments: the sequence, the number of the column.
CREATE OR REPLACE FUNCTION mtm.watch() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col name;
    extreme text;
    seen bigint;
BEGIN
    SELECT a.attname, CASE WHEN s.seqincrement > 0 THEN 'max' ELSE 'min' END INTO col, extreme
    FROM pg_attribute a, pg_sequence s
    WHERE a.attrelid = TG_RELID AND a.attnum = TG_ARGV[1]::int2 AND NOT a.attisdropped AND s.seqrelid = TG_ARGV[0]::oid;
    IF FOUND THEN
        EXECUTE format('SELECT %s(%I) FROM mtm_seen', extreme, col) INTO seen;
        IF seen IS NOT NULL THEN
            PERFORM mtm.advance(TG_ARGV[0]::oid, seen);
        END IF;
    END IF;
    RETURN NULL;
END $$;

-- The triggers that there must be: for each column, of whole numbers, whose default or identity is a monotonic sequence, of that table
-- and of what inherits from it. It too leaves no lock behind.
CREATE OR REPLACE FUNCTION mtm.wanted_watches(OUT rel oid, OUT tgname name, OUT seq oid, OUT attnum int2) RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY WITH RECURSIVE family(seq, rel, col) AS (
        SELECT m.seqid, coalesce(f.adrelid, d.refobjid), a.attname
        FROM mtm.sequences m JOIN pg_sequence s ON s.seqrelid = m.seqid
            JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = m.seqid AND d.refclassid = 'pg_class'::regclass
                AND d.deptype = 'i' AND d.refobjsubid > 0
              OR d.refclassid = 'pg_class'::regclass AND d.refobjid = m.seqid AND d.classid = 'pg_attrdef'::regclass
            LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
            JOIN pg_attribute a ON a.attrelid = coalesce(f.adrelid, d.refobjid) AND a.attnum = coalesce(f.adnum, d.refobjsubid)
        WHERE m.mode = 'monotonic' AND m.stepped
        UNION SELECT f.seq, i.inhrelid, f.col FROM family f JOIN pg_inherits i ON i.inhparent = f.rel
    )
    SELECT f.rel, format('mtm_%s_%s_%s', f.seq, a.attnum, op)::name, f.seq, a.attnum
    FROM family f JOIN pg_class c ON c.oid = f.rel AND c.relkind = 'r' AND c.relpersistence = 'p'
        JOIN pg_attribute a ON a.attrelid = f.rel AND a.attname = f.col AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = a.atttypid AND coalesce(nullif(t.typbasetype, 0), t.oid) = ANY ('{int2,int4,int8}'::regtype[])
        CROSS JOIN unnest('{insert,update}'::text[]) op;
    RAISE EXCEPTION USING ERRCODE = 'MTM00';
EXCEPTION WHEN SQLSTATE 'MTM00' THEN
    NULL;
END $$;

-- Makes what lacks and drops what is too many. The triggers count as PostgreSQL's own, so that they show neither in \d nor in a dump.
-- As in mtm.set_sequence the user's event triggers do not see it.
CREATE OR REPLACE FUNCTION mtm.set_watches() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = replica AS $$
DECLARE
    w record;
BEGIN
    FOR w IN SELECT t.tgname, t.tgrelid::regclass AS rel FROM pg_trigger t
        WHERE t.tgfoid = 'mtm.watch'::regproc AND (t.tgrelid, t.tgname) NOT IN (SELECT x.rel, x.tgname FROM mtm.wanted_watches() x)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', w.tgname, w.rel);
    END LOOP;
    FOR w IN SELECT x.* FROM mtm.wanted_watches() x
        WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE (t.tgrelid, t.tgname) = (x.rel, x.tgname))
    LOOP
        EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s REFERENCING NEW TABLE AS mtm_seen FOR EACH STATEMENT EXECUTE FUNCTION mtm.watch(%s, %s)',
            w.tgname, split_part(w.tgname, '_', 4), w.rel::regclass, w.seq, w.attnum);
        UPDATE pg_trigger SET tgisinternal = true, tgenabled = 'R' WHERE (tgrelid, tgname) = (w.rel, w.tgname);
        UPDATE pg_class SET relhastriggers = true WHERE oid = w.rel; -- so that sessions look again
    END LOOP;
END $$;

-- Has the sequences go on past the rows that are here.
CREATE OR REPLACE FUNCTION mtm.catch_up() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w record;
    seen bigint;
BEGIN
    FOR w IN SELECT x.rel::regclass AS rel, x.seq, a.attname, s.seqincrement > 0 AS up
        FROM mtm.wanted_watches() x JOIN pg_sequence s ON s.seqrelid = x.seq JOIN pg_attribute a ON (a.attrelid, a.attnum) = (x.rel, x.attnum)
        WHERE x.tgname LIKE '%insert'
    LOOP
        EXECUTE format('SELECT %s(%I) FROM ONLY %s', CASE WHEN w.up THEN 'max' ELSE 'min' END, w.attname, w.rel) INTO seen;
        IF seen IS NOT NULL THEN
            PERFORM mtm.advance(w.seq, seen);
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION mtm.has_monotonic, mtm.advance, mtm.catch_up, mtm.watch, mtm.wanted_watches, mtm.set_watches FROM public;
