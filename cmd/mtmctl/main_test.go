package main

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func mtmctl(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

func TestExitCodes(t *testing.T) {
	certs := t.TempDir()
	code, out, _ := mtmctl(t, "cert", "init", "--dir", certs)
	require.Equal(t, exitOK, code)
	require.Contains(t, out, "ca.key")
	code, out, _ = mtmctl(t, "cert", "issue", "--dir", certs, "--name", "admin", "--output", "json")
	require.Equal(t, exitOK, code)
	require.JSONEq(t, `{"cert":"`+filepath.Join(certs, "admin.crt")+`","key":"`+filepath.Join(certs, "admin.key")+`"}`, out)

	for _, one := range []struct {
		args []string
		code int
		want string // in the error
	}{
		{[]string{"version"}, exitOK, ""},
		{[]string{"nonsense"}, exitUsage, "unknown command"},
		{[]string{"cert"}, exitUsage, "needs a command"},
		{[]string{"devcluster", "nonsense", "--dir", "/x"}, exitUsage, "unknown command"},
		{[]string{"status", "--nonsense"}, exitUsage, "unknown flag"},
		{[]string{"status", "extra"}, exitUsage, "unexpected argument"},
		{[]string{"version", "--output", "xml"}, exitUsage, "text or json"},
		{[]string{"status", "--node", "1=h:1"}, exitUsage, "--cert-dir"},
		{[]string{"status", "--cert-dir", certs}, exitUsage, "which nodes"},
		{[]string{"status", "--cert-dir", certs, "--node", "17=h:1"}, exitUsage, "1 to 16"},
		{[]string{"status", "--cert-dir", certs, "--node", "1=h"}, exitUsage, "host:port"},
		{[]string{"init-cluster", "--cert-dir", certs, "--node", "h:1"}, exitUsage, "id=host:port"},
		{[]string{"init-cluster", "--cert-dir", certs, "--node", "1=h:1", "--node", "1=h:2"}, exitUsage, "given before"},
		{[]string{"status", "--cert-dir", certs, "--node", "1=127.0.0.1:1"}, exitNotReachable, "does not answer"},
		{[]string{"nodes", "--cert-dir", certs, "--node", "127.0.0.1:1"}, exitNotReachable, "does not answer"},
		{[]string{"init-cluster", "--dry-run", "--cert-dir", certs, "--node", "1=127.0.0.1:1"}, exitNotReachable, "cannot be reached"},
		{[]string{"status", "--cert-dir", certs + "/none", "--node", "1=127.0.0.1:1"}, exitFailure, "no such file"},
		{[]string{"cert", "init", "--dir", certs}, exitFailure, "exists"},
		{[]string{"cert", "issue", "--dir", certs}, exitUsage, "name node"},
		{[]string{"drop-node"}, exitUsage, "which node"},
		{[]string{"drop-node", "17"}, exitUsage, "1 to 16"},
		{[]string{"drop-node", "1", "--cert-dir", certs, "--node", "1=127.0.0.1:1"}, exitUsage, "does not drop itself"},
		{[]string{"drop-node", "2", "--cert-dir", certs, "--node", "1=127.0.0.1:1"}, exitNotReachable, "does not answer"},
		{[]string{"verify"}, exitUsage, "--cert-dir"},
		{[]string{"verify", "--url", "postgres://h/d"}, exitUsage, "at least two"},
		{[]string{"verify", "--url", "postgres://h:x/d", "--url", "host=h"}, exitUsage, "node 1"},
		{[]string{"verify", "--url", "host=127.0.0.1 port=1", "--url", "postgres://127.0.0.1:1", "--database", "o'd d"}, exitNotReachable, "o'd d"},
		{[]string{"verify", "--settle", "0"}, exitUsage, "more than 0"},
		{[]string{"verify", "--cert-dir", certs, "--node", "127.0.0.1:1"}, exitNotReachable, "does not answer"},
		{[]string{"devcluster", "info"}, exitUsage, "dir"},
		{[]string{"devcluster", "info", "--dir", certs}, exitFailure, "no dev cluster"},
		{[]string{"devcluster", "stop", "--dir", certs}, exitUsage, "which node"},
		{[]string{"devcluster", "start", "--dir", certs, "--referee"}, exitUsage, "referee"},
		{[]string{"devcluster", "start", "--dir", certs, "--nodes", "0x"}, exitUsage, "--nodes"},
	} {
		code, _, errOut := mtmctl(t, one.args...)
		require.Equal(t, one.code, code, "%v: %s", one.args, errOut)
		require.Contains(t, errOut, one.want, "%v", one.args)
	}
}

func TestPercent(t *testing.T) {
	for text, want := range map[string]float64{"5%": 0.05, "0": 0, "0.25": 0.25, " 90% ": 0.9} {
		got, err := parsePercent(text)
		require.NoError(t, err, text)
		require.InDelta(t, want, got, 1e-9)
	}
	for _, bad := range []string{"", "x", "-1%", "91%", "NaN", "5%%"} {
		_, err := parsePercent(bad)
		require.Error(t, err, bad)
	}
}
