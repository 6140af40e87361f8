package gateway

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"mtm"
)

// Config says how a Server listens, and what it stands in front of. Listen, Backend and Commits are required.
type Config struct {
	Listen   []string    // TCP addresses, "host:port"
	Backend  string      // PostgreSQL: "host:port", or the path of its Unix socket ("/run/postgresql/.s.PGSQL.5432")
	Database string      // the database that is replicated; sessions of others pass through. Empty: all are
	Commits  Commits     // the rest of mtm
	TLS      *tls.Config // for clients; nil: TLS is declined. Server sets its ALPN
	// BackendTLS is for the connection to PostgreSQL; nil: plain. PostgreSQL must then speak TLS.
	BackendTLS *tls.Config
	// TrustRemote lets in clients of other machines of whom pg_hba.conf asks nothing.
	TrustRemote bool
	// RetryAutocommit is how often a statement outside a block is tried again after 40001. 0: never.
	RetryAutocommit int
	// SlowStatement is how long a statement may run with the right to prepare in its hands; past that it is started
	// again without, so that it stands in nobody's way. 0: 20 ms.
	SlowStatement time.Duration
	// StartupTimeout bounds what comes before the first statement, as authentication_timeout does. 0: 60 s.
	StartupTimeout time.Duration
	// Asked is told when a session has put a question to the daemon (package schema, Desk); it must not block. nil: nobody is.
	Asked func()
	// Everywhere has the other nodes run what this one has run, and waits for them; it says what failed. nil: nobody does.
	Everywhere func(ctx context.Context, o Reindex) []*mtm.Error
	// Ending is called before a session is ended because the server stops, and may wait a little, so that not all end at once; nil:
	// nothing is.
	Ending func()
	// Token gives a token (mtm.TokenPrefix) by which capture knows one message as the gateway's; nil: none is believed.
	Token func() string
	// Channels learns what clients LISTEN to; nil: nobody does.
	Channels Channels
	// Numbers draws numbers for sequences of mode block; nil: there are none.
	Numbers    Numbers
	CacheBytes int // for what is known of statement texts. 0: 8 MiB
	Log        *slog.Logger
}

// DefaultRetryAutocommit is the usual value of Config.RetryAutocommit.
const DefaultRetryAutocommit = 5

// Channels is who has other nodes tell what this node's clients LISTEN to.
type Channels interface {
	// Listen is called before a LISTEN. It returns when notifications of the other nodes come in, or could come for a good while;
	// an error refuses the LISTEN. nil is undone by one Unlisten.
	Listen(ctx context.Context, channel string) *mtm.Error
	Unlisten(channel string)
}

// Numbers is who draws numbers for the sequences of mode block, which nextval() has used up here.
type Numbers interface {
	// Short reports whether message, of an error 2200H of PostgreSQL's, is about such a sequence; numbers are then being drawn.
	Short(ctx context.Context, message string) bool
	// Refill returns when numbers were drawn, or could not be for a while.
	Refill(ctx context.Context)
}

// Commits is what the gateway needs of the rest of mtm.
type Commits interface {
	// Admit is asked before each statement that reads or writes data, and again before each write of an answer that it
	// led to, though not to a commit. nil: go on. An *mtm.Error refuses. It may block while a lease has lapsed; it must be cheap.
	Admit(ctx context.Context, write bool) error
	// Refused says why this node serves nobody, without waiting; nil: it does, or may in a moment.
	Refused() *mtm.Error
	// Permit asks for the right to send PREPARE TRANSACTION, and blocks while a switch is pending or too many are in
	// flight. age is in microseconds since 1970, of the first attempt; 0: now.
	Permit(ctx context.Context, age uint64) (mtm.GID, error)
	// Announce: the session is about to prepare a transaction of its client's under gid.UserName(), and then gid itself, which
	// announces that one. It comes between Permit and Prepared.
	Announce(gid mtm.GID)
	// Prepared tells how PREPARE TRANSACTION was answered, once for each Permit. err nil: prepared. unknown: the
	// connection broke before an answer came.
	Prepared(gid mtm.GID, err *mtm.Error, unknown bool)
	// Held is Prepared for a transaction that PostgreSQL cannot prepare, and that the session holds open instead; xid is its
	// transaction id. obey takes orders, at any time and from any goroutine, until Gone, or Obeyed of one that ends it.
	Held(gid mtm.GID, xid uint64, obey func(Order))
	// Obeyed: PostgreSQL has done what was ordered.
	Obeyed(gid mtm.GID, done Order)
	// Gone: the session holds it no more. rolledBack: PostgreSQL said so; else nobody knows whether it was committed.
	Gone(gid mtm.GID, xid uint64, rolledBack bool)
	// Wait blocks until the fate of gid is known; nil: committed where it must be. The end of ctx only ends the
	// waiting. It is called after Prepared(gid, nil, false).
	Wait(ctx context.Context, gid mtm.GID) *mtm.Error
	// Cancel: the client gave up or went away. The transaction is aborted if that is still possible; Wait returns the
	// outcome all the same.
	Cancel(gid mtm.GID)
	// Yield blocks while transactions of other nodes are under way here that change what gid, against which a client has
	// lost, or with which he lost, changed; and quiet longer. limit bounds it. It reports whether they are over.
	Yield(ctx context.Context, gid mtm.GID, quiet, limit time.Duration) bool
}

// The keys of the log.
const (
	keyClient = "client"
	keyError  = "err"
	keyAddr   = "addr"
)

// Sizes, in bytes.
const (
	readBuffer  = 8 << 10  // for each direction: what PostgreSQL itself sends at once
	flushAt     = 16 << 10 // output is written when it reaches this, whatever follows
	holdLimit   = 16 << 10 // of an answer held back so that its statement can be tried again
	batchLimit  = 64 << 10 // of a statement kept to be tried again, and of extended messages looked at together
	maxMessage  = 1 << 30  // what PostgreSQL accepts
	maxStartup  = 10000    // MAX_STARTUP_PACKET_LENGTH
	maxPassword = 64 << 10 // PG_MAX_AUTH_TOKEN_LENGTH
)

func (c *Config) defaults() {
	if c.Token == nil {
		c.Token = func() string { return mtm.TokenPrefix }
	}
	if c.SlowStatement == 0 {
		c.SlowStatement = 20 * time.Millisecond
	}
	if c.StartupTimeout == 0 {
		c.StartupTimeout = time.Minute
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = 8 << 20
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}
