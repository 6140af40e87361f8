-- What completes an installation, once the functions are there. Run once, by Install.

CREATE PUBLICATION mtm FOR ALL TABLES WITH (publish = 'insert, update, delete, truncate');
DO $$
BEGIN -- or PostgreSQL refuses UPDATE and DELETE where the whole row is the replica identity, and has generated columns
    IF current_setting('server_version_num')::int >= 180000 THEN
        ALTER PUBLICATION mtm SET (publish_generated_columns = stored);
    END IF;
END $$;

-- ALWAYS: the applying side runs with session_replication_role = replica.
CREATE EVENT TRIGGER "!mtm_ddl" ON ddl_command_end EXECUTE FUNCTION mtm.on_ddl();
ALTER EVENT TRIGGER "!mtm_ddl" ENABLE ALWAYS;

CREATE EVENT TRIGGER "!mtm_before_ddl" ON ddl_command_start WHEN TAG IN ('ALTER SEQUENCE', 'ALTER TABLE')
    EXECUTE FUNCTION mtm.before_ddl();
ALTER EVENT TRIGGER "!mtm_before_ddl" ENABLE ALWAYS;

CREATE EVENT TRIGGER "!mtm_may_ddl" ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION mtm.may_ddl();
CREATE EVENT TRIGGER "!mtm_rewrite" ON table_rewrite EXECUTE FUNCTION mtm.on_rewrite();
CREATE EVENT TRIGGER "!mtm_first_ddl" ON ddl_command_start EXECUTE FUNCTION mtm.first_ddl();
CREATE EVENT TRIGGER "~mtm_nested_ddl" ON ddl_command_start EXECUTE FUNCTION mtm.who_ddl();
CREATE EVENT TRIGGER "~mtm_nested_ddl_" ON ddl_command_start EXECUTE FUNCTION mtm.nested_ddl();

CREATE EVENT TRIGGER "!mtm_drop" ON sql_drop EXECUTE FUNCTION mtm.on_drop();
ALTER EVENT TRIGGER "!mtm_drop" ENABLE ALWAYS;

-- In the order of their names. ALWAYS: other nodes' transactions too.
CREATE TRIGGER a_may BEFORE INSERT ON mtm.local_tables FOR EACH ROW EXECUTE FUNCTION mtm.may_make_local();
CREATE TRIGGER b_make BEFORE INSERT ON mtm.local_tables FOR EACH ROW EXECUTE FUNCTION mtm.on_make_local();
ALTER TABLE mtm.local_tables ENABLE ALWAYS TRIGGER a_may, ENABLE ALWAYS TRIGGER b_make;
CREATE CONSTRAINT TRIGGER close AFTER INSERT OR UPDATE ON mtm.blocks DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.open) EXECUTE FUNCTION mtm.close_block();
ALTER TABLE mtm.blocks ENABLE ALWAYS TRIGGER close;
CREATE TRIGGER a_may BEFORE INSERT ON mtm.setvals FOR EACH ROW EXECUTE FUNCTION mtm.may_setval();
CREATE TRIGGER b_say BEFORE INSERT ON mtm.setvals FOR EACH ROW EXECUTE FUNCTION mtm.say_setval();

UPDATE pg_trigger SET tgisinternal = true WHERE tgrelid IN ('mtm.local_tables'::regclass, 'mtm.setvals'::regclass, 'mtm.blocks'::regclass); -- so that they do not show
UPDATE pg_class SET relhastriggers = true WHERE oid IN ('mtm.local_tables'::regclass, 'mtm.setvals'::regclass, 'mtm.blocks'::regclass);

SELECT mtm.adapt_sequences(mtm.sequence_mode(), true);
SELECT mtm.set_identities();

-- The guard: a session that does not come through the gateway cannot write, unless it insists.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
END $$;
