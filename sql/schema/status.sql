-- What a user asks a node about itself. Readable by every role, in read-only transactions, with any search_path.

-- The daemon lives while its session holds the advisory lock (classid 1836346733 "mtmm", objid 1). A user may take the same
-- lock, but he cannot write mtm.daemon_state, so the pid would not match.
CREATE OR REPLACE FUNCTION mtm.daemon(OUT alive boolean, OUT since timestamptz, OUT version text, OUT last_seen timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT l.pid IS NOT NULL, d.since, d.version,
           CASE WHEN l.pid IS NOT NULL THEN clock_timestamp() ELSE coalesce(s.written, d.since) END
    FROM (VALUES (true)) AS one(x)
    LEFT JOIN mtm.daemon_state d ON true
    LEFT JOIN mtm.node_state s ON s.pid = d.pid
    LEFT JOIN pg_locks l ON l.locktype = 'advisory' AND l.classid = 1836346733 AND l.objid = 1 AND l.objsubid = 2
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid = d.pid;
END;

-- While the daemon is down nobody is connected or online, whatever it wrote last; of the generation the last
-- known is told, and NULL if nothing is known.
CREATE OR REPLACE FUNCTION mtm.status(OUT my_node_id int, OUT status text, OUT connected int[], OUT gen_num int8,
    OUT gen_members int[], OUT gen_members_online int[], OUT gen_configured int[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT n.id,
           CASE WHEN live.yes THEN s.status ELSE 'disabled' END,
           CASE WHEN live.yes THEN s.connected ELSE '{}' END,
           s.gen_num,
           s.gen_members,
           CASE WHEN live.yes THEN s.gen_members_online ELSE '{}' END,
           coalesce(s.gen_configured, ARRAY(SELECT p.id FROM mtm.peers p ORDER BY p.id))
    FROM mtm.node n
    CROSS JOIN mtm.daemon() d
    LEFT JOIN mtm.daemon_state ds ON true
    LEFT JOIN mtm.node_state s ON true
    CROSS JOIN LATERAL (SELECT d.alive AND coalesce(s.pid = ds.pid, false)) AS live(yes);
END;

-- While a node is brought up to date: from whom, and how much is still to come, as far as known.
CREATE OR REPLACE FUNCTION mtm.recovery(OUT donor int, OUT bytes_behind int8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN live.yes THEN s.donor END, CASE WHEN live.yes AND s.donor IS NOT NULL THEN s.behind END
    FROM mtm.node n
    CROSS JOIN mtm.daemon() d
    LEFT JOIN mtm.daemon_state ds ON true
    LEFT JOIN mtm.node_state s ON true
    CROSS JOIN LATERAL (SELECT d.alive AND coalesce(s.pid = ds.pid, false)) AS live(yes);
END;

CREATE OR REPLACE FUNCTION mtm.nodes(OUT id int, OUT conninfo text, OUT is_self boolean, OUT enabled boolean,
    OUT connected boolean, OUT sender_pid int, OUT receiver_pid int, OUT n_workers int, OUT receiver_mode text)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT p.id, p.conninfo, p.id = n.id,
           coalesce(live.yes AND t.enabled, false),
           coalesce(live.yes AND t.connected, false),
           CASE WHEN live.yes THEN t.sender_pid END,
           CASE WHEN live.yes THEN t.receiver_pid END,
           CASE WHEN live.yes THEN coalesce(t.n_workers, 0) ELSE 0 END,
           CASE WHEN live.yes THEN coalesce(t.receiver_mode, 'disabled') ELSE 'disabled' END
    FROM mtm.node n
    CROSS JOIN mtm.daemon() d
    LEFT JOIN mtm.daemon_state ds ON true
    LEFT JOIN mtm.node_state s ON true
    CROSS JOIN LATERAL (SELECT d.alive AND coalesce(s.pid = ds.pid, false)) AS live(yes)
    CROSS JOIN mtm.peers p
    LEFT JOIN mtm.peer_state t ON t.id = p.id
    ORDER BY p.id;
END;

-- Transactions without an outcome whose origin is lost, as this node knows them. votes: the nodes that have answered its present attempt to
-- decide; a majority of votes and waits_for together ends it. While the daemon is down: what is prepared here and waits for it.
CREATE OR REPLACE FUNCTION mtm.doubts(OUT gid text, OUT origin int, OUT age interval, OUT prepared boolean, OUT votes int[], OUT waits_for int[])
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT t.gid, split_part(t.gid, '-', 2)::int, clock_timestamp() - t.began, t.prepared, t.votes, t.waits_for
    FROM mtm.in_doubt_state t
    CROSS JOIN mtm.daemon() d
    JOIN mtm.daemon_state ds ON true
    JOIN mtm.node_state s ON s.pid = ds.pid
    WHERE d.alive
    UNION ALL
    SELECT x.gid, split_part(x.gid, '-', 2)::int, clock_timestamp() - x.prepared, true, NULL, NULL
    FROM pg_prepared_xacts x
    CROSS JOIN mtm.daemon() d
    WHERE NOT d.alive AND x.database = current_database() AND x.gid ~ '^mtm-[1-9][0-9]?-[0-9]+-[0-9]+$'
    ORDER BY 1;
END;

CREATE OR REPLACE VIEW mtm.in_doubt AS SELECT * FROM mtm.doubts();
GRANT SELECT ON mtm.in_doubt TO public;
