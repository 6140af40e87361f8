-- Sequences: every node gives ids of its own class, so ids never meet, and adding a node changes nothing.
--
-- A sequence that was created with START a INCREMENT g has 16 classes (mtm.MaxNodes); node k owns the values
--     a + (k-1)*g + n*16*|g|      for every integer n.
-- "anchor" a and "grain" g are fixed when the sequence is created: an ALTER that redefined them would need to know how
-- far the other nodes have counted. Whatever the user alters later, the sequence
--     steps by 16*lcm(|g|,|i|), i his increment: a multiple of 16*|g|, so it never leaves its class;
--     starts and restarts at the first value of its class at or after the one he names, in the direction of i;
--     wraps, if it cycles, to the first value of its class in the range.
-- No node has to know what another does, or whether the user has named a value that happens to be the one set here.
-- START too is the node's own, because TRUNCATE ... RESTART IDENTITY goes back to it without asking anybody.
--
-- Not stepped, and so exactly as the user wrote it: a sequence whose range has no room for 16 classes (MAXVALUE 5), one
-- whose step does not fit in a bigint, temporary ones, and what is created under mtm.sequence_mode = off.
-- A client that takes i ids after each nextval (blocks of its own) is safe if the sequence was created with that
-- INCREMENT. setval() of PostgreSQL may leave the class, and mtm.alter_sequences() mends that; but what clients write as setval() runs as
-- mtm.setval() below, which does not leave it, and takes the other nodes along.
--
-- A monotonic sequence does all that, and goes on past what other nodes have given: monotonic.sql. A block sequence is another matter: blocks.sql.
--
-- mtm.sequences: user_* is what the user asked for, set_* what the catalog got for it. A catalog value that is no longer set_*
-- is the user's new wish.

-- mtm.sequence_mode of this session: 'step' unless it was set. The gateway sends it along with each DDL.
CREATE OR REPLACE FUNCTION mtm.sequence_mode() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mode text := coalesce(nullif(current_setting('mtm.sequence_mode', true), ''), 'step');
BEGIN
    IF mode NOT IN ('step', 'monotonic', 'block', 'off') THEN
        RAISE EXCEPTION 'invalid value for parameter "mtm.sequence_mode": "%"', mode
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Available values: step, monotonic, block, off.';
    END IF;
    RETURN mode;
END $$;

-- The member of a class nearest to v, not below it (up) or not above it; base is any member, width the distance.
CREATE OR REPLACE FUNCTION mtm.in_class(v numeric, base numeric, width numeric, up boolean) RETURNS numeric
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN up THEN base + width * ceil((v - base) / width) ELSE base + width * floor((v - base) / width) END;

-- The column that owns a sequence.
CREATE OR REPLACE FUNCTION mtm.owner_of(seq oid, OUT attname name, OUT atttypid oid) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname, a.atttypid FROM pg_depend d JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.refobjid, d.refobjsubid)
    WHERE d.classid = 'pg_class'::regclass AND d.objid = seq AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
$$;

-- What the user wants of a sequence now, from the catalog and from what is remembered. fresh: it has just been created.
CREATE OR REPLACE FUNCTION mtm.sequence_wish(seq oid, fresh boolean) RETURNS mtm.sequences
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cat pg_sequence;
    s mtm.sequences;
BEGIN
    SELECT * INTO STRICT cat FROM pg_sequence WHERE seqrelid = seq;
    IF NOT fresh THEN
        SELECT * INTO s FROM mtm.sequences WHERE seqid = seq;
    ELSE -- LIKE ... INCLUDING IDENTITY copies the range that this node has of a block sequence, of a column of that name and type
        SELECT * INTO s FROM mtm.sequences m WHERE m.mode = 'block' AND m.seqid <> seq
            AND (m.set_min, m.set_max, m.set_start, m.set_increment) = (cat.seqmin, cat.seqmax, cat.seqstart, cat.seqincrement)
            ORDER BY (SELECT (a.attname, a.atttypid) FROM mtm.owner_of(seq) a) IS NOT DISTINCT FROM (SELECT (a.attname, a.atttypid) FROM mtm.owner_of(m.seqid) a) DESC LIMIT 1;
        IF FOUND THEN
            cat.seqstart := s.user_start;
            cat.seqmin := s.user_min;
            cat.seqmax := s.user_max;
        END IF;
        s.seqid := NULL;
    END IF;
    IF s.seqid IS NULL THEN
        RETURN ROW(seq, false, cat.seqstart, cat.seqincrement,
            cat.seqincrement, cat.seqstart, cat.seqmin, cat.seqmax,
            cat.seqincrement, cat.seqstart, cat.seqmin, cat.seqmax, 'step')::mtm.sequences;
    END IF;
    IF s.mode = 'block' AND cat.seqstart <> s.set_start THEN -- before_ddl has given the user's values back: all are what he wants now
        s.user_start := cat.seqstart;
        s.user_min := cat.seqmin;
        s.user_max := cat.seqmax;
    END IF;
    IF cat.seqincrement <> s.set_increment THEN s.user_increment := cat.seqincrement; END IF;
    IF cat.seqmin <> s.set_min THEN s.user_min := cat.seqmin; END IF;
    IF cat.seqmax <> s.set_max THEN s.user_max := cat.seqmax; END IF;
    IF cat.seqstart <> s.set_start THEN s.user_start := cat.seqstart; END IF;
    s.user_start := greatest(s.user_min, least(s.user_max, s.user_start));
    RETURN s;
