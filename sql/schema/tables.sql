-- The tables of schema mtm. Run once, by Install. A later version changes them by a step in "migrations" (install.go).

CREATE SCHEMA mtm;
GRANT USAGE ON SCHEMA mtm TO public;

CREATE TABLE mtm.version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version int NOT NULL,
    installed timestamptz NOT NULL DEFAULT now()
);

-- Who this node is, and what Uninstall must restore.
CREATE TABLE mtm.node (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id int NOT NULL CHECK (id BETWEEN 1 AND 16),
    cluster text NOT NULL,
    guard_before text,              -- the database's own default_transaction_read_only; NULL: it had none
    made_role boolean NOT NULL      -- mtm_admin did not exist before
);

-- The configured nodes. conninfo is for people to read and holds no password.
CREATE TABLE mtm.peers (
    id int PRIMARY KEY CHECK (id BETWEEN 1 AND 16),
    conninfo text NOT NULL
);

-- Sequences that were looked at; sequences.sql explains the columns.
CREATE TABLE mtm.sequences (
    seqid oid PRIMARY KEY,
    stepped boolean NOT NULL,
    anchor bigint NOT NULL,
    grain bigint NOT NULL,
    user_increment bigint NOT NULL,
    user_start bigint NOT NULL,
    user_min bigint NOT NULL,
    user_max bigint NOT NULL,
    set_increment bigint NOT NULL,
    set_start bigint NOT NULL,
    set_min bigint NOT NULL,
    set_max bigint NOT NULL,
    mode text NOT NULL              -- mtm.sequence_mode: step, monotonic or block
);

CREATE INDEX sequences_bounded ON mtm.sequences (seqid) WHERE set_min <> user_min OR set_max <> user_max OR mode = 'block';
CREATE INDEX sequences_monotonic ON mtm.sequences (seqid) WHERE mode = 'monotonic';

-- Sequences of mode block; blocks.sql.
CREATE TABLE mtm.blocks (
    seqid oid PRIMARY KEY,
    next numeric NOT NULL,          -- the first value that nobody has drawn: the same on all nodes, the rest is this node's own
    size bigint NOT NULL,           -- how many values were drawn last
    first bigint,                   -- drawn, and not in use yet; NULL: none
    last bigint,
    drawn timestamptz,              -- when; NULL: not since it began anew
    open boolean NOT NULL,          -- the transaction that writes this begins anew
    since timestamptz NOT NULL      -- when it began anew
);

-- Tables whose REPLICA IDENTITY FULL is our doing; ddl.sql.
CREATE TABLE mtm.full_identity (
    relid oid PRIMARY KEY
);

-- Tables that are not replicated; local.sql. regclass, so that capture reads the name of the table from the WAL.
CREATE TABLE mtm.local_tables (
    relid regclass PRIMARY KEY
);

-- What the other nodes are told from functions here (mtm.say): logical decoding sees the rows, which nobody but the owner can write, and
-- nobody reads them.
CREATE TABLE mtm.said (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    prefix text NOT NULL,
    content text NOT NULL
);

-- How far this PostgreSQL has what was recovered: one row, written in the transactions that recover (logrep).
CREATE TABLE mtm.recovered (
    id bool PRIMARY KEY DEFAULT true CHECK (id),
    at bigint NOT NULL
);

-- Roles as they were before the DO that runs; roles.sql. Empty but in a transaction.
CREATE UNLOGGED TABLE mtm.noted_roles (
    xid xid8 NOT NULL,
    kind text, a oid, b oid, item text, name text, value text
);

-- Always empty: its triggers tell the other nodes of setval(); sequences.sql.
CREATE UNLOGGED TABLE mtm.setvals (
    seq regclass NOT NULL,
    v bigint NOT NULL,
    called boolean NOT NULL
);

-- What the daemon says of itself. Unlogged: it costs no WAL, is not decoded, and is empty after a crash of PostgreSQL,
-- which is then the truth.
CREATE UNLOGGED TABLE mtm.daemon_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    pid int NOT NULL,               -- the backend that holds the advisory lock
    version text NOT NULL,
    since timestamptz NOT NULL,
    key bytea NOT NULL              -- by which mtm.ask proves questions of administrators
);

CREATE UNLOGGED TABLE mtm.node_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    pid int NOT NULL,               -- daemon_state.pid when it was written: another daemon's row does not count
    status text NOT NULL,
    connected int[] NOT NULL,
    gen_num int8 NOT NULL,
    gen_members int[] NOT NULL,
    gen_members_online int[] NOT NULL,
    gen_configured int[] NOT NULL,
    donor int,                      -- whom it recovers from
    behind int8 NOT NULL DEFAULT 0, -- bytes of the donor's journal that are still to come
    written timestamptz NOT NULL
);

CREATE UNLOGGED TABLE mtm.peer_state (
    id int PRIMARY KEY,
    enabled boolean NOT NULL,
    connected boolean NOT NULL,
    sender_pid int,
    receiver_pid int,
    n_workers int NOT NULL,
    receiver_mode text NOT NULL
);

-- What the resolver has to decide, as node_state was written; mtm.in_doubt.
CREATE UNLOGGED TABLE mtm.in_doubt_state (
    gid text PRIMARY KEY,
    began timestamptz,              -- NULL: not known here
    prepared boolean NOT NULL,
    votes int[] NOT NULL,
    waits_for int[] NOT NULL
);

REVOKE ALL ON ALL TABLES IN SCHEMA mtm FROM public;
-- The gateway shows clients a catalog in which neither identities of ours nor the steps of sequences can be seen.
GRANT SELECT ON mtm.version, mtm.sequences, mtm.blocks, mtm.full_identity TO public;
GRANT INSERT ON mtm.setvals TO public;
GRANT SELECT, INSERT ON mtm.local_tables TO public; -- the triggers say who may (local.sql)

-- Members of pg_read_all_data and pg_write_all_data may no more than others. Not by policies where others may read: under
-- row_security = off, as pg_dump's, these would be errors.
DO $$
DECLARE t regclass;
BEGIN
    FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'mtm'::regnamespace AND relkind = 'r' AND NOT has_table_privilege('public', oid, 'SELECT, INSERT') LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION mtm.guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RAISE EXCEPTION 'permission denied for table %', TG_TABLE_NAME USING ERRCODE = '42501';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON mtm.version EXECUTE FUNCTION mtm.guard();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON mtm.sequences EXECUTE FUNCTION mtm.guard();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON mtm.blocks EXECUTE FUNCTION mtm.guard();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON mtm.full_identity EXECUTE FUNCTION mtm.guard();
CREATE TRIGGER guard BEFORE UPDATE OR DELETE OR TRUNCATE ON mtm.local_tables EXECUTE FUNCTION mtm.guard();
