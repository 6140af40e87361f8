-- Transactions that users prepared (PREPARE TRANSACTION 'x'). PostgreSQL holds such a transaction under a name of ours on every
-- node, until a transaction of its own orders what becomes of it; logrep's user.go is the other side.

CREATE TABLE IF NOT EXISTS mtm.prepared (
    name text PRIMARY KEY,          -- as the user gave it
    gid text NOT NULL UNIQUE,       -- as PostgreSQL has it
    owner name NOT NULL,
    prepared timestamptz NOT NULL,
    commits boolean                 -- what was ordered, until it is done here; NULL: nothing yet
);
REVOKE ALL ON mtm.prepared FROM public;
GRANT SELECT ON mtm.prepared TO public;

CREATE OR REPLACE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON mtm.prepared EXECUTE FUNCTION mtm.guard();

-- Who a session is for PostgreSQL's own PREPARE TRANSACTION, asked in a function that runs as its owner.
CREATE OR REPLACE FUNCTION mtm.client_role() RETURNS name
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;
END;
REVOKE ALL ON FUNCTION mtm.client_role() FROM public;

-- They are for a statement of their own: in a function of a SECURITY DEFINER's they would not see whose rights are meant.
CREATE OR REPLACE FUNCTION mtm.by_itself(stack text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF strpos(stack, E'\n') > 0 THEN
        RAISE EXCEPTION 'what becomes of a prepared transaction cannot be said in a function' USING ERRCODE = '0A000',
            HINT = 'Use PREPARE TRANSACTION, COMMIT PREPARED and ROLLBACK PREPARED.';
    END IF;
END $$;
REVOKE ALL ON FUNCTION mtm.by_itself(text) FROM public;

-- Announces what this session has prepared as gid. Only the transaction that the gateway prepares next, under the name in gid, may: capture
-- refuses any other. It is not held for certain before the transaction that calls this is committed.
-- It may wait for another with the same name, and what it has prepared holds its rows meanwhile, perhaps against that one on another
-- node: then nobody but the timeout ends it (simulator, -referee, seed 1323 of the time).
CREATE OR REPLACE FUNCTION mtm.announce_prepared(gid text, name text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $$
#variable_conflict use_column
DECLARE
    x record;
    stack text;
BEGIN
    GET DIAGNOSTICS stack = PG_CONTEXT;
    PERFORM mtm.by_itself(stack);
    SELECT p.prepared, mtm.client_role() AS owner INTO x FROM pg_prepared_xacts p
    WHERE p.gid = announce_prepared.gid AND p.database = current_database() AND p.owner = mtm.client_role();
    IF NOT FOUND OR gid !~ '^mtm-[1-9][0-9]?-[0-9]+-[0-9]+-user$' THEN
        RAISE EXCEPTION 'this session has not prepared "%"', gid USING ERRCODE = '55000';
    END IF;
    IF EXISTS (SELECT FROM pg_prepared_xacts p JOIN pg_locks x ON x.locktype = 'transactionid' AND x.transactionid = p.transaction AND x.granted
            JOIN pg_locks l ON l.virtualtransaction = x.virtualtransaction AND l.relation = 'mtm.prepared'::regclass AND l.mode = 'RowExclusiveLock'
            WHERE p.gid = announce_prepared.gid AND x.pid IS NULL AND l.pid IS NULL) THEN
        RAISE EXCEPTION 'cannot PREPARE a transaction that has ended a prepared transaction' USING ERRCODE = '0A000',
            HINT = 'Use COMMIT PREPARED or ROLLBACK PREPARED by itself.';
    END IF;
    IF (SELECT count(*) FROM mtm.prepared) >= current_setting('max_prepared_transactions')::int / 10 THEN
        RAISE EXCEPTION 'maximum number of prepared transactions reached' USING ERRCODE = '53200',
            DETAIL = 'A tenth of max_prepared_transactions is for those that users prepare.',
            HINT = format('Increase max_prepared_transactions (currently %s).', current_setting('max_prepared_transactions'));
    END IF;
    INSERT INTO mtm.prepared VALUES (name, gid, x.owner, x.prepared) ON CONFLICT (name) DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'transaction identifier "%" is already in use', name USING ERRCODE = '42710';
    END IF;
END $$;

-- Orders what becomes of a prepared transaction. It is done when the transaction that calls this is committed: the row is the order, so one
-- that is rolled back to a savepoint is none.
CREATE OR REPLACE FUNCTION mtm.finish_prepared(name text, commits boolean) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    x mtm.prepared;
    stack text;
BEGIN
    GET DIAGNOSTICS stack = PG_CONTEXT;
    PERFORM mtm.by_itself(stack);
    SELECT * INTO x FROM mtm.prepared p WHERE p.name = finish_prepared.name AND p.commits IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'prepared transaction with identifier "%" does not exist', name USING ERRCODE = '42704';
    END IF;
    IF x.owner <> mtm.client_role() AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = mtm.client_role()) THEN
        RAISE EXCEPTION 'permission denied to finish prepared transaction' USING ERRCODE = '42501',
            HINT = 'Must be superuser or the user that prepared the transaction.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_prepared_xacts p WHERE p.gid = x.gid) THEN
        RAISE EXCEPTION 'prepared transaction "%" is missing on this node', name USING ERRCODE = '55000',
            DETAIL = format('PostgreSQL does not have "%s" any more; somebody ended it there.', x.gid);
    END IF;
    UPDATE mtm.prepared p SET commits = finish_prepared.commits WHERE p.name = x.name;
    PERFORM set_config('mtm.ddl_nested', 'on', true); -- the other nodes must hear of it, whoever calls this
END $$;
