-- Event triggers of the user fire where the statement runs. What they write is on all nodes, whatever they are called.
CREATE TABLE seen (id text PRIMARY KEY);
CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO script.seen SELECT format('%s %s %s', tg_event, tg_tag, count(*)) FROM script.seen;
    IF tg_event = 'ddl_command_end' AND tg_tag = 'CREATE VIEW' THEN
        EXECUTE 'CREATE TABLE script.of_a_trigger AS SELECT random() AS r';
    END IF;
END $$;
CREATE EVENT TRIGGER a_start ON ddl_command_start EXECUTE FUNCTION see();
CREATE EVENT TRIGGER zz_start ON ddl_command_start EXECUTE FUNCTION see();
CREATE EVENT TRIGGER a_end ON ddl_command_end EXECUTE FUNCTION see();
CREATE EVENT TRIGGER zz_drop ON sql_drop EXECUTE FUNCTION see();
CREATE TABLE t (id serial PRIMARY KEY, v int);
ALTER TABLE t DROP COLUMN v;
CREATE TEMP TABLE tt (id int);
CREATE INDEX ON tt (id);
DROP TABLE tt;
DROP TABLE IF EXISTS nothing;
BEGIN;
SAVEPOINT s;
DROP TABLE nothing;
ROLLBACK TO s;
CREATE TABLE u AS SELECT random() AS r FROM generate_series(1, 3);
INSERT INTO u VALUES (1);
DROP TABLE t;
DO $$ BEGIN CREATE TABLE script.v (id int PRIMARY KEY); INSERT INTO script.v VALUES (1); DROP TABLE script.v; CREATE TABLE script.w (id int); END $$;
COMMIT;
CREATE VIEW over_u AS SELECT * FROM u;
SELECT count(*) FROM of_a_trigger;
SELECT id FROM seen ORDER BY split_part(id, ' ', -1)::int;
DROP EVENT TRIGGER a_start;
DROP EVENT TRIGGER zz_start;
DROP EVENT TRIGGER a_end;
DROP EVENT TRIGGER zz_drop;
-- DDL in DO after DDL of which no event trigger knows, and after DDL, in one block.
BEGIN;
CREATE ROLE script_role;
DO $$ BEGIN CREATE TABLE script.x (id int PRIMARY KEY); INSERT INTO script.x VALUES (1); END $$;
DROP ROLE script_role;
CREATE TABLE y (id int PRIMARY KEY);
DO $$ BEGIN CREATE TABLE script.z (id int PRIMARY KEY); INSERT INTO script.z VALUES (1); END $$;
COMMIT;
SELECT * FROM x, z;
-- Locks on what is ours do not show.
BEGIN;
ALTER TABLE x ALTER id SET STATISTICS 10;
ALTER TABLE u ADD n int;
CREATE VIEW my_locks AS SELECT relname, mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE pid = pg_backend_pid() AND relnamespace <> 'pg_catalog'::regnamespace;
SELECT * FROM my_locks WHERE relname !~ 'toast' ORDER BY 1, 2;
ROLLBACK;
CREATE FUNCTION vacuumed() RETURNS void LANGUAGE sql AS 'VACUUM';
SELECT vacuumed();
