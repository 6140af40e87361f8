package admin

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"mtm"
)

// ParseNode reads "1=host:port", or, if no number is needed, "host:port".
func ParseNode(text string, needID bool) (Node, error) {
	var n Node
	first, rest, found := strings.Cut(text, "=")
	switch {
	case found:
		id, err := strconv.Atoi(first)
		if err != nil || !mtm.NodeID(id).Valid() {
			return n, fmt.Errorf("the number must be 1 to %d", mtm.MaxNodes)
		}
		n.ID, n.Peer = id, rest
	case needID:
		return n, errors.New("must be id=host:port")
	default:
		n.Peer = text
	}
	host, port, err := net.SplitHostPort(n.Peer)
	if p, e := strconv.ParseUint(port, 10, 16); err != nil || host == "" || e != nil || p == 0 {
		return n, errors.New("the address must be host:port")
	}
	return n, nil
}
