package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"mtm/cert"
	"mtm/cmd/mtmctl/admin"
	"mtm/testcluster/devcluster"
)

// target is the flags that say which nodes a command is for, and how mtmctl proves who it is.
type target struct {
	nodes         []string
	certDir       string
	ca, crt, key  string
	dev           string
	connections   []*admin.Conn
	needsEachNode bool // each must be given with its number
}

func (t *target) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&t.nodes, "node", nil, "a node, as id=host:port, its peer_listen address; repeated")
	f.StringVar(&t.certDir, "cert-dir", os.Getenv("MTM_CERT_DIR"), "directory with ca.crt, admin.crt and admin.key (default $MTM_CERT_DIR)")
	f.StringVar(&t.ca, "ca", "", "the cluster's authority, instead of ca.crt in --cert-dir")
	f.StringVar(&t.crt, "admin-cert", "", "the operator's certificate, instead of admin.crt in --cert-dir")
	f.StringVar(&t.key, "admin-key", "", "its key, instead of admin.key in --cert-dir")
	f.StringVar(&t.dev, "dev", "", "directory of a dev cluster: all its nodes, instead of the flags above")
}

// open prepares to call the nodes. The caller calls close.
func (t *target) open() ([]admin.Node, error) {
	files, err := t.files()
	if err != nil {
		return nil, err
	}
	nodes, err := t.parse()
	if err != nil {
		return nil, err
	}
	for i, n := range nodes {
		conn, err := admin.Dial(n.Peer, n.ID, files)
		if err != nil {
			t.close()
			return nil, err
		}
		t.connections = append(t.connections, conn)
		nodes[i].Admin = conn
	}
	return nodes, nil
}

func (t *target) close() {
	for _, c := range t.connections {
		c.Close()
	}
}

// files are the operator's certificates.
func (t *target) files() (cert.Files, error) {
	dir := t.certDir
	if t.dev != "" {
		dir = filepath.Join(t.dev, "certs")
	}
	if dir == "" && (t.ca == "" || t.crt == "" || t.key == "") {
		return cert.Files{}, usageError{errors.New("how to prove who you are: give --cert-dir, or --ca, --admin-cert and --admin-key")}
	}
	files := cert.In(dir, cert.AdminName)
	for _, one := range []struct{ flag, path *string }{{&t.ca, &files.CA}, {&t.crt, &files.Cert}, {&t.key, &files.Key}} {
		if *one.flag != "" {
			*one.path = *one.flag
		}
	}
	return files, nil
}

// parse reads --node, or asks the dev cluster.
func (t *target) parse() ([]admin.Node, error) {
	if t.dev != "" {
		c, err := devcluster.Open(t.dev)
		if err != nil {
			return nil, err
		}
		nodes, done, err := c.AdminNodes()
		if err != nil {
			return nil, err
		}
		done()
		return nodes, nil
	}
	if len(t.nodes) == 0 {
		return nil, usageError{errors.New("which nodes? Give --node id=host:port, once for each")}
	}
	var nodes []admin.Node
	for _, text := range t.nodes {
		n, err := admin.ParseNode(text, t.needsEachNode)
		if err != nil {
			return nil, usageError{fmt.Errorf("--node %q: %w", text, err)}
		}
		if slices.ContainsFunc(nodes, func(o admin.Node) bool { return o.Peer == n.Peer || n.ID != 0 && o.ID == n.ID }) {
			return nil, usageError{fmt.Errorf("--node %q: this node or address was given before", text)}
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}
