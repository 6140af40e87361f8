package schema

import (
	"encoding/base64"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm"
)

// TestAdministratorsHaveTheDaemonDoThings: an argument of any length and alphabet arrives, the end is waited for, an error comes with
// all its parts; and the daemon is told who is an administrator, whoever asks.
func TestAdministratorsHaveTheDaemonDoThings(t *testing.T) {
	conn, daemon := announced(t)
	argument, begun, polls := "", []string{}, 0
	report := `{"code": "55000", "msg": "no ` + strings.Repeat("x", 500) + `", "detail": "d\u00e9tail", "hint": "a \"hint\""}`
	var mu sync.Mutex
	answering(t, daemon, func(q Question) (string, *mtm.Error) {
		mu.Lock()
		defer mu.Unlock()
		if !q.Admin {
			return "", &mtm.Error{Code: "42501", Msg: "you are nobody"}
		}
		switch verb, rest := q.Text[:1], q.Text[1:]; verb {
		case AskArgument:
			argument = rest
		case AskMore:
			argument += rest
		case AskAdd, AskDrop:
			begun, polls = append(begun, q.Text), 0
		case AskProgress:
			if polls++; polls < 3 {
				return "rso far " + strconv.Itoa(polls), nil
			}
			switch begun[len(begun)-1] {
			case "a":
				return "d4", nil
			case "d3":
				return "d", nil
			case "d4":
				return "dbut beware", nil
			}
			return "f", nil
		case AskReport:
			at, _ := strconv.Atoi(rest)
			return report[min(at, len(report)):min(at+300, len(report))], nil
		}
		return "", nil
	})
	for _, name := range []string{"h:1", strings.Repeat("ä", 18), strings.Repeat("long.", 60) + ":7001"} {
		require.Equal(t, []string{"4"}, query(t, conn, "SELECT mtm.add_node('4="+name+"')"))
		text, err := base64.StdEncoding.DecodeString(argument)
		require.NoError(t, err)
		require.Equal(t, "4="+name, string(text))
	}
	require.Equal(t, []string{""}, query(t, conn, "SELECT mtm.drop_node(3)"))
	require.Equal(t, []string{""}, query(t, conn, "SELECT mtm.drop_node(4)"))
	_, err := conn.Exec(testContext(t), "SELECT mtm.drop_node(5)")
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	require.Equal(t, []string{"55000", "no " + strings.Repeat("x", 500), "détail", `a "hint"`}, []string{pg.Code, pg.Message, pg.Detail, pg.Hint})
	report = `{"code": "22023", "msg": "plain", "detail": "", "hint": ""}`
	_, err = conn.Exec(testContext(t), "SELECT mtm.drop_node(5)")
	require.ErrorAs(t, err, &pg)
	require.Equal(t, []string{"22023", "plain", "", ""}, []string{pg.Code, pg.Message, pg.Detail, pg.Hint})

	_, err = conn.Exec(testContext(t), "DROP ROLE IF EXISTS helper_adm, nobody_adm; CREATE ROLE helper_adm LOGIN IN ROLE mtm_admin; CREATE ROLE nobody_adm LOGIN")
	require.NoError(t, err)
	helper, nobody := connectWith(t, conn.Config().Database, "helper_adm"), connectWith(t, conn.Config().Database, "nobody_adm")
	require.Equal(t, []string{""}, query(t, helper, "SELECT mtm.drop_node(3)"))
	for _, sql := range []string{"SELECT mtm.drop_node(3)", "SELECT mtm.add_node('4=h:1')", "SELECT mtm.carry_out('d3')"} {
		_, err = nobody.Exec(testContext(t), sql)
		requireCode(t, err, "42501")
	}
	mu.Lock()
	n := len(begun)
	mu.Unlock()
	forged, err := nobody.Exec(testContext(t), "SET application_name = 'mtm?000001 d3'")
	require.NoError(t, err, forged)
	_, err = nobody.Exec(testContext(t), "SELECT mtm.outcome('mtm-1-1-1')") // the forged one has been looked at by then
	requireCode(t, err, "42501")
	mu.Lock()
	require.Len(t, begun, n)
	mu.Unlock()
}
