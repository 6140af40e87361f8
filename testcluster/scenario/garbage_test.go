package scenario

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"mtm/cert"
	"mtm/testcluster"
)

// growth is how much more memory mtmd may have needed at its worst moment, in KiB, whatever strangers send.
const growth = 48 << 10

// unharmed calls f, and then requires that the same daemons serve, and needed no more memory.
func unharmed(t *testing.T, c *testcluster.Cluster, f func()) {
	t.Helper()
	var pids []int
	for _, n := range c.Nodes() {
		pids = append(pids, n.Info().MtmdPid)
	}
	before := peaks(t, c)
	f()
	for i, n := range c.Nodes() {
		require.Equal(t, pids[i], n.Info().MtmdPid, logs(c))
	}
	after := peaks(t, c)
	for i := range after {
		require.Less(t, after[i]-before[i], growth, "node %d: from %d to %d KiB", i+1, before[i], after[i])
	}
	c.WaitOnline()
	table := pgx.Identifier{fmt.Sprintf("unharmed_%d", rand.Int64())}.Sanitize()
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE "+table+" (id int PRIMARY KEY); INSERT INTO "+table+" VALUES (1)")
	require.Equal(t, 1, one[int](t, c.Node(3).Connect(), "SELECT count(*) FROM "+table))
}

// message is a message of PostgreSQL's protocol that claims to have a body of size bytes and has this one.
func message(typ byte, size uint32, body []byte) []byte {
	b := []byte{}
	if typ != 0 {
		b = append(b, typ)
	}
	return append(binary.BigEndian.AppendUint32(b, size+4), body...)
}

// hello is a good startup message.
var hello = message(0, uint32(len(helloBody)), []byte(helloBody))

const helloBody = "\x00\x03\x00\x00user\x00postgres\x00database\x00postgres\x00\x00"

func garbageToGateway(t *testing.T, c *testcluster.Cluster) {
	addr := hostPort(t, c.Node(1).URL())
	const gib = 1<<30 - 5
	rnd := rand.New(rand.NewChaCha8([32]byte{1}))
	var pieces [][]byte
	for range 100 {
		pieces = append(pieces, random(rnd, 1+rnd.IntN(4096)))
	}
	for _, size := range []uint32{0, 1, 3, 4, gib, 1 << 31, 1<<32 - 5} {
		pieces = append(pieces, message(0, size, nil), message(0, size, random(rnd, 5000)))
	}
	for _, code := range []uint32{80877103, 80877104, 80877102, 196608 + 99, 131072} { // TLS, GSSAPI, cancel, 3.99, 2.0
		body := binary.BigEndian.AppendUint32(nil, code)
		pieces = append(pieces, message(0, 4, body), append(message(0, 4, body), random(rnd, 1000)...),
			message(0, 1000, append(body, random(rnd, 996)...)))
	}
	// After a good startup: every type, with lengths that are wrong in every way.
	for typ := range 256 {
		for _, size := range []uint32{0, 1, 100, 1<<32 - 5, 1<<32 - 4, 1 << 31} {
			if typ%8 == 0 || bytes.ContainsRune([]byte("QPBDECHSFdcfpX"), rune(typ)) {
				pieces = append(pieces, append(bytes.Clone(hello), message(byte(typ), size, random(rnd, int(size)%1000))...))
			}
		}
	}
	for range 50 {
		pieces = append(pieces, append(bytes.Clone(hello), random(rnd, 2000)...))
	}
	unharmed(t, c, func() {
		for _, p := range pieces {
			throw(t, addr, p)
		}
		for _, typ := range []byte("QPBDECFdfp") {
			hold(t, addr, func() []byte { return append(bytes.Clone(hello), message(typ, gib, random(rnd, 100_000))...) })
		}
		hold(t, addr, func() []byte { return message(0, gib, random(rnd, 100_000)) })
	})
}

func garbageToPeers(t *testing.T, c *testcluster.Cluster) {
	addr := c.Node(1).Info().Peer
	rnd := rand.New(rand.NewChaCha8([32]byte{2}))
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	unharmed(t, c, func() {
		for range 100 {
			throw(t, addr, random(rnd, 1+rnd.IntN(4096)))
		}
		throw(t, addr, []byte(preface))
		throw(t, addr, []byte{0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff}) // a ClientHello without end
		// Without a certificate nobody gets anywhere.
		conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // we are the attacker
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		require.Error(t, err)
		for _, name := range []string{cert.AdminName, cert.NodeName(2)} {
			cfg := clientTLS(t, c, name)
			for range 30 {
				throwTLS(t, addr, cfg, append([]byte(preface), random(rnd, 4096)...))
			}
			// A frame of HTTP/2 of 16 MiB, and gRPC messages that claim 1 GiB, or hold nonsense.
			throwTLS(t, addr, cfg, append([]byte(preface), 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1))
			for _, path := range []string{"/mtm.v1.Admin/Call", "/mtm.v1.Admin/Watch", "/mtm.v1.Peer/Link", "/mtm.v1.Peer/Bulk", "/no/such"} {
				for _, size := range []uint32{1 << 30, 1<<32 - 1, 100} {
					call(t, addr, cfg, path, append([]byte{0}, append(binary.BigEndian.AppendUint32(nil, size), random(rnd, 100)...)...))
				}
			}
		}
	})
}

func hostPort(t *testing.T, url string) string {
	cfg, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	return net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port))
}

func random(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// throw sends bytes and the end of the stream, and reads until the other side has hung up.
func throw(t *testing.T, addr string, b []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	conn.Write(b)                      //nolint:errcheck // it may hang up before the end
	conn.(*net.TCPConn).CloseWrite()   //nolint:errcheck // the same
	_, err = io.Copy(io.Discard, conn) // reset or not: it has ended
	require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "no end after %.80q", b)
}

// hold opens several connections that announce much and send little, and keeps them open for a moment together.
func hold(t *testing.T, addr string, b func() []byte) {
	t.Helper()
	for range 4 {
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(300*time.Millisecond)))
		conn.Write(b())                 //nolint:errcheck // it may be refused at once
		io.CopyN(io.Discard, conn, 512) //nolint:errcheck // whatever it says
	}
}

func clientTLS(t *testing.T, c *testcluster.Cluster, name string) *tls.Config {
	dir := filepath.Join(c.Dev().Dir(), "certs")
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	require.NoError(t, err)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca))
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: cert.NodeName(1), NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}
}

func throwTLS(t *testing.T, addr string, cfg *tls.Config, b []byte) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, cfg)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	conn.Write(b)     //nolint:errcheck // it may hang up before the end
	conn.CloseWrite() //nolint:errcheck // the same
	_, err = io.Copy(io.Discard, conn)
	require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "no end after %.80q", b)
}

// call makes a gRPC call with a body of our own.
func call(t *testing.T, addr string, cfg *tls.Config, path string, body []byte) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	client := http.Client{Transport: tr, Timeout: 10 * time.Second}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+addr+path, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := client.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body) //nolint:errcheck // whatever it says
	require.NotEqual(t, "0", resp.Trailer.Get("Grpc-Status"), "%s took nonsense for a good call", path)
}
