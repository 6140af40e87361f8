-- What must happen on each node after a user's DDL. It never fails DDL that PostgreSQL accepts, and says nothing.

-- Every replicated table needs a replica identity: without one the publication makes PostgreSQL refuse UPDATE and DELETE. Who
-- has no key gets FULL; who gets a key later goes back to it, unless the user chose FULL himself. This says what is to be
-- done for a table and for what inherits from it: a partition loses its key with its parent. The exception lets go of the lock on
-- our own table, which who looks at his locks would see.
CREATE OR REPLACE FUNCTION mtm.identity_work(rel oid, OUT relid oid, OUT action text) RETURNS SETOF record
LANGUAGE plpgsql STABLE AS $$ -- not SQL, which would plan it anew each time
BEGIN
    RETURN QUERY WITH RECURSIVE family(member) AS (
        VALUES (rel) UNION SELECT i.inhrelid FROM family f JOIN pg_inherits i ON i.inhparent = f.member
    ), t AS (
        SELECT c.oid, c.relreplident AS ident,
            EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate
                AND CASE c.relreplident WHEN 'i' THEN x.indisreplident ELSE x.indisprimary END
                -- before 18 generated columns are not decoded, and where rows are applied they are not written
                AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND a.attnum = ANY (x.indkey))) AS has_key
        FROM family f JOIN pg_class c ON c.oid = f.member
        WHERE c.relkind = 'r' AND c.relpersistence = 'p'
    )
    SELECT t.oid, w.action
    FROM t CROSS JOIN LATERAL (SELECT CASE -- full_identity is read only where it must be: SERIALIZABLE transactions meet there
        WHEN t.ident IN ('d', 'i') AND NOT t.has_key THEN 'full'
        WHEN t.ident = 'f' AND NOT t.has_key THEN NULL
        WHEN NOT EXISTS (SELECT FROM mtm.full_identity m WHERE m.relid = t.oid) THEN NULL
        WHEN t.ident = 'f' THEN 'default'
        ELSE 'forget' END) AS w(action)
    WHERE w.action IS NOT NULL;
    RAISE EXCEPTION USING ERRCODE = 'MTM00';
EXCEPTION WHEN SQLSTATE 'MTM00' THEN
    NULL;
END $$;

CREATE OR REPLACE FUNCTION mtm.set_identity(rel oid, action text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = replica AS $$
BEGIN
    IF action = 'full' THEN
        INSERT INTO mtm.full_identity VALUES (rel) ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM mtm.full_identity WHERE relid = rel;
    END IF;
    IF action <> 'forget' THEN -- not by ALTER TABLE, which event triggers of the user would see
        UPDATE pg_class SET relreplident = CASE action WHEN 'full' THEN 'f' ELSE 'd' END WHERE oid = rel;
    END IF;
END $$;

-- DEFERRABLE UNIQUE and EXCLUDE are checked by triggers of PostgreSQL's own, which do not fire where rows of other nodes are
-- applied unless they fire always. Not by ALTER TABLE either; pg_class is touched so that sessions look again.
CREATE OR REPLACE FUNCTION mtm.set_checks(rel oid, was "char" DEFAULT 'O', becomes "char" DEFAULT 'A') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pg_trigger t SET tgenabled = becomes WHERE t.tgfoid = 'unique_key_recheck'::regproc AND t.tgisinternal AND t.tgenabled = was
        AND t.tgrelid IN (SELECT rel UNION SELECT relid FROM pg_partition_tree(rel));
    IF FOUND THEN
        UPDATE pg_class SET relhastriggers = true WHERE relhastriggers AND oid IN (SELECT rel UNION SELECT relid FROM pg_partition_tree(rel));
    END IF;
END $$;

-- For tables that were there before.
CREATE OR REPLACE FUNCTION mtm.set_identities() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM mtm.full_identity m WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relid);
    PERFORM mtm.set_identity(w.relid, w.action)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL mtm.identity_work(c.oid) w
        WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
          AND n.nspname NOT IN ('mtm', 'pg_catalog', 'information_schema');
    PERFORM mtm.set_checks(rel) FROM (SELECT DISTINCT tgrelid FROM pg_trigger
        WHERE tgfoid = 'unique_key_recheck'::regproc AND tgisinternal AND tgenabled = 'O') t (rel);
