-- Local tables: what is written to one stays on the node where it is written. mtm.local_tables lists them, by OID, on every node. Who
-- owns a table adds it; capture tells the other nodes, which do the same (logrep's capture_local.go). The table is locked
-- against writers meanwhile, on every node: so a transaction that writes to it is wholly before or wholly behind this one.

-- As in mtm.identity_work: it leaves no lock behind.
CREATE OR REPLACE FUNCTION mtm.has_local() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found boolean;
BEGIN
    found := EXISTS (SELECT FROM mtm.local_tables);
    RAISE EXCEPTION USING ERRCODE = 'MTM00';
EXCEPTION WHEN SQLSTATE 'MTM00' THEN
    RETURN found;
END $$;

-- Whether what is true of a local table can be kept true.
CREATE OR REPLACE FUNCTION mtm.check_local(rel regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key record;
BEGIN
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = rel OR inhparent = rel) THEN
        RAISE EXCEPTION '% cannot be a local table, for it is part of an inheritance tree', rel USING ERRCODE = 'feature_not_supported',
            DETAIL = 'Some rows of one table would be on all nodes, others on one.', HINT = 'Use a table of its own.';
    END IF;
    SELECT conname, conrelid::regclass, confrelid::regclass INTO key FROM pg_constraint
    WHERE contype = 'f' AND (conrelid = rel OR confrelid = rel) AND (conrelid = rel) <> (confrelid = rel)
        AND CASE conrelid WHEN rel THEN confrelid ELSE conrelid END NOT IN (SELECT relid FROM mtm.local_tables);
    IF FOUND THEN
        RAISE EXCEPTION 'foreign key "%" cannot be between a local and a replicated table', key.conname USING ERRCODE = 'feature_not_supported',
            DETAIL = format('It is of %s and references %s; it could not hold on every node.', key.conrelid, key.confrelid),
            HINT = 'Drop the foreign key. If both tables are to be local, make them so, and add it again.';
    END IF;
END $$;

-- Runs as who inserts.
CREATE OR REPLACE FUNCTION mtm.may_make_local() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t pg_class;
BEGIN
    SELECT * INTO t FROM pg_class WHERE oid = NEW.relid;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'relation "%" does not exist', NEW.relid USING ERRCODE = 'undefined_table';
    ELSIF NOT pg_has_role(t.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', t.relname USING ERRCODE = 'insufficient_privilege';
    ELSIF current_setting('session_replication_role') <> 'replica' AND current_setting('mtm.gateway', true) IS DISTINCT FROM 'on' THEN
        RAISE EXCEPTION 'a table cannot be made local past the gateway' USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'The other nodes would not hear of it.', HINT = 'Connect to mtmd.';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION mtm.on_make_local() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t pg_class;
BEGIN
    SELECT * INTO t FROM pg_class WHERE oid = NEW.relid;
    IF t.relkind = 'p' THEN
        RAISE EXCEPTION 'partitioned table % cannot be made local', NEW.relid USING ERRCODE = 'feature_not_supported',
            HINT = 'Use a table without partitions.';
    ELSIF t.relkind <> 'r' OR t.oid < 16384 OR t.relpersistence = 't' OR t.relnamespace = 'mtm'::regnamespace THEN
        RAISE EXCEPTION '% cannot be made local', NEW.relid USING ERRCODE = 'wrong_object_type',
            DETAIL = 'It is not an ordinary table of a user.';
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', NEW.relid);
    PERFORM mtm.check_local(NEW.relid);
    UPDATE pg_class SET relname = relname WHERE oid = NEW.relid; -- so that logical decoding describes it again, and capture looks
    PERFORM set_config('mtm.ddl_nested', 'on', true); -- the other nodes must hear of it, whoever calls this
    RETURN NEW;
END $$;

-- From the commit of this on, what is written to a table stays on the node where it is written, on every node. The rows that it has then
-- stay, everywhere. For the owner of the table, or a superuser.
CREATE OR REPLACE FUNCTION mtm.make_table_local(rel regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM mtm.local_tables WHERE relid = rel) THEN
        INSERT INTO mtm.local_tables VALUES (rel) ON CONFLICT DO NOTHING;
    END IF;
END $$;

REVOKE ALL ON FUNCTION mtm.has_local, mtm.check_local, mtm.may_make_local, mtm.on_make_local FROM public;
