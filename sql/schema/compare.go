package schema

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"mtm"
)

// Compare checks what must be equal on all nodes, and what must not. Nodes must agree on how they compare and store text, or
// the same row would be another one elsewhere.
func Compare(facts map[mtm.NodeID]Facts) []CheckResult {
	c := comparer{facts: facts}
	for id := range facts {
		c.ids = append(c.ids, id)
	}
	slices.Sort(c.ids)
	c.equal("encoding", Fatal, "CREATE DATABASE … ENCODING …", func(f Facts) string { return f.Encoding })
	c.equal("collation_provider", Fatal, "CREATE DATABASE … LOCALE_PROVIDER …", func(f Facts) string { return f.Provider })
	c.equal("collate", Fatal, "CREATE DATABASE … LC_COLLATE …", func(f Facts) string { return libcName(f.Collate) })
	c.equal("ctype", Fatal, "CREATE DATABASE … LC_CTYPE …", func(f Facts) string { return libcName(f.Ctype) })
	c.equal("locale", Fatal, "CREATE DATABASE … LOCALE …", func(f Facts) string { return f.Locale })
	c.equal("collation_version", Fatal, "", func(f Facts) string { return f.CollationVersion })
	c.equal("major_version", Warning, "", func(f Facts) string { return fmt.Sprint(f.Version / 10000) })
	c.equal("database", Warning, "", func(f Facts) string { return f.Database })
	c.equal("default_isolation", Warning, "", func(f Facts) string { return f.Settings["default_transaction_isolation"] })
	c.distinct()
	c.roles()
	return c.out
}

type comparer struct {
	facts map[mtm.NodeID]Facts
	ids   []mtm.NodeID
	out   []CheckResult
}

// libcName makes the spellings of one locale equal: "en_US.UTF-8" and "en_US.utf8" are the same to libc.
func libcName(name string) string {
	base, charset, found := strings.Cut(name, ".")
	if !found {
		if name == "POSIX" {
			return "C"
		}
		return name
	}
	return base + "." + strings.ToLower(strings.ReplaceAll(charset, "-", ""))
}

// equal checks one property on all nodes: by says how to make a database that has another.
func (c *comparer) equal(name string, s Severity, by string, value func(Facts) string) {
	groups := map[string][]mtm.NodeID{}
	for _, id := range c.ids {
		groups[value(c.facts[id])] = append(groups[value(c.facts[id])], id)
	}
	var parts []string
	for v, ids := range groups {
		if v == "" {
			v = "none"
		}
		parts = append(parts, fmt.Sprintf("%s on %s", v, nodeList(ids)))
	}
	sort.Strings(parts)
	r := CheckResult{Name: "same_" + name, OK: len(groups) <= 1, Severity: s, Detail: strings.Join(parts, "; ")}
	if !r.OK {
		r.Fix = compareFix(name, by)
	}
	c.out = append(c.out, r)
}

func compareFix(name, by string) string {
	switch {
	case by != "":
		return "Make the databases alike: " + by
	case name == "collation_version":
		return "Text sorts differently on these nodes, and indexes and partitions with it. Use the same operating system release " +
			"(the same libc and ICU) on all, or a database with LOCALE 'C', or the builtin provider from PostgreSQL 17."
	case name == "major_version":
		return "It works, and is meant for upgrades; what only the newer version understands fails on the older."
	}
	return "It works, but clients will see a difference between nodes."
}

// distinct checks that no two nodes are one server: slots, origins and roles would meet.
func (c *comparer) distinct() {
	seen := map[string]mtm.NodeID{}
	r := CheckResult{Name: "distinct_servers", OK: true, Severity: Fatal}
	for _, id := range c.ids {
		system := c.facts[id].SystemIdentifier
		if other, found := seen[system]; found {
			r.OK = false
			r.Detail = fmt.Sprintf("node %d and node %d have the same system identifier %s", other, id, system)
			r.Fix = "Each node needs a PostgreSQL of its own, made by initdb: not a copy of another, nor a database in the same one."
		}
		seen[system] = id
	}
	c.out = append(c.out, r)
}

// roles warns of roles that some nodes lack: DDL that names them would fail there.
func (c *comparer) roles() {
	count := map[string]int{}
	for _, f := range c.facts {
		for _, role := range f.Roles {
			count[role]++
		}
	}
	var parts []string
	for role, n := range count {
		if n == len(c.facts) {
			continue
		}
		var lack []mtm.NodeID
		for _, id := range c.ids {
			if !slices.Contains(c.facts[id].Roles, role) {
				lack = append(lack, id)
			}
		}
		parts = append(parts, fmt.Sprintf("%s is missing on %s", role, nodeList(lack)))
	}
	sort.Strings(parts)
	r := CheckResult{Name: "same_roles", OK: len(parts) == 0, Severity: Warning, Detail: list(parts)}
	if !r.OK {
		r.Fix = "Statements that name such a role will fail on all nodes. CREATE ROLE … there, with the same password."
	}
	c.out = append(c.out, r)
}

// nodeList is "nodes 1, 2".
func nodeList(ids []mtm.NodeID) string {
	parts := make([]string, len(ids))
	for i, id := range ids {
		parts[i] = fmt.Sprint(id)
	}
	if len(ids) == 1 {
		return "node " + parts[0]
	}
	return "nodes " + strings.Join(parts, ", ")
}
