package main

import (
	"context"
	"encoding/json"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"mtm"
	"mtm/proto/mtmpb"
	"mtm/sql/gateway"
	"mtm/sql/notify"
)

// adminServer is what mtmctl talks to: methods by name, JSON in and out.
type adminServer struct {
	mtmpb.UnimplementedAdminServer
	d *daemon
}

func (d *daemon) registerAdmin(s *grpc.Server) { mtmpb.RegisterAdminServer(s, &adminServer{d: d}) }

// joinRequest is what init is told of the cluster to be.
type joinRequest struct {
	Cluster string     `json:"cluster"`
	NodeID  mtm.NodeID `json:"node_id"`
	Nodes   []struct {
		ID       mtm.NodeID `json:"id"`
		Peer     string     `json:"peer"`
		Conninfo string     `json:"conninfo"`
	} `json:"nodes"`
}

// Call implements the Admin service.
func (s *adminServer) Call(ctx context.Context, req *mtmpb.AdminRequest) (*mtmpb.AdminResponse, error) {
	var join joinRequest
	if len(req.GetJson()) > 0 {
		if err := json.Unmarshal(req.GetJson(), &join); err != nil {
			return nil, grpcstatus.Errorf(codes.InvalidArgument, "method %s: %v", req.GetMethod(), err)
		}
	}
	var out any
	var err error
	switch req.GetMethod() {
	case "precheck":
		out, err = s.d.precheck(ctx, join)
	case "init":
		err = s.d.join(ctx, join)
	case "start":
		err = s.d.startMember()
	case "rollback_init":
		err = s.d.leave(ctx)
	case "status":
		out = s.d.report()
	case "nodes":
		out = s.d.nodes()
	case "roster":
		var m rosterMessage
		if err = json.Unmarshal(req.GetJson(), &m); err == nil {
			out, err = s.d.exchangeRoster(m)
		}
	case "introduce", "forget":
		var n nodeState
		if err = json.Unmarshal(req.GetJson(), &n); err == nil {
			err = s.d.introduce(req.GetMethod() == "introduce", n)
		}
	case "outcome", "outcome_here":
		find := s.d.outcome
		if req.GetMethod() == "outcome_here" {
			find = s.d.outcomeHere
		}
		var ask outcomeRequest
		if err = json.Unmarshal(req.GetJson(), &ask); err == nil {
			out, err = s.d.tellOutcome(ctx, ask, find)
		}
	case "copy_end":
		var ended copyRequest
		if err = json.Unmarshal(req.GetJson(), &ended); err == nil {
			err = s.d.endCopy(ended)
		}
	case "notify":
		var m notify.Message
		if err = json.Unmarshal(req.GetJson(), &m); err == nil {
			out, err = s.d.relay.Receive(ctx, m)
		}
	case "reindex":
		var o gateway.Reindex
		if err = json.Unmarshal(req.GetJson(), &o); err == nil {
			out, err = s.d.reindex(ctx, o)
		}
	case "check_open", "check_hold", "check_snapshot", "check_release", "check_digest", "check_rows", "check_end":
		var check checkRequest
		if err = json.Unmarshal(req.GetJson(), &check); err == nil {
			out, err = s.d.checks.call(ctx, s.d, req.GetMethod(), check)
		}
	case "pause", "resume":
		err = s.d.hold(ctx, req.GetMethod() == "pause")
	case "drop_node":
		var drop dropRequest
		if err = json.Unmarshal(req.GetJson(), &drop); err == nil {
			out, err = s.d.dropNode(ctx, drop.Drop)
		}
	default:
		return nil, grpcstatus.Errorf(codes.Unimplemented, "this mtmd (%s) has no method %q", version, req.GetMethod())
	}
	if err != nil {
		return nil, grpcstatus.Error(codes.FailedPrecondition, err.Error())
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	return &mtmpb.AdminResponse{Json: text, Done: true}, nil
}

// Watch implements the Admin service: methods whose answers come in parts. Those of a copy are bytes, the others JSON.
func (s *adminServer) Watch(req *mtmpb.AdminRequest, out grpc.ServerStreamingServer[mtmpb.AdminResponse]) error {
	ctx := out.Context()
	send := func(part []byte) error { return out.Send(&mtmpb.AdminResponse{Json: part}) }
	var copying copyRequest
	var adding addRequest
	var in any = &copying
	if req.GetMethod() == "add" {
		in = &adding
	}
	if err := json.Unmarshal(req.GetJson(), in); err != nil {
		return grpcstatus.Errorf(codes.InvalidArgument, "method %s: %v", req.GetMethod(), err)
	}
	var err error
	switch req.GetMethod() {
	case "add":
		err = s.d.addSelf(ctx, adding, func(p addProgress) error {
			text, err := json.Marshal(p)
			if err != nil {
				return err
			}
			return send(text)
		})
	case "copy":
		err = s.d.donate(ctx, copying, send)
	case "copy_schema":
		err = s.d.giveSchema(ctx, copying, send)
	case "copy_rows":
		err = s.d.giveRows(ctx, copying, send)
	default:
		return grpcstatus.Errorf(codes.Unimplemented, "this mtmd (%s) has no method %q", version, req.GetMethod())
	}
	if err != nil {
		return grpcstatus.Error(codes.FailedPrecondition, err.Error())
	}
	return nil
}
