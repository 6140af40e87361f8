-- Roles that DO makes, changes or drops. PostgreSQL has no event triggers for them, so the gateway has them noted before a DO that may do
-- so, and tells the other nodes what has become of them: before each DDL statement in it, which may name them, and after it.

-- Roles as they are: kind 'r' role, 'm' membership (a: role, b: member), 's' setting (a: role, b: database or 0), 'c' comment.
CREATE OR REPLACE FUNCTION mtm.roles_now() RETURNS TABLE (kind text, a oid, b oid, item text, name text, value text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, MDY' SET TimeZone = 'UTC' AS $$
    SELECT 'r', r.oid, 0::oid, '', r.rolname, concat_ws(' ',
        CASE WHEN r.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN r.rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
        CASE WHEN r.rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN r.rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
        CASE WHEN r.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN r.rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
        CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, 'CONNECTION LIMIT ' || r.rolconnlimit,
        'PASSWORD ' || quote_nullable(r.rolpassword), 'VALID UNTIL ' || quote_literal(r.rolvaliduntil::text))
    FROM pg_authid r WHERE r.oid >= 16384 OR r.oid = 10
    UNION ALL
    SELECT 'm', m.roleid, m.member, CASE WHEN to_jsonb(m) ? 'inherit_option' THEN coalesce(g.rolname, '') ELSE '' END,
        format('%I %%s %I', r.rolname, e.rolname),
        CASE WHEN to_jsonb(m) ? 'inherit_option' THEN format('WITH ADMIN %s, INHERIT %s, SET %s', m.admin_option, to_jsonb(m) ->> 'inherit_option', to_jsonb(m) ->> 'set_option')
            WHEN m.admin_option THEN 'WITH ADMIN OPTION' ELSE '' END
    FROM pg_auth_members m JOIN pg_authid r ON r.oid = m.roleid JOIN pg_authid e ON e.oid = m.member LEFT JOIN pg_authid g ON g.oid = m.grantor
    UNION ALL
    SELECT 's', s.setrole, s.setdatabase, split_part(c, '=', 1), format('ALTER ROLE %I', r.rolname) || CASE WHEN s.setdatabase <> 0 THEN format(' IN DATABASE %I', d.datname) ELSE '' END,
        CASE WHEN split_part(c, '=', 1) <> ALL ('{local_preload_libraries,search_path,session_preload_libraries,temp_tablespaces}'::text[]) OR substr(c, strpos(c, '=') + 1) = ''
            THEN quote_literal(substr(c, strpos(c, '=') + 1)) -- the others are lists of names, quoted already
            ELSE replace(substr(c, strpos(c, '=') + 1), '""', '''''') END
    FROM pg_db_role_setting s JOIN pg_authid r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
    WHERE s.setdatabase = 0 OR d.datname = current_database()
    UNION ALL
    SELECT 'c', r.oid, 0, '', r.rolname, quote_literal(d.description) FROM pg_shdescription d JOIN pg_authid r ON r.oid = d.objoid
    WHERE d.classoid = 'pg_authid'::regclass
$$;

-- Notes them, for tell_roles.
CREATE OR REPLACE FUNCTION mtm.note_roles() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_read_only') = 'off' AND current_setting('mtm.gateway', true) = 'on' THEN
        INSERT INTO mtm.noted_roles SELECT pg_current_xact_id(), n.* FROM mtm.roles_now() n;
        PERFORM set_config('mtm.roles_noted', 'on', true);
    END IF;
END $$;

-- Tells the other nodes what has become of the roles since note_roles, or since it was last called. done: the DO is over. It returns what mtm.ddl_scope is for
-- other statements.
CREATE OR REPLACE FUNCTION mtm.tell_roles(done boolean) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one text;
    told text := 'nothing';
    listed CONSTANT boolean := current_setting('server_version_num')::int >= 160000; -- memberships are by grantor
BEGIN
    IF current_setting('mtm.roles_noted', true) IS DISTINCT FROM 'on' THEN
        RETURN told;
    END IF;
    PERFORM set_config('mtm.roles_noted', '', true);
    FOR one IN
        WITH x AS (
            SELECT o.kind IS NOT NULL AS was, n.kind IS NOT NULL AS there, coalesce(o.kind, n.kind) AS kind, coalesce(o.a, n.a) AS role, coalesce(o.b, n.b) AS b,
                coalesce(o.item, n.item) AS item, o.name AS old_name, n.name, o.value AS old, n.value
            FROM (SELECT * FROM mtm.noted_roles WHERE xid = pg_current_xact_id()) o
                FULL JOIN mtm.roles_now() n ON (o.kind, o.a, o.b, o.item) = (n.kind, n.a, n.b, n.item)
            WHERE (o.kind, CASE WHEN o.kind = 'r' THEN o.name END, o.value) IS DISTINCT FROM (n.kind, CASE WHEN n.kind = 'r' THEN n.name END, n.value)
        ), gone AS (SELECT role FROM x WHERE kind = 'r' AND was AND NOT there)
        SELECT t.text FROM x CROSS JOIN LATERAL (
            SELECT 1, format('REVOKE %s', format(x.old_name, 'FROM')) || CASE WHEN listed AND x.item <> '' THEN format(' GRANTED BY %I', x.item) ELSE '' END
            WHERE x.kind = 'm' AND NOT x.there
            UNION ALL SELECT 1, format('REVOKE ADMIN OPTION FOR %s', format(x.old_name, 'FROM')) WHERE x.kind = 'm' AND x.there AND x.was AND NOT listed AND x.value = ''
            UNION ALL SELECT 2, format('%s RESET %I', x.old_name, x.item) WHERE x.kind = 's' AND NOT x.there
            UNION ALL SELECT 2, format('COMMENT ON ROLE %I IS NULL', x.old_name) WHERE x.kind = 'c' AND NOT x.there
            UNION ALL SELECT 3, format('DROP ROLE %I', x.old_name) WHERE x.kind = 'r' AND NOT x.there
            UNION ALL SELECT 4, format('ALTER ROLE %I RENAME TO %I', x.old_name, x.name) WHERE x.kind = 'r' AND x.was AND x.there AND x.old_name <> x.name
            UNION ALL SELECT 5, format('%s ROLE %I WITH %s', CASE WHEN x.was THEN 'ALTER' ELSE 'CREATE' END, x.name, x.value) WHERE x.kind = 'r' AND x.there AND x.old IS DISTINCT FROM x.value
            UNION ALL SELECT 6, format('GRANT %s %s', format(x.name, 'TO'), x.value) || CASE WHEN listed AND x.item <> '' THEN format(' GRANTED BY %I', x.item) ELSE '' END
            WHERE x.kind = 'm' AND x.there AND (listed OR NOT x.was OR x.value <> '')
            UNION ALL SELECT 7, format('%s SET %s TO %s', x.name, x.item, x.value) WHERE x.kind = 's' AND x.there
            UNION ALL SELECT 7, format('COMMENT ON ROLE %I IS %s', x.name, x.value) WHERE x.kind = 'c' AND x.there
        ) t (step, text)
        WHERE x.kind = 'r' OR x.there OR NOT EXISTS (SELECT FROM gone WHERE gone.role = x.role OR x.kind = 'm' AND gone.role = x.b)
        ORDER BY t.step, x.role
    LOOP
        told := 'permanent';
        PERFORM mtm.say('mtm.ddl', json_build_object('v', 1, 'text', one, 'search_path', 'pg_catalog')::text), mtm.say('mtm.ddlend', told);
    END LOOP;
    DELETE FROM mtm.noted_roles WHERE xid = pg_current_xact_id();
    IF NOT done THEN
        PERFORM mtm.note_roles();
    END IF;
    IF told = 'permanent' THEN
        PERFORM set_config('mtm.ddl_nested', 'on', true);
    END IF;
    RETURN told;
END $$;

REVOKE ALL ON FUNCTION mtm.roles_now() FROM public;