END $$;

-- A cyclic sequence has bounds of its own on each node (sequences.sql), and so has one of mode block (blocks.sql), and PostgreSQL would refuse START or RESTART WITH a value
-- between the user's bound and that. So before an ALTER the user's bounds come back; on_ddl sets ours again. This writes
-- the catalog: an ALTER here would fire on_ddl at once. Those concerned are found by name, in the statement that the client
-- sent; if it calls a function which alters some sequence, it may be any of them. Nearly always there is none.
CREATE OR REPLACE FUNCTION mtm.has_cycles() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found boolean;
BEGIN
    found := EXISTS (SELECT FROM mtm.sequences WHERE set_min <> user_min OR set_max <> user_max OR mode = 'block');
    RAISE EXCEPTION USING ERRCODE = 'MTM00'; -- as in mtm.identity_work
EXCEPTION WHEN SQLSTATE 'MTM00' THEN
    RETURN found;
END $$;

CREATE OR REPLACE FUNCTION mtm.before_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    any_of_them boolean;
    sent text;
    stack text;
    restarts boolean;
    seq record;
BEGIN
    IF NOT mtm.has_cycles() THEN
        RETURN;
    END IF;
    GET DIAGNOSTICS stack = PG_CONTEXT;
    sent := lower(current_query());
    any_of_them := tg_tag = 'ALTER SEQUENCE' AND sent !~ 'alter\s+sequence';
    restarts := sent || lower(stack) ~ '\mrestart\M' AND current_setting('mtm.gateway', true) = 'on'
        AND current_setting('session_replication_role') <> 'replica';
    PERFORM set_config('mtm.restarts', CASE WHEN restarts THEN 'on' ELSE '' END, true);
    IF strpos(stack, 'mtm.renew_block(oid)') > 0 OR strpos(stack, 'mtm.set_sequence(oid,boolean,text)') > 0 THEN
        RETURN; -- an ALTER of ours has set all bounds that it needs; other sequences it must neither lock nor advance
    END IF;
    -- Who draws, and moves the bounds, is waited for: beside him the UPDATE would find nothing, and PostgreSQL refuse what the user's bounds allow.
    -- Names are told roughly, so nothing stays locked.
    BEGIN
        PERFORM FROM mtm.blocks b JOIN pg_class c ON c.oid = b.seqid
            LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
                AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
            LEFT JOIN pg_class o ON o.oid = d.refobjid
            WHERE any_of_them OR strpos(sent, lower(c.relname)) > 0 OR strpos(sent, lower(o.relname)) > 0
            ORDER BY b.seqid FOR UPDATE OF b;
        RAISE EXCEPTION USING ERRCODE = 'MTM00';
    EXCEPTION WHEN SQLSTATE 'MTM00' THEN
    END;
    FOR seq IN UPDATE pg_sequence p SET seqmin = m.user_min, seqmax = m.user_max, seqstart = CASE m.mode WHEN 'block' THEN m.user_start ELSE p.seqstart END
    FROM mtm.sequences m JOIN pg_class c ON c.oid = m.seqid
        LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
            AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
        LEFT JOIN pg_class o ON o.oid = d.refobjid
    WHERE p.seqrelid = m.seqid AND (m.set_min <> m.user_min OR m.set_max <> m.user_max OR m.mode = 'block')
        AND (p.seqmin, p.seqmax) = (m.set_min, m.set_max) AND (m.mode <> 'block' OR p.seqstart = m.set_start)
        AND (any_of_them OR strpos(sent, lower(c.relname)) > 0 OR strpos(sent, lower(o.relname)) > 0)
    RETURNING m.seqid, m.mode
    LOOP
        IF restarts AND seq.mode = 'block' THEN -- one value is lost, or else "uncalled" would not tell that it was restarted
            PERFORM mtm.advance(seq.seqid, place.last) FROM mtm.block_place(seq.seqid) place WHERE NOT place.called;
        END IF;
    END LOOP;
