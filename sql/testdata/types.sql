-- Every built-in type that holds data, and what users build from them.
CREATE SCHEMA corpus_types;
SET search_path = corpus_types;
SET extra_float_digits = 1;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN positives AS positive[];
CREATE TYPE floatrange AS RANGE (subtype = float8);
CREATE TABLE numbers (id int PRIMARY KEY, i2 smallint, i4 int, i8 bigint, n numeric, n2 numeric(20, 4), f4 real, f8 double precision, m money, o oid);
INSERT INTO numbers VALUES
    (1, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    (2, -32768, -2147483648, -9223372036854775808, -1e-50, -9999999999999999.9999, -3.4028235e38, -1.7976931348623157e308, '-$1,234.56', 4294967295),
    (3, 32767, 2147483647, 9223372036854775807, 1e400, 0.0001, 1.1754944e-38, 2.2250738585072014e-308, '$0.01', 1),
    (4, NULL, NULL, NULL, 'NaN', 'NaN', 'NaN', 'NaN', NULL, NULL),
    (5, 1, 1, 1, 'Infinity', 1, 'Infinity', '-Infinity', 1, 1),
    (6, 1, 1, 1, 0.1000000, 0.1, 0.1, 0.1, 1, 1);
UPDATE numbers SET n = n + 1, f8 = f8 / 3 WHERE id IN (1, 3, 6);
SELECT * FROM numbers ORDER BY id;
CREATE TABLE texts (id int PRIMARY KEY, t text, v varchar(10), c char(5), n name, b bytea, q "char", bits bit(3), vbits varbit(9), x xml);
INSERT INTO texts VALUES
    (1, '', '', '', '', '', '', B'000', B'', NULL),
    (2, E'tab\tnewline\nquote''back\\slash', E'a\\b', 'ab', 'name', '\x00ff5c27', 'x', B'101', B'101010101', '<a b="1">ä</a>'),
    (3, U&'\00e4\20ac\+01F600', 'ä€😀', 'äöü', 'ä', decode(repeat('00', 100), 'hex'), E'\\377', B'111', B'1', '<!-- c --><a/>'),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, '\N', 'NULL', '{}', '"', '\\x', '\', B'010', B'0', '<a>&amp;</a>');
UPDATE texts SET t = t || '+', b = b || '\x01' WHERE id <> 4;
SELECT * FROM texts ORDER BY id;
CREATE TABLE times (id int PRIMARY KEY, d date, t time, tz timetz, ts timestamp, tstz timestamptz, i interval);
SET TimeZone = 'America/New_York';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'sql_standard';
INSERT INTO times VALUES
    (1, '01/02/2003', '04:05:06.789', '04:05:06-08', '01/02/2003 04:05:06', '01/02/2003 04:05:06', '1-2 3 4:05:06'),
    (2, 'infinity', '24:00', '00:00+14', '-infinity', 'infinity', '-1 day'),
    (3, '4714-11-24 BC', '00:00', '23:59:59.999999-15:59', '294276-12-31 23:59:59.999999', '4714-11-24 00:00:00 UTC BC', '178000000 years'),
    (4, NULL, NULL, NULL, NULL, NULL, NULL);
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
UPDATE times SET ts = ts + interval '1 month', i = i * 2 WHERE id = 1;
SELECT * FROM times ORDER BY id;
CREATE TABLE places (id int PRIMARY KEY, p point, l line, ls lseg, b box, pa path, po polygon, c circle, ip inet, net cidr, mac macaddr, mac8 macaddr8, u uuid);
INSERT INTO places VALUES
    (1, '(1.5,-2)', '{1,2,3}', '[(0,0),(1,1)]', '(2,2),(0,0)', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(1,2),3>',
        '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
    (2, '(1e300,-0)', NULL, NULL, NULL, '((0,0),(1,1))', NULL, NULL, '::1', '2001:db8::/32', NULL, NULL, '00000000-0000-0000-0000-000000000000');
UPDATE places SET p = p + point(1, 1), ip = ip + 1;
SELECT * FROM places ORDER BY id;
CREATE TABLE docs (id int PRIMARY KEY, j json, jb jsonb, jp jsonpath, tv tsvector, tq tsquery, lsn pg_lsn, snap pg_snapshot);
INSERT INTO docs VALUES
    (1, '{"a": 1, "a":  2, "b": [null, true, 1.50]}', '{"b": [null, true, 1.50], "a": "\u00e4"}', '$.a[*] ? (@ > 1)', 'a:1A b:2,3', 'a & !b | c:*', '16/B374D848', '10:20:10,14'),
    (2, '"x"', '"x"', 'strict $', '', '', '0/0', NULL);
UPDATE docs SET jb = jsonb_set(jb, '{c}', '1') WHERE id = 1;
DELETE FROM docs WHERE id = 2;
SELECT * FROM docs ORDER BY id;
CREATE TABLE built (id int PRIMARY KEY, m mood, p pair, d positive, ds positives, ms mood[], ps pair[], r int4range, nr numrange, tr tstzrange, dr daterange, fr floatrange,
    mr int8multirange, a int[], a2 text[][], ab bytea[]);
INSERT INTO built VALUES
    (1, 'ok', '(1,"a,""b")', 5, '{1,2}', '{sad,happy,NULL}', '{"(1,x)","(,)"}', '[1,5)', '(,1.5]', '[2020-01-01 00:00+00,infinity)', '[2020-01-01,2020-01-31]', '[1.5,2.5)',
        '{[1,3),[5,8)}', '{1,NULL,3}', '{{a,"b,c"},{"",NULL}}', '{"\\x00","\\xff"}'),
    (2, NULL, ROW(NULL, NULL), NULL, NULL, '{}', NULL, 'empty', NULL, NULL, NULL, NULL, '{}', '[2:3]={7,8}', '{}', NULL);
UPDATE built SET m = 'happy', a = a || 9, r = r * int4range(2, 9);
INSERT INTO built (id, d) VALUES (3, -1);
ALTER TYPE mood ADD VALUE 'great' AFTER 'happy';
UPDATE built SET m = 'great' WHERE id = 2;
SELECT * FROM built ORDER BY m NULLS FIRST, id;
CREATE TABLE regs (id int PRIMARY KEY, c regclass, t regtype, p regprocedure, n regnamespace);
INSERT INTO regs VALUES (1, 'pg_class', 'int[]', 'lower(text)', 'pg_catalog');
SELECT * FROM regs;
