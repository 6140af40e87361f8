package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"mtm/cmd/mtmctl/admin"
	"mtm/cmd/mtmctl/verify"
)

// The exit codes; they are part of the interface.
const (
	exitOK           = 0
	exitFailure      = 1
	exitUsage        = 2
	exitNotReachable = 3
	exitPrecheck     = 4
	exitDiffer       = 5
	exitUndecided    = 6
)

// version is set by the linker (Makefile).
var version = "devel"

// usageError is a mistake in the command line.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line and gives its exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(errOut, "mtmctl: %v\n", err)
	code := exitCode(err)
	if code == exitUsage {
		fmt.Fprintf(errOut, "See \"%s --help\".\n", cmd.CommandPath())
	}
	return code
}

func exitCode(err error) int {
	var usage usageError
	switch {
	case errors.As(err, &usage), isCobraUsage(err):
		return exitUsage
	case errors.Is(err, admin.ErrNotReachable), errors.Is(err, verify.ErrConnect):
		return exitNotReachable
	case errors.Is(err, errDiffer):
		return exitDiffer
	case errors.Is(err, errUndecided):
		return exitUndecided
	case errors.Is(err, admin.ErrPrecheck):
		return exitPrecheck
	}
	return exitFailure
}

// isCobraUsage knows the mistakes that cobra finds itself, which it gives no type.
func isCobraUsage(err error) bool {
	for _, prefix := range []string{"unknown command", "required flag(s)", "if any flags in the group", "at least one of the flags"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "mtmctl",
		Short: "Operate mtm, synchronous multimaster for PostgreSQL",
		Long: `mtmctl makes a cluster of nodes, asks them how they are, makes certificates, and runs whole clusters on this
machine for trying and testing (devcluster).

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a node could not be reached, 4 a prerequisite is not met, 5 nodes differ
(verify), 6 it could not be decided whether they do (verify).`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if o := outputOf(cmd); o != "text" && o != "json" {
				return usageError{fmt.Errorf("--output %q: must be text or json", o)}
			}
			return nil
		},
	}
	root.PersistentFlags().String("output", "text", "form of results: text or json")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newInitCluster(), newStatus(), newNodes(), newAddNode(), newDropNode(), newOutcome(), newPause(), newResume(), newVerify(), newCert(), newDevcluster(), newVersion())
	return root
}

// noArgs refuses words that no flag takes.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

// group is a command that only holds others.
func group(use, short, long string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return usageError{errors.New("which one? It needs a command")}
		},
	}
	cmd.AddCommand(children...)
	return cmd
}

func outputOf(cmd *cobra.Command) string {
	o, _ := cmd.Flags().GetString("output")
	return o
}

// show prints v as JSON, or as text does it.
func show(cmd *cobra.Command, v any, text func(io.Writer)) error {
	if outputOf(cmd) == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
	}
	text(cmd.OutOrStdout())
	return nil
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of mtmctl", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd, map[string]string{"version": version}, func(w io.Writer) { fmt.Fprintln(w, "mtmctl", version) })
		},
	}
}
