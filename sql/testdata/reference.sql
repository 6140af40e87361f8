-- What the reference's own tests run in SQL.
CREATE SCHEMA corpus_reference;
SET search_path = corpus_reference;
-- Deferrable UNIQUE updates.
CREATE TABLE du (id int PRIMARY KEY DEFERRABLE, v int UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO du SELECT g, g FROM generate_series(1, 10) g;
UPDATE du SET id = id + 1;
BEGIN;
UPDATE du SET v = 11 - v WHERE v < 6;
UPDATE du SET v = v + 100 WHERE id > 6;
COMMIT;
BEGIN;
UPDATE du SET v = 106 WHERE id = 2;
COMMIT;
SELECT * FROM du ORDER BY id;
-- Domains and arrays of domains, of which each node has its own OIDs.
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN several AS positive[] CHECK (array_length(VALUE, 1) < 4);
CREATE TABLE dom (id int PRIMARY KEY, a positive, b positive[], c several);
INSERT INTO dom VALUES (1, 1, '{1,2}', '{3}'), (2, NULL, '{}', '{4,NULL,5}');
INSERT INTO dom VALUES (3, 0, NULL, NULL);
INSERT INTO dom VALUES (3, 1, '{0}', NULL);
INSERT INTO dom VALUES (3, 1, NULL, '{1,2,3,4}');
UPDATE dom SET b = b || 7, c[1] = 9 WHERE id = 1;
SELECT * FROM dom ORDER BY id;
-- A BEFORE trigger that returns NULL.
CREATE TABLE quiet (id int PRIMARY KEY, v text);
CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id % 2 = 0 THEN RETURN NULL; END IF; NEW.v := upper(NEW.v); RETURN NEW; END $$;
CREATE TRIGGER never BEFORE INSERT OR UPDATE ON quiet FOR EACH ROW EXECUTE FUNCTION never();
INSERT INTO quiet SELECT g, 'row ' || g FROM generate_series(1, 6) g RETURNING id;
UPDATE quiet SET id = id + 1;
UPDATE quiet SET v = 'changed' WHERE id = 3;
SELECT * FROM quiet ORDER BY id;
-- SECURITY DEFINER with audit triggers.
CREATE TABLE account (id int PRIMARY KEY, amount int);
CREATE TABLE audit (at int GENERATED ALWAYS AS IDENTITY, op text, who text, id int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = corpus_reference AS
    $$ BEGIN INSERT INTO audit (op, who, id) VALUES (tg_op, session_user, coalesce(NEW.id, OLD.id)); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON account FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO account VALUES (1, 5), (2, 6);
UPDATE account SET amount = amount + 1;
DELETE FROM account WHERE id = 1;
SELECT op, who, id FROM audit ORDER BY at;
-- Update without a key.
CREATE TABLE bag (v int, w text);
INSERT INTO bag SELECT g % 3, 'x' FROM generate_series(1, 9) g;
UPDATE bag SET w = 'y' WHERE v = 1;
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE v = 2);
SELECT v, w, count(*) FROM bag GROUP BY 1, 2 ORDER BY 1, 2;
-- Empty search_path.
SET search_path = '';
CREATE TABLE corpus_reference.pathless (id serial PRIMARY KEY, v corpus_reference.positive DEFAULT 1);
INSERT INTO corpus_reference.pathless DEFAULT VALUES;
INSERT INTO pathless DEFAULT VALUES;
ALTER TABLE corpus_reference.pathless ADD CHECK (v < 5);
INSERT INTO corpus_reference.pathless VALUES (1000, 5);
SELECT count(*), sum(v) FROM corpus_reference.pathless;
SET search_path = corpus_reference;
-- CTE update.
WITH moved AS (DELETE FROM bag WHERE v = 0 RETURNING *), made AS (INSERT INTO bag SELECT v + 10, w FROM moved RETURNING v)
    UPDATE account SET amount = amount + (SELECT sum(v) FROM made) RETURNING *;
-- TOASTed and generated columns.
CREATE TABLE wide (id int PRIMARY KEY, big text, n int GENERATED ALWAYS AS (length(big)) STORED, small int DEFAULT 0);
ALTER TABLE wide ALTER COLUMN big SET STORAGE EXTERNAL;
INSERT INTO wide SELECT g, repeat(chr(64 + g), 20000 * g) FROM generate_series(1, 5) g;
UPDATE wide SET small = 1;
UPDATE wide SET id = id + 10 WHERE id = 3;
UPDATE wide SET big = big || 'z' WHERE id = 4;
DELETE FROM wide WHERE id = 5;
SELECT id, n, small, md5(big) FROM wide ORDER BY id;
-- A huge transaction, in subtransactions.
CREATE TABLE huge (id int PRIMARY KEY, v text);
DO $$ BEGIN
    FOR i IN 0..19 LOOP
        BEGIN
            INSERT INTO corpus_reference.huge SELECT i * 1000 + g, repeat('h', 40) FROM generate_series(1, 1000) g;
            IF i % 5 = 4 THEN RAISE EXCEPTION 'back'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END LOOP;
END $$;
SELECT count(*), sum(id) FROM huge;
