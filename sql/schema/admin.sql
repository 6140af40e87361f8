-- What administrators have the daemon do: mtm.add_node(), mtm.drop_node(), mtm.check_query(). It takes longer than a question may: so it is begun by one
-- question, and others follow it. The daemon ends, and undoes, what nobody follows any more: a cancelled statement, a lost session.
-- These functions are the only way to ask so: see mtm.proof.

CREATE OR REPLACE FUNCTION mtm.carry_out(beginning text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    answer text;
    said text := '';
    report text := '';
    piece text;
    failure json;
BEGIN
    PERFORM mtm.ask(beginning);
    LOOP
        answer := mtm.ask('j');
        IF answer LIKE 'd%' THEN
            RETURN substr(answer, 2);
        ELSIF answer LIKE 'f%' THEN
            EXIT;
        ELSIF answer <> said THEN
            said := answer;
            RAISE NOTICE '%', substr(answer, 2);
        END IF;
        PERFORM pg_sleep(0.2);
    END LOOP;
    LOOP
        piece := mtm.ask('k' || length(report));
        EXIT WHEN piece IS NULL;
        report := report || piece;
    END LOOP;
    failure := report::json;
    IF failure->>'detail' <> '' AND failure->>'hint' <> '' THEN
        RAISE EXCEPTION USING ERRCODE = failure->>'code', MESSAGE = failure->>'msg', DETAIL = failure->>'detail', HINT = failure->>'hint';
    ELSIF failure->>'detail' <> '' THEN
        RAISE EXCEPTION USING ERRCODE = failure->>'code', MESSAGE = failure->>'msg', DETAIL = failure->>'detail';
    ELSIF failure->>'hint' <> '' THEN
        RAISE EXCEPTION USING ERRCODE = failure->>'code', MESSAGE = failure->>'msg', HINT = failure->>'hint';
    END IF;
    RAISE EXCEPTION USING ERRCODE = failure->>'code', MESSAGE = failure->>'msg';
END $$;
REVOKE ALL ON FUNCTION mtm.carry_out(text) FROM public;

-- Begins with a long argument.
CREATE OR REPLACE FUNCTION mtm.carry_out(beginning text, argument text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    words text := translate(encode(convert_to(argument, 'UTF8'), 'base64'), E'\n', '');
BEGIN
    PERFORM mtm.ask('n' || substr(words, 1, 36));
    FOR i IN 1 .. length(words) / 36 LOOP
        PERFORM mtm.ask('p' || substr(words, 36 * i + 1, 36));
    END LOOP;
    RETURN mtm.carry_out(beginning);
END $$;
REVOKE ALL ON FUNCTION mtm.carry_out(text, text) FROM public;

-- Adds the node whose waiting mtmd is at node, 'id=host:port', as mtmctl add-node does, and returns its number when it is a member.
CREATE OR REPLACE FUNCTION mtm.add_node(node text) RETURNS int
LANGUAGE sql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT mtm.carry_out('a', node)::int $$;
REVOKE ALL ON FUNCTION mtm.add_node(text) FROM public;
GRANT EXECUTE ON FUNCTION mtm.add_node(text) TO mtm_admin;

-- Takes a node, dead or alive, out of the cluster for ever, as mtmctl drop-node does.
CREATE OR REPLACE FUNCTION mtm.drop_node(node_id int) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    warning text := mtm.carry_out('d' || node_id);
BEGIN
    IF warning <> '' THEN
        RAISE WARNING '%', warning;
    END IF;
END $$;
REVOKE ALL ON FUNCTION mtm.drop_node(int) FROM public;
GRANT EXECUTE ON FUNCTION mtm.drop_node(int) TO mtm_admin;

-- Runs a query on all nodes, for one state of the data, and tells whether it gives the same rows, in whatever order. If not, a WARNING
-- tells of one that differs. Superusers only: it runs as its user, on all nodes.
CREATE OR REPLACE FUNCTION mtm.check_query(query_text text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT AS $$
DECLARE
    answer text;
BEGIN
    answer := mtm.carry_out('q', pg_catalog.json_build_object('query', query_text, 'search_path', pg_catalog.current_setting('search_path'), 'user', session_user)::text);
    IF pg_catalog.length(answer) > 1 THEN
        RAISE WARNING '%', pg_catalog.substr(answer, 2);
    END IF;
    RETURN pg_catalog.left(answer, 1) = 't';
END $$;
REVOKE ALL ON FUNCTION mtm.check_query(text) FROM public;
