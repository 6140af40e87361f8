-- Functions, procedures and triggers that write.
CREATE SCHEMA corpus_code;
SET search_path = corpus_code;
CREATE TABLE t (id int PRIMARY KEY, a int, note text);
CREATE TABLE log (id int PRIMARY KEY, what text);
CREATE FUNCTION add(n int) RETURNS int LANGUAGE sql AS 'INSERT INTO corpus_code.t VALUES (n, n * n) RETURNING a';
SELECT add(1), add(2);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.note := coalesce(NEW.note, '') || TG_OP || ';';
    IF NEW.a < 0 THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = corpus_code AS $$
BEGIN
    INSERT INTO log SELECT count(*) + 1, TG_OP || ' ' || coalesce(NEW.id, OLD.id) FROM log;
    RETURN NULL;
END $$;
CREATE TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION record();
INSERT INTO t VALUES (3, 3), (4, -4);
UPDATE t SET a = a - 2;
DELETE FROM t WHERE id = 2;
SELECT * FROM t ORDER BY id;
SELECT * FROM log ORDER BY id;
CREATE TABLE stmts (id int PRIMARY KEY, n bigint);
CREATE FUNCTION per_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO corpus_code.stmts SELECT (SELECT count(*) + 1 FROM corpus_code.stmts), count(*) FROM added;
    RETURN NULL;
END $$;
CREATE TRIGGER per_statement AFTER INSERT ON t REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION per_statement();
INSERT INTO t SELECT g, g FROM generate_series(10, 14) g;
SELECT * FROM stmts;
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO corpus_code.log SELECT max(id) + 1, 'late' FROM corpus_code.log;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER DELETE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
BEGIN;
DELETE FROM t WHERE id = 14;
INSERT INTO log SELECT max(id) + 1, 'before the end' FROM log;
COMMIT;
SELECT what FROM log ORDER BY id DESC LIMIT 2;
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT id FROM corpus_code.t WHERE id >= 10 ORDER BY id LOOP
        BEGIN
            UPDATE corpus_code.t SET a = 100 / (r.id - 11) WHERE id = r.id;
        EXCEPTION WHEN division_by_zero THEN
            DELETE FROM corpus_code.t WHERE id = r.id;
        END;
    END LOOP;
END $$;
SELECT * FROM t ORDER BY id;
CREATE PROCEDURE put(n int, INOUT total bigint) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO corpus_code.t VALUES (n, n);
    SELECT count(*) INTO total FROM corpus_code.t;
END $$;
CALL put(50, NULL);
CALL put(50, NULL);
ALTER TABLE t DISABLE TRIGGER stamp;
INSERT INTO t VALUES (60, -60);
DROP TRIGGER record ON t;
DELETE FROM t WHERE id = 60;
DROP FUNCTION stamp();
DROP FUNCTION stamp() CASCADE;
SELECT * FROM t ORDER BY id;
SELECT count(*) FROM log;
PREPARE p (int, text) AS INSERT INTO t VALUES ($1, $1, $2) RETURNING *;
EXECUTE p (70, 'prepared');
EXECUTE p (71, NULL);
DEALLOCATE p;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id FOR UPDATE;
FETCH 2 FROM c;
UPDATE t SET note = 'under the cursor' WHERE CURRENT OF c;
COMMIT;
SELECT id, note FROM t WHERE note LIKE 'under%';
