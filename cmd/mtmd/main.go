package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
)

// Exit codes of mtmd.
const (
	exitFailure = 1 // it ran, and could not go on
	exitUsage   = 2 // wrong flags or configuration
)

// errUsage marks mistakes in flags and configuration.
type errUsage struct{ error }

func (e errUsage) Unwrap() error { return e.error }

func main() {
	if err := newCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "mtmd:", err)
		if errors.As(err, &errUsage{}) {
			os.Exit(exitUsage)
		}
		os.Exit(exitFailure)
	}
}

func newCommand() *cobra.Command {
	var file string
	var checkOnly bool
	cmd := &cobra.Command{
		Use:   "mtmd",
		Short: "Makes the PostgreSQL beside it a node of a synchronous multimaster cluster",
		Long: "mtmd makes the PostgreSQL beside it a node of a synchronous multimaster cluster.\n\n" +
			"Every setting is a key of the TOML file, a flag, or MTM_NAME in the environment; flags win over the\n" +
			"environment, and that over the file. SIGHUP reads log_level, peers and certificates again; SIGTERM stops.",
		Version: version, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file, cmd.Flags())
			if err != nil {
				return errUsage{err}
			}
			if checkOnly {
				fmt.Println("configuration is valid")
				return nil
			}
			if cfg.isReferee() {
				return runReferee(cfg)
			}
			return run(cfg, func() (config, error) { return loadConfig(file, cmd.Flags()) })
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return errUsage{err} })
	cmd.Flags().StringVar(&file, "config", "", "configuration file (TOML)")
	cmd.Flags().BoolVar(&checkOnly, "check-config", false, "check the configuration and exit")
	newFlags(cmd.Flags())
	return cmd
}

// run brings the daemon up, and returns when it has stopped.
func run(cfg config, reload func() (config, error)) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	level := new(slog.LevelVar)
	l, err := cfg.level()
	if err != nil {
		return errUsage{err}
	}
	level.Set(l)
	log := newLogger(cfg, level)
	d, err := newDaemon(cfg, log)
	if err != nil {
		return err
	}
	defer d.close()
	collectSeldom()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() { // ends with the process
		for range hup {
			d.reload(reload, level)
		}
	}()
	err = d.Run(ctx)
	_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		log.Info("stopped")
		return nil
	}
	return err
}

func newLogger(cfg config, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

// reload takes over what may change while mtmd runs: the log level, the addresses of peers and the certificate shown to clients. Certificates
// between nodes are read again by themselves when their files change.
func (d *daemon) reload(read func() (config, error), level *slog.LevelVar) {
	cfg, err := read()
	if err == nil {
		if l, lerr := cfg.level(); lerr == nil {
			level.Set(l)
		}
		d.peers.Store(&cfg.Peers)
		if l := d.current.Load(); l != nil {
			l.roster.relink()
		}
		if c := d.clientCert; c != nil {
			err = c.load()
		}
	}
	if err != nil {
		d.log.Error("configuration not reloaded: the old one stays", keyError, err)
		return
	}
	d.log.Info("configuration reloaded", "log_level", cfg.LogLevel)
}