END $$;

-- Fills set_* of a wish for node k: the class of k, or the user's own values if it cannot be stepped.
CREATE OR REPLACE FUNCTION mtm.sequence_plan(s mtm.sequences, k int, cycles boolean) RETURNS mtm.sequences
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    width numeric := 16 * abs(s.grain::numeric);
    base numeric := s.anchor::numeric + (k - 1) * s.grain::numeric;
    step numeric := 16 * lcm(abs(s.grain::numeric), abs(s.user_increment::numeric)) * sign(s.user_increment);
    up boolean := s.user_increment > 0;
    first numeric;
BEGIN
    s.set_increment := s.user_increment;
    s.set_start := s.user_start;
    s.set_min := s.user_min;
    s.set_max := s.user_max;
    s.stepped := s.user_max::numeric - s.user_min + 1 >= width AND abs(step) <= 9223372036854775807;
    IF NOT s.stepped THEN
        RETURN s;
    END IF;
    s.set_increment := step;
    first := mtm.in_class(s.user_start, base, width, up);
    IF first NOT BETWEEN s.user_min AND s.user_max THEN -- START is so near the end that no member of the class follows
        first := mtm.in_class(CASE WHEN up THEN s.user_max ELSE s.user_min END, base, width, NOT up);
    END IF;
    s.set_start := first;
    IF cycles AND up THEN
        s.set_min := mtm.in_class(s.user_min, base, width, true);
    ELSIF cycles THEN
        s.set_max := mtm.in_class(s.user_max, base, width, false);
    END IF;
    RETURN s;
END $$;

-- Where a stepped sequence must restart; NULL: where it is will do. It never goes back behind what it has given.
CREATE OR REPLACE FUNCTION mtm.sequence_restart(s mtm.sequences, k int, cycles boolean, last bigint, called boolean)
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    width numeric := 16 * abs(s.grain::numeric);
    base numeric := s.anchor::numeric + (k - 1) * s.grain::numeric;
    up boolean := s.set_increment > 0;
    member numeric := mtm.in_class(last, base, width, up);
BEGIN
    IF member = last AND last BETWEEN s.set_min AND s.set_max THEN
        RETURN NULL;
    ELSIF NOT called AND last = s.user_start THEN
        RETURN s.set_start;
    ELSIF member BETWEEN s.set_min AND s.set_max THEN
        RETURN member;
    ELSIF cycles THEN
        RETURN CASE WHEN up THEN s.set_min ELSE s.set_max END;
    END IF;
    RETURN NULL; -- exhausted
END $$;

