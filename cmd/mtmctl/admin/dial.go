package admin

import (
	"context"
	"encoding/json"
	"fmt"
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
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer.GetJson(), out); err != nil {
		return fmt.Errorf("mtmd at %s answered %q with what is not understood: %w", c.peer, method, err)
	}
	return nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }
