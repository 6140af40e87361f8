package schema

import (
	"net/url"
	"regexp"
	"strings"
)

// passwordKeyword finds password=… and sslpassword=… in a keyword connection string, quoted or not.
var passwordKeyword = regexp.MustCompile(`(?is)\b(?:ssl)?password[\s\v]*=[\s\v]*(?:'(?:[^'\\]|\\.)*'?|(?:[^\s\v\\]|\\.)*)[\s\v]*`)

// RedactConnInfo returns a connection string without its passwords. What cannot be read as a URL is dropped whole.
func RedactConnInfo(conninfo string) string {
	if !strings.Contains(conninfo, "://") {
		return strings.TrimSpace(passwordKeyword.ReplaceAllString(conninfo, ""))
	}
	u, err := url.Parse(strings.ReplaceAll(conninfo, "#", "%23")) // which begins no fragment in PostgreSQL's URLs
	if err != nil {
		return ""
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	q := u.Query()
	for key := range q {
		if k := strings.ToLower(key); k == "password" || k == "sslpassword" {
			q.Del(key)
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}
