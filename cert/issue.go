package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// How long certificates hold. A leaf is renewed by issuing it again; running daemons pick it up.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 2 * 365 * 24 * time.Hour
	backdate = time.Hour // clocks of different machines differ
)

// AdminName is the name in the operator's certificate.
const AdminName = "admin"

// NodeName is the name in the certificate of node id.
func NodeName(id int) string { return fmt.Sprintf("node-%d", id) }

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// InitCA makes the authority of a cluster in dir, which is created if need be. The cluster's name, at most 64 bytes,
// goes into every certificate; when it is empty, certificates name no cluster. An authority that is already there is
// an error that wraps os.ErrExist, and stays as it is.
func InitCA(dir, cluster string) error {
	if len(cluster) > 64 {
		return fmt.Errorf("cert: cluster name of %d bytes: at most 64 fit into a certificate", len(cluster))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	for _, name := range []string{"ca.crt", "ca.key"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("cert: %s: %w; a new authority would lock out every node that trusts this one",
				filepath.Join(dir, name), os.ErrExist)
		}
	}
	template, err := newTemplate("mtm CA", cluster, caLife)
	if err != nil {
		return err
	}
	template.IsCA = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	return writePair(dir, "ca", template, template, key, key, false)
}

// Issue makes, or renews, the certificate and key of name ("node-<id>", "admin") in dir, signed by the authority there.
// hosts are the names and addresses under which others reach it. A renewal gets a new key.
func Issue(dir, name string, hosts ...string) error {
	if !validName.MatchString(name) || name == "ca" {
		return fmt.Errorf("cert: %q cannot name a certificate: use small letters, digits and dashes", name)
	}
	ca, caKey, err := loadCA(dir)
	if err != nil {
		return err
	}
	cluster := ""
	if len(ca.Subject.Organization) > 0 {
		cluster = ca.Subject.Organization[0]
	}
	template, err := newTemplate(name, cluster, leafLife)
	if err != nil {
		return err
	}
	if template.NotAfter.After(ca.NotAfter) {
		template.NotAfter = ca.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames = []string{name}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if h != "" && h != name {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	return writePair(dir, name, template, ca, key, caKey, true)
}

func newTemplate(name, cluster string, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("cert: %w", err)
	}
	subject := pkix.Name{CommonName: name}
	if cluster != "" {
		subject.Organization = []string{cluster}
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject, BasicConstraintsValid: true,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
	}, nil
}

func loadCA(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	ca, err := readCertificate(filepath.Join(dir, "ca.crt"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("cert: %w; make the authority first: mtmctl cert init", err)
	}
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(dir, "ca.key")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cert: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil, fmt.Errorf("cert: %s holds no PEM block", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("cert: %s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(ca.PublicKey) {
		return nil, nil, fmt.Errorf("cert: %s is not the key of ca.crt", path)
	}
	return ca, key, nil
}

func readCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cert: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("cert: %s holds no certificate", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cert: %s: %w", path, err)
	}
	return c, nil
}

// writePair signs template and writes <name>.key, then <name>.crt. Each file changes at once, by rename; who reads
// between the two finds a pair that does not match, and keeps what he has.
func writePair(dir, name string, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey, replace bool) error {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := writeFile(filepath.Join(dir, name+".key"), keyText, 0o600, replace); err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return writeFile(filepath.Join(dir, name+".crt"), text, 0o644, replace)
}

func writeFile(path string, text []byte, mode os.FileMode, replace bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600 from the start
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil && replace {
		err = os.Rename(f.Name(), path)
	} else if err == nil {
		err = os.Link(f.Name(), path) // unlike a rename, it fails when path is there
	}
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	return nil
}
