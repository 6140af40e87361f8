package coordinator

import "mtm"

// This file is about a node that is being stopped (generations/leave.go): no commit is cut short, at home or elsewhere, and the
// others need not wait for its lease.

// quiet: nothing of this node's own is under way, and nothing begins.
func (n *Node) quiet() bool {
	if !n.gateClosed {
		return false
	}
	for _, t := range n.txns {
		if t.coord != nil && !t.coord.replied {
			return false
		}
	}
	return true
}

// leave begins: no permit is given any more.
func (n *Node) beginLeaving() {
	if n.leaving {
		return
	}
	n.leaving, n.leaveBy = true, n.now+n.cfg.LeaveAfter
	if n.m != nil {
		n.m.Leave()
	}
	n.checkGate()
}

// driveLeave goes on with it, at home and when others leave.
func (n *Node) driveLeave() {
	if n.m == nil {
		if n.leaving && !n.gone {
			n.gone = true
			n.do(Gone{})
		}
		return
	}
	if leavers := n.m.Leavers(); leavers != n.leavers {
		n.leavers = leavers
		n.checkGate()
	}
	switch {
	case !n.leaving:
		n.m.SetDrained(n.leavers != 0 && n.quiet())
	case n.gone:
	case !n.m.HasLeft():
		if !n.m.Online() || n.now >= n.leaveBy || n.quiet() && n.m.AllDrained() {
			n.m.GiveBack()
			n.leaveBy = n.now + 2*n.cfg.LeaveAfter
		}
	}
	n.takeMachine()
	if n.leaving && n.m.HasLeft() && !n.gone && (n.now >= n.leaveBy || !n.gen.Members.Has(n.cfg.ID) || n.up() == mtm.Nodes(n.cfg.ID)) {
		n.gone = true
		n.do(Gone{})
	}
}
