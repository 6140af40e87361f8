// Package proto maps the vocabulary (package mtm) to bytes and back: messages as nodes send them, records as the
// journal keeps them. mtm.proto is the definition, package mtmpb what protoc makes of it.
//
// It owns the two format versions. WireVersion is told once per stream, in Hello and Welcome; RecordVersion is the
// first byte of every record. A field is only ever added, so that a daemon understands its predecessor; a change
// that it would not understand raises the version.
//
// Whatever DecodeMessage and ParseRecord accept is well formed: nodes exist, sizes lie within the bounds below,
// dependencies are sorted and bounded. Everything else is an error, never a panic, and needs memory in proportion
// to its input only.
package proto

//go:generate protoc --go_out=mtmpb --go_opt=paths=source_relative --go-grpc_out=mtmpb --go-grpc_opt=paths=source_relative mtm.proto

// The versions that this daemon writes. It reads MinWireVersion and MinRecordVersion and everything up to its own.
const (
	WireVersion      = 1
	MinWireVersion   = 1
	RecordVersion    = 1
	MinRecordVersion = 1
)

// The bounds of what is accepted, and so of what may be given to EncodeMessage and AppendRecord.
const (
	MaxInline = 1 << 20   // bytes of Payload.Data; what is larger lies in a spill file
	MaxSpill  = 128       // bytes of the name of a spill file
	MaxExcept = 1 << 16   // exceptions in one Deps, all origins together
	MaxText   = 8 << 10   // bytes of each text of an error; longer ones are cut
	MaxRecord = 2<<20 - 1 // bytes of an encoded record, and of an encoded message
)
