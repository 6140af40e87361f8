package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

const goodConfig = `
node_id = 2
cluster = "shop"
data_dir = "/var/lib/mtm"
postgres = "host=/run/postgresql dbname=shop"
tls_ca = "%s"
tls_cert = "%s"
tls_key = "%s"
[peers]
1 = "10.0.0.1:7433"
`

// writeConfig writes a good file with more at its head, and gives its path.
func writeConfig(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	pem := filepath.Join(dir, "x.pem")
	require.NoError(t, os.WriteFile(pem, nil, 0o600))
	text := more + "\n" + replaceAll(goodConfig, pem)
	file := filepath.Join(dir, "mtmd.toml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func replaceAll(format, pem string) string {
	out := ""
	for i := 0; i < len(format); i++ {
		if format[i] == '%' {
			out += pem
			i++
			continue
		}
		out += string(format[i])
	}
	return out
}

func load(t *testing.T, file string, args ...string) (config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("mtmd", pflag.ContinueOnError)
	newFlags(fs)
	require.NoError(t, fs.Parse(args))
	return loadConfig(file, fs)
}

func TestFlagWinsOverEnvironmentOverFile(t *testing.T) {
	file := writeConfig(t, `log_level = "warn"`)
	c, err := load(t, file)
	require.NoError(t, err)
	require.Equal(t, "warn", c.LogLevel)
	require.EqualValues(t, 2, c.NodeID)
	require.Equal(t, "10.0.0.1:7433", c.Peers[1])
	require.Equal(t, 50*time.Millisecond, c.HeartbeatSend)

	t.Setenv("MTM_LOG_LEVEL", "error")
	c, err = load(t, file)
	require.NoError(t, err)
	require.Equal(t, "error", c.LogLevel)

	c, err = load(t, file, "--log-level", "debug")
	require.NoError(t, err)
	require.Equal(t, "debug", c.LogLevel)
}

func TestWrongConfigurationIsNamed(t *testing.T) {
	for _, c := range []struct{ more, want string }{
		{"lisen = \"x:1\"", "unknown setting lisen"},
		{"listen = \"nowhere\"", "setting listen"},
		{"log_level = \"loud\"", "setting log_level"},
		{"heartbeat_recv_timeout = \"60ms\"", "setting heartbeat_recv_timeout"},
		{"client_tls_cert = \"x\"", "client_tls_key"},
		{"max_workers = 1", "max_workers"},
		{"journal_retention = \"16 bananas\"", "16 bananas"},
		{"journal_retention = \"-1GB\"", "journal_retention"},
		{"journal_retention_time = \"-1s\"", "journal_retention_time"},
		{"this is not TOML", "configuration file"},
	} {
		_, err := load(t, writeConfig(t, c.more))
		require.ErrorContains(t, err, c.want, c.more)
	}
	_, err := load(t, writeConfig(t, ""), "--node-id", "17")
	require.ErrorContains(t, err, "setting node_id is 17")
	_, err = load(t, writeConfig(t, ""), "--tls-ca", "/not/there")
	require.ErrorContains(t, err, "mtmctl cert issue")
	_, err = load(t, filepath.Join(t.TempDir(), "absent.toml"))
	require.ErrorContains(t, err, "absent.toml")
}

func TestExampleConfigurationIsValid(t *testing.T) {
	text, err := os.ReadFile("../../packaging/mtmd.toml")
	require.NoError(t, err)
	pem := filepath.Join(t.TempDir(), "x.pem")
	require.NoError(t, os.WriteFile(pem, nil, 0o600))
	file := filepath.Join(t.TempDir(), "mtmd.toml")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	_, err = load(t, file, "--tls-ca", pem, "--tls-cert", pem, "--tls-key", pem)
	require.NoError(t, err)
}

// A referee needs no PostgreSQL, no number and no clients; a node is told where its referee is by the same setting.
func TestARefereeNeedsFewSettings(t *testing.T) {
	pem := filepath.Join(t.TempDir(), "x.pem")
	require.NoError(t, os.WriteFile(pem, nil, 0o600))
	args := []string{"--data-dir=/d", "--tls-ca=" + pem, "--tls-cert=" + pem, "--tls-key=" + pem}
	c, err := load(t, "", append(args, "--referee")...)
	require.NoError(t, err)
	require.True(t, c.isReferee())
	_, err = load(t, "", append(args[1:], "--referee")...)
	require.ErrorContains(t, err, "setting data_dir is empty: a referee needs it")

	c, err = load(t, writeConfig(t, `referee = true`))
	require.NoError(t, err)
	require.True(t, c.isReferee())
	c, err = load(t, writeConfig(t, `referee = false`))
	require.NoError(t, err)
	require.Empty(t, c.Referee)
	c, err = load(t, writeConfig(t, `referee = "db3:7433"`))
	require.NoError(t, err)
	require.False(t, c.isReferee())
	_, err = load(t, writeConfig(t, `referee = "db3"`))
	require.ErrorContains(t, err, "setting referee is")
}
