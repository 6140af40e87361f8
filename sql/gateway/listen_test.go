package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm"
)

// fakeChannels notes what the gateway says of its clients' channels.
type fakeChannels struct {
	mu     sync.Mutex
	held   map[string]int
	refuse *mtm.Error
	news   chan struct{}
}

func (f *fakeChannels) Listen(_ context.Context, channel string) *mtm.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	f.held[channel]++
	f.tell()
	return nil
}

func (f *fakeChannels) Unlisten(channel string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[channel]--
	if f.held[channel] == 0 {
		delete(f.held, channel)
	}
	f.tell()
}

func (f *fakeChannels) tell() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// await waits until the channels that are held are these.
func (f *fakeChannels) await(t *testing.T, want ...string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		f.mu.Lock()
		have := slices.Sorted(maps.Keys(f.held))
		f.mu.Unlock()
		if slices.Equal(have, want) {
			return
		}
		select {
		case <-f.news:
		case <-limit:
			require.Equal(t, want, have)
		}
	}
}

func (f *fakeChannels) has(t *testing.T, channel string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Positive(t, f.held[channel], "%q when its LISTEN was answered", channel)
}

// TestListenIsAnnounced: before a LISTEN is answered the other nodes know its channel, in all ways to say it; what a client
// listens to no more, or never did, is taken back.
func TestListenIsAnnounced(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement} {
		t.Run(mode.String(), func(t *testing.T) {
			f := &fakeChannels{held: map[string]int{}, news: make(chan struct{}, 1)}
			h := start(t, func(c *Config) { c.Channels = f })
			conn, other := h.connect(t, mode), h.connect(t, mode)
			exec := func(sql string) {
				t.Helper()
				_, err := conn.Exec(bg, sql)
				require.NoError(t, err, sql)
			}
			exec("listen News")
			f.has(t, "news")
			exec(`listen "Odd ""Näme"`)
			f.has(t, `Odd "Näme`)
			_, err := other.Exec(bg, "LISTEN /* too */ news")
			require.NoError(t, err)
			f.await(t, `Odd "Näme`, "news")
			exec("begin")
			exec("listen late")
			f.has(t, "late")
			exec("rollback")
			exec("select 1")
			f.await(t, `Odd "Näme`, "news")
			exec("unlisten news")
			f.await(t, `Odd "Näme`, "news")
			require.NoError(t, other.Close(bg))
			f.await(t, `Odd "Näme`)
			exec("unlisten *")
			f.await(t)
			exec("do $$ begin execute 'listen hidden'; end $$")
			f.await(t, "hidden")
			exec("discard all")
			f.await(t)
			exec(`listen U&"unusual"`)
			f.await(t, "unusual")
			f.mu.Lock()
			f.refuse = &mtm.Error{Code: "53400", Msg: "too many"}
			f.mu.Unlock()
			_, err = conn.Exec(bg, "listen more")
			require.Equal(t, "53400", code(err))
			exec("listen unusual")
			exec("select 1")
			require.NoError(t, conn.Close(bg))
			f.await(t)
		})
	}
}

// TestListenInOneOfManyStatements, in LATIN1, and by a function that nobody can see into.
func TestListenOutOfSight(t *testing.T) {
	f := &fakeChannels{held: map[string]int{}, news: make(chan struct{}, 1)}
	h := start(t, func(c *Config) { c.Channels = f })
	conn := h.connect(t, pgx.QueryExecModeSimpleProtocol)
	exec := func(sql string) {
		t.Helper()
		_, err := conn.Exec(bg, sql)
		require.NoError(t, err, sql)
	}
	exec("select 1; listen one; begin; listen two; commit; listen three")
	f.has(t, "one")
	f.has(t, "two")
	f.has(t, "three")
	exec("set client_encoding = 'latin1'")
	exec("listen \"\xe4\"")
	f.await(t, "one", "three", "two", "ä")
	exec("unlisten *")
	exec("set client_encoding = 'utf8'")
	exec("create function pg_temp.ears() returns void language plpgsql as $$ begin listen secret; end $$")
	exec("select pg_temp.ears()")
	f.await(t)
	_, err := h.fake.pool.Exec(bg, "notify secret")
	require.NoError(t, err)
	n, err := conn.WaitForNotification(bg)
	require.NoError(t, err)
	require.Equal(t, "secret", n.Channel)
	f.await(t, "secret")
}

// TestChannelsOfASessionAreBounded: one client cannot take all the channels of a node.
func TestChannelsOfASessionAreBounded(t *testing.T) {
	f := &fakeChannels{held: map[string]int{}, news: make(chan struct{}, 1)}
	h := start(t, func(c *Config) { c.Channels = f })
	conn := h.connect(t, pgx.QueryExecModeSimpleProtocol)
	all := ""
	for i := range maxSessionChannels {
		all += fmt.Sprintf("listen c%d;", i)
	}
	_, err := conn.Exec(bg, all)
	require.NoError(t, err)
	_, err = conn.Exec(bg, "listen more")
	require.Equal(t, "53400", code(err))
	_, err = conn.Exec(bg, "listen c7; unlisten c7; select 1")
	require.NoError(t, err)
	_, err = conn.Exec(bg, "listen more")
	require.NoError(t, err)
	f.has(t, "more")
}
