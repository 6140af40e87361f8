package notify

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// AppName is the application_name of the session.
const AppName = "mtm_notify"

// saying is notifications that the session is to say.
type saying struct {
	notes []Note
	done  chan struct{}
}

// wakeSession interrupts the session's waiting; mu is held.
func (r *Relay) wakeSession() {
	r.kicked = true
	if r.kick != nil {
		r.kick()
	}
}

// sessions keeps the session, until ctx ends.
func (r *Relay) sessions(ctx context.Context) error {
	for {
		err := r.session(ctx)
		r.mu.Lock()
		lost := r.effect > 0 && len(r.union) > 0
		r.effect, r.live = 0, false
		clear(r.stale)
		r.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if lost {
			r.cfg.Log.Warn("the session for notifications was lost: what is notified until there is another does not reach other nodes", keyError, err)
		} else {
			r.cfg.Log.Debug("connect for notifications", keyError, err)
		}
		rest(ctx, retryAfter)
	}
}

// session is one connection to PostgreSQL.
func (r *Relay) session(ctx context.Context) error {
	conn, err := r.cfg.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if err := r.begin(ctx, conn); err != nil {
		return err
	}
	me := conn.PgConn().PID()
	for {
		if err := r.listen(ctx, conn); err != nil {
			return err
		}
		if err := r.say(ctx, conn); err != nil {
			return err
		}
		n, err := r.wait(ctx, conn)
		if err != nil {
			return err
		}
		if n != nil && n.PID != me {
			r.hear(Note{[]byte(n.Channel), []byte(n.Payload)})
		}
	}
}

// begin ends what an earlier session left behind, which might still say something that this one would take for a client's.
func (r *Relay) begin(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT pg_catalog.set_config('client_encoding', 'UTF8', false), pg_catalog.set_config('synchronous_commit', 'off', false),
		pg_catalog.set_config('search_path', 'pg_catalog', false)`)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity
		WHERE application_name = $1 AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()`, AppName)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.live = true
	for name := range r.union {
		r.stale[name] = true
	}
	r.mu.Unlock()
	return nil
}

// listen makes the session listen to what the other nodes asked for.
func (r *Relay) listen(ctx context.Context, conn *pgx.Conn) error {
	r.mu.Lock()
	aim := r.aim
	var todo []string
	for name := range r.stale {
		verb := "UNLISTEN "
		if r.union[name] > 0 {
			verb = "LISTEN "
		}
		todo = append(todo, verb+pgx.Identifier{name}.Sanitize())
	}
	clear(r.stale)
	r.mu.Unlock()
	for len(todo) > 0 {
		part := todo[:min(len(todo), chunk)]
		todo = todo[len(part):]
		if err := r.each(ctx, conn, part); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.effect = aim
	r.changed.tell()
	r.mu.Unlock()
	return nil
}

// each runs statements at once or, if PostgreSQL refuses one, one by one: a name may have no place in the database's encoding.
func (r *Relay) each(ctx context.Context, conn *pgx.Conn, statements []string) error {
	_, err := conn.PgConn().Exec(ctx, strings.Join(statements, ";")).ReadAll()
	if !refused(err) {
		return err
	}
	for _, text := range statements {
		if _, err := conn.PgConn().Exec(ctx, text).ReadAll(); err != nil {
			if !refused(err) {
				return err
			}
			r.cfg.Log.Warn("cannot listen for another node", keyChannel, text, keyError, err)
		}
	}
	return nil
}

// refused: PostgreSQL said no, and the session goes on.
func refused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Severity == "ERROR"
}

// wait waits for a notification; nil: there is something else to do.
func (r *Relay) wait(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	if r.kicked {
		r.kicked = false
		r.mu.Unlock()
		return nil, nil
	}
	r.kick = cancel
	r.mu.Unlock()
	n, err := conn.WaitForNotification(waiting)
	r.mu.Lock()
	r.kick = nil
	r.mu.Unlock()
	if err != nil && waiting.Err() != nil && ctx.Err() == nil && !conn.IsClosed() {
		return nil, nil
	}
	return n, err
}

// hear takes a notification of this node.
func (r *Relay) hear(n Note) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case n.check() != nil, r.union[string(n.Channel)] == 0:
		return
	case r.bytes+n.size() > maxQueue:
		r.lost(0, 1)
		return
	}
	r.heard = append(r.heard, n)
	r.bytes += n.size()
	r.changed.tell()
}

// lost tells of a queue that is full; mu is held. node 0: this one's.
func (r *Relay) lost(node int, n int) {
	r.cfg.Lost(n)
	r.cfg.Log.Warn("notifications are lost: too many wait", keyNode, node, keyCount, n)
}

// say says what is to be said.
func (r *Relay) say(ctx context.Context, conn *pgx.Conn) error {
	for {
		r.mu.Lock()
		if len(r.sayings) == 0 {
			r.sayings = nil
			r.mu.Unlock()
			return nil
		}
		s := r.sayings[0]
		r.sayings = r.sayings[1:]
		r.mu.Unlock()
		err := r.sayAll(ctx, conn, s.notes)
		close(s.done)
		if err != nil {
			return err
		}
	}
}

// sayAll says notifications, in as few transactions as it takes: of equal ones in the same transaction PostgreSQL delivers one.
func (r *Relay) sayAll(ctx context.Context, conn *pgx.Conn, notes []Note) error {
	for len(notes) > 0 {
		n := 0
		seen := map[[2]string]bool{}
		for n < len(notes) && n < chunk {
			key := [2]string{string(notes[n].Channel), string(notes[n].Payload)}
			if seen[key] {
				break
			}
			seen[key] = true
			n++
		}
		err := sayOnce(ctx, conn, notes[:n])
		for i := 0; refused(err) && n > 1 && i < n; i++ { // which one was it?
			if one := sayOnce(ctx, conn, notes[i:i+1]); one != nil {
				r.cfg.Log.Warn("cannot say another node's notification", keyChannel, string(notes[i].Channel), keyError, one)
				r.cfg.Lost(1)
				if !refused(one) {
					return one
				}
			}
		}
		switch {
		case err != nil && !refused(err): // nobody knows whether it was said, so it is not said again
			r.cfg.Lost(len(notes))
			return err
		case err != nil && n == 1:
			r.cfg.Log.Warn("cannot say another node's notification", keyChannel, string(notes[0].Channel), keyError, err)
			r.cfg.Lost(1)
		}
		notes = notes[n:]
	}
	return nil
}

func sayOnce(ctx context.Context, conn *pgx.Conn, notes []Note) error {
	channels, payloads := make([]string, len(notes)), make([]string, len(notes))
	for i, n := range notes {
		channels[i], payloads[i] = string(n.Channel), string(n.Payload)
	}
	_, err := conn.Exec(ctx, `SELECT pg_notify(u.c, u.p) FROM unnest($1::text[], $2::text[]) AS u(c, p)`, channels, payloads)
	return err
}
