-- What must happen on each node after a user's DDL. It never fails DDL that PostgreSQL accepts, and says nothing.

-- Every replicated table needs a replica identity: without one the publication makes PostgreSQL refuse UPDATE and DELETE. Who
-- has no key gets FULL; who gets a key later goes back to it, unless the user chose FULL himself. This says what is to be
-- done for a table and for what inherits from it: a partition loses its key with its parent.
CREATE OR REPLACE FUNCTION mtm.identity_work(rel oid, OUT relid oid, OUT action text) RETURNS SETOF record
LANGUAGE plpgsql STABLE AS $$ -- not SQL, which would plan it anew each time
BEGIN
    RETURN QUERY WITH RECURSIVE family(member) AS (
        VALUES (rel) UNION SELECT i.inhrelid FROM family f JOIN pg_inherits i ON i.inhparent = f.member
    ), t AS (
        SELECT c.oid, c.relreplident AS ident, m.relid IS NOT NULL AS ours,
            EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate
                AND CASE c.relreplident WHEN 'i' THEN x.indisreplident ELSE x.indisprimary END) AS has_key
        FROM family f JOIN pg_class c ON c.oid = f.member LEFT JOIN mtm.full_identity m ON m.relid = c.oid
        WHERE c.relkind = 'r' AND c.relpersistence = 'p'
    )
    SELECT t.oid, w.action
    FROM t CROSS JOIN LATERAL (SELECT CASE
        WHEN t.ident IN ('d', 'i') AND NOT t.has_key THEN 'full'
        WHEN t.ours AND t.ident = 'f' AND t.has_key THEN 'default'
        WHEN t.ours AND t.ident <> 'f' THEN 'forget' END) AS w(action)
    WHERE w.action IS NOT NULL;
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

-- A cyclic sequence has bounds of its own on each node (sequences.sql), and PostgreSQL would refuse START or RESTART WITH a value
-- between the user's bound and that. So before an ALTER the user's bounds come back; on_ddl sets ours again. This writes
-- the catalog: an ALTER here would fire on_ddl at once. Those concerned are found by name, in the statement that the client
-- sent; if it calls a function which alters some sequence, it may be any of them. Nearly always there is none.
CREATE OR REPLACE FUNCTION mtm.before_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    any_of_them boolean;
    sent text;
BEGIN
    IF NOT EXISTS (SELECT FROM mtm.sequences WHERE set_min <> user_min OR set_max <> user_max) THEN
        RETURN;
    END IF;
    sent := lower(current_query());
    any_of_them := tg_tag = 'ALTER SEQUENCE' AND sent !~ 'alter\s+sequence';
    UPDATE pg_sequence p SET seqmin = m.user_min, seqmax = m.user_max
    FROM mtm.sequences m JOIN pg_class c ON c.oid = m.seqid
        LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
            AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
        LEFT JOIN pg_class o ON o.oid = d.refobjid
    WHERE p.seqrelid = m.seqid AND (m.set_min <> m.user_min OR m.set_max <> m.user_max)
        AND (p.seqmin, p.seqmax) = (m.set_min, m.set_max)
        AND (any_of_them OR strpos(sent, lower(c.relname)) > 0 OR strpos(sent, lower(o.relname)) > 0);
END $$;

-- Remembers, up to the end of the transaction or until the gateway asks, whether a statement changed temporary objects only: the
-- other nodes must not run it then, and the transaction need not be prepared, which PostgreSQL would refuse.
CREATE OR REPLACE FUNCTION mtm.note_ddl(permanent boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF permanent OR coalesce(current_setting('mtm.ddl_scope', true), '') = '' THEN
        PERFORM set_config('mtm.ddl_scope', CASE WHEN permanent THEN 'permanent' ELSE 'temporary' END, true);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION mtm.on_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM mtm.note_ddl(bool_or(NOT is_temporary)) FROM pg_event_trigger_dropped_objects() HAVING count(*) > 0;
END $$;

CREATE OR REPLACE FUNCTION mtm.on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r record;
    mode text;
BEGIN
    -- A policy, rule or trigger has no schema of its own.
    PERFORM mtm.note_ddl(bool_or(schema_name IS DISTINCT FROM 'pg_temp' AND object_identity !~ ' on pg_temp\.'))
        FROM pg_event_trigger_ddl_commands() HAVING count(*) > 0;
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
        IF r.relpersistence = 't' THEN
            CONTINUE;
        ELSIF mode = 'step' THEN
            PERFORM mtm.set_sequence(r.objid, r.fresh, mode);
        ELSIF r.fresh THEN
            DELETE FROM mtm.sequences WHERE seqid = r.objid; -- of a dropped sequence with the same oid
        END IF;
    END LOOP;
    -- What before_ddl opened and nobody altered.
    UPDATE pg_sequence p SET seqmin = m.set_min, seqmax = m.set_max FROM mtm.sequences m
    WHERE p.seqrelid = m.seqid AND (m.set_min <> m.user_min OR m.set_max <> m.user_max)
        AND (p.seqmin, p.seqmax) = (m.user_min, m.user_max);
END $$;

REVOKE ALL ON FUNCTION mtm.before_ddl, mtm.note_ddl, mtm.on_drop, mtm.identity_work, mtm.set_identity, mtm.set_checks, mtm.set_identities, mtm.on_ddl FROM public;
-- The gateway shows clients a catalog in which neither this nor the steps of sequences can be seen.
GRANT SELECT ON mtm.full_identity TO public;
