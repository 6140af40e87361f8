package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"sync/atomic"

	"mtm"
)

// tokens are what the gateway proves to capture by that a message in the stream of changes is its own. They live as long as the process:
// what an earlier one left prepared and did not journal is rolled back anyway.
type tokens struct {
	key   [32]byte
	given atomic.Uint64
}

func newTokens() *tokens {
	t := &tokens{}
	_, _ = rand.Read(t.key[:]) // it never fails
	return t
}

// give makes a new token.
func (t *tokens) give() string {
	number := strconv.FormatUint(t.given.Add(1), 10)
	return mtm.TokenPrefix + number + "-" + t.seal(number)
}

// genuine reports whether give made it.
func (t *tokens) genuine(token string) bool {
	rest, ours := strings.CutPrefix(token, mtm.TokenPrefix)
	number, seal, whole := strings.Cut(rest, "-")
	return ours && whole && hmac.Equal([]byte(seal), []byte(t.seal(number)))
}

func (t *tokens) seal(number string) string {
	mac := hmac.New(sha256.New, t.key[:])
	mac.Write([]byte(number))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
