package schema

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"mtm"
)

// Question is what a session waits to be told; ask.sql says how.
type Question struct {
	PID   int32 // its PostgreSQL process
	Nonce uint32
	Text  string
	Admin bool // it comes from one of the functions that only administrators may call (admin.sql), and has not come before
}

// The questions.
const (
	AskOutcome = "o" // before a gid: what became of that transaction
	AskLastGID = "l" // the session's last commit

	// Of mtm.reserve_numbers, and so proved as those of administrators are: before the OID of a sequence, a space and how many.
	AskNumbers = "b"

	// Of administrators: see admin.sql.
	AskArgument = "n" // before the beginning of an argument, in base64; AskMore has what follows
	AskMore     = "p"
	AskAdd      = "a" // begin to add the node of the argument
	AskDrop     = "d" // before a number: begin to drop that node
	AskCheck    = "q" // begin to compare what the query of the argument gives on all nodes: superusers only
	AskProgress = "j" // what was begun: "r" and how far it is; "d" and its result; "f", and AskReport tells the error
	AskReport   = "k" // before a position: some of the error, a JSON object in ASCII, from there on; NULL past its end
)

// AskNotice is the SQLSTATE of the notice by which a session says, through the gateway, that it asks; the message is AskMessage.
const (
	AskNotice  = "MTM01"
	AskMessage = "mtm.ask"
)

// MaxQuestions is how many may be open between Look and Answer; the others wait.
const MaxQuestions = 64

// Desk answers the questions of a database's sessions. It is not safe for concurrent use.
type Desk struct {
	conn   *pgx.Conn
	open   map[Question]*[]int32 // nil: not answered yet; the keys that are locked, 0 first
	sought int                   // questions that Look returned, and Answer has not been called for
	seen   map[Question]bool     // of administrators: whoever saw one must not be able to ask it again
}

// maxSeen bounds Desk.seen.
const maxSeen = 100_000

// NewDesk makes a Desk on conn, the session that announced the daemon: nobody believes another.
func NewDesk(conn *pgx.Conn) *Desk {
	return &Desk{conn: conn, open: map[Question]*[]int32{}, seen: map[Question]bool{}}
}

// Look returns the questions that it has not returned before, and takes back answers that nobody waits for any more.
func (d *Desk) Look(ctx context.Context) (fresh []Question, err error) {
	rows, err := d.conn.Query(ctx, `SELECT pid, application_name,
			coalesce(substr(application_name, 11, 12) = mtm.proof(pid, substr(application_name, 5, 6), substr(application_name, 24)), false)
		FROM pg_stat_activity WHERE application_name LIKE 'mtm?%' AND pid IS NOT NULL AND datname = current_database() ORDER BY pid`)
	if err != nil {
		return nil, fmt.Errorf("look for questions: %w", err)
	}
	asked := map[Question]bool{}
	var pid int32
	var name string
	var admin bool
	_, err = pgx.ForEachRow(rows, []any{&pid, &name, &admin}, func() error {
		if q, ok := parseQuestion(pid, name); ok {
			q.Admin = admin
			_, known := d.open[q]
			if admin && !known && d.seen[q] {
				q.Admin = false
				_, known = d.open[q]
			}
			asked[q] = true
			if !known {
				fresh = append(fresh, q)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for questions: %w", err)
	}
	for q, keys := range d.open {
		if asked[q] {
			continue
		}
		delete(d.open, q)
		if keys == nil {
			continue
		}
		if err := d.unlock(ctx, q.PID, *keys); err != nil {
			return nil, err
		}
	}
	fresh = fresh[:min(len(fresh), max(MaxQuestions-d.sought, 0))]
	d.sought += len(fresh)
	for _, q := range fresh {
		d.open[q] = nil
		if len(d.seen) >= maxSeen {
			clear(d.seen)
		}
		if q.Admin {
			d.seen[q] = true
		}
	}
	return fresh, nil
}

// parseQuestion reads what mtm.ask makes of application_name: "mtm?", six hexadecimal digits, for administrators' twelve more (mtm.proof),
// a space, the question.
func parseQuestion(pid int32, name string) (q Question, ok bool) {
	digits, text, found := strings.Cut(strings.TrimPrefix(name, "mtm?"), " ")
	nonce, err := strconv.ParseUint(digits[:min(6, len(digits))], 16, 24)
	return Question{PID: pid, Nonce: uint32(nonce), Text: text}, found && err == nil && (len(digits) == 6 || len(digits) == 18) && text != ""
}

// Answer tells q's session text, or NULL if it is "", or raises failure there. It is called once for each question that Look returned;
// who asks no more is told nothing.
func (d *Desk) Answer(ctx context.Context, q Question, text string, failure *mtm.Error) error {
	d.sought--
	keys, waits := d.open[q]
	if !waits || keys != nil {
		return nil
	}
	switch {
	case failure != nil:
		text = "!" + failure.Code + " " + failure.Msg
	case text != "":
		text = "=" + text
	default:
		text = "-"
	}
	locks := answerKeys(q.Nonce, text)
	d.open[q] = &locks
	var all bool
	err := d.conn.QueryRow(ctx, `SELECT bool_and(pg_try_advisory_lock_shared($1, u.k)) FROM
		(SELECT k FROM unnest($2::int[]) WITH ORDINALITY AS u(k, o) ORDER BY o DESC) AS u`, q.PID, locks).Scan(&all)
	if err != nil {
		return fmt.Errorf("answer a session: %w", err)
	}
	return nil // without a lock that somebody else holds the answer is not complete, and the session says so after a while
}

func (d *Desk) unlock(ctx context.Context, pid int32, keys []int32) error {
	_, err := d.conn.Exec(ctx, `SELECT pg_advisory_unlock_shared($1, u.k) FROM
		(SELECT k FROM unnest($2::int[]) WITH ORDINALITY AS u(k, o) ORDER BY o) AS u`, pid, keys)
	if err != nil {
		return fmt.Errorf("take an answer back: %w", err)
	}
	return nil
}

// answerBytes is the longest answer: numbers go to 127, so that keys stay positive, and a zero byte ends it.
const answerBytes = 3*127 - 1

// answerKeys are the second keys of the locks that say text, that of the nonce first.
func answerKeys(nonce uint32, text string) []int32 {
	b := append([]byte(strings.ToValidUTF8(strings.ReplaceAll(text[:min(len(text), answerBytes)], "\x00", ""), "")), 0, 0, 0)
	keys := []int32{int32(nonce)}
	for i := 1; len(b) >= 3; i++ {
		keys = append(keys, int32(i)<<24|int32(b[0])<<16|int32(b[1])<<8|int32(b[2]))
		b = b[3:]
	}
	return keys
}
