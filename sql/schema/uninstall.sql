-- Gives the user's objects back as he made them, before the schema goes.

DROP EVENT TRIGGER IF EXISTS "!mtm_ddl";
DROP EVENT TRIGGER IF EXISTS "!mtm_before_ddl";
DROP EVENT TRIGGER IF EXISTS "~mtm_nested_ddl_";
DROP EVENT TRIGGER IF EXISTS "~mtm_nested_ddl";
DROP EVENT TRIGGER IF EXISTS "!mtm_first_ddl";
DROP EVENT TRIGGER IF EXISTS "!mtm_rewrite";
DROP EVENT TRIGGER IF EXISTS "!mtm_may_ddl";
DROP EVENT TRIGGER IF EXISTS "!mtm_drop";

DO $$
DECLARE
    t record;
BEGIN
    PERFORM mtm.release_block(seqid) FROM mtm.blocks;
    PERFORM mtm.set_truncates();
    PERFORM set_config('mtm.sequence_mode', 'off', true);
    PERFORM mtm.alter_sequences();
    FOR t IN SELECT c.oid FROM mtm.full_identity m JOIN pg_class c ON c.oid = m.relid WHERE c.relreplident = 'f' LOOP
        PERFORM mtm.set_identity(t.oid, 'default');
    END LOOP;
    PERFORM mtm.set_checks(rel, 'A', 'O') FROM (SELECT DISTINCT tgrelid FROM pg_trigger
        WHERE tgfoid = 'unique_key_recheck'::regproc AND tgisinternal AND tgenabled = 'A') d (rel);
END $$;

DO $$
DECLARE
    before text := (SELECT guard_before FROM mtm.node);
BEGIN
    IF before IS NULL THEN
        EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database());
    ELSE
        EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = %L', current_database(), before);
    END IF;
END $$;

DROP PUBLICATION IF EXISTS mtm;

-- The role is the whole server's. It stays if others made it, or if somebody gave it rights that we do not know.
DO $$
BEGIN
    IF (SELECT made_role FROM mtm.node) THEN
        REVOKE ALL ON FUNCTION mtm.alter_sequences, mtm.add_node, mtm.drop_node FROM mtm_admin;
        DROP ROLE mtm_admin;
    END IF;
EXCEPTION WHEN dependent_objects_still_exist OR undefined_object THEN
    NULL;
END $$;

DROP SCHEMA mtm CASCADE;

SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname ~ '^mtm([^a-z].*)?$';