-- Brings one sequence to the given mode. It runs the ALTER with session_replication_role = replica, so that event triggers of the
-- user do not see it. Our own does, and finds nothing left to do: the row is written first.
CREATE OR REPLACE FUNCTION mtm.set_sequence(seq oid, fresh boolean, mode text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = replica AS $$
DECLARE
    cat pg_sequence;
    s mtm.sequences := mtm.sequence_wish(seq, fresh);
    k int := (SELECT id FROM mtm.node);
    last bigint;
    called boolean;
    target bigint;
    changed boolean;
BEGIN
    IF fresh THEN
        DELETE FROM mtm.blocks WHERE seqid = seq; -- of a dropped sequence with the same oid
    ELSIF mode = 'block' AND EXISTS (SELECT FROM mtm.blocks WHERE seqid = seq) THEN
        PERFORM mtm.block_altered(seq);
        RETURN;
    END IF;
    IF mode = 'block' AND fresh AND mtm.may_block(s) THEN
        PERFORM mtm.make_block(s);
        RETURN;
    ELSIF mode = 'block' THEN
        mode := 'step';
    END IF;
    SELECT * INTO STRICT cat FROM pg_sequence WHERE seqrelid = seq;
    EXECUTE format('SELECT last_value, is_called FROM %s', seq::regclass) INTO last, called;
    IF fresh AND NOT called AND last = cat.seqstart THEN
        last := s.user_start;
    END IF;
    IF mode <> 'off' THEN
        s := mtm.sequence_plan(s, k, cat.seqcycle);
        s.mode := mode;
        INSERT INTO mtm.sequences AS m SELECT (s).*
            ON CONFLICT (seqid) DO UPDATE SET (stepped, anchor, grain, user_increment, user_start, user_min, user_max,
                set_increment, set_start, set_min, set_max, mode) = ROW(s.stepped, s.anchor, s.grain, s.user_increment, s.user_start,
                s.user_min, s.user_max, s.set_increment, s.set_start, s.set_min, s.set_max, s.mode)
            WHERE m IS DISTINCT FROM s;
    ELSE
        s.stepped := false;
        s.set_increment := s.user_increment;
        s.set_start := s.user_start;
        s.set_min := s.user_min;
        s.set_max := s.user_max;
        DELETE FROM mtm.sequences WHERE seqid = seq;
    END IF;
    IF s.stepped THEN
        target := mtm.sequence_restart(s, k, cat.seqcycle, last, called);
    END IF;
    changed := (cat.seqincrement, cat.seqstart, cat.seqmin, cat.seqmax)
        IS DISTINCT FROM (s.set_increment, s.set_start, s.set_min, s.set_max);
    IF changed OR target IS NOT NULL THEN
        EXECUTE format('ALTER SEQUENCE %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s',
            seq::regclass, s.set_increment, s.set_min, s.set_max, s.set_start)
            || coalesce(' RESTART WITH ' || target, '');
    END IF;
    IF s.stepped AND target IS NULL AND NOT called
        AND last <> mtm.in_class(last, s.anchor::numeric + (k - 1) * s.grain::numeric, 16 * abs(s.grain::numeric), true) THEN
        -- Restarted behind the last value of its class: exhausted, though it has not given what it stands at.
        PERFORM setval(seq::regclass, CASE WHEN s.set_increment > 0 THEN s.set_max ELSE s.set_min END, true);
    END IF;
END $$;

-- Brings all sequences to a mode. keep: those that have one keep it. Whether it is block is decided when a sequence is created: from then on
-- all nodes must agree on it, also those that are away.
CREATE OR REPLACE FUNCTION mtm.adapt_sequences(mode text, keep boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seq record;
BEGIN
    DELETE FROM mtm.sequences m WHERE NOT EXISTS (SELECT FROM pg_sequence p WHERE p.seqrelid = m.seqid);
    FOR seq IN
        SELECT c.oid, m.mode FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN mtm.sequences m ON m.seqid = c.oid
        WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'mtm' ORDER BY c.oid
    LOOP
        CONTINUE WHEN seq.mode = 'block';
        PERFORM mtm.set_sequence(seq.oid, false, CASE WHEN keep AND seq.mode IS NOT NULL THEN seq.mode ELSE mode END);
    END LOOP;
    PERFORM mtm.set_watches(), mtm.catch_up();
END $$;

-- Brings all sequences to this session's mtm.sequence_mode: those that existed before, and those that setval() led astray.
CREATE OR REPLACE FUNCTION mtm.alter_sequences() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF mtm.sequence_mode() = 'block' THEN
        RAISE EXCEPTION 'a sequence that exists cannot become one of mode block' USING ERRCODE = 'feature_not_supported',
            DETAIL = 'A node that is away may have given values that the others do not know of.',
            HINT = 'Create a sequence that starts behind all values that were given, and make it the default of the column.';
    END IF;
    PERFORM mtm.adapt_sequences(mtm.sequence_mode(), false);
END $$;

-- What setval(seq, v, called) is to set here: the first value of this node's class that nextval() may give then. fits: there is one; else
-- the end of the range, as given. NULL if the sequence is not stepped, or v not in its range.
CREATE OR REPLACE FUNCTION mtm.setval_target(seq oid, v bigint, called boolean, OUT value bigint, OUT fits boolean)
LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s mtm.sequences;
    up boolean;
    next numeric;
BEGIN
    SELECT * INTO s FROM mtm.sequences WHERE seqid = seq AND stepped AND mode <> 'block' AND v BETWEEN user_min AND user_max;
    IF s.seqid IS NULL THEN
        RETURN;
    END IF;
    up := s.set_increment > 0;
    next := mtm.in_class(CASE WHEN NOT called THEN v::numeric WHEN up THEN v::numeric + 1 ELSE v::numeric - 1 END,
        s.anchor::numeric + ((SELECT id FROM mtm.node) - 1) * s.grain::numeric, 16 * abs(s.grain::numeric), up);
    fits := next BETWEEN s.set_min AND s.set_max;
    value := CASE WHEN fits THEN next WHEN up THEN s.set_max ELSE s.set_min END;
END $$;

-- Who may set a sequence may tell the other nodes so: checked as who does it. Nothing stays in the table.
CREATE OR REPLACE FUNCTION mtm.may_setval() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_sequence_privilege(NEW.seq, 'UPDATE') THEN
        RAISE EXCEPTION 'permission denied for sequence %', NEW.seq USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION mtm.say_setval() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM mtm.blocks WHERE seqid = NEW.seq) THEN
        PERFORM mtm.setval_block(NEW.seq, NEW.v, NEW.called);
        RETURN NULL;
    END IF;
    PERFORM set_config('mtm.ddl_nested', 'on', true), -- so that the transaction is sent
        mtm.say('mtm.setval', json_build_object('v', 1, 'schema', n.nspname, 'name', c.relname, 'value', NEW.v, 'called', NEW.called)::text)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = NEW.seq AND c.relpersistence = 'p';
    RETURN NULL;
END $$;

-- Tells the other nodes that setval() was called. It hands its value on.
CREATE OR REPLACE FUNCTION mtm.setval_done(seq regclass, v bigint, called boolean, done bigint) RETURNS bigint
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('mtm.gateway', true) = 'on' AND (SELECT relpersistence = 'p' FROM pg_class WHERE oid = seq) THEN
        INSERT INTO mtm.setvals VALUES (seq, v, called);
    END IF;
    RETURN v;
END $$;

-- One of mode block is not set here and now: its numbers, and the time, are the cluster's (blocks.sql).
CREATE OR REPLACE FUNCTION mtm.is_block(seq oid) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT EXISTS (SELECT FROM mtm.blocks WHERE seqid = seq) $$;

-- setval() as clients call it, through the gateway. Functions in SQL, which PostgreSQL puts in place of the call: errors look as ever.
CREATE OR REPLACE FUNCTION mtm.setval(seq regclass, v bigint, called boolean) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT mtm.setval_done(seq, v, called, CASE WHEN mtm.is_block(seq) THEN v ELSE pg_catalog.setval(seq,
        coalesce((mtm.setval_target(seq, v, called)).value, v), coalesce(NOT (mtm.setval_target(seq, v, called)).fits, called)) END)
$$;
CREATE OR REPLACE FUNCTION mtm.setval(seq regclass, v bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT mtm.setval_done(seq, v, true, CASE WHEN mtm.is_block(seq) THEN v ELSE pg_catalog.setval(seq,
        coalesce((mtm.setval_target(seq, v, true)).value, v), coalesce(NOT (mtm.setval_target(seq, v, true)).fits, true)) END)
$$;

-- Takes this node's sequence along when setval() was called on another: forward only, for what it has given it must not give again.
CREATE OR REPLACE FUNCTION mtm.follow_setval(schema text, name text, v bigint, called boolean) RETURNS void
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seq regclass := to_regclass(format('%I.%I', schema, name));
    p pg_sequence;
    target record;
    next numeric;
    steps numeric;
BEGIN
    SELECT * INTO p FROM pg_sequence WHERE seqrelid = seq;
    IF p.seqrelid IS NULL THEN
        RETURN;
    END IF;
    target := mtm.setval_target(seq, v, called);
    IF target.fits IS NULL THEN
        target.fits := v BETWEEN p.seqmin AND p.seqmax AND NOT called;
        target.value := greatest(p.seqmin, least(p.seqmax, v));
    END IF;
    EXECUTE format('SELECT last_value::numeric + CASE WHEN is_called AND $1 THEN $2 ELSE 0 END FROM %s', seq) INTO next USING target.fits, p.seqincrement;
    steps := ceil((target.value - next) / p.seqincrement);
    IF steps > 0 AND target.fits AND NOT p.seqcycle THEN
        PERFORM mtm.advance(seq, target.value - sign(p.seqincrement::numeric));
    ELSIF steps > 0 THEN
        PERFORM setval(seq, target.value, NOT target.fits);
    END IF;
END $$;

REVOKE ALL ON FUNCTION mtm.owner_of, mtm.sequence_wish, mtm.sequence_plan, mtm.sequence_restart, mtm.set_sequence, mtm.adapt_sequences, mtm.alter_sequences, mtm.follow_setval,
    mtm.may_setval, mtm.say_setval
    FROM public;
GRANT EXECUTE ON FUNCTION mtm.alter_sequences TO mtm_admin;
