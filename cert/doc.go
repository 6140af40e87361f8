// Package cert makes and uses the certificates of one cluster: a certificate authority of its own, a certificate for
// each node and for the operator, and TLS settings in which both sides prove who they are.
//
// A directory holds ca.crt, ca.key and, for each name, <name>.crt and <name>.key; keys have mode 0600. A node's name is
// "node-<id>", the operator's is "admin". The name stands in the common name and, as a host name, among the
// alternative names; the cluster's name is the organization. Keys are ECDSA P-256, TLS is 1.3 only.
//
// It never overwrites an authority, never writes a key that others can read, and never accepts a peer that the
// cluster's authority has not signed.
package cert
