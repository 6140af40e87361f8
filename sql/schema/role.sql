-- Members of this role get in while the node is not online. Roles are the whole server's: it may exist already.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mtm_admin') THEN
        CREATE ROLE mtm_admin NOLOGIN;
        PERFORM set_config('mtm.made_role', 'true', true);
    END IF;
END $$;
