-- What a session asks the daemon, while it runs a statement, in any kind of transaction: mtm.outcome(), mtm.last_gid().
--
-- A read-only transaction with an old snapshot can write nothing, and sees nothing that is written. So the question stands in
-- the session's application_name, for as long as the function runs, and the answer is advisory locks of the daemon's session,
-- which only that session can hold: their keys are the asker's process id, and number << 24 | three bytes of the answer; number 0
-- has the bytes of the question's nonce, is taken last and given back first. The daemon looks once a second; a gateway in between
-- sees the notice, keeps it from the client and has the daemon look at once. Package schema's ask.go is the other side.
--
-- Anybody can set application_name, so what only administrators may ask, who alone can call admin.sql's functions, carries a proof made with
-- the daemon's key, which nobody else can read. It is good for one question of one session.
CREATE OR REPLACE FUNCTION mtm.proof(pid int, nonce text, question text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT left(encode(sha256(d.key || sha256(d.key || convert_to(format('%s %s %s', pid, nonce, question), 'UTF8'))), 'hex'), 12)
    FROM mtm.daemon_state d;
END;
REVOKE ALL ON FUNCTION mtm.proof(int, text, text) FROM public;

CREATE OR REPLACE FUNCTION mtm.ask(question text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET client_min_messages = notice SET application_name = 'mtm'
AS $$
DECLARE
    nonce int := (extract(epoch FROM clock_timestamp()) * 1000000)::int8 & 16777215;
    give_up timestamptz := clock_timestamp() + interval '5 s';
    zero CONSTANT bytea := decode('00', 'hex');
    bytes bytea;
    answer text;
    hex text := lpad(to_hex(nonce), 6, '0');
BEGIN
    IF NOT (SELECT alive FROM mtm.daemon()) THEN
        RAISE EXCEPTION 'this node cannot answer: its mtmd is not running' USING ERRCODE = '55000', HINT = 'Ask another node.';
    END IF;
    PERFORM set_config('application_name', 'mtm?' || hex
        || CASE WHEN question ~ '^[ol]' THEN '' ELSE mtm.proof(pg_backend_pid(), hex, question) END || ' ' || question, true);
    IF current_setting('mtm.gateway', true) = 'on' THEN
        RAISE NOTICE 'mtm.ask' USING ERRCODE = 'MTM01';
    END IF;
    LOOP
        PERFORM pg_sleep(0.001);
        SELECT string_agg(substring(int4send((l.objid::int8 & 16777215)::int) FROM 2), '' ORDER BY l.objid::int8) INTO bytes
        FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.classid = pg_backend_pid()::oid AND l.objsubid = 2 AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.pid = (SELECT pid FROM mtm.daemon_state);
        IF substring(bytes FROM 1 FOR 3) = substring(int4send(nonce) FROM 2) AND position(zero IN substring(bytes FROM 4)) > 0 THEN
            bytes := substring(bytes FROM 4);
            answer := convert_from(substring(bytes FROM 1 FOR position(zero IN bytes) - 1), 'UTF8');
            EXIT;
        END IF;
        IF clock_timestamp() > give_up THEN
            RAISE EXCEPTION 'this node''s mtmd has not answered within 5 s' USING ERRCODE = '55000', HINT = 'Try again, or ask another node.';
        END IF;
    END LOOP;
    IF answer LIKE '!%' THEN
        RAISE EXCEPTION '%', substr(answer, 8) USING ERRCODE = substr(answer, 2, 5);
    END IF;
    RETURN CASE WHEN answer LIKE '=%' THEN substr(answer, 2) END;
END $$;
REVOKE ALL ON FUNCTION mtm.ask(text) FROM public;

-- What became of a transaction: 'committed' or 'aborted', for ever; 'in progress'; or NULL, if no node in reach knows it.
CREATE OR REPLACE FUNCTION mtm.outcome(gid text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF gid !~ '^mtm-[1-9][0-9]?-[0-9]{1,20}-[0-9]{1,20}$' THEN
        RAISE EXCEPTION '"%" is not the name of a transaction of the cluster', gid USING ERRCODE = '22023',
            HINT = 'Such a name looks like mtm-1-7-42. It is in the DETAIL of SQLSTATE 08007, and mtm.last_gid() tells it.';
    END IF;
    RETURN mtm.ask('o' || gid);
END $$;

-- The name of this session's last transaction that was committed in the whole cluster; NULL if there is none, or the session does
-- not come through the gateway.
CREATE OR REPLACE FUNCTION mtm.last_gid() RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT mtm.ask('l');
END;
