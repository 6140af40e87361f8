package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mtm/cert"
)

func newCert() *cobra.Command {
	return group("cert", "Make the cluster's authority and certificates",
		`Nodes and mtmctl prove to each other who they are with certificates of the cluster's own authority. Make the authority
once ("init"), a certificate per node and one named admin for mtmctl ("issue"), and give each machine its own files and
ca.crt. Keep ca.key where no node is.`, newCertInit(), newCertIssue())
}

func newCertInit() *cobra.Command {
	var dir, cluster string
	cmd := &cobra.Command{
		Use: "init", Short: "Make the authority: ca.crt and ca.key", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cert.InitCA(dir, cluster); errors.Is(err, os.ErrExist) {
				return fmt.Errorf("%w (nothing was changed)", err)
			} else if err != nil {
				return err
			}
			return showFiles(cmd, filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "where to put them")
	cmd.Flags().StringVar(&cluster, "cluster", "mtm", "name of the cluster, as in the nodes' configuration")
	return cmd
}

func newCertIssue() *cobra.Command {
	var dir, name string
	var node int
	var hosts []string
	cmd := &cobra.Command{
		Use: "issue", Short: "Make or renew the certificate of a node, or of mtmctl (admin)", Args: noArgs,
		Example: "  mtmctl cert issue --dir certs --node 1 --host db1.example.com --host 10.0.0.1\n  mtmctl cert issue --dir certs --name admin",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if node != 0 {
				name = cert.NodeName(node)
			}
			if err := cert.Issue(dir, name, hosts...); err != nil {
				return err
			}
			return showFiles(cmd, filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "directory with ca.crt and ca.key")
	cmd.Flags().StringVar(&name, "name", "", "admin, or another name")
	cmd.Flags().IntVar(&node, "node", 0, "number of the node")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "name or address under which others reach it; repeated")
	cmd.MarkFlagsOneRequired("name", "node")
	cmd.MarkFlagsMutuallyExclusive("name", "node")
	return cmd
}

func showFiles(cmd *cobra.Command, crt, key string) error {
	return show(cmd, map[string]string{"cert": crt, "key": key}, func(w io.Writer) { fmt.Fprintf(w, "%s\n%s\n", crt, key) })
}
