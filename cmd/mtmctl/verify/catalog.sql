-- The definitions of all objects of a database: kind, name, definition. $1: servers are of one major version, so what they
-- print of an expression can be compared.
WITH ns AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname NOT IN ('information_schema', 'mtm') AND nspname NOT LIKE 'pg\_%'
), rel AS (
    SELECT c.*, format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_class c JOIN ns n ON n.oid = c.relnamespace WHERE c.relpersistence <> 't'
)
SELECT 'schema', format('%I', n.nspname), concat_ws(' ', pg_get_userbyid(nspowner),
    (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(nspacl) a))
FROM pg_namespace n JOIN ns USING (oid)
UNION ALL
SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'c' THEN 'composite type'
        WHEN 'f' THEN 'foreign table' ELSE 'table' END, name,
    concat_ws(' ', relkind, relpersistence, relreplident, relrowsecurity, relforcerowsecurity, relispopulated,
        pg_get_userbyid(relowner), (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(relacl) a), reloptions,
        pg_get_partkeydef(oid), pg_get_expr(relpartbound, oid),
        (SELECT string_agg(inhparent::regclass::text, ',' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = rel.oid),
        CASE WHEN $1 AND relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END)
FROM rel WHERE relkind IN ('r', 'p', 'v', 'm', 'c', 'f')
UNION ALL
SELECT 'column', format('%s.%I', rel.name, attname),
    concat_ws(' ', 'position', row_number() OVER (PARTITION BY attrelid ORDER BY attnum), format_type(atttypid, atttypmod),
        CASE WHEN attnotnull THEN 'not null' END, nullif(attidentity, ''), nullif(attgenerated, ''),
        CASE WHEN attcollation <> 0 THEN attcollation::regcollation END,
        (SELECT string_agg(x::text, ',' ORDER BY x::text) FROM unnest(attacl) x),
        (SELECT 'default ' || CASE WHEN $1 THEN pg_get_expr(adbin, adrelid) ELSE '' END FROM pg_attrdef
         WHERE adrelid = attrelid AND adnum = attnum))
FROM pg_attribute JOIN rel ON rel.oid = attrelid
WHERE relkind IN ('r', 'p', 'v', 'm', 'c', 'f') AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'constraint', format('%s.%I', coalesce(rel.name, contypid::regtype::text), conname),
    concat_ws(' ', contype, CASE WHEN convalidated THEN 'valid' ELSE 'not valid' END,
        CASE WHEN $1 THEN pg_get_constraintdef(co.oid) END)
FROM pg_constraint co LEFT JOIN rel ON rel.oid = conrelid
WHERE connamespace IN (SELECT oid FROM ns) AND contype IN ('c', 'f', 'p', 'u', 'x') AND (rel.oid IS NOT NULL OR conrelid = 0)
UNION ALL
SELECT 'index', format('%I.%I', n.nspname, i.relname),
    concat_ws(' ', CASE WHEN indisvalid THEN 'valid' ELSE 'not valid' END, CASE WHEN indisreplident THEN 'replica identity' END,
        CASE WHEN indisclustered THEN 'clustered' END, CASE WHEN $1 THEN pg_get_indexdef(indexrelid) END)
FROM pg_index JOIN rel ON rel.oid = indrelid JOIN pg_class i ON i.oid = indexrelid JOIN ns n ON n.oid = i.relnamespace
UNION ALL
SELECT 'sequence', rel.name, concat_ws(' ', format_type(seqtypid, NULL), CASE WHEN seqcycle THEN 'cycle' END, seqcache,
    pg_get_userbyid(relowner), (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(relacl) a))
FROM pg_sequence JOIN rel ON rel.oid = seqrelid
UNION ALL
SELECT CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
    format('%I.%I(%s)', n.nspname, proname, pg_get_function_identity_arguments(p.oid)),
    concat_ws(' ', pg_get_userbyid(proowner), (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(proacl) a),
        CASE WHEN $1 AND prokind <> 'a' THEN pg_get_functiondef(p.oid) END)
FROM pg_proc p JOIN ns n ON n.oid = pronamespace
UNION ALL
SELECT 'type', format('%I.%I', n.nspname, typname), concat_ws(' ', typtype, pg_get_userbyid(typowner), typnotnull,
    CASE WHEN typtype = 'd' THEN format_type(typbasetype, typtypmod) END, CASE WHEN $1 THEN typdefault END,
    (SELECT string_agg(quote_literal(enumlabel), ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
    (SELECT format_type(rngsubtype, NULL) FROM pg_range WHERE rngtypid = t.oid))
FROM pg_type t JOIN ns n ON n.oid = typnamespace WHERE typtype IN ('d', 'e', 'r', 'b') AND typelem = 0
UNION ALL
SELECT 'trigger', format('%s.%I', rel.name, tgname), concat_ws(' ', tgenabled, CASE WHEN $1 THEN pg_get_triggerdef(t.oid) END)
FROM pg_trigger t JOIN rel ON rel.oid = tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT 'rule', format('%s.%I', rel.name, rulename), concat_ws(' ', ev_enabled, CASE WHEN $1 THEN pg_get_ruledef(r.oid) END)
FROM pg_rewrite r JOIN rel ON rel.oid = ev_class WHERE rulename <> '_RETURN'
UNION ALL
SELECT 'policy', format('%s.%I', rel.name, polname), concat_ws(' ', polcmd, polpermissive,
    (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r) END, ',' ORDER BY 1) FROM unnest(polroles) r),
    CASE WHEN $1 THEN pg_get_expr(polqual, polrelid) END, CASE WHEN $1 THEN pg_get_expr(polwithcheck, polrelid) END)
FROM pg_policy JOIN rel ON rel.oid = polrelid
UNION ALL
SELECT 'statistics', format('%I.%I', n.nspname, stxname), CASE WHEN $1 THEN pg_get_statisticsobjdef(s.oid) ELSE '' END
FROM pg_statistic_ext s JOIN ns n ON n.oid = stxnamespace
UNION ALL
SELECT 'event trigger', format('%I', evtname), concat_ws(' ', evtevent, evtenabled, evttags, evtfoid::regproc)
FROM pg_event_trigger WHERE evtname NOT LIKE 'mtm\_%'
UNION ALL
SELECT 'extension', format('%I', extname), concat_ws(' ', extnamespace::regnamespace, CASE WHEN $1 THEN extversion END)
FROM pg_extension WHERE extname <> 'plpgsql'
UNION ALL
SELECT 'publication', format('%I', pubname), concat_ws(' ', puballtables, pubinsert, pubupdate, pubdelete, pubtruncate,
    (SELECT string_agg(prrelid::regclass::text, ',' ORDER BY prrelid::regclass::text) FROM pg_publication_rel WHERE prpubid = p.oid))
FROM pg_publication p WHERE pubname <> 'mtm'
UNION ALL
SELECT 'comment', concat_ws('.', rel.name, (SELECT quote_ident(attname) FROM pg_attribute
    WHERE attrelid = objoid AND attnum = objsubid AND objsubid > 0)), description
FROM pg_description JOIN rel ON rel.oid = objoid WHERE classoid = 'pg_class'::regclass
UNION ALL
SELECT i.type, i.identity, '' FROM (
    SELECT 'pg_operator'::regclass AS class, oid FROM pg_operator UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily UNION ALL SELECT 'pg_cast'::regclass, oid FROM pg_cast
    UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion
    UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict
    UNION ALL SELECT 'pg_ts_parser'::regclass, oid FROM pg_ts_parser UNION ALL SELECT 'pg_ts_template'::regclass, oid FROM pg_ts_template
    UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language UNION ALL SELECT 'pg_am'::regclass, oid FROM pg_am
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server
    UNION ALL SELECT 'pg_default_acl'::regclass, oid FROM pg_default_acl
    UNION ALL SELECT 'pg_transform'::regclass, oid FROM pg_transform
) AS o, pg_identify_object(class, oid, 0) i WHERE oid >= 16384 AND i.identity IS NOT NULL
    AND NOT (class = 'pg_cast'::regclass AND i.identity LIKE '%pg_temp%')
UNION ALL
SELECT 'role', format('%I', rolname), concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
    rolbypassrls, rolconnlimit, rolvaliduntil, (SELECT string_agg(format('%I', r.rolname), ',' ORDER BY r.rolname)
        FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = pg_roles.oid))
FROM pg_roles WHERE rolname NOT LIKE 'pg\_%'
