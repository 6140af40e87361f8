package scenario

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm/testcluster"
	"mtm/testcluster/devcluster"
)

// failPoints reads the names of the steps from mtmd's source, so that none is forgotten here.
func failPoints(t *testing.T) []string {
	text, err := os.ReadFile("../../cmd/mtmd/failpoint.go")
	require.NoError(t, err)
	list := regexp.MustCompile(`(?s)var failPoints = \[\]string\{(.*?)\n\}`).FindSubmatch(text)
	require.NotNil(t, list)
	var names []string
	for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllSubmatch(list[1], -1) {
		names = append(names, string(m[1]))
	}
	require.NotEmpty(t, names)
	return names
}

// TestKilledAtEveryStepAndRestarted proves S1 to S8 for restarts: node 1 runs under load on all nodes until it kills itself
// at a step of the commit, and comes back; the same with its PostgreSQL killed at that moment.
func TestKilledAtEveryStepAndRestarted(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{})
	t.Run("left in doubt", func(t *testing.T) { leftInDoubt(t, c.For(t)) })
	l := newLoad(t, c, 3)
	l.users = true
	for i, name := range failPoints(t) {
		for _, both := range []bool{false, true} {
			if both && testing.Short() && i%4 != 0 {
				continue
			}
			test := name
			if both {
				test += "+PostgreSQL"
			}
			ok := t.Run(test, func(t *testing.T) { dieAt(t, c.For(t), l, name, 20+i, both) })
			if !ok {
				return // what follows would only repeat it
			}
		}
	}
	l.tell(t)
}

// dieAt lets node 1 die at the count-th time that it comes to a step.
func dieAt(t *testing.T, c *testcluster.Cluster, l *load, name string, count int, both bool) {
	n := c.Node(1)
	n.StopMtmd()
	l.start(t)
	// It may be so quick to die that it never answers: that is no failure.
	err := c.Dev().StartNode(t.Context(), 1, devcluster.Mtmd, "MTM_FAIL_AT="+name+":"+strconv.Itoa(count))
	if err != nil && n.Info().MtmdPid != 0 {
		t.Fatal(err)
	}
	await(t, c, "the end of node 1 at "+name, func() error {
		if pid := n.Info().MtmdPid; pid != 0 {
			return fmt.Errorf("process %d still runs; errors by now: %v", pid, l.errors())
		}
		return nil
	})
	if both {
		n.KillPostgres()
	}
	n.Start()
	c.WaitOnline()
	l.awaitProgress(t, c, 10)
	l.finish()
	l.check(t, c)
}

// TestPostgresKilledUnderRunningDaemon proves the same for a PostgreSQL that dies alone, on each node in turn, and comes
// back under a daemon that never stopped.
func TestPostgresKilledUnderRunningDaemon(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{})
	l := newLoad(t, c, 3)
	for _, n := range c.Nodes() {
		pid := n.Info().MtmdPid
		l.start(t)
		l.awaitProgress(t, c, 20)
		n.KillPostgres()
		n.StartPostgres()
		l.awaitProgress(t, c, 20)
		l.finish()
		l.check(t, c)
		require.Equal(t, pid, n.Info().MtmdPid, "mtmd must not end with its PostgreSQL\n"+logs(c))
	}
	l.tell(t)
}
