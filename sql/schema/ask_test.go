package schema

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm"
)

// answering runs a daemon's desk that looks all the time, until the test ends. It announced itself.
func answering(t *testing.T, daemon *pgx.Conn, answer func(Question) (string, *mtm.Error)) {
	desk := NewDesk(daemon)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			fresh, err := desk.Look(ctx)
			if err != nil {
				return
			}
			for _, q := range fresh {
				text, failure := answer(q)
				if desk.Answer(ctx, q, text, failure) != nil {
					return
				}
			}
		}
	}()
}

func TestOutcomeIsAskedInAnyTransaction(t *testing.T) {
	conn, daemon := announced(t)
	answering(t, daemon, func(q Question) (string, *mtm.Error) {
		switch q.Text {
		case "omtm-1-7-1":
			return "committed", nil
		case "omtm-16-18446744073709551615-18446744073709551615": // the longest
			return "in progress", nil
		case "omtm-1-7-3":
			return "", &mtm.Error{Code: "55000", Msg: "it's 100% refused"}
		case "l":
			return strings.Repeat("long ", 60), nil
		}
		return "", nil
	})
	_, err := conn.Exec(testContext(t), `CREATE ROLE nobody_ask LOGIN`)
	require.NoError(t, err)
	user := connectWith(t, conn.Config().Database, "nobody_ask")
	_, err = user.Exec(testContext(t), `SET application_name = 'mine'; SET standard_conforming_strings = off; SET client_min_messages = error`)
	require.NoError(t, err)
	for _, begin := range []string{"BEGIN READ WRITE", "BEGIN READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"} {
		_, err := user.Exec(testContext(t), begin)
		require.NoError(t, err)
		for range 3 { // the snapshot is old by then
			require.Equal(t, []string{"committed|in progress|"}, query(t, user, `SELECT mtm.outcome('mtm-1-7-1'),
				mtm.outcome('mtm-16-18446744073709551615-18446744073709551615'), mtm.outcome('mtm-1-7-2')`), begin)
		}
		_, err = user.Exec(testContext(t), "COMMIT")
		require.NoError(t, err)
	}
	require.Equal(t, []string{strings.Repeat("long ", 60)}, query(t, user, `SELECT mtm.last_gid()`))
	require.Equal(t, []string{"mine"}, query(t, user, `SHOW application_name`))
	require.Equal(t, []string{""}, query(t, user, `SELECT mtm.outcome(NULL)`))
	refused := func(sql, code string) {
		_, err := user.Exec(testContext(t), sql)
		requireCode(t, err, code)
	}
	refused(`SELECT mtm.outcome('mtm-1-7-3')`, "55000")
	refused(`SELECT mtm.outcome('a''; DROP TABLE x')`, "22023")
	refused(`SELECT mtm.ask('l')`, "42501")
}

// What another session says with locks or with application_name is no answer, and hurts nobody.
func TestOnlyTheDaemonAnswers(t *testing.T) {
	conn, daemon := announced(t)
	_, err := conn.Exec(testContext(t), `SET application_name = 'mtm?zzzzzz lies'`)
	require.NoError(t, err)
	liar := connectWith(t, conn.Config().Database, "postgres")
	_, err = liar.Exec(testContext(t), `SET application_name = 'mtm?000001 omtm-1-1-1'`)
	require.NoError(t, err)
	asker := connectWith(t, conn.Config().Database, "postgres")
	pid := int32(asker.PgConn().PID())
	for nonce := range 4 { // locks that say "committed", if anybody believed them
		_, err = liar.Exec(testContext(t), `SELECT pg_advisory_lock_shared($1, k) FROM unnest($2::int[]) k`, pid, answerKeys(uint32(nonce), "=committed"))
		require.NoError(t, err)
	}
	answering(t, daemon, func(q Question) (string, *mtm.Error) { return "aborted", nil })
	for range 5 {
		require.Equal(t, []string{"aborted"}, query(t, asker, `SELECT mtm.outcome('mtm-1-1-1')`))
	}
}

// An answer that came too late for its question is not taken for that of the next one.
func TestLateAnswerIsForItsQuestionOnly(t *testing.T) {
	conn, daemon := announced(t)
	desk := NewDesk(daemon)
	asker := connectWith(t, conn.Config().Database, "postgres")
	_, err := asker.Exec(testContext(t), `SET statement_timeout = '300ms'`)
	require.NoError(t, err)
	ask := func() chan error {
		done := make(chan error, 1)
		go func() {
			var text *string
			err := asker.QueryRow(context.Background(), `SELECT mtm.outcome('mtm-1-1-1')`).Scan(&text)
			if err == nil && (text == nil || *text != "aborted") {
				err = pgx.ErrNoRows
			}
			done <- err
		}()
		return done
	}
	find := func() Question {
		for {
			fresh, err := desk.Look(testContext(t))
			require.NoError(t, err)
			if len(fresh) > 0 {
				return fresh[0]
			}
		}
	}
	first := ask()
	old := find()
	requireCode(t, <-first, "57014")
	_, err = asker.Exec(testContext(t), `SET statement_timeout = '10s'`)
	require.NoError(t, err)
	require.NoError(t, desk.Answer(testContext(t), old, "committed", nil))
	second := ask()
	require.NoError(t, desk.Answer(testContext(t), find(), "aborted", nil))
	require.NoError(t, <-second)
	require.Eventually(t, func() bool { // and all is given back
		_, err := desk.Look(testContext(t))
		return err == nil && len(desk.open) == 0 && desk.sought == 0
	}, 5*time.Second, time.Millisecond)
	require.Equal(t, []string{"1"}, query(t, conn, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = `+pidText(daemon)))
}

func TestNobodyAnswersWithoutADaemon(t *testing.T) {
	conn := newNode(t, 2)
	began := time.Now()
	_, err := conn.Exec(testContext(t), `SELECT mtm.outcome('mtm-1-1-1')`)
	requireCode(t, err, "55000")
	require.Less(t, time.Since(began), 2*time.Second)
}

func requireCode(t *testing.T, err error, code string) {
	t.Helper()
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	require.Equal(t, code, pg.Code, pg.Message)
}

func pidText(conn *pgx.Conn) string { return strconv.Itoa(int(conn.PgConn().PID())) }
