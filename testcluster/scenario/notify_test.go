package scenario

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"mtm/testcluster"
)

// listener is a client that listens.
type listener struct {
	*pgx.Conn
	node int
}

func listenOn(n *testcluster.Node, channels ...string) *listener {
	conn := n.Connect()
	for _, c := range channels {
		_, err := conn.Exec(context.Background(), "LISTEN "+c)
		if err != nil {
			panic(err)
		}
	}
	return &listener{conn, n.ID}
}

func (l *listener) next(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	n, err := l.WaitForNotification(ctx)
	require.NoError(t, err, "node %d", l.node)
	return n.Channel + "=" + n.Payload
}

// hears checks what l is told next, in order, and nothing else: the end is said behind it.
func (l *listener) hears(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		require.Equal(t, w, l.next(t), "node %d", l.node)
	}
}

// notifications reach who listens on any node: once, in order, after the commit, with the rows that they tell of.
func notifications(t *testing.T, c *testcluster.Cluster) {
	execAll(t, c.Node(1).Connect(), "CREATE TABLE told (id serial PRIMARY KEY, what text)",
		`CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('rows', NEW.id::text); RETURN NULL; END $$`,
		"CREATE TABLE triggered (id int PRIMARY KEY)",
		"CREATE TRIGGER tell AFTER INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION tell()")
	var all []*listener
	for _, n := range c.Nodes() {
		all = append(all, listenOn(n, "news", "rows", `"Odd ""Name"`))
	}
	deaf := listenOn(c.Node(3), "news")
	execSQL(t, deaf.Conn, "UNLISTEN news")
	in := func(node int, sql ...string) { t.Helper(); execAll(t, c.Node(node).Connect(), sql...) }
	every := func(want ...string) {
		t.Helper()
		for _, l := range all {
			l.hears(t, want...)
		}
	}

	in(1, "NOTIFY news, 'plain'")
	every("news=plain")
	in(2, "NOTIFY news")
	every("news=")
	in(1, "BEGIN", "NOTIFY news, 'never'", "INSERT INTO told (what) VALUES ('never')", "ROLLBACK",
		"BEGIN", "NOTIFY news, 'a'", `NOTIFY "Odd ""Name", 'b'`, "NOTIFY news, 'a'", "COMMIT",
		"NOTIFY news, 'a'", "SELECT pg_notify('news', 'c')",
		"BEGIN", "SAVEPOINT s", "NOTIFY news, 'never'", "ROLLBACK TO s", "NOTIFY news, 'd'", "COMMIT")
	every("news=a", `Odd "Name=b`, "news=a", "news=c", "news=d")
	long := strings.Repeat("x", 7999)
	in(3, "SELECT pg_notify('news', '"+long+"')")
	every("news=" + long)
	_, err := c.Node(3).Connect().Exec(t.Context(), "SELECT pg_notify('news', $1)", long+"x")
	require.Error(t, err)

	rowsAreThere(t, c)
	for _, l := range all {
		for range 3 * rowsTold {
			require.Contains(t, l.next(t), "news=row ")
		}
	}
	for i, n := range c.Nodes() {
		db := n.Connect()
		// By a trigger, in a block and outside of one.
		execSQL(t, db, fmt.Sprintf("INSERT INTO triggered VALUES (%d)", i))
		execAll(t, db, "BEGIN", fmt.Sprintf("INSERT INTO triggered VALUES (%d)", 10+i), fmt.Sprintf("INSERT INTO triggered VALUES (%d)", 20+i), "COMMIT")
		for _, l := range all {
			for _, id := range []int{i, 10 + i, 20 + i} {
				l.hears(t, fmt.Sprintf("rows=%d", id))
				require.Equal(t, 1, one[int](t, l.Conn, "SELECT count(*) FROM triggered WHERE id = $1", id))
			}
		}
	}

	// A listener that began in a block or in DO hears too, once that has committed; nothing came twice to anybody.
	late := listenOn(c.Node(2))
	execAll(t, late.Conn, "BEGIN", "LISTEN late", "COMMIT", "DO $$ BEGIN EXECUTE 'LISTEN later'; END $$", "SELECT 1")
	in(1, "NOTIFY late, '1'", "NOTIFY later, '2'", "NOTIFY news, 'end'")
	late.hears(t, "late=1", "later=2")
	every("news=end")
	execSQL(t, deaf.Conn, "LISTEN own")
	in(3, "NOTIFY own")
	deaf.hears(t, "own=")
}

