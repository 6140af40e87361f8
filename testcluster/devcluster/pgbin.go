package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

// The PostgreSQL versions that mtm works with.
const (
	MinPgMajor = 15
	MaxPgMajor = 18
)

// FindPgBin gives the directory with PostgreSQL's server programs: $MTM_PG_BIN, else the newest supported version
// where Debian, Red Hat and Homebrew put them, else the one whose pg_ctl is in PATH.
func FindPgBin() (string, error) {
	if dir := os.Getenv("MTM_PG_BIN"); dir != "" {
		return dir, nil
	}
	type found struct {
		dir   string
		major int
	}
	var all []found
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"} {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			major, err := strconv.Atoi(regexp.MustCompile(`(\d+)/bin$`).FindStringSubmatch(dir)[1])
			if _, e := os.Stat(filepath.Join(dir, "initdb")); e == nil && err == nil && major >= MinPgMajor && major <= MaxPgMajor {
				all = append(all, found{dir, major})
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].major > all[j].major })
	if len(all) > 0 {
		return all[0].dir, nil
	}
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	return "", fmt.Errorf("no PostgreSQL %d to %d found (looked at $MTM_PG_BIN, /usr/lib/postgresql/*/bin and PATH): "+
		"install it (Debian: apt-get install postgresql), or name its directory of programs with --pg-bin", MinPgMajor, MaxPgMajor)
}

// pgVersion asks the server program in dir for its version, as the user that will run it: "15.18", 15.
func pgVersion(ctx context.Context, dir string, cred *syscall.Credential) (text string, major int, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	out, err := cmd.Output()
	if err != nil {
		fix := "give the directory that holds initdb and postgres"
		if errors.Is(err, os.ErrPermission) && cred != nil {
			fix = "PostgreSQL runs as the user postgres, who must be able to read that directory and all above it"
		}
		return "", 0, fmt.Errorf("no PostgreSQL in %s: %w (%s)", dir, err, fix)
	}
	m := regexp.MustCompile(`\(PostgreSQL\) ((\d+)[^ \n]*)`).FindStringSubmatch(string(out))
	if m == nil {
		return "", 0, fmt.Errorf("%s/postgres: version %q is not understood", dir, strings.TrimSpace(string(out)))
	}
	major, err = strconv.Atoi(m[2])
	return m[1], major, err
}

// postgresUser is whom PostgreSQL runs as: nil (ourselves), or, when we are root, the user postgres.
func postgresUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no user postgres to run it as: %w "+
			"(adduser --system postgres, or start the cluster as an ordinary user)", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("user postgres: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// mayEnter checks that PostgreSQL's user can reach dir.
func mayEnter(ctx context.Context, dir string, cred *syscall.Credential) error {
	if cred == nil {
		return nil
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `cd "$1"`, "sh", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the user postgres cannot reach %s, where PostgreSQL's data shall be: %s "+
			"(choose a directory under /tmp or /var/tmp, or make those above it enterable: chmod o+x)", dir, strings.TrimSpace(string(out)))
	}
	return nil
}
