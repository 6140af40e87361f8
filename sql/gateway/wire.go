package gateway

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unicode/utf8"

	"mtm"
)

// Messages are appended to a buffer: begin writes the type and leaves room for the length, end fills it in.
func begin(b []byte, typ byte) ([]byte, int) {
	return append(b, typ, 0, 0, 0, 0), len(b) + 1
}

func end(b []byte, at int) []byte {
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at))
	return b
}

func cstring(b []byte, s string) []byte { return append(append(b, s...), 0) }

func appendParse(b []byte, name, text string) []byte {
	b, at := begin(b, 'P')
	b = cstring(cstring(b, name), text)
	return end(append(b, 0, 0), at) // no parameter types
}

// appendBind binds text parameters; results come as text.
func appendBind(b []byte, portal, name string, params ...string) []byte {
	b, at := begin(b, 'B')
	b = cstring(cstring(b, portal), name)
	b = append(b, 0, 0) // all parameters are text
	b = binary.BigEndian.AppendUint16(b, uint16(len(params)))
	for _, p := range params {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return end(append(b, 0, 0), at)
}

func appendExecute(b []byte, portal string) []byte {
	b, at := begin(b, 'E')
	return end(append(cstring(b, portal), 0, 0, 0, 0), at) // all rows
}

// appendClose closes a statement (kind 'S') or portal ('P').
func appendClose(b []byte, kind byte, name string) []byte {
	b, at := begin(b, 'C')
	return end(cstring(append(b, kind), name), at)
}

func appendDescribe(b []byte, kind byte, name string) []byte {
	b, at := begin(b, 'D')
	return end(cstring(append(b, kind), name), at)
}

func appendQuery(b []byte, text string) []byte {
	b, at := begin(b, 'Q')
	return end(cstring(b, text), at)
}

func appendSync(b []byte) []byte  { return append(b, 'S', 0, 0, 0, 4) }
func appendFlush(b []byte) []byte { return append(b, 'H', 0, 0, 0, 4) }

func appendReady(b []byte, status byte) []byte { return append(b, 'Z', 0, 0, 0, 5, status) }

func appendComplete(b []byte, tag string) []byte {
	b, at := begin(b, 'C')
	return end(cstring(b, tag), at)
}

func appendParameter(b []byte, name, value string) []byte {
	b, at := begin(b, 'S')
	return end(cstring(cstring(b, name), value), at)
}

// appendError writes e as an ErrorResponse ('E') or NoticeResponse ('N') of the given severity.
func appendError(b []byte, typ byte, severity string, e *mtm.Error) []byte {
	if raw, ok := e.Err.(rawError); ok && typ == 'E' && severity == "ERROR" {
		return append(b, raw...)
	}
	b, at := begin(b, typ)
	b = cstring(append(b, 'S'), severity)
	b = cstring(append(b, 'V'), severity)
	b = cstring(append(b, 'C'), e.Code)
	b = cstring(append(b, 'M'), clean(e.Msg))
	if e.Detail != "" {
		b = cstring(append(b, 'D'), clean(e.Detail))
	}
	if e.Hint != "" {
		b = cstring(append(b, 'H'), clean(e.Hint))
	}
	return end(append(b, 0), at)
}

// clean makes s fit for a message: no NUL.
func clean(s string) string {
	if bytes.IndexByte([]byte(s), 0) < 0 {
		return s
	}
	return string(bytes.ReplaceAll([]byte(s), []byte{0}, []byte{'?'}))
}

// field finds a field of an ErrorResponse's body; empty if it has none.
func field(body []byte, code byte) string {
	for len(body) > 1 && body[0] != 0 {
		n := bytes.IndexByte(body[1:], 0)
		if n < 0 {
			return ""
		}
		if body[0] == code {
			return string(body[1 : 1+n])
		}
		body = body[n+2:]
	}
	return ""
}

// parseError turns an ErrorResponse's body into what the rest of mtm understands.
func parseError(body []byte) *mtm.Error {
	return &mtm.Error{Code: field(body, 'C'), Msg: field(body, 'M'), Detail: field(body, 'D'), Hint: field(body, 'H')}
}

// rawError is the cause of an error of PostgreSQL's own: the whole message, with the fields that mtm.Error has not.
type rawError []byte

func (e rawError) Error() string { return "from PostgreSQL" }

// shiftPosition rewrites an ErrorResponse (a whole message) so that its position counts shift characters more.
func shiftPosition(msg []byte, shift int) []byte {
	return mapPosition(msg, func(position int) int { return position + shift })
}

// mapPosition rewrites an ErrorResponse (a whole message) so that its position, if it has one, is what f makes of it.
func mapPosition(msg []byte, f func(int) int) []byte {
	position, err := strconv.Atoi(field(msg[5:], 'P'))
	if err != nil || f(position) == position {
		return msg
	}
	out, at := begin(make([]byte, 0, len(msg)+4), 'E')
	body := msg[5:]
	for len(body) > 1 && body[0] != 0 {
		n := bytes.IndexByte(body[1:], 0)
		if n < 0 {
			return msg
		}
		if body[0] == 'P' {
			out = cstring(append(out, 'P'), strconv.Itoa(f(position)))
		} else {
			out = append(out, body[:n+2]...)
		}
		body = body[n+2:]
	}
	return end(append(out, 0), at)
}

// characters counts as PostgreSQL counts positions.
func characters(text string) int { return utf8.RuneCountInString(text) }

// cut takes a string off the front of a body; ok is false if it is not ended.
func cut(body []byte) (s, rest []byte, ok bool) {
	i := bytes.IndexByte(body, 0)
	if i < 0 {
		return nil, nil, false
	}
	return body[:i], body[i+1:], true
}

func protocolError(msg string) *mtm.Error { return &mtm.Error{Code: mtm.CodeProtocol, Msg: msg} }
