-- Block sequences: small, dense numbers. A node gives values out of a range that is its own; a cluster-wide transaction draws it.
--
-- mtm.blocks.next is the first value that nobody has drawn, the same on all nodes. Who draws writes it, and has all nodes write it, in one
-- transaction: two who draw at once meet at that row. The bounds in the catalog (set_min, set_max) are those of the node's range, so that
-- nextval() stops at its end, and setval() of PostgreSQL stays in it. A range is put to use when its transaction is committed:
--   - directly behind the range in use: MAXVALUE moves;
--   - else the sequence is set to the value before it, called, which with the old MAXVALUE gives nothing, and then MAXVALUE moves. Sessions
--     that have not heard of it yet only stop too soon, and so does PostgreSQL after a crash in between.
-- Values that sessions have in their caches are of ranges that were this node's.
--
-- CREATE, RESTART, TRUNCATE ... RESTART IDENTITY and setval() begin anew: whose transaction does that has the sequence to itself, by
-- PostgreSQL's locks and a new file, so the sequence is "open": nothing bounds it, and the end of the transaction (close_block) takes as drawn
-- what it gave, and some more for this node. The other nodes are told where it goes on, and lose their ranges in the same transaction.
-- START in the catalog is the last value of the range: where the sequence is found there, uncalled, TRUNCATE ... RESTART IDENTITY has been.
-- (Were that missed, the node would give a value of its own twice; only one that has none would give one that may be another's.)
--
-- DDL locks the row in mtm.blocks, so that names, by which nodes speak of sequences, do not change while somebody draws.

-- How many values are drawn: at first, and at most.
CREATE OR REPLACE FUNCTION mtm.block_sizes(OUT least_ bigint, OUT most bigint) LANGUAGE sql IMMUTABLE AS 'SELECT 32, 65536';

-- Whether a sequence that has just been created may have mode block: logged, not CYCLE, with room.
CREATE OR REPLACE FUNCTION mtm.may_block(s mtm.sequences) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.relpersistence = 'p' AND NOT p.seqcycle
        AND (s.user_max::numeric - s.user_min) / abs(s.user_increment::numeric) >= 16 * (mtm.block_sizes()).least_
    FROM pg_sequence p JOIN pg_class c ON c.oid = p.seqrelid WHERE p.seqrelid = s.seqid
$$;

-- Sets the bounds in the catalog. PostgreSQL wants two values between them, at least; the one that is added is one that nextval() has passed.
CREATE OR REPLACE FUNCTION mtm.fence_block(seq oid, one bigint, other bigint, start bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    low bigint := least(one, other);
    high bigint := greatest(one, other);
BEGIN
    IF low = high AND (SELECT user_increment > 0 FROM mtm.sequences WHERE seqid = seq) THEN
        low := low - 1;
    ELSIF low = high THEN
        high := high + 1;
    END IF;
    UPDATE pg_sequence SET seqmin = low, seqmax = high, seqstart = start WHERE seqrelid = seq;
    UPDATE mtm.sequences SET set_min = low, set_max = high, set_start = start, set_increment = user_increment WHERE seqid = seq;
END $$;

-- Where a sequence stands: the value that nextval() would give if nothing bounded it, and whether the last one is given.
CREATE OR REPLACE FUNCTION mtm.block_place(seq oid, OUT last bigint, OUT called boolean, OUT next numeric)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('SELECT last_value, is_called FROM %s', seq::regclass) INTO last, called;
    next := last::numeric + CASE WHEN called THEN (SELECT seqincrement FROM pg_sequence WHERE seqrelid = seq) ELSE 0 END;
END $$;

-- Leaves this node without values. The sequence has a new file in this transaction, or nobody uses it.
CREATE OR REPLACE FUNCTION mtm.empty_block(seq oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s mtm.sequences;
    v bigint;
BEGIN
    SELECT * INTO s FROM mtm.sequences WHERE seqid = seq;
    v := CASE WHEN s.user_increment > 0 THEN greatest(s.user_start, s.user_min + 1) ELSE least(s.user_start, s.user_max - 1) END;
    PERFORM mtm.fence_block(seq, v, v, v), setval(seq::regclass, v, true);
    UPDATE mtm.blocks SET open = false, first = NULL, last = NULL, size = (mtm.block_sizes()).least_, drawn = NULL, since = clock_timestamp() WHERE seqid = seq;
END $$;

-- Begins anew at v, which may be past the end. The sequence has a new file in this transaction.
CREATE OR REPLACE FUNCTION mtm.open_block(seq oid, v numeric) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s mtm.sequences;
    bound bigint;
BEGIN
    SELECT * INTO s FROM mtm.sequences WHERE seqid = seq;
    bound := CASE WHEN s.user_increment > 0 THEN s.user_max ELSE s.user_min END;
    PERFORM mtm.fence_block(seq, s.user_min, s.user_max, bound);
    IF v BETWEEN s.user_min AND s.user_max THEN
        PERFORM setval(seq::regclass, v::bigint, false);
    ELSE
        PERFORM setval(seq::regclass, bound, true);
    END IF;
    INSERT INTO mtm.blocks VALUES (seq, v, (mtm.block_sizes()).least_, NULL, NULL, NULL, true, clock_timestamp())
        ON CONFLICT (seqid) DO UPDATE SET next = v, size = excluded.size, first = NULL, last = NULL, drawn = NULL, open = true, since = excluded.since;
    PERFORM set_config('mtm.ddl_nested', 'on', true); -- so that the transaction is sent
END $$;

-- Gives the sequence a new file, and the user's bounds, in this transaction; nobody else can use it until its end.
CREATE OR REPLACE FUNCTION mtm.renew_block(seq oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = replica AS $$
BEGIN
    UPDATE pg_sequence p SET seqmin = m.user_min, seqmax = m.user_max, seqstart = m.user_start FROM mtm.sequences m
    WHERE p.seqrelid = seq AND m.seqid = seq;
    EXECUTE format('ALTER SEQUENCE %s RESTART', seq::regclass);
END $$;

-- Tells the other nodes where drawing goes on. start: the first value drawn; NULL: the sequence began anew.
CREATE OR REPLACE FUNCTION mtm.say_block(seq oid, start numeric, next numeric) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM mtm.say('mtm.block', json_build_object('v', 1, 'schema', n.nspname, 'name', c.relname, 'start', start::text, 'next', next::text)::text)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = seq;
END $$;

-- At the end of a transaction that opened a sequence: where a client's session did so, this node has what comes next; else it has nothing.
CREATE OR REPLACE FUNCTION mtm.close_block() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seq CONSTANT oid := NEW.seqid;
    b mtm.blocks;
    s mtm.sequences;
    place record;
    bound bigint;
    n numeric;
    last bigint;
BEGIN
    SELECT * INTO b FROM mtm.blocks WHERE seqid = seq AND open FOR UPDATE;
    SELECT * INTO s FROM mtm.sequences WHERE seqid = seq;
    IF b.seqid IS NULL OR s.seqid IS NULL THEN
        RETURN NULL;
    END IF;
    place := mtm.block_place(seq);
    IF current_setting('mtm.gateway', true) IS DISTINCT FROM 'on' THEN -- what was given here, by a statement that ran on all nodes, is
        UPDATE mtm.blocks SET next = place.next WHERE seqid = seq AND (place.next - next) * s.user_increment > 0;
        PERFORM mtm.empty_block(seq);
        RETURN NULL;
    END IF;
    bound := CASE WHEN s.user_increment > 0 THEN s.user_max ELSE s.user_min END;
    n := least(b.size, floor((bound - place.next) / s.user_increment) + 1);
    IF n < 2 THEN -- the end
        PERFORM mtm.fence_block(seq, bound, bound, bound), setval(seq::regclass, bound, true);
        b.next := greatest(place.next * sign(s.user_increment), (bound::numeric + s.user_increment) * sign(s.user_increment)) * sign(s.user_increment);
    ELSE
        last := place.next + (n - 1) * s.user_increment;
        PERFORM mtm.fence_block(seq, place.next::bigint, last, last);
        b.next := last::numeric + s.user_increment;
    END IF;
    UPDATE mtm.blocks SET next = b.next, open = false WHERE seqid = seq;
    PERFORM mtm.say_block(seq, NULL, b.next);
    RETURN NULL;
END $$;

-- What another node's transaction has drawn, or begun anew (start is NULL).
CREATE OR REPLACE FUNCTION mtm.follow_block(schema text, name text, start numeric, upto numeric) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seq oid := to_regclass(format('%I.%I', schema, name));
    b mtm.blocks;
BEGIN
    SELECT * INTO b FROM mtm.blocks WHERE seqid = seq FOR UPDATE;
    IF b.seqid IS NULL THEN
        RETURN; -- dropped
    ELSIF start IS NULL THEN
        PERFORM mtm.renew_block(seq), mtm.empty_block(seq);
    ELSIF (start - b.next) * sign((SELECT seqincrement FROM pg_sequence WHERE seqrelid = seq)) < 0 THEN
        RAISE EXCEPTION 'numbers from % on of sequence % have been drawn already', start, seq::regclass USING ERRCODE = 'serialization_failure',
            DETAIL = format('Here those from %s on are free.', b.next), HINT = 'The transaction might succeed if retried.';
    END IF;
    UPDATE mtm.blocks SET next = upto WHERE seqid = seq;
END $$;

-- A sequence that has just been created.
CREATE OR REPLACE FUNCTION mtm.make_block(s mtm.sequences) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place record := mtm.block_place(s.seqid);
    start bigint := (SELECT seqstart FROM pg_sequence WHERE seqrelid = s.seqid); -- another, if it is LIKE one of mode block
BEGIN
    DELETE FROM mtm.sequences WHERE seqid = s.seqid; -- of a dropped sequence with the same oid
    s.stepped := true;
    s.mode := 'block';
    INSERT INTO mtm.sequences SELECT (s).*;
    PERFORM mtm.open_block(s.seqid, CASE WHEN NOT place.called AND place.last = start THEN s.user_start ELSE place.next END);
END $$;

-- After DDL about a block sequence. mtm.restarts: before_ddl saw that it may have been RESTART; then, where a client runs it, who stands at an
-- uncalled value has been restarted.
CREATE OR REPLACE FUNCTION mtm.block_altered(seq oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b mtm.blocks;
    cat pg_sequence;
    old mtm.sequences;
    s mtm.sequences := mtm.sequence_wish(seq, false);
    place record := mtm.block_place(seq);
    target numeric; -- where it begins anew
    low bigint;
    high bigint;
BEGIN
    UPDATE mtm.blocks SET seqid = seq WHERE seqid = seq RETURNING * INTO b;
    SELECT * INTO cat FROM pg_sequence WHERE seqrelid = seq;
    SELECT * INTO old FROM mtm.sequences WHERE seqid = seq;
    IF cat.seqcycle OR (SELECT relpersistence <> 'p' FROM pg_class WHERE oid = seq) THEN
        RAISE EXCEPTION 'a sequence of mode block cannot become CYCLE or UNLOGGED' USING ERRCODE = 'feature_not_supported',
            DETAIL = 'Its numbers would come again, on other nodes.', HINT = 'Create one with mtm.sequence_mode = step.';
    END IF;
    UPDATE mtm.sequences SET user_increment = s.user_increment, user_start = s.user_start, user_min = s.user_min, user_max = s.user_max WHERE seqid = seq;
    IF NOT place.called AND place.last = old.set_start AND cat.seqstart = old.set_start THEN
        target := s.user_start;
    ELSIF NOT place.called AND (current_setting('mtm.restarts', true) = 'on' OR place.last NOT BETWEEN old.set_min AND old.set_max) THEN
        target := place.last;
    ELSIF sign(s.user_increment) <> sign(old.user_increment) THEN
        target := place.next;
    END IF;
    IF target IS NOT NULL AND (b.open OR current_setting('mtm.gateway', true) = 'on') THEN
        PERFORM mtm.open_block(seq, target);
    ELSIF target IS NOT NULL THEN
        PERFORM mtm.empty_block(seq);
    ELSIF b.open THEN
        PERFORM mtm.fence_block(seq, s.user_min, s.user_max, CASE WHEN s.user_increment > 0 THEN s.user_max ELSE s.user_min END);
    ELSE
        low := greatest(s.user_min, least(s.user_max, old.set_min));
        high := greatest(s.user_min, least(s.user_max, old.set_max));
        PERFORM mtm.fence_block(seq, low, high, CASE WHEN s.user_increment > 0 THEN high ELSE low END);
        IF low = high AND NOT place.called THEN -- it would look like TRUNCATE ... RESTART IDENTITY
            PERFORM setval(seq::regclass, low, true);
        END IF;
        IF b.first + s.user_increment::numeric NOT BETWEEN s.user_min AND s.user_max OR b.first NOT BETWEEN s.user_min AND s.user_max THEN
            UPDATE mtm.blocks SET first = NULL, last = NULL WHERE seqid = seq; -- drawn, and beyond the new bounds
        ELSIF s.user_increment > 0 THEN
            UPDATE mtm.blocks SET last = least(last, first + div(s.user_max::numeric - first, s.user_increment) * s.user_increment) WHERE seqid = seq AND first IS NOT NULL;
        ELSE
            UPDATE mtm.blocks SET last = greatest(last, first + div(s.user_min::numeric - first, s.user_increment) * s.user_increment) WHERE seqid = seq AND first IS NOT NULL;
        END IF;
    END IF;
END $$;

-- Whether there are block sequences. It leaves no lock behind.
CREATE OR REPLACE FUNCTION mtm.has_blocks() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found boolean;
BEGIN
    found := EXISTS (SELECT FROM mtm.blocks);
    RAISE EXCEPTION USING ERRCODE = 'MTM00';
EXCEPTION WHEN SQLSTATE 'MTM00' THEN
    RETURN found;
END $$;

-- setval(seq, v, called) of a client: it begins anew, on all nodes, when the transaction commits.
CREATE OR REPLACE FUNCTION mtm.setval_block(seq oid, v bigint, called boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s mtm.sequences;
BEGIN
    SELECT * INTO s FROM mtm.sequences WHERE seqid = seq;
    IF v NOT BETWEEN s.user_min AND s.user_max THEN
        RAISE EXCEPTION 'setval: value % is out of bounds for sequence "%" (%..%)', v, (SELECT relname FROM pg_class WHERE oid = seq), s.user_min, s.user_max
            USING ERRCODE = 'numeric_value_out_of_range';
    END IF;
    PERFORM mtm.renew_block(seq);
    PERFORM mtm.open_block(seq, v::numeric + CASE WHEN called THEN s.user_increment ELSE 0 END);
END $$;

-- Triggers of tables that own block sequences: was it TRUNCATE ... RESTART IDENTITY?
CREATE OR REPLACE FUNCTION mtm.truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s mtm.sequences;
    place record;
BEGIN
    FOR s IN SELECT m.* FROM mtm.block_owners() o JOIN mtm.sequences m ON m.seqid = o.seq WHERE o.rel = TG_RELID LOOP
        place := mtm.block_place(s.seqid);
        IF NOT place.called AND place.last = s.set_start AND current_setting('mtm.gateway', true) = 'on' THEN
            PERFORM mtm.open_block(s.seqid, s.user_start);
        ELSIF NOT place.called AND place.last = s.set_start THEN
            PERFORM mtm.empty_block(s.seqid);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION mtm.block_owners(OUT rel oid, OUT seq oid) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid, b.seqid FROM mtm.blocks b JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = b.seqid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
        JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p')
$$;

-- Makes those triggers, as mtm.set_watches does. They fire on all nodes.
CREATE OR REPLACE FUNCTION mtm.set_truncates() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = replica AS $$
DECLARE
    w record;
BEGIN
    FOR w IN SELECT t.tgrelid::regclass AS rel FROM pg_trigger t
        WHERE t.tgfoid = 'mtm.truncated'::regproc AND t.tgrelid NOT IN (SELECT o.rel FROM mtm.block_owners() o)
    LOOP
        EXECUTE format('DROP TRIGGER mtm_truncated ON %s', w.rel);
    END LOOP;
    FOR w IN SELECT DISTINCT o.rel FROM mtm.block_owners() o
        WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = o.rel AND t.tgfoid = 'mtm.truncated'::regproc AND t.tgenabled = 'A')
    LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = w.rel AND t.tgfoid = 'mtm.truncated'::regproc) THEN
            EXECUTE format('CREATE TRIGGER mtm_truncated AFTER TRUNCATE ON %s EXECUTE FUNCTION mtm.truncated()', w.rel::regclass);
        END IF;
        UPDATE pg_trigger SET tgisinternal = true, tgenabled = 'A' WHERE (tgrelid, tgname) = (w.rel, 'mtm_truncated');
        UPDATE pg_class SET relhastriggers = true WHERE oid = w.rel; -- so that sessions look again
    END LOOP;
END $$;

-- Gives a sequence back to PostgreSQL: it goes on behind all that was drawn.
CREATE OR REPLACE FUNCTION mtm.release_block(seq oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v numeric := (SELECT next FROM mtm.blocks WHERE seqid = seq);
    s mtm.sequences;
BEGIN
    SELECT * INTO s FROM mtm.sequences WHERE seqid = seq;
    PERFORM mtm.renew_block(seq);
    IF v BETWEEN s.user_min AND s.user_max THEN
        PERFORM setval(seq::regclass, v::bigint, false);
    ELSE
        PERFORM setval(seq::regclass, CASE WHEN s.user_increment > 0 THEN s.user_max ELSE s.user_min END, true);
    END IF;
    DELETE FROM mtm.blocks WHERE seqid = seq;
    DELETE FROM mtm.sequences WHERE seqid = seq;
END $$;

-- What there is to be done for a sequence. asked: somebody waits for numbers; else nobody draws a first block soon after the sequence began anew, for
-- whoever did that may not be done with it, and would meet who draws. ahead: what was drawn follows what is in use. switch: it does not, and it is time to leave what is in
-- use. want: how many values are to be drawn now; NULL: none.
CREATE OR REPLACE FUNCTION mtm.block_work(seq oid, asked boolean, OUT b mtm.blocks, OUT s mtm.sequences, OUT ahead boolean, OUT switch boolean, OUT want bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ends bigint;        -- the last value in use
    bound bigint;
    rest numeric;       -- values left of those in use
    following numeric;  -- the value that nextval() gives
    width numeric;      -- as many as those, at least
BEGIN
    SELECT * INTO b FROM mtm.blocks WHERE seqid = seq AND NOT open;
    SELECT * INTO s FROM mtm.sequences WHERE seqid = b.seqid;
    IF s.seqid IS NULL THEN
        RETURN;
    END IF;
    ends := CASE WHEN s.user_increment > 0 THEN s.set_max ELSE s.set_min END;
    bound := CASE WHEN s.user_increment > 0 THEN s.user_max ELSE s.user_min END;
    following := (mtm.block_place(seq)).next;
    rest := greatest(0, floor((ends - following) / s.user_increment) + 1);
    -- If INCREMENT was another, nextval() may pass by the end, and give what is between it and the first, which is somebody else's.
    ahead := b.first IS NOT NULL AND b.first = ends::numeric + s.user_increment AND mod(following - b.first, s.user_increment) = 0;
    width := (s.set_max::numeric - s.set_min) / abs(s.user_increment::numeric) + 1;
    switch := b.first IS NOT NULL AND NOT ahead AND rest <= least(b.size, width) / 8;
    IF b.first IS NULL AND rest <= b.size / 2 AND (asked OR b.drawn IS NOT NULL OR b.since < clock_timestamp() - interval '5 s') AND floor((bound - b.next) / s.user_increment) >= 1 THEN
        want := CASE WHEN b.drawn IS NULL THEN b.size
            WHEN rest = 0 THEN least(8 * b.size, (mtm.block_sizes()).most)
            WHEN b.drawn > clock_timestamp() - interval '3 s' THEN least(2 * b.size, (mtm.block_sizes()).most)
            WHEN b.drawn < clock_timestamp() - interval '1 min' THEN greatest(b.size / 2, (mtm.block_sizes()).least_)
            ELSE b.size END;
    END IF;
END $$;

-- Puts to use what was drawn, if it is time; at_once: even if values in use are lost by that.
CREATE OR REPLACE FUNCTION mtm.use_block(seq oid, at_once boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w record;
    g bigint;
    behind bigint;
BEGIN
    PERFORM FROM mtm.blocks WHERE seqid = seq FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    w := mtm.block_work(seq, false);
    g := (w.s).user_increment;
    behind := (w.b).last;
    IF w.ahead THEN
        PERFORM mtm.fence_block(seq, CASE WHEN g > 0 THEN (w.s).set_min ELSE (w.s).set_max END, behind, behind);
    ELSIF w.switch OR at_once AND (w.b).first IS NOT NULL THEN
        PERFORM mtm.fence_block(seq, (w.b).first - g, behind, behind), setval(seq::regclass, (w.b).first - g, true),
            mtm.fence_block(seq, (w.b).first, behind, behind);
    ELSE
        RETURN;
    END IF;
    UPDATE mtm.blocks SET first = NULL, last = NULL WHERE seqid = seq;
END $$;

-- Puts to use what was drawn, where it is time, and says how many values are to be drawn for which sequences. The daemon calls it, time
-- and again, in a transaction by itself. A sequence that somebody has locked comes next time.
CREATE OR REPLACE FUNCTION mtm.tend_blocks(asked boolean, OUT seq oid, OUT want bigint) RETURNS SETOF record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    one oid;
    w record;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true); -- the sooner other sessions see the new bounds; what is lost in a crash is repeated
    FOR one IN SELECT seqid FROM mtm.blocks WHERE NOT open LOOP
        BEGIN
            w := mtm.block_work(one, asked);
            IF w.ahead OR w.switch THEN
                PERFORM mtm.use_block(one, false);
                w := mtm.block_work(one, asked);
            END IF;
            IF w.want IS NOT NULL THEN
                seq := one;
                want := w.want;
                RETURN NEXT;
            END IF;
        EXCEPTION WHEN lock_not_available OR undefined_table OR internal_error THEN
            NULL;
        END;
    END LOOP;
END $$;

-- Draws n values for this node, or as many as there are, in a cluster-wide transaction; fewer than two are none. It returns whether it did.
-- patient: it waits for who else draws.
CREATE OR REPLACE FUNCTION mtm.draw_block(seq oid, n bigint, patient boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    b mtm.blocks;
    g numeric;
    most numeric;
BEGIN
    IF patient THEN
        PERFORM FROM mtm.blocks WHERE seqid = seq FOR UPDATE;
    END IF;
    SELECT * INTO b FROM mtm.blocks WHERE seqid = seq AND NOT open FOR UPDATE SKIP LOCKED;
    SELECT s.user_increment, floor((CASE WHEN s.user_increment > 0 THEN s.user_max ELSE s.user_min END - b.next) / s.user_increment) + 1 INTO g, most
    FROM mtm.sequences s WHERE s.seqid = b.seqid;
    IF b.next - g NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN -- use_block sets that
        b.next := b.next + g;
        most := most - 1;
    END IF;
    most := least(n, most);
    IF g IS NULL OR most < 2 THEN
        RETURN false;
    END IF;
    UPDATE mtm.blocks SET next = b.next + most * g, last = b.next + (most - 1) * g, drawn = clock_timestamp(),
        first = CASE WHEN b.last + g = b.next AND mod(b.last - b.first, g) = 0 THEN b.first ELSE b.next END WHERE seqid = seq;
    PERFORM mtm.say_block(seq, b.next, b.next + most * g);
    RETURN true;
END $$;
CREATE OR REPLACE FUNCTION mtm.draw_blocks(seqs oid[], wants bigint[]) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x record;
    drawn int := 0;
BEGIN
    FOR x IN SELECT * FROM unnest(seqs, wants) u (seq, want) ORDER BY 1 LOOP
        IF mtm.draw_block(x.seq, x.want, false) THEN
            UPDATE mtm.blocks SET size = x.want WHERE seqid = x.seq;
            drawn := drawn + 1;
        END IF;
    END LOOP;
    RETURN drawn;
END $$;

-- Has this node draw n numbers of a sequence now, for who needs many at once, in COPY or in one transaction. They are drawn when it returns,
-- whatever becomes of the transaction that asks; what the node had left of its numbers may be lost by that.
CREATE OR REPLACE FUNCTION mtm.reserve_numbers(seq regclass, n bigint) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who name := coalesce(nullif(current_setting('role'), 'none'), session_user);
    b mtm.blocks;
BEGIN
    SELECT * INTO b FROM mtm.blocks WHERE seqid = seq;
    IF NOT has_sequence_privilege(who, seq, 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for sequence %', seq USING ERRCODE = 'insufficient_privilege';
    ELSIF n NOT BETWEEN 2 AND 1000000000 THEN
        RAISE EXCEPTION '% numbers cannot be reserved', n USING ERRCODE = 'invalid_parameter_value', HINT = 'From 2 to 1000000000 can.';
    ELSIF b.seqid IS NULL THEN
        RAISE EXCEPTION 'sequence % has no mode block', seq USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Its numbers need not be reserved.';
    ELSIF NOT b.open THEN
        PERFORM mtm.ask('b' || seq::oid || ' ' || n);
    END IF;
END $$;

-- Whether what nextval() said of a sequence that is used up, in whatever language, is about the end of a range of this node's.
CREATE OR REPLACE FUNCTION mtm.is_block_end(message text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM mtm.sequences m JOIN pg_class c ON c.oid = m.seqid JOIN mtm.blocks b ON b.seqid = m.seqid
            CROSS JOIN LATERAL (SELECT CASE WHEN m.user_increment > 0 THEN m.user_max ELSE m.user_min END) e (bound)
        WHERE m.mode = 'block' AND message ~ ('\W' || regexp_replace(c.relname, '(\W)', '\\\1', 'g') || '\W')
        AND strpos(message, '(' || bound || ')') = 0 -- the end of all
        AND (b.first IS NOT NULL OR b.drawn > clock_timestamp() - interval '5 s' OR floor((bound - b.next) / m.user_increment) >= 1))
$$;

REVOKE ALL ON FUNCTION mtm.fence_block, mtm.block_place, mtm.empty_block, mtm.open_block, mtm.renew_block, mtm.say_block, mtm.close_block, mtm.follow_block,
    mtm.make_block, mtm.block_altered, mtm.has_blocks, mtm.setval_block, mtm.truncated, mtm.block_owners, mtm.set_truncates, mtm.release_block,
    mtm.block_work, mtm.use_block, mtm.tend_blocks, mtm.draw_block, mtm.draw_blocks, mtm.is_block_end, mtm.may_block FROM public;
