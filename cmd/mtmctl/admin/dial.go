package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"mtm/cert"
	"mtm/proto/mtmpb"
)

// maxAnswer bounds what a node may answer, in bytes.
const maxAnswer = 16 << 20

// Conn calls the admin service of one node. Connecting happens at the first call.
type Conn struct {
	peer string
	conn *grpc.ClientConn
}

// Dial prepares to call the node at peer (host:port), which must prove to be node id; with id 0, to be that host.
func Dial(peer string, id int, files cert.Files) (*Conn, error) {
	host, _, err := net.SplitHostPort(peer)
	if err != nil {
		return nil, fmt.Errorf("address %q: must be host:port: %w", peer, err)
	}
	if id != 0 {
		host = cert.NodeName(id)
	}
	tls, err := cert.ClientConfig(files, host)
	if err != nil {
		return nil, fmt.Errorf("%w (the operator's certificate: mtmctl cert issue --name admin)", err)
	}
	conn, err := grpc.NewClient("passthrough:///"+peer, grpc.WithTransportCredentials(credentials.NewTLS(tls)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err
	}
	return &Conn{peer: peer, conn: conn}, nil
}

// Call implements Caller. An error wraps ErrNotReachable when the node did not answer at all.
func (c *Conn) Call(ctx context.Context, method string, in, out any) error {
	if in == nil {
		in = struct{}{}
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := mtmpb.NewAdminClient(c.conn).Call(ctx, &mtmpb.AdminRequest{Method: method, Json: body})
	if err != nil {
		return c.explain(method, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer.GetJson(), out); err != nil {
		return fmt.Errorf("mtmd at %s answered %q with what is not understood: %w", c.peer, method, err)
	}
	return nil
}

// Watch calls a method that answers in parts, and each with every part, until it ends. The parts of a copy are bytes, those of other
// methods JSON. An error is as that of Call.
func (c *Conn) Watch(ctx context.Context, method string, in any, each func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the call when each has had enough
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	parts, err := mtmpb.NewAdminClient(c.conn).Watch(ctx, &mtmpb.AdminRequest{Method: method, Json: body})
	if err != nil {
		return c.explain(method, err)
	}
	for {
		part, err := parts.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.explain(method, err)
		}
		if err := each(part.GetJson()); err != nil {
			return err
		}
	}
}

// explain says what an operator can do about the failure of a call.
func (c *Conn) explain(method string, err error) error {
	st := status.Convert(err)
	switch st.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("%w: mtmd at %s does not answer: %s (is it running, and is that its peer_listen address?)",
			ErrNotReachable, c.peer, st.Message())
	case codes.Unimplemented:
		return fmt.Errorf("mtmd at %s does not know %q: it is of another version than this mtmctl", c.peer, method)
	}
	return fmt.Errorf("%s", st.Message())
}

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }
