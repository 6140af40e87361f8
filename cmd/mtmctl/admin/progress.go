package admin

import (
	"fmt"
	"strings"
)

// ProgressLine is p in words.
func ProgressLine(p AddProgress) string {
	switch p.Phase {
	case "rows":
		return fmt.Sprintf("copying node %d: %s of about %s, %d of %d parts", p.Donor, size(p.Bytes), size(p.Total), p.Parts, p.All)
	case "catching up":
		return fmt.Sprintf("catching up: %s behind", size(p.Bytes))
	case "retry":
		return "beginning anew: " + strings.ReplaceAll(p.Note, "\n", " ")
	case "joining":
		return "the copy is complete"
	}
	return fmt.Sprintf("copying node %d: %s", p.Donor, p.Phase)
}

func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%d kB", (n+1023)>>10)
}
