package schema

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

func TestRedactConnInfo(t *testing.T) {
	for in, want := range map[string]string{
		"host=a password=b user=c":               "host=a user=c",
		"host=a password = 'b \\' x' user=c":     "host=a user=c",
		"PASSWORD=b":                             "",
		"host=a sslpassword=x passfile=/p":       "host=a passfile=/p",
		"postgres://u:p@h:1/d?password=x&a=b":    "postgres://u@h:1/d?a=b",
		"postgresql://u@h/d":                     "postgresql://u@h/d",
		"postgres://u:p%zz@h/d":                  "",
		"postgres://u:p:p#p@h/d":                 "postgres://u@h/d",
		"host=a password\v=\vb\vuser=c":          "host=a user=c",
		"host=a password=b\\\nc user=c":          "host=a user=c",
		"host=a password='unclosed user=b dbn=c": "host=a",
	} {
		require.Equal(t, want, RedactConnInfo(in), in)
	}
}

// Whatever is redacted, pgx finds no password in it.
func FuzzRedactConnInfo(f *testing.F) {
	for _, seed := range []string{"host=a password=b user=c", "password='b \\' x' user=c", "postgres://u:p@h:1/d?password=x&a=b",
		"password\t=\nx", "postgres://:p@/?PASSWORD=1", "password=a\\ b c=d"} {
		f.Add(seed)
	}
	f.Setenv("PGPASSWORD", "")
	f.Setenv("PGPASSFILE", "/nonexistent")
	f.Setenv("PGSERVICEFILE", "/nonexistent")
	f.Fuzz(func(t *testing.T, conninfo string) {
		cfg, err := pgconn.ParseConfig(RedactConnInfo(conninfo))
		if err == nil && cfg.Password != "" {
			t.Fatalf("%q keeps the password %q", conninfo, cfg.Password)
		}
	})
}
