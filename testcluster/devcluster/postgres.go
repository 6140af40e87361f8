package devcluster

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Deadlines of waits. They are for a machine with every core busy.
const (
	pgStartWait = 60 * time.Second
	pgStopWait  = 60 * time.Second
)

// superuser owns every PostgreSQL of a dev cluster.
const superuser = "postgres"

// initdb makes the data directory of n and its configuration.
func (n *node) initdb(ctx context.Context, o Options, cred *syscall.Credential) error {
	parent := filepath.Dir(n.PgData)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if cred != nil {
		if err := os.Chown(parent, int(cred.Uid), int(cred.Gid)); err != nil {
			return err
		}
	}
	// --no-sync: initdb's own fsyncs take seconds, and what matters is written later, with fsync on.
	err := command{path: filepath.Join(n.PgBin, "initdb"), cred: cred, args: []string{
		"-D", n.PgData, "-U", superuser, "-A", "trust", "-E", o.Encoding, "--locale", o.Locale, "--no-sync",
	}}.run(ctx)
	if err != nil {
		return fmt.Errorf("node %d: %w", n.ID, err)
	}
	if err := appendFile(filepath.Join(n.PgData, "postgresql.conf"), n.pgConf(o.Settings)); err != nil {
		return err
	}
	if len(o.HBA) == 0 {
		return nil
	}
	hba := filepath.Join(n.PgData, "pg_hba.conf")
	old, err := os.ReadFile(hba)
	if err != nil {
		return err
	}
	return os.WriteFile(hba, append([]byte(strings.Join(o.HBA, "\n")+"\n"), old...), 0o600)
}

// pgConf is what mtm needs of PostgreSQL, for up to mtm.MaxNodes nodes, and what a test wants.
func (n *node) pgConf(extra []string) string {
	lines := []string{
		"", "# mtmctl devcluster",
		"listen_addresses = '127.0.0.1'",
		fmt.Sprintf("port = %d", n.PgPort),
		"unix_socket_directories = '" + n.PgSocket + "'",
		"wal_level = logical",
		"max_connections = 300",
		"max_prepared_transactions = 300",
		"max_wal_senders = 32",
		// One slot is for capture. The others are replication origins, one per apply worker, up to version 17.
		"max_replication_slots = 256",
		"fsync = on",
		"log_line_prefix = '%m [%p] %q%u@%d %a '",
		"cluster_name = 'mtm-node" + fmt.Sprint(n.ID) + "'",
	}
	if n.PgMajor >= 18 {
		lines = append(lines, "max_active_replication_origins = 256")
	}
	for _, kv := range extra {
		key, value, _ := strings.Cut(kv, "=")
		lines = append(lines, fmt.Sprintf("%s = '%s'", key, strings.ReplaceAll(strings.Trim(value, "'"), "'", "''")))
	}
	return strings.Join(lines, "\n") + "\n"
}

// startPostgres runs the postmaster of n and waits until it answers a query.
func (n *node) startPostgres(ctx context.Context, cred *syscall.Credential, die bool) error {
	if n.Postgres.Alive() {
		return nil
	}
	if err := n.removeZombieLock(); err != nil {
		return err
	}
	p, err := command{
		path: filepath.Join(n.PgBin, "postgres"), args: []string{"-D", n.PgData}, log: n.PgLog, cred: cred, env: n.diskEnv(n.Preload),
		deathSig: deathSig(die, syscall.SIGQUIT),
	}.start()
	if err != nil {
		return fmt.Errorf("node %d: %w", n.ID, err)
	}
	n.Postgres = p
	ctx, cancel := context.WithTimeoutCause(ctx, pgStartWait, fmt.Errorf("after %v", pgStartWait))
	defer cancel()
	var ended error
	err = poll(ctx, fmt.Sprintf("PostgreSQL of node %d", n.ID), func(ctx context.Context) error {
		if !p.Alive() {
			ended = fmt.Errorf("PostgreSQL of node %d did not start", n.ID)
			return nil
		}
		return n.ping(ctx)
	})
	if err == nil {
		err = ended
	}
	if err != nil {
		return fmt.Errorf("%w\n--- %s:\n%s", err, n.PgLog, tail(n.PgLog, 25))
	}
	return nil
}

// removeZombieLock removes postmaster.pid if it names a zombie: PostgreSQL takes that for a postmaster that runs, and a
// machine's first process may be slow to bury the dead, or never do (containers).
func (n *node) removeZombieLock() error {
	path := filepath.Join(n.PgData, "postmaster.pid")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil // there is none, or PostgreSQL will say what is wrong
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return nil
	}
	if st, err := readStat(pid); err != nil || st.state != 'Z' {
		return nil
	}
	return os.Remove(path)
}

// ping asks PostgreSQL for an answer, straight.
func (n *node) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, n.pgURL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Ping(ctx)
}

// createDatabase makes the database that is to be replicated.
func (n *node) createDatabase(ctx context.Context, name string) error {
	if name == "postgres" {
		return nil
	}
	conn, err := pgx.Connect(ctx, n.pgURL("postgres"))
	if err != nil {
		return fmt.Errorf("node %d: %w", n.ID, err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("node %d: %w", n.ID, err)
	}
	return nil
}

// stopPostgres asks for a fast shutdown, and for an immediate one if that takes longer than a minute.
func (n *node) stopPostgres(ctx context.Context) error {
	if !n.Postgres.Alive() {
		return nil
	}
	if err := n.Postgres.thawFamily(); err != nil { // a frozen one would never obey
		return err
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		if err := n.Postgres.Signal(sig); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, pgStopWait)
		err := n.Postgres.WaitGone(wait)
		cancel()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("PostgreSQL of node %d (process %d) does not stop\n--- %s:\n%s", n.ID, n.Postgres.Pid, n.PgLog, tail(n.PgLog, 25))
}

// localURL is mtmd's way to its PostgreSQL.
func (n *node) localURL(database string) string {
	if n.PgSocket == "" {
		return n.pgURL(database)
	}
	return fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d", superuser, pgURLEscape(database), url.QueryEscape(n.PgSocket), n.PgPort)
}

// pgURL is the way straight to PostgreSQL.
func (n *node) pgURL(database string) string {
	return fmt.Sprintf("postgres://%s@%s/%s", superuser, addr(n.PgPort), pgURLEscape(database))
}

func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}
