-- Roles that DO makes, changes or drops. PostgreSQL has no event triggers for them, so the gateway has them noted before a DO that may do
-- so, and tells the other nodes what has become of them: before each DDL statement in it, which may name them, and after it.

-- A setting's value as SET takes it. A list of names is taken apart: with SET FROM CURRENT anything may be in it, also what is not quoted, and the
-- other nodes run what becomes of it as superusers.
CREATE OR REPLACE FUNCTION mtm.setting_value(item text, value text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN item <> ALL ('{local_preload_libraries,search_path,session_preload_libraries,temp_tablespaces}'::text[]) THEN quote_literal(value)
        ELSE coalesce((SELECT string_agg(quote_literal(CASE WHEN starts_with(m[1], '"') THEN replace(substr(m[1], 2, length(m[1]) - 2), '""', '"')
                WHEN item ~ 'libraries' THEN m[1] ELSE lower(m[1]) END), ', ' ORDER BY n)
            FROM regexp_matches(value, '\s*("(?:[^"]|"")*"|[^,\s]*)\s*(?:,|$)', 'g') WITH ORDINALITY x (m, n) WHERE m[1] <> ''), '''''') END
$$;

-- Whether the row version that transaction x wrote, and that can be seen, is of this transaction, or of a part of it.
CREATE OR REPLACE FUNCTION mtm.is_own(x xid) RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN whole - top >= 2147483648 THEN false -- it is older
        WHEN whole < pg_snapshot_xmax(pg_current_snapshot())::text::numeric THEN pg_xact_status(whole::text::xid8) = 'in progress'
        ELSE true END
    FROM (SELECT pg_current_xact_id()::text::numeric) t (top), LATERAL (SELECT top + mod(x::text::numeric - mod(top, 4294967296) + 4294967296, 4294967296)) w (whole)
$$;

-- Roles as they are: kind 'r' role, 'm' membership (a: role, b: member, item: grantor, name: their names, and its age), 's' setting (a: role, b: database or 0), 'c' comment.
CREATE OR REPLACE FUNCTION mtm.roles_now() RETURNS TABLE (kind text, a oid, b oid, item text, name text, value text, wrote xid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, MDY' SET TimeZone = 'UTC' AS $$
    SELECT 'r', r.oid, 0::oid, '', r.rolname, concat_ws(' ',
        CASE WHEN r.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN r.rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
        CASE WHEN r.rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN r.rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
        CASE WHEN r.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN r.rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
        CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, 'CONNECTION LIMIT ' || r.rolconnlimit,
        'PASSWORD ' || quote_nullable(r.rolpassword), 'VALID UNTIL ' || quote_literal(r.rolvaliduntil::text)), r.xmin
    FROM pg_authid r WHERE r.oid >= 16384 OR r.oid = 10
    UNION ALL
    SELECT 'm', m.roleid, m.member, CASE WHEN to_jsonb(m) ? 'inherit_option' THEN m.grantor::text ELSE '' END, json_build_array(r.rolname, e.rolname, g.rolname, to_jsonb(m) ->> 'oid')::text,
        CASE WHEN to_jsonb(m) ? 'inherit_option' THEN format('WITH ADMIN %s, INHERIT %s, SET %s', m.admin_option::text, to_jsonb(m) ->> 'inherit_option', to_jsonb(m) ->> 'set_option')
            WHEN m.admin_option THEN 'WITH ADMIN OPTION' ELSE '' END, m.xmin
    FROM pg_auth_members m JOIN pg_authid r ON r.oid = m.roleid JOIN pg_authid e ON e.oid = m.member LEFT JOIN pg_authid g ON g.oid = m.grantor
    UNION ALL
    SELECT 's', s.setrole, s.setdatabase, split_part(c, '=', 1), format('ALTER ROLE %I', r.rolname) || CASE WHEN s.setdatabase <> 0 THEN format(' IN DATABASE %I', d.datname) ELSE '' END,
        mtm.setting_value(split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)), s.xmin
    FROM pg_db_role_setting s JOIN pg_authid r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
    WHERE s.setdatabase = 0 OR d.datname = current_database()
    UNION ALL
    SELECT 'c', r.oid, 0, '', r.rolname, quote_literal(d.description), d.xmin FROM pg_shdescription d JOIN pg_authid r ON r.oid = d.objoid
    WHERE d.classoid = 'pg_authid'::regclass
$$;

-- Notes them, for tell_roles.
CREATE OR REPLACE FUNCTION mtm.note_roles() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_read_only') = 'off' AND current_setting('mtm.gateway', true) = 'on' THEN
        INSERT INTO mtm.noted_roles SELECT pg_current_xact_id(), n.kind, n.a, n.b, n.item, n.name, n.value FROM mtm.roles_now() n;
        PERFORM set_config('mtm.roles_noted', 'on', true);
    END IF;
END $$;

-- Tells the other nodes what has become of the roles since note_roles, or since it was last called: by this transaction, for what another one did
-- they have heard from that, and it may be undone by now. done: the DO is over. It returns what mtm.ddl_scope is for
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
                AND (n.wrote IS NULL OR mtm.is_own(n.wrote))
        ), gone AS (SELECT role FROM x WHERE kind = 'r' AND was AND NOT there)
        SELECT t.text FROM x CROSS JOIN LATERAL (
            SELECT 1, format('REVOKE %I FROM %I', x.old_name::json ->> 0, x.old_name::json ->> 1) || CASE WHEN listed THEN coalesce(format(' GRANTED BY %I', x.old_name::json ->> 2), '') ELSE '' END
            WHERE x.kind = 'm' AND NOT x.there
            UNION ALL SELECT 1, format('REVOKE ADMIN OPTION FOR %I FROM %I', x.old_name::json ->> 0, x.old_name::json ->> 1) WHERE x.kind = 'm' AND x.there AND x.was AND NOT listed AND x.value = ''
            UNION ALL SELECT 2, format('%s RESET %I', x.old_name, x.item) WHERE x.kind = 's' AND NOT x.there
            UNION ALL SELECT 2, format('COMMENT ON ROLE %I IS NULL', x.old_name) WHERE x.kind = 'c' AND NOT x.there
            UNION ALL SELECT 3, format('DROP ROLE IF EXISTS %I', x.old_name) WHERE x.kind = 'r' AND NOT x.there
            UNION ALL SELECT 4, format('ALTER ROLE %I RENAME TO %I', x.old_name, x.name) WHERE x.kind = 'r' AND x.was AND x.there AND x.old_name <> x.name
            UNION ALL SELECT 5, format('%s ROLE %I WITH %s', CASE WHEN x.was THEN 'ALTER' ELSE 'CREATE' END, x.name, x.value) WHERE x.kind = 'r' AND x.there AND x.old IS DISTINCT FROM x.value
            UNION ALL SELECT 6, format('GRANT %I TO %I %s', x.name::json ->> 0, x.name::json ->> 1, x.value) || CASE WHEN listed THEN coalesce(format(' GRANTED BY %I', x.name::json ->> 2), '') ELSE '' END
            WHERE x.kind = 'm' AND x.there AND (listed OR NOT x.was OR x.value <> '')
            UNION ALL SELECT 7, format('%s SET %I TO %s', x.name, x.item, x.value) WHERE x.kind = 's' AND x.there
            UNION ALL SELECT 7, format('COMMENT ON ROLE %I IS %s', x.name, x.value) WHERE x.kind = 'c' AND x.there
        ) t (step, text)
        WHERE x.kind = 'r' OR x.there OR NOT EXISTS (SELECT FROM gone WHERE gone.role = x.role OR x.kind = 'm' AND gone.role = x.b)
        ORDER BY t.step, x.role, CASE WHEN x.kind = 'm' THEN CASE WHEN x.there THEN (x.name::json ->> 3)::bigint ELSE -(x.old_name::json ->> 3)::bigint END END
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

REVOKE ALL ON FUNCTION mtm.roles_now(), mtm.setting_value, mtm.is_own FROM public;
