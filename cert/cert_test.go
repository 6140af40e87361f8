package cert

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func authority(t *testing.T, cluster string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, InitCA(dir, cluster))
	for _, n := range names {
		require.NoError(t, Issue(dir, n, "127.0.0.1", "localhost"))
	}
	return dir
}

// shake connects client to server over a real socket, and gives what each side says.
func shake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		err = c.Handshake()
		if err == nil {
			state = c.ConnectionState()
			_, err = c.Write([]byte{1})
		}
		done <- err
	}()
	c, clientErr := tls.Dial("tcp", l.Addr().String(), client)
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1)) // in TLS 1.3 the server's refusal shows here
		c.Close()
	}
	return state, <-done, clientErr
}

func configs(t *testing.T, serverFiles, clientFiles Files, name string) (*tls.Config, *tls.Config) {
	t.Helper()
	server, err := ServerConfig(serverFiles)
	require.NoError(t, err)
	client, err := ClientConfig(clientFiles, name)
	require.NoError(t, err)
	return server, client
}

func TestBothSidesProveThemselves(t *testing.T) {
	dir := authority(t, "shop", "node-1", "node-2")
	for _, name := range []string{"node-1", "localhost", "127.0.0.1"} {
		server, client := configs(t, In(dir, "node-1"), In(dir, "node-2"), name)
		state, serverErr, clientErr := shake(t, server, client)
		require.NoError(t, serverErr)
		require.NoError(t, clientErr)
		require.EqualValues(t, tls.VersionTLS13, state.Version)
		who, cluster, err := PeerName(state)
		require.NoError(t, err)
		require.Equal(t, "node-2", who)
		require.Equal(t, "shop", cluster)
	}
}

func TestWrongNameOrAuthorityIsRefused(t *testing.T) {
	ours, theirs := authority(t, "shop", "node-1", "node-2"), authority(t, "shop", "node-1", "node-2")

	server, client := configs(t, In(ours, "node-1"), In(ours, "node-2"), "node-3")
	_, _, clientErr := shake(t, server, client)
	require.ErrorContains(t, clientErr, "node-3")

	server, client = configs(t, In(ours, "node-1"), In(theirs, "node-2"), "node-1")
	_, _, clientErr = shake(t, server, client)
	require.ErrorContains(t, clientErr, "unknown authority")

	client, err := ClientConfig(In(ours, "node-2"), "node-1")
	require.NoError(t, err)
	stranger, err := tls.LoadX509KeyPair(filepath.Join(theirs, "node-2.crt"), filepath.Join(theirs, "node-2.key"))
	require.NoError(t, err)
	client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }
	_, serverErr, clientErr := shake(t, server, client)
	require.ErrorContains(t, serverErr, "unknown authority")
	require.Error(t, clientErr)

	client.GetClientCertificate = nil
	_, serverErr, clientErr = shake(t, server, client)
	require.Error(t, serverErr, "a client without a certificate")
	require.Error(t, clientErr)

	client, err = ClientConfig(In(ours, "node-2"), "")
	require.NoError(t, err)
	require.ErrorContains(t, client.VerifyConnection(tls.ConnectionState{}), "no server name")

	server, client = configs(t, In(ours, "node-1"), In(ours, "node-2"), "127.0.0.2")
	_, _, clientErr = shake(t, server, client)
	require.ErrorContains(t, clientErr, "127.0.0.2")
}

func TestTLS12IsRefused(t *testing.T) {
	dir := authority(t, "shop", "node-1")
	server, client := configs(t, In(dir, "node-1"), In(dir, "node-1"), "node-1")
	client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	_, serverErr, _ := shake(t, server, client)
	require.Error(t, serverErr)
}

func TestRenewedCertificateIsPickedUp(t *testing.T) {
	dir := authority(t, "", "node-1", "node-2")
	server, client := configs(t, In(dir, "node-1"), In(dir, "node-2"), "node-1")
	before, _, err := shake(t, server, client)
	require.NoError(t, err)

	require.NoError(t, Issue(dir, "node-2"))
	after, _, err := shake(t, server, client)
	require.NoError(t, err)
	require.NotEqual(t, before.PeerCertificates[0].SerialNumber, after.PeerCertificates[0].SerialNumber)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "node-2.crt"), []byte("half a fi"), 0o644))
	again, _, err := shake(t, server, client)
	require.NoError(t, err, "an unusable file leaves the old certificate in use")
	require.Equal(t, after.PeerCertificates[0].SerialNumber, again.PeerCertificates[0].SerialNumber)
}

func TestFilesAreSafe(t *testing.T) {
	dir := authority(t, "shop", "node-1", AdminName)
	for _, name := range []string{"ca.key", "node-1.key", "admin.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.EqualValues(t, 0o600, info.Mode().Perm(), name)
	}
	before, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	require.NoError(t, err)
	require.True(t, errors.Is(InitCA(dir, "other"), os.ErrExist))
	after, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	require.NoError(t, err)
	require.Equal(t, before, after)

	left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	for _, name := range []string{"", "ca", "../x", "a/b", "Node", "-a"} {
		require.Error(t, Issue(dir, name), name)
	}
	require.ErrorContains(t, Issue(t.TempDir(), "node-1"), "cert init")
}
