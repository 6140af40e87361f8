-- Every built-in type that has input: a row goes in, is changed without touching some columns, and goes.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN positives AS positive[];
CREATE TYPE pair AS (a int, b text);
CREATE TYPE floatrange AS RANGE (subtype = float8);
CREATE TABLE types (
	id int PRIMARY KEY,
	c_bool bool, c_bytea bytea, c_char "char", c_name name, c_int8 int8, c_int2 int2, c_int2vector int2vector, c_int4 int4,
	c_regproc regproc, c_text text, c_oid oid, c_tid tid, c_xid xid, c_cid cid, c_oidvector oidvector, c_json json, c_xml xml,
	c_point point, c_lseg lseg, c_path path, c_box box, c_polygon polygon, c_line line, c_cidr cidr, c_float4 float4,
	c_float8 float8, c_circle circle, c_macaddr8 macaddr8, c_money money, c_macaddr macaddr, c_inet inet, c_bpchar char(5),
	c_varchar varchar(10), c_date date, c_time time, c_timestamp timestamp, c_timestamptz timestamptz, c_interval interval,
	c_timetz timetz, c_bit bit(3), c_varbit varbit, c_numeric numeric, c_num52 numeric(5,2), c_refcursor refcursor,
	c_regprocedure regprocedure, c_regoper regoper, c_regoperator regoperator, c_regclass regclass, c_regtype regtype,
	c_regrole regrole, c_regnamespace regnamespace, c_uuid uuid, c_pg_lsn pg_lsn, c_tsvector tsvector, c_tsquery tsquery,
	c_regconfig regconfig, c_regdictionary regdictionary, c_jsonb jsonb, c_jsonpath jsonpath, c_snapshot txid_snapshot,
	c_int4range int4range, c_numrange numrange, c_tsrange tsrange, c_tstzrange tstzrange, c_daterange daterange,
	c_int8range int8range, c_int4multirange int4multirange, c_nummultirange nummultirange, c_tsmultirange tsmultirange,
	c_tstzmultirange tstzmultirange, c_datemultirange datemultirange, c_int8multirange int8multirange, c_xid8 xid8,
	c_pg_snapshot pg_snapshot, c_regcollation regcollation, c_aclitem aclitem,
	c_mood mood, c_positive positive, c_positives positives, c_pair pair, c_floatrange floatrange,
	a_int int[], a_text text[], a_mood mood[], a_pair pair[], a_2d int[][], a_numeric numeric[], a_tstz timestamptz[],
	a_range int4range[], a_jsonb jsonb[], a_bytea bytea[], a_uuid uuid[],
	g_stored int GENERATED ALWAYS AS (c_int4 * 2) STORED
);
INSERT INTO types VALUES (1,
	true, '\x00ff10', 'x', 'a name', 9223372036854775807, -32768, '1 2 3', -2147483648,
	'now', E'täxt\n\t\\ ''quoted'' \u2603', 4294967295, '(1,2)', '123', '7', '1 2', '{"a": [1, 2.50,  null]}', '<a b="c">d</a>',
	'(1.5,-2)', '[(0,0),(1,1)]', '[(0,0),(1,1),(2,0)]', '(1,1),(0,0)', '((0,0),(1,1),(2,0))', '{1,2,3}', '10.1.0.0/16', 1.17549e-38,
	'NaN', '<(0,0),5>', '08:00:2b:01:02:03:04:05', '-12.34', '08:00:2b:01:02:03', '::1/64', 'ab',
	'varchar', '0044-03-15 BC', '24:00:00', 'infinity', '2024-02-29 23:59:59.999999+03', '1 year -2 mons 3 days -04:05:06.789',
	'12:00:00+05:30', '101', '10101', 123456789012345678901234567890.123456789, -999.99, 'cursor',
	'abs(int4)', 'pg_catalog.||/', '+(int4,int4)', 'pg_class', 'int4[]', 'postgres', 'pg_catalog', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'FFFFFFFF/FFFFFFFF',
	'a:1A fat:2 cat:3', 'fat & (rat | !cat)', 'english', 'simple', '{"b": 1, "a": {"x": null}}', '$.a[*] ? (@ > 1)', '10:20:10,14,15',
	'[1,10)', '(1.5,)', '[2020-01-01,2021-01-01)', '(,2021-01-01 00:00+00]', 'empty', '[1,1]', '{[1,2),[5,7)}', '{(,1.5]}',
	'{[2020-01-01,2021-01-01)}', '{}', '{[2020-01-01,2020-02-01)}', '{[1,2),[3,4)}', '18446744073709551615', '10:20:10,14', 'pg_catalog."C"',
	'postgres=r/postgres', 'ok', 5, '{1,2,3}', '(1,"a,b")', '[1.5,2.5)',
	'{1,NULL,3}', '{"a b",NULL,"NULL","\"q\"",""}', '{sad,happy}', '{"(1,x)",NULL,"(,)"}', '{{1,2},{3,4}}', '{1.5,NaN,-Infinity}', '{2020-01-01 00:00+00}',
	'{"[1,2)",empty}', '{"{\"a\": 1}"}', '{"\\x00"}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}');
INSERT INTO types (id) VALUES (2);
INSERT INTO types (id, c_float8, c_float4, c_numeric, c_text, c_bytea, c_timestamptz, c_bool) VALUES
	(3, 0.1, 3.4028235e38, 'NaN', '', '', '-infinity', false), (4, '-Infinity', '-0', 'Infinity', ' ', '\x', 'epoch', NULL);
\x
SELECT * FROM types ORDER BY id;
UPDATE types SET c_int4 = 21, c_mood = 'happy', c_positives = c_positives || 4::positive, c_pair.b = 'changed', c_jsonb['new'] = '1' WHERE id IN (1, 2);
UPDATE types SET c_positive = 0 WHERE id = 1;
UPDATE types SET id = id + 100 WHERE id = 3;
DELETE FROM types WHERE id = 4;
SELECT * FROM types ORDER BY id;
\x
-- The same without a key: whole rows, of types without equality.
CREATE TABLE nokey (x xml, p point, j json, b box, t text);
INSERT INTO nokey SELECT '<a/>', '(1,2)', '{"a":1}', '(0,0),(1,1)', 'twin' FROM generate_series(1, 3);
UPDATE nokey SET t = 'changed' WHERE ctid = (SELECT min(ctid) FROM nokey);
DELETE FROM nokey WHERE ctid = (SELECT max(ctid) FROM nokey);
SELECT * FROM nokey ORDER BY t;
