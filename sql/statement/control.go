package statement

import "strings"

// Control is for a text that Split does not take. It reports whether that begins with a word of transaction control (or does not tell how it
// begins), and gives it without comments, so that Split may take it; empty, if something in it is quoted.
func Control(text string) (bare string, control bool) {
	rest := text
	for {
		rest = strings.TrimLeft(rest, " \t\n\r\f\v;")
		n := comment(rest)
		if n == 0 {
			break
		}
		rest = rest[n:]
	}
	word := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r|0x20 < 'a' || r|0x20 > 'z' }); i >= 0 {
		word = rest[:i]
	}
	if rest != "" && !controls[strings.ToLower(word)] {
		return "", false
	}
	if strings.ContainsAny(text, `'"$`) {
		return "", true
	}
	var b strings.Builder
	for rest := text; rest != ""; {
		n := comment(rest)
		if n > 0 {
			b.WriteByte(' ')
		} else {
			b.WriteByte(rest[0])
			n = 1
		}
		rest = rest[n:]
	}
	return b.String(), true
}

// controls has the words with which transaction control begins.
var controls = map[string]bool{
	"begin": true, "start": true, "commit": true, "end": true, "rollback": true, "abort": true, "savepoint": true, "release": true, "prepare": true,
}

// comment is the length, in bytes, of the comment with which text begins; 0: there is none.
func comment(text string) int {
	switch {
	case strings.HasPrefix(text, "--"):
		if n := strings.IndexAny(text, "\r\n"); n >= 0 {
			return n
		}
		return len(text)
	case strings.HasPrefix(text, "/*"):
		depth := 0
		for i := 0; i+1 < len(text); i++ {
			switch text[i : i+2] {
			case "/*":
				depth++
				i++
			case "*/":
				depth--
				i++
			}
			if depth == 0 {
				return i + 1
			}
		}
		return len(text)
	}
	return 0
}
