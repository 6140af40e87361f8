package mtm

import (
	"errors"
	"fmt"
)

// Error is a failure as PostgreSQL's clients know it. Err, if set, is its cause.
type Error struct {
	Code   string // SQLSTATE, five characters
	Msg    string
	Detail string
	Hint   string
	Err    error
}

// Error implements error: "message (SQLSTATE 40001): cause".
func (e *Error) Error() string {
	text := fmt.Sprintf("%s (SQLSTATE %s)", e.Msg, e.Code)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// The SQLSTATEs that mtm gives of its own accord (PostgreSQL manual, appendix A).
const (
	CodeSerialization   = "40001" // serialization_failure: certainly not committed, repeat it
	CodeOutcomeUnknown  = "08007" // transaction_resolution_unknown
	CodeCannotConnect   = "57P03" // cannot_connect_now: the node does not serve
	CodeNotSupported    = "0A000" // feature_not_supported
	CodeReservedName    = "22023" // invalid_parameter_value: a gid with our prefix
	CodeInvalidAuth     = "28000" // invalid_authorization_specification
	CodeProtocol        = "08P01" // protocol_violation
	CodeQueryCanceled   = "57014" // query_canceled
	CodeReadOnly        = "25006" // read_only_sql_transaction
	CodeAdminShutdown   = "57P01" // admin_shutdown
	CodeTooManyPrepared = "53200" // out of prepared transactions, told as out_of_memory by PostgreSQL
)

// Conflict is a commit that lost against another: it is nowhere and never will be, so it may be repeated.
func Conflict(detail string) *Error {
	return &Error{
		Code: CodeSerialization, Msg: "could not commit on all nodes of the cluster", Detail: detail,
		Hint: "The transaction might succeed if retried.",
	}
}

// Unknown is a commit whose fate could not be learned in time.
func Unknown(gid GID, cause string) *Error {
	return &Error{
		Code: CodeOutcomeUnknown, Msg: fmt.Sprintf("outcome of transaction %s is not known yet", gid), Detail: cause,
		Hint: fmt.Sprintf("The cluster will finish it. Ask later with: SELECT mtm.outcome('%s')", gid),
	}
}

// NotOnline is the answer of a node that may not serve.
func NotOnline(status Status, detail string) *Error {
	return &Error{
		Code: CodeCannotConnect, Msg: fmt.Sprintf("multimaster node is not online: current status %q", status),
		Detail: detail, Hint: "See \"mtmctl status\"; connect to another node meanwhile.",
	}
}

// SafeToRetry reports whether the transaction that ended with err certainly did not commit.
func SafeToRetry(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Code == CodeSerialization || e.Code == "40P01")
}
