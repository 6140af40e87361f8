package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"mtm/cmd/mtmctl/admin"
	"mtm/cmd/mtmctl/verify"
	"mtm/testcluster/devcluster"
)

var (
	errDiffer    = errors.New("nodes differ")
	errUndecided = errors.New("nothing differs for certain, but some of it changed all the time: try again with a longer --settle, or under less load")
)

// verifyFlags are what verify takes besides the flags of target.
type verifyFlags struct {
	target
	urls     []string
	skip     []string
	database string
	settle   time.Duration
	rows     int
	quiet    bool
}

func newVerify() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use: "verify", Short: "Compare all definitions and rows of all nodes, while they are in use", Args: noArgs,
		Long: `verify compares the definitions of all objects of a database, and the rows of all its replicated tables by key, on all
nodes. It only reads. Clients may go on writing: what differs at the first look is read again until it is equal, or has
stayed different for --settle. Each row that differs is printed, with what each node has.

Which nodes: --url, once for each (any PostgreSQL); or --dev (straight to each PostgreSQL); or --node and --cert-dir: one
node is enough, it says how to reach the others through their gateways. PGUSER, PGPASSWORD and the like are heeded.

Not compared: unlogged and temporary tables, values and steps of sequences, passwords, tablespaces, schema mtm.
Exit codes: 0 equal, 5 different, 6 not decided since something changed all the time; 1, 2, 3 as always.`,
		Example: "  mtmctl verify --cert-dir /etc/mtm/certs --node db1:7001\n" +
			"  mtmctl verify --url postgres://db1/shop --url postgres://db2/shop --url postgres://db3/shop\n" +
			"  mtmctl verify --dev /tmp/dc --database regression",
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.addFlags(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&f.urls, "url", nil, "how to reach a node's PostgreSQL, as a URL or keywords; repeated, instead of --node or --dev")
	fl.StringArrayVar(&f.skip, "skip", nil, "number of a node to leave out; repeated")
	fl.StringVar(&f.database, "database", "", "the database to compare, instead of that of the addresses")
	fl.DurationVar(&f.settle, "settle", 5*time.Second, "how long a difference must stay to count")
	fl.IntVar(&f.rows, "max-rows", 10000, "how many differing rows of a table are followed and printed at most")
	fl.BoolVar(&f.quiet, "quiet", false, "do not tell what is being compared")
	return cmd
}

func (f *verifyFlags) run(cmd *cobra.Command) error {
	if f.settle <= 0 || f.rows <= 0 {
		return usageError{errors.New("--settle and --max-rows must be more than 0")}
	}
	sources, err := f.sources(cmd.Context())
	if err != nil {
		return err
	}
	if len(sources) < 2 {
		return usageError{errors.New("there must be at least two nodes to compare")}
	}
	o := verify.Options{Settle: f.settle, Rows: f.rows}
	if !f.quiet {
		o.Progress = progress(cmd)
	}
	r, err := verify.Run(cmd.Context(), sources, o)
	if err != nil {
		return err
	}
	if err := show(cmd, r, func(w io.Writer) { verifyText(w, r) }); err != nil {
		return err
	}
	switch {
	case r.Equal:
		return nil
	case r.Undecided():
		return errUndecided
	}
	return errDiffer
}

// sources are the nodes to compare.
func (f *verifyFlags) sources(ctx context.Context) (all []verify.Source, err error) {
	switch {
	case len(f.urls) > 0:
		for i, u := range f.urls {
			all = append(all, verify.Source{Name: strconv.Itoa(i + 1), URL: u})
		}
	case f.dev != "":
		all, err = f.devSources(ctx)
	default:
		all, err = f.memberSources(ctx)
	}
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s verify.Source) bool { return slices.Contains(f.skip, s.Name) })
	for i := range all {
		if all[i].URL, err = withDatabase(all[i].URL, f.database); err != nil {
			return nil, usageError{fmt.Errorf("node %s: %w", all[i].Name, err)}
		}
	}
	return all, nil
}

func (f *verifyFlags) devSources(ctx context.Context) (all []verify.Source, err error) {
	c, err := devcluster.Open(f.dev)
	if err != nil {
		return nil, err
	}
	for _, n := range c.Info(ctx).Nodes {
		all = append(all, verify.Source{Name: strconv.Itoa(n.ID), URL: n.PgURL})
	}
	return all, nil
}

// memberSources asks the given nodes, in turn, until one tells the addresses of all.
func (f *verifyFlags) memberSources(ctx context.Context) (all []verify.Source, err error) {
	nodes, err := f.open()
	if err != nil {
		return nil, err
	}
	defer f.close()
	var failed error
	for _, n := range nodes {
		var rows []struct {
			ID       int    `json:"id"`
			Conninfo string `json:"conninfo"`
		}
		if err := ask(ctx, n, "nodes", &rows); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		for _, row := range rows {
			if row.Conninfo == "" {
				return nil, fmt.Errorf("node %d does not say how clients reach node %d: give --url for each node", n.ID, row.ID)
			}
			all = append(all, verify.Source{Name: strconv.Itoa(row.ID), URL: row.Conninfo})
		}
		return all, nil
	}
	return nil, failed
}

// ask calls a method that answers a list of objects, bare or as the member "nodes".
func ask(ctx context.Context, n admin.Node, method string, to any) error {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	var raw json.RawMessage
	if err := n.Admin.Call(ctx, method, nil, &raw); err != nil {
		return err
	}
	var wrapped struct {
		Nodes json.RawMessage `json:"nodes"`
	}
	if json.Unmarshal(raw, &wrapped) == nil && wrapped.Nodes != nil {
		raw = wrapped.Nodes
	}
	return json.Unmarshal(raw, to)
}

// withDatabase changes the database of an address, in URL or keyword form.
func withDatabase(address, database string) (string, error) {
	if _, err := pgx.ParseConfig(address); err != nil {
		return "", err
	}
	if database == "" {
		return address, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return address + " dbname=" + quoteKeyword(database), nil
	}
	u.Path, u.RawPath = "/"+database, ""
	q := u.Query()
	q.Del("dbname")
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// quoteKeyword quotes a value for the keyword form of an address.
func quoteKeyword(value string) string {
	quoted := "'"
	for _, r := range value {
		if r == '\'' || r == '\\' {
			quoted += `\`
		}
		quoted += string(r)
	}
	return quoted + "'"
}

func verifyText(w io.Writer, r *verify.Result) {
	for _, d := range r.Definitions {
		differenceText(w, "", r.Nodes, d)
	}
	for _, t := range r.Differing {
		more := ""
		if t.More {
			more = "at least "
		}
		fmt.Fprintf(w, "table %s: %s%d rows differ\n", t.Name, more, len(t.Rows))
		for _, d := range t.Rows {
			differenceText(w, "  ", r.Nodes, d)
		}
	}
	verdict := "equal"
	switch {
	case r.Equal:
	case r.Undecided():
		verdict = "not decided"
	default:
		verdict = "different"
	}
	fmt.Fprintf(w, "%d nodes, %d tables, %d rows: %s\n", len(r.Nodes), r.Tables, r.Rows, verdict)
}

func differenceText(w io.Writer, indent string, nodes []string, d verify.Difference) {
	note := ""
	if d.Undecided {
		note = " (not decided: it changed all the time)"
	}
	fmt.Fprintf(w, "%s%s %s%s\n", indent, d.Kind, d.Name, note)
	for i, on := range d.On {
		if on == "" {
			on = "(none)"
		}
		fmt.Fprintf(w, "%s  node %s: %s\n", indent, nodes[i], on)
	}
}
