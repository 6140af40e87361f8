package cert

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Files says where one side's certificates lie.
type Files struct {
	CA, Cert, Key string // paths, PEM
}

// In gives the files of name in a directory made by InitCA and Issue.
func In(dir, name string) Files {
	return Files{
		CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key"),
	}
}

// ServerConfig is for listeners: the client must show a certificate of the cluster's authority. Files that change
// are read again, for the next connection; while they cannot be used the old ones stay.
func ServerConfig(f Files) (*tls.Config, error) {
	s, err := newStore(f)
	if err != nil {
		return nil, err
	}
	base := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAnyClientCert, // verified below, against the authority as it is at that time
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.current().cert, nil
		},
		SessionTicketsDisabled: true, // each connection proves itself anew
	}
	base.VerifyConnection = func(cs tls.ConnectionState) error {
		return s.verify(cs, "", x509.ExtKeyUsageClientAuth)
	}
	return base, nil
}

// ClientConfig is for connections to a server that must be serverName, by the authority's word. When serverName is
// empty the caller sets tls.Config.ServerName, a host name, in a clone; without any, connections fail. Verification is done by
// VerifyConnection: who replaces that function must call it.
func ClientConfig(f Files, serverName string) (*tls.Config, error) {
	s, err := newStore(f)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return s.current().cert, nil
		},
		// Not unverified: RootCAs cannot change while we run, so VerifyConnection does what crypto/tls would do.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			name := cs.ServerName
			if name == "" { // crypto/tls leaves out addresses, which SNI does not know
				name = serverName
			}
			if name == "" {
				return errors.New("cert: no server name to verify")
			}
			return s.verify(cs, name, x509.ExtKeyUsageServerAuth)
		},
	}, nil
}

// PeerName is the name, and the cluster (empty: none), in the certificate that the other side of cs has proven.
func PeerName(cs tls.ConnectionState) (name, cluster string, err error) {
	if len(cs.PeerCertificates) == 0 {
		return "", "", errors.New("cert: the other side showed no certificate")
	}
	subject := cs.PeerCertificates[0].Subject
	if len(subject.Organization) > 0 {
		cluster = subject.Organization[0]
	}
	return subject.CommonName, cluster, nil
}

// loaded is one consistent reading of the files.
type loaded struct {
	cert  *tls.Certificate
	pool  *x509.CertPool
	stamp [3]stamp
}

type stamp struct {
	mod  time.Time
	size int64
}

// store reads the files again when they have changed.
type store struct {
	files Files
	mu    sync.Mutex
	now   loaded
}

func newStore(f Files) (*store, error) {
	s := &store{files: f}
	first, err := s.load()
	if err != nil {
		return nil, err
	}
	s.now = first
	return s, nil
}

func (s *store) current() loaded {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stamps, err := s.stamps(); err == nil && stamps != s.now.stamp {
		if fresh, err := s.load(); err == nil {
			s.now = fresh
		}
	}
	return s.now
}

func (s *store) stamps() (all [3]stamp, err error) {
	for i, path := range []string{s.files.CA, s.files.Cert, s.files.Key} {
		info, err := os.Stat(path)
		if err != nil {
			return all, fmt.Errorf("cert: %w", err)
		}
		all[i] = stamp{mod: info.ModTime(), size: info.Size()}
	}
	return all, nil
}

// load takes the stamps first: a change during the reading is seen the next time.
func (s *store) load() (l loaded, err error) {
	if l.stamp, err = s.stamps(); err != nil {
		return loaded{}, err
	}
	pair, err := tls.LoadX509KeyPair(s.files.Cert, s.files.Key)
	if err != nil {
		return loaded{}, fmt.Errorf("cert: %s: %w", s.files.Cert, err)
	}
	text, err := os.ReadFile(s.files.CA)
	if err != nil {
		return loaded{}, fmt.Errorf("cert: %w", err)
	}
	l.pool = x509.NewCertPool()
	if !l.pool.AppendCertsFromPEM(text) {
		return loaded{}, fmt.Errorf("cert: %s holds no certificate", s.files.CA)
	}
	l.cert = &pair
	return l, nil
}

func (s *store) verify(cs tls.ConnectionState, name string, usage x509.ExtKeyUsage) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("cert: the other side showed no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: s.current().pool, Intermediates: between, DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return fmt.Errorf("cert: certificate of %q: %w", cs.PeerCertificates[0].Subject.CommonName, err)
	}
	return nil
}