END $$;

-- Sets again what before_ddl opened and nobody altered.
CREATE OR REPLACE FUNCTION mtm.close_bounds() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE pg_sequence p SET seqmin = m.set_min, seqmax = m.set_max, seqstart = CASE m.mode WHEN 'block' THEN m.set_start ELSE p.seqstart END
    FROM mtm.sequences m
    WHERE p.seqrelid = m.seqid AND (m.set_min <> m.user_min OR m.set_max <> m.user_max OR m.mode = 'block')
        AND (p.seqmin, p.seqmax) = (m.user_min, m.user_max) AND (m.mode <> 'block' OR p.seqstart = m.user_start)
$$;

-- Remembers in mtm.ddl_scope, up to the end of the transaction or until the gateway asks, what a statement was about: 'permanent'
-- objects; 'temporary' ones only, so that the other nodes must not run it, and the transaction need not be prepared, which PostgreSQL
-- would refuse; or 'nothing' (IF EXISTS).
CREATE OR REPLACE FUNCTION mtm.note_ddl(permanent boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF permanent OR coalesce(current_setting('mtm.ddl_scope', true), '') IN ('', 'nothing') THEN
        PERFORM set_config('mtm.ddl_scope', CASE WHEN permanent THEN 'permanent' ELSE 'temporary' END, true);
    END IF;
END $$;

-- Whether an object is as short-lived as a temporary one: it is one, it belongs to one (a policy, rule or trigger has no schema of its
-- own), or it is a function whose signature, or a domain whose type, names one and goes with it. Those are remembered by the session, as
-- long as they can live.
CREATE OR REPLACE FUNCTION mtm.is_temporary(class oid, object oid, identity text, temporary boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known text := coalesce(current_setting('mtm.local_functions', true), '');
BEGIN
    IF temporary OR identity ~ ' on pg_temp\.' OR class = 'pg_subscription'::regclass THEN -- subscriptions are this node's own, too
        RETURN true;
    ELSIF class IS NULL THEN -- GRANT and REVOKE do not say; the gateway may know
        RETURN current_setting('mtm.ddl_scope', true) = 'temporary';
    ELSIF class NOT IN ('pg_proc'::regclass, 'pg_type'::regclass) THEN
        RETURN false;
    ELSIF strpos(known, ',' || object || ',') > 0 THEN
        RETURN true;
    ELSIF EXISTS (SELECT FROM pg_depend d LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
            LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
            WHERE d.classid = class AND d.objid = object
              AND coalesce(t.typnamespace, c.relnamespace) = pg_my_temp_schema()) THEN
        PERFORM set_config('mtm.local_functions', coalesce(nullif(known, ''), ',') || object || ','
            || coalesce((SELECT typarray || ',' FROM pg_type WHERE oid = object AND class = 'pg_type'::regclass), ''), false);
        RETURN true;
    END IF;
    RETURN false;
END $$;

-- Tells the other nodes something, in its place in the stream of changes. They believe it because only the owner can: a logical message
-- anybody can write. Whoever can be called by clients must not pass on what they say.
CREATE OR REPLACE FUNCTION mtm.say(prefix text, content text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place tid;
BEGIN
    INSERT INTO mtm.said (prefix, content) VALUES (say.prefix, say.content) RETURNING ctid INTO place;
    DELETE FROM mtm.said WHERE ctid = place; -- not by its key: SERIALIZABLE transactions would meet in the index
END $$;
REVOKE ALL ON FUNCTION mtm.say(text, text) FROM public;

-- DDL inside functions and DO, where the gateway cannot see it, is told to the other nodes from here: PG_CONTEXT has its text. Who runs the
-- statement, and with which search_path, is found out as him, by who_ddl, which fires just before.
-- mtm.gateway: the session is a client's; mtm.ddl_open: '' or who told the others of
-- the statement that runs, 'gateway' or 'nested'; mtm.ddl_depth: how many run in it, itself included (an extension's script).
-- Nothing in it is looked up in search_path: that is the client's, and nested_ddl believes what it says.
CREATE OR REPLACE FUNCTION mtm.who_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.set_config('mtm.ddl_who', pg_catalog.json_build_object('role', current_user,
        'search_path', pg_catalog.current_setting('search_path'),
        'settings', pg_catalog.json_build_object('check_function_bodies', pg_catalog.current_setting('check_function_bodies'),
            'mtm.sequence_mode', coalesce(pg_catalog.current_setting('mtm.sequence_mode', true), '')))::pg_catalog.text, true);
END $$;

CREATE OR REPLACE FUNCTION mtm.nested_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stack text;
    sent text;
    n bigint;
BEGIN
    -- What comes to many objects, or to all that come after, and what makes objects, must be in one order on all nodes. Both lock this, as
    -- who applies them does (logrep). Nobody who reads it waits.
    IF current_setting('mtm.gateway', true) = 'on' THEN
        GET DIAGNOSTICS stack = PG_CONTEXT; -- has the statement, if it is in a function
        IF tg_tag IN ('ALTER DEFAULT PRIVILEGES', 'DROP OWNED') OR tg_tag IN ('GRANT', 'REVOKE') AND current_query() || stack ~* '\mall\M.*\min\s+schema\M' THEN
            LOCK TABLE pg_default_acl IN SHARE ROW EXCLUSIVE MODE;
        ELSE
            LOCK TABLE pg_default_acl IN ROW EXCLUSIVE MODE;
        END IF;
    END IF;
    IF current_setting('mtm.ddl_open', true) <> '' THEN -- told, or part of what was
        n := nullif(current_setting('mtm.ddl_depth', true), '');
        PERFORM set_config('mtm.ddl_depth', (n + 1)::text, true);
        IF current_setting('mtm.ddl_before', true) = 'on' THEN
            PERFORM set_config('mtm.ddl_before', '', true), mtm.say('mtm.ddlrun', '');
        END IF;
        RETURN;
    END IF;
    IF current_setting('mtm.gateway', true) IS DISTINCT FROM 'on'
        OR tg_tag = ANY ('{CREATE SUBSCRIPTION,ALTER SUBSCRIPTION,DROP SUBSCRIPTION,REINDEX}'::text[]) THEN
        RETURN; -- the last are this node's own
    END IF;
    PERFORM mtm.tell_roles(false);
    GET DIAGNOSTICS stack = PG_CONTEXT;
    n := strpos(stack, E'\n');
    stack := substr(stack, (n + 1)::int); -- without the line about this function
    IF n = 0 THEN -- not in a function; the gateway did not understand it, or it is about temporary objects
        sent := current_query();
    ELSIF starts_with(stack, 'SQL statement "') THEN
        sent := substr(stack, 16);
        sent := left(sent, strpos(sent, E'"\nPL/pgSQL function ') - 1);
    ELSIF starts_with(stack, 'SQL function "') THEN
        SELECT min(p.prosrc), count(*) INTO sent, n
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE l.lanname = 'sql' AND p.proname = substring(stack, '^SQL function "([^\n]*)" (?:statement|during)');
        IF n <> 1 OR sent ~ ';\s*\S' THEN
            sent := NULL;
        END IF;
    END IF;
    IF coalesce(sent, '') = '' THEN
        RAISE EXCEPTION '% cannot be sent to the other nodes from where it is', tg_tag USING ERRCODE = 'feature_not_supported',
            DETAIL = 'Its text cannot be told.', HINT = 'Use a function in PL/pgSQL, or run the statement by itself.';
    END IF;
    PERFORM set_config('mtm.ddl_scope', '', true), set_config('mtm.ddl_open', 'nested', true), set_config('mtm.ddl_depth', '1', true),
        mtm.say('mtm.ddl', (jsonb_build_object('v', 1, 'text', sent, 'session_user', session_user) || current_setting('mtm.ddl_who')::jsonb)::text);
END $$;

-- Triggers and rules that are ENABLE ALWAYS or REPLICA fire where rows of other nodes are applied, by a superuser. So those that run somebody's
-- functions only superusers may enable. It runs as whoever runs the statement, and looks nothing up in his search_path.
CREATE OR REPLACE FUNCTION mtm.may_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user) AND (EXISTS (
            SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() d JOIN pg_catalog.pg_trigger t ON t.tgrelid OPERATOR(pg_catalog.=) d.objid
                JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) p.proowner
            WHERE NOT t.tgisinternal AND t.tgenabled OPERATOR(pg_catalog.=) ANY ('{A,R}'::pg_catalog."char"[]) AND NOT o.rolsuper)
        OR EXISTS (SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() d JOIN pg_catalog.pg_rewrite r ON r.ev_class OPERATOR(pg_catalog.=) d.objid
            WHERE r.ev_enabled OPERATOR(pg_catalog.=) ANY ('{A,R}'::pg_catalog."char"[]))) THEN
        RAISE EXCEPTION 'permission denied to enable a trigger or rule ALWAYS or REPLICA' USING ERRCODE = '42501',
            DETAIL = 'Other nodes would run it as a superuser.', HINT = 'Have a superuser do it.';
    END IF;
END $$;
REVOKE ALL ON FUNCTION mtm.may_ddl() FROM public;

-- Event triggers of the user fire where the statement ran only; what they do travels by itself, rows as rows and DDL as nested DDL. So what
-- the statement itself did ends before the first of them runs, and begins after the last that runs before it: the names of our event
-- triggers, which are the order in which PostgreSQL fires them, begin with ! or ~.
CREATE OR REPLACE FUNCTION mtm.others_fire(event text) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_event_trigger WHERE evtname !~ '^[!~]mtm_' AND evtenabled IN ('O', 'A') AND strpos(event, evtevent) > 0)
$$;

-- A value of pg_node_tree, for who applies rows: they come from a table of that type. Nobody else may: PostgreSQL trusts what is in one.
CREATE OR REPLACE FUNCTION mtm.node_tree(cstring) RETURNS pg_node_tree LANGUAGE internal IMMUTABLE STRICT AS 'textin';

-- Says that the statement whose text was sent has been done.
CREATE OR REPLACE FUNCTION mtm.end_ddl() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    scope text := coalesce(current_setting('mtm.ddl_scope', true), '');
BEGIN
    PERFORM mtm.say('mtm.ddlend', scope), set_config('mtm.ddl_open', '', true);
    IF scope NOT IN ('temporary', 'nothing') THEN
        PERFORM set_config('mtm.ddl_nested', 'on', true);
    END IF;
END $$;

-- Before any event trigger of the user.
CREATE OR REPLACE FUNCTION mtm.first_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('mtm.ddl_open', true) = 'gateway' AND current_setting('mtm.ddl_depth', true) = '0' AND mtm.others_fire('ddl_command_start') THEN
        PERFORM mtm.say('mtm.ddlbefore', ''), set_config('mtm.ddl_before', 'on', true);
    END IF;
END $$;

-- What a statement computed here is sent along, for random(), now() and nextval() would give other values elsewhere, and a query might
-- see other rows: the rows of a materialized view, or of a table that a volatile default filled; what an added column holds in rows
-- that were there before. Values are spelled as the workers that apply them read them.
CREATE OR REPLACE FUNCTION mtm.send_rows(rel oid) RETURNS void LANGUAGE plpgsql
    SET search_path = '' SET DateStyle = 'ISO, MDY' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET bytea_output = 'hex'
    SET extra_float_digits = 3 SET lc_monetary = 'C' SET xmloption = 'content' AS $$
DECLARE
    head text;
    query text;
    rows text[];
    one text;
    bytes bigint := 0;
    first boolean := true;
BEGIN
    SELECT json_build_object('v', 1, 'schema', n.nspname, 'name', c.relname, 'view', c.relkind = 'm', 'columns', coalesce(a.columns, '[]'))::text,
        format('SELECT to_json(ARRAY[%s]::text[])::text FROM ONLY %I.%I', a.list, n.nspname, c.relname) INTO head, query
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, LATERAL (
        SELECT json_agg(json_build_object('name', a.attname, 'type', a.atttypid::bigint) ORDER BY a.attnum) AS columns,
            string_agg(format('CASE WHEN %1$I IS DISTINCT FROM NULL THEN concat(%1$I) END', a.attname), ',' ORDER BY a.attnum) AS list
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') a
    WHERE c.oid = rel;
    IF query IS NULL THEN
        RETURN;
    END IF;
    FOR one IN EXECUTE query LOOP
        IF bytes > 262144 THEN
            PERFORM mtm.say('mtm.rows', format('{"head":%s,"first":%s,"rows":[%s]}', head, to_json(first), array_to_string(rows, ',')));
            rows := '{}'; bytes := 0; first := false;
        END IF;
        rows := array_append(rows, one);
        bytes := bytes + length(one);
    END LOOP;
    PERFORM mtm.say('mtm.rows', format('{"head":%s,"first":%s,"rows":[%s]}', head, to_json(first), array_to_string(rows, ',')));
END $$;

CREATE OR REPLACE FUNCTION mtm.send_missing(rel oid) RETURNS void LANGUAGE plpgsql
    SET search_path = '' SET DateStyle = 'ISO, MDY' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET bytea_output = 'hex'
    SET extra_float_digits = 3 SET lc_monetary = 'C' SET xmloption = 'content' AS $$
BEGIN
    PERFORM mtm.say('mtm.missing', json_build_object('v', 1, 'schema', n.nspname, 'name', c.relname,
        'column', a.attname, 'value', a.attmissingval::text)::text)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    WHERE c.relpersistence = 'p' AND a.atthasmissing AND NOT a.attisdropped AND NOT EXISTS (SELECT FROM pg_catalog.pg_attrdef d
        WHERE d.adrelid = c.oid AND d.adnum = a.attnum AND starts_with(d.adbin::text, '{CONST'))
        AND c.oid IN (WITH RECURSIVE family(member) AS (
            VALUES (rel) UNION SELECT i.inhrelid FROM family f JOIN pg_catalog.pg_inherits i ON i.inhparent = f.member) SELECT member FROM family);
END $$;

-- Whether ALTER COLUMN TYPE may compute something else on another node: a function that is not immutable, CURRENT_…, or a cast or an operator
-- of the user's that calls one. Told from words, of which too many mean only that rows travel that need not.
CREATE OR REPLACE FUNCTION mtm.computes(text text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_proc p WHERE p.oid >= 16384 AND p.provolatile <> 'i'
            AND (strpos(lower(text), lower(p.proname)) > 0
                OR EXISTS (SELECT FROM pg_cast c WHERE c.castfunc = p.oid) OR EXISTS (SELECT FROM pg_operator o WHERE o.oprcode = p.oid)))
        OR text ~* '\musing\M' AND (text ~* 'u&"|\m(current_|localtime|now\M|today\M|tomorrow\M|yesterday\M|session_user|user\M)'
            OR EXISTS (SELECT FROM pg_proc p WHERE p.provolatile <> 'i'
                AND p.proname = ANY (ARRAY(SELECT DISTINCT lower(w[1]) FROM regexp_matches(text, '[[:alpha:]_][[:alnum:]_]*', 'g') w))))
$$;

-- A statement rewrites a table. mtm.rewritten: those where a new column gets a value of its own in each row, or a generated one;
-- mtm.recomputed: those whose rows the other nodes must be sent in any case, for they were not logged (1), or a new type computes them (4).
CREATE OR REPLACE FUNCTION mtm.on_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel oid := pg_event_trigger_table_rewrite_oid();
    reason int := pg_event_trigger_table_rewrite_reason();
    stack text;
    name text;
BEGIN
    IF mtm.has_cycles() THEN -- it may call nextval()
        PERFORM mtm.close_bounds();
    END IF;
    IF current_setting('mtm.ddl_open', true) = '' THEN
        RETURN;
    END IF;
    GET DIAGNOSTICS stack = PG_CONTEXT; -- has the statement, if it is in a function
    IF reason & 1 <> 0 OR reason & 4 <> 0 AND mtm.computes(current_query() || stack) THEN
        name := 'mtm.recomputed';
    ELSIF reason & 2 <> 0 THEN
        name := 'mtm.rewritten';
    ELSE
        RETURN;
    END IF;
    PERFORM set_config(name, concat_ws(',', nullif(current_setting(name, true), ''), rel), true);
END $$;

-- Sends what ALTER TABLE put into the rows of these tables.
CREATE OR REPLACE FUNCTION mtm.send_filled(rels oid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rewritten oid[] := string_to_array(nullif(current_setting('mtm.rewritten', true), ''), ',')::oid[];
    recomputed oid[] := string_to_array(nullif(current_setting('mtm.recomputed', true), ''), ',')::oid[];
    here oid[] := '{}'; -- tables that are this node's own
BEGIN
    PERFORM mtm.send_missing(rel) FROM unnest(rels) rel;
    IF rewritten IS NULL AND recomputed IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('mtm.rewritten', '', true), set_config('mtm.recomputed', '', true);
    IF mtm.has_local() THEN
        here := ARRAY(SELECT relid::oid FROM mtm.local_tables);
    END IF;
    PERFORM mtm.send_rows(c.oid) FROM pg_class c WHERE c.relpersistence = 'p' AND c.relkind = 'r' AND c.oid <> ALL (here)
        AND (c.oid = ANY (recomputed) OR c.oid = ANY (rewritten) AND (
            EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = c.oid AND NOT a.attisdropped
                AND (a.attidentity <> '' OR t.typdefaultbin IS NOT NULL))
            OR EXISTS (SELECT FROM pg_attrdef d, regexp_matches(d.adbin::text, ':(?:op)?funcid (\d+)', 'g') f JOIN pg_proc p ON p.oid = f[1]::oid
                WHERE d.adrelid = c.oid AND p.provolatile = 'v')));
END $$;

CREATE OR REPLACE FUNCTION mtm.on_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM mtm.note_ddl(bool_or(NOT mtm.is_temporary(classid, objid, object_identity, is_temporary)))
        FROM pg_event_trigger_dropped_objects() HAVING count(*) > 0;
    IF mtm.has_blocks() THEN -- also, this waits for who is drawing
        DELETE FROM mtm.blocks b USING pg_event_trigger_dropped_objects() d WHERE d.classid = 'pg_class'::regclass AND d.objid = b.seqid AND d.objsubid = 0;
        DELETE FROM mtm.sequences m USING pg_event_trigger_dropped_objects() d WHERE m.mode = 'block' AND d.classid = 'pg_class'::regclass AND d.objid = m.seqid AND d.objsubid = 0;
    END IF;
    IF mtm.has_local() THEN
        DELETE FROM mtm.local_tables l USING pg_event_trigger_dropped_objects() d WHERE d.classid = 'pg_class'::regclass AND d.objid = l.relid AND d.objsubid = 0;
    END IF;
    IF current_setting('mtm.ddl_open', true) <> '' AND current_setting('mtm.ddl_depth', true) = '1'
        AND (tg_tag ~ '^DROP ' OR current_setting('mtm.ddl_scope', true) = 'permanent') AND mtm.others_fire('sql_drop,ddl_command_end') THEN
        PERFORM mtm.end_ddl();
    END IF;
END $$;

CREATE OR REPLACE FUNCTION mtm.on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r record;
    mode text;
    has text;
    depth int := nullif(current_setting('mtm.ddl_depth', true), '')::int;
BEGIN
    PERFORM mtm.note_ddl(bool_or(NOT mtm.is_temporary(classid, objid, object_identity, schema_name IS NOT DISTINCT FROM 'pg_temp')))
        FROM pg_event_trigger_ddl_commands() HAVING count(*) > 0;
    IF coalesce(current_setting('mtm.ddl_scope', true), '') = '' AND tg_tag ~ '^(CREATE|DROP) ' AND tg_tag <> 'DROP OWNED' THEN
        PERFORM set_config('mtm.ddl_scope', 'nothing', true);
    END IF;
    IF current_setting('mtm.ddl_open', true) <> '' THEN
        IF tg_tag IN ('CREATE MATERIALIZED VIEW', 'REFRESH MATERIALIZED VIEW') THEN
            PERFORM mtm.send_rows(c.oid) FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON c.oid = d.objid
                WHERE d.classid = 'pg_class'::regclass AND c.relkind = 'm' AND c.relispopulated;
        ELSIF tg_tag = 'ALTER TABLE' THEN
            PERFORM mtm.send_filled(array_agg(DISTINCT objid)) FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass;
        END IF;
        PERFORM set_config('mtm.ddl_depth', (depth - 1)::text, true);
        IF depth = 1 AND (current_setting('mtm.ddl_open', true) = 'nested' OR mtm.others_fire('ddl_command_end')) THEN
            PERFORM mtm.end_ddl();
        END IF;
    END IF;
    IF tg_tag = 'ALTER SCHEMA' AND mtm.has_blocks() THEN -- perhaps renamed
        UPDATE mtm.blocks b SET seqid = seqid FROM pg_class c, pg_event_trigger_ddl_commands() d
        WHERE c.oid = b.seqid AND d.classid = 'pg_namespace'::regclass AND d.objid = c.relnamespace;
    END IF;
    IF tg_tag NOT IN ('CREATE SEQUENCE', 'ALTER SEQUENCE', 'CREATE TABLE', 'ALTER TABLE', 'CREATE TABLE AS', 'SELECT INTO',
        'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE SCHEMA') THEN
        RETURN;
    END IF;
    FOR r IN
        SELECT d.objid, c.relkind, c.relpersistence, bool_or(d.command_tag = 'CREATE SEQUENCE') AS fresh
        FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON c.oid = d.objid
        WHERE d.classid = 'pg_class'::regclass AND c.relkind IN ('S', 'r', 'p') AND d.schema_name IS DISTINCT FROM 'mtm'
        GROUP BY 1, 2, 3
    LOOP
        IF r.relkind <> 'S' THEN
            PERFORM mtm.set_identity(w.relid, w.action) FROM mtm.identity_work(r.objid) w;
            PERFORM mtm.set_checks(r.objid);
            CONTINUE;
        END IF;
        mode := coalesce(mode, mtm.sequence_mode());
        has := CASE WHEN NOT r.fresh THEN (SELECT m.mode FROM mtm.sequences m WHERE m.seqid = r.objid) END;
        IF r.relpersistence = 't' THEN
            CONTINUE;
        ELSIF mode <> 'off' OR has = 'block' THEN
            PERFORM mtm.set_sequence(r.objid, r.fresh, coalesce(has, mode));
        ELSIF r.fresh THEN -- of a dropped sequence with the same oid
            DELETE FROM mtm.sequences WHERE seqid = r.objid;
            DELETE FROM mtm.blocks WHERE seqid = r.objid;
        END IF;
    END LOOP;
    IF mtm.has_blocks() THEN -- sequences go to another schema with their tables
        UPDATE mtm.blocks b SET seqid = seqid FROM mtm.block_owners() o, pg_event_trigger_ddl_commands() d
        WHERE o.seq = b.seqid AND tg_tag = 'ALTER TABLE' AND d.classid = 'pg_class'::regclass AND d.objid = o.rel;
        PERFORM mtm.set_truncates();
    END IF;
    IF mtm.has_monotonic() THEN
        PERFORM mtm.set_watches();
    END IF;
    IF tg_tag <> 'CREATE SEQUENCE' AND mtm.has_local() THEN
        PERFORM mtm.check_local(relid) FROM mtm.local_tables;
    END IF;
    IF mtm.has_cycles() THEN
        PERFORM mtm.close_bounds();
    END IF;
END $$;

REVOKE ALL ON FUNCTION mtm.who_ddl, mtm.nested_ddl, mtm.has_cycles, mtm.close_bounds, mtm.before_ddl, mtm.note_ddl, mtm.is_temporary, mtm.node_tree, mtm.send_rows, mtm.send_missing, mtm.computes, mtm.on_rewrite, mtm.send_filled, mtm.others_fire, mtm.end_ddl, mtm.first_ddl, mtm.on_drop, mtm.identity_work, mtm.set_identity, mtm.set_checks, mtm.set_identities, mtm.on_ddl FROM public;
