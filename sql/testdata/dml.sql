-- INSERT, UPDATE, DELETE, MERGE, TRUNCATE in their forms, on a table with a key.
CREATE SCHEMA corpus_dml;
SET search_path = corpus_dml;
CREATE TABLE t (id int PRIMARY KEY, a int, b text DEFAULT 'b');
INSERT INTO t SELECT g, g % 3 FROM generate_series(1, 10) g;
INSERT INTO t (id) VALUES (11), (12) RETURNING *;
INSERT INTO t VALUES (1, 0, 'x');
INSERT INTO t VALUES (1, 0, 'x') ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (1, 100, 'x'), (13, 1, 'y') ON CONFLICT (id) DO UPDATE SET a = excluded.a RETURNING id, a, b;
UPDATE t SET id = id + 100 WHERE a = 2;
UPDATE t SET b = t.b || u.a FROM (VALUES (1, 7), (3, 9)) u (id, a) WHERE t.id = u.id RETURNING t.*;
UPDATE t SET (a, b) = (SELECT 5, 'five') WHERE id = 4;
UPDATE t SET a = a;
DELETE FROM t USING (VALUES (6)) d (id) WHERE t.id = d.id;
WITH gone AS (DELETE FROM t WHERE id > 100 RETURNING id, a), back AS (INSERT INTO t SELECT id + 1000, a FROM gone RETURNING id)
SELECT count(*), min(id) FROM back;
MERGE INTO t USING (VALUES (1, 'm'), (9, 'gone'), (20, 'new')) s (id, b) ON t.id = s.id
    WHEN MATCHED AND s.b = 'gone' THEN DELETE
    WHEN MATCHED THEN UPDATE SET b = s.b
    WHEN NOT MATCHED THEN INSERT VALUES (s.id, 0, s.b);
SELECT * FROM t ORDER BY id;
UPDATE t SET id = 1 WHERE id = 3;
SELECT 1 / 0;
CREATE TABLE wide (a int, b text COLLATE "C", c numeric, d date, v text, PRIMARY KEY (b, a, c, d));
INSERT INTO wide VALUES (1, 'x', 1.50, '2020-01-01', 'one'), (1, 'X', 1.5, '2020-01-01', 'two'), (1, 'x', 1.51, '2020-01-01', NULL);
UPDATE wide SET v = v || '!', b = b || b WHERE c = 1.5;
DELETE FROM wide WHERE v IS NULL;
SELECT * FROM wide ORDER BY b;
CREATE TABLE emptied (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, e int REFERENCES emptied);
INSERT INTO emptied VALUES (1), (2);
INSERT INTO child VALUES (1, 1);
TRUNCATE emptied;
TRUNCATE emptied CASCADE;
INSERT INTO child VALUES (2, 2);
INSERT INTO emptied VALUES (3);
SELECT * FROM emptied;
CREATE TABLE none ();
INSERT INTO none DEFAULT VALUES;
SELECT count(*) FROM none;