// rowsTold is how many transactions rowsAreThere runs on each node.
const rowsTold = 40

// rowsAreThere: all nodes write rows and tell of them, and who is told finds them at once. The listeners are straight at PostgreSQL,
// where no lease and no gateway makes them wait; clients of the gateway listen too, or nobody would be told.
func rowsAreThere(t *testing.T, c *testcluster.Cluster) {
	var g errgroup.Group
	for _, n := range c.Nodes() {
		db := n.ConnectPg()
		execAll(t, db, "LISTEN news", "PREPARE look(int) AS SELECT count(*) FROM told WHERE id = $1")
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			last := map[int]int{} // by node: each tells in order
			for range 3 * rowsTold {
				said, err := db.WaitForNotification(ctx)
				if err != nil {
					return fmt.Errorf("node %d: %w", n.ID, err)
				}
				var id, found int
				if _, err := fmt.Sscanf(said.Payload, "row %d", &id); err != nil {
					return err
				}
				if err := db.QueryRow(ctx, fmt.Sprintf("EXECUTE look(%d)", id), pgx.QueryExecModeSimpleProtocol).Scan(&found); err != nil {
					return err
				}
				if found != 1 || id <= last[id/1000] {
					return fmt.Errorf("node %d is told of row %d, after %d, and has %d of it", n.ID, id, last[id/1000], found)
				}
				last[id/1000] = id
			}
			return nil
		})
	}
	for _, n := range c.Nodes() {
		db := n.Connect()
		g.Go(func() error {
			for k := range rowsTold {
				id := 1000*n.ID + k
				for _, sql := range []string{"BEGIN", fmt.Sprintf("INSERT INTO told VALUES (%d, 'x')", id), fmt.Sprintf("NOTIFY news, 'row %d'", id), "COMMIT"} {
					if _, err := db.Exec(t.Context(), sql); err != nil {
						return fmt.Errorf("node %d: %w", n.ID, err)
					}
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
}

// notificationsOfARestartedNode: a node that was killed tells and is told again when it is back.
func notificationsOfARestartedNode(t *testing.T, c *testcluster.Cluster) {
	first, other := listenOn(c.Node(1), "back"), listenOn(c.Node(3), "back")
	db := c.Node(3).Connect()
	gone := listenOn(c.Node(2), "back")
	execSQL(t, db, "NOTIFY back, 'all'")
	for _, l := range []*listener{first, other, gone} {
		l.hears(t, "back=all")
	}
	c.Node(2).Kill()
	await(t, c, "a commit without node 2", func() error {
		_, err := db.Exec(t.Context(), "CREATE TABLE IF NOT EXISTS back (id int)")
		return err
	})
	execSQL(t, db, "NOTIFY back, 'without 2'")
	first.hears(t, "back=without 2")
	other.hears(t, "back=without 2")
	c.Node(2).Start()
	c.Node(2).WaitStatus("online")
	again := listenOn(c.Node(2), "back")
	execSQL(t, db, "NOTIFY back, 'with 2'")
	for _, l := range []*listener{again, first, other} {
		l.hears(t, "back=with 2")
	}
	// What node 2 itself says comes from when it has heard again who listens.
	two := c.Node(2).Connect()
	heard := make(chan string)
	go func() { heard <- first.next(t) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for said := ""; said == ""; {
		execSQL(t, two, "NOTIFY back, 'of 2'")
		select {
		case said = <-heard:
			require.Equal(t, "back=of 2", said)
		case <-tick.C:
		}
	}
}
