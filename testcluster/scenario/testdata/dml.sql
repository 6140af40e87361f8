-- All kinds of changes, on all kinds of tables.
CREATE TABLE keyed (id int PRIMARY KEY, v text, n int DEFAULT 7);
INSERT INTO keyed (id, v) VALUES (1, 'a'), (2, 'b'), (3, NULL) RETURNING *;
UPDATE keyed SET v = v || '!' WHERE id <= 2 RETURNING id, v;
UPDATE keyed SET id = id + 10;
DELETE FROM keyed WHERE id = 13 RETURNING *;
INSERT INTO keyed VALUES (11, 'again') ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = keyed.n + 1 RETURNING *;
INSERT INTO keyed VALUES (11, 'never') ON CONFLICT DO NOTHING;
MERGE INTO keyed k USING (VALUES (11, 'merged'), (50, 'new')) s(id, v) ON k.id = s.id
	WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v);
WITH gone AS (DELETE FROM keyed WHERE id = 12 RETURNING *), came AS (INSERT INTO keyed SELECT id + 88, v FROM gone RETURNING id)
	SELECT * FROM came;
SELECT * FROM keyed ORDER BY id;
-- keys of two columns, in another order than the table's, and a replica identity that is not the primary key
CREATE TABLE twokeys (a text, b int, c text NOT NULL UNIQUE, PRIMARY KEY (b, a));
INSERT INTO twokeys VALUES ('x', 1, 'one'), ('y', 1, 'two');
ALTER TABLE twokeys REPLICA IDENTITY USING INDEX twokeys_c_key;
UPDATE twokeys SET a = 'z', c = 'three' WHERE c = 'two';
DELETE FROM twokeys WHERE c = 'one';
TABLE twokeys;
-- no key: duplicates lose or change exactly one row
CREATE TABLE bag (x int, t text);
INSERT INTO bag VALUES (1, 'dup'), (1, 'dup'), (1, 'dup'), (2, NULL), (NULL, NULL);
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE x = 1);
UPDATE bag SET t = 'one' WHERE ctid = (SELECT min(ctid) FROM bag WHERE x = 1);
UPDATE bag SET t = 'null' WHERE x IS NULL;
SELECT * FROM bag ORDER BY x, t;
-- partitions: a row moves, a partition is written directly, detached, attached
CREATE TABLE part (id int, k text, v int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b') PARTITION BY RANGE (id);
CREATE TABLE part_b1 PARTITION OF part_b FOR VALUES FROM (0) TO (100);
CREATE TABLE part_rest PARTITION OF part DEFAULT;
INSERT INTO part SELECT i, CASE i % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'b' ELSE 'c' END, i FROM generate_series(1, 9) i;
UPDATE part SET k = 'b' WHERE k = 'a' AND id < 7;
INSERT INTO part_a VALUES (77, 'a', 77);
INSERT INTO part_a VALUES (78, 'b', 78);
INSERT INTO part VALUES (101, 'b', 1);
DELETE FROM part WHERE v = 2;
SELECT tableoid::regclass, * FROM part ORDER BY id;
ALTER TABLE part DETACH PARTITION part_rest;
TRUNCATE part_a;
SELECT tableoid::regclass, * FROM part ORDER BY id;
-- TOAST: what an UPDATE does not touch is not shipped, and must not be lost
CREATE TABLE toasted (id int PRIMARY KEY, big text, small int);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
INSERT INTO toasted SELECT i, string_agg(md5((i * 1000 + j)::text), '' ORDER BY j), 0 FROM generate_series(1, 3) i, generate_series(1, 500) j GROUP BY i;
UPDATE toasted SET small = small + 1;
UPDATE toasted SET id = id + 10 WHERE id = 1;
UPDATE toasted SET big = left(big, 5000) WHERE id = 2;
SELECT id, length(big), md5(big), small FROM toasted ORDER BY id;
CREATE TABLE toasted_nokey (big text, small int);
ALTER TABLE toasted_nokey ALTER big SET STORAGE EXTERNAL;
INSERT INTO toasted_nokey SELECT big, small FROM toasted;
UPDATE toasted_nokey SET small = length(big);
SELECT length(big), small FROM toasted_nokey ORDER BY 1, 2;
-- generated columns, defaults, triggers, foreign keys, inheritance
CREATE TABLE gen (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * a) STORED, c timestamptz DEFAULT now());
INSERT INTO gen (a) SELECT generate_series(1, 5);
UPDATE gen SET a = a + 100 WHERE a > 3;
INSERT INTO gen (a, b) VALUES (9, 9);
SELECT a, b FROM gen ORDER BY a;
CREATE TABLE audit (what text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (TG_OP || ' ' || NEW.a); RETURN NEW; END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON gen FOR EACH ROW EXECUTE FUNCTION audit();
INSERT INTO gen (a) VALUES (50);
UPDATE gen SET a = 51 WHERE a = 50;
SELECT * FROM audit ORDER BY 1;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE);
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (1, 1), (2, 2), (3, 2);
UPDATE parent SET id = 20 WHERE id = 2;
DELETE FROM parent WHERE id = 1;
INSERT INTO child VALUES (9, 9);
SELECT * FROM child ORDER BY id;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO child VALUES (9, 9);
INSERT INTO parent VALUES (9);
COMMIT;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO child VALUES (10, 10);
COMMIT;
SELECT * FROM child ORDER BY id;
CREATE TABLE heir (extra int) INHERITS (keyed);
INSERT INTO heir VALUES (1000, 'heir', 1, 2);
UPDATE keyed SET n = n + 1;
SELECT tableoid::regclass, * FROM keyed ORDER BY id;
-- TRUNCATE
TRUNCATE keyed;
TRUNCATE parent;
TRUNCATE parent CASCADE;
SELECT (SELECT count(*) FROM keyed), (SELECT count(*) FROM child), (SELECT count(*) FROM parent);
-- COPY
COPY bag FROM stdin;
10	copied
11	\N
12	tab\tand\nline
\.
COPY (SELECT * FROM bag ORDER BY x, t) TO stdout WITH (FORMAT csv, HEADER);
COPY bag FROM stdin;
not a number	x
\.
COPY part (id, k, v) FROM stdin WITH (FORMAT csv);
200,a,1
201,a,2
\.
SELECT * FROM part WHERE id >= 200 ORDER BY id;
