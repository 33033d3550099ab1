package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // 128 + SIGINT, as shells have it
)

// usageError is a mistake in the command line; nothing has been done.
type usageError struct{ err error }

// Error implements error.
func (e usageError) Error() string { return e.err.Error() }

// Unwrap returns the mistake.
func (e usageError) Unwrap() error { return e.err }

// usagef returns a usageError.
func usagef(format string, args ...any) error {
	return usageError{err: fmt.Errorf(format, args...)}
}

// report tells the user how a command ended, if it ended badly, and returns
// the exit code.
func report(stderr io.Writer, command string, err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(stderr, "fanfare: %s\nRun '%s --help' for usage.\n", singleLine(err.Error()), command)
		return exitUsage
	}
	if errors.Is(err, context.Canceled) || codeOf(err) == codes.Canceled {
		fmt.Fprintln(stderr, "fanfare: interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "fanfare: %s\n", describe(err))
	return exitFailed
}

// statusError is an error that carries a gRPC status.
type statusError interface {
	error
	GRPCStatus() *status.Status
}

// codeOf returns the gRPC code of err, however deeply it is wrapped; Unknown
// if it has none.
func codeOf(err error) codes.Code {
	if e, ok := errors.AsType[statusError](err); ok {
		return e.GRPCStatus().Code()
	}
	return codes.Unknown
}

// describe puts err in one line for people. Of a gRPC status it says the code
// in words, the message, and the fields it blames; what the error was wrapped
// in stays in front.
func describe(err error) string {
	e, ok := errors.AsType[statusError](err)
	if !ok {
		return singleLine(err.Error())
	}
	st := e.GRPCStatus()
	context := strings.TrimSuffix(err.Error(), e.Error())
	return singleLine(context + words(st.Code()) + ": " + statusMessage(st))
}

func statusMessage(st *status.Status) string {
	if reason, ok := dialFailure(st); ok {
		return reason + " (is a server there? --address or " + addressVariable + " says where to look)"
	}
	message := st.Message()
	for _, violation := range fieldViolations(st) {
		field, description := violation.GetField(), violation.GetDescription()
		switch {
		case strings.Contains(message, field):
		case description == "" || strings.Contains(message, description):
			message = field + ": " + message
		default:
			message += " (" + field + ": " + description + ")"
		}
	}
	return message
}

// dialFailure finds the operating system's words in the message that gRPC
// makes when it cannot connect.
func dialFailure(st *status.Status) (string, bool) {
	if st.Code() != codes.Unavailable {
		return "", false
	}
	if strings.Contains(st.Message(), "error reading server preface") {
		return "what answers there does not speak gRPC in plain text; --tls-ca has the client speak TLS", true
	}
	_, reason, ok := strings.Cut(st.Message(), "transport: Error while dialing: ")
	return strings.TrimSuffix(reason, `"`), ok
}

func fieldViolations(st *status.Status) []*errdetails.BadRequest_FieldViolation {
	var all []*errdetails.BadRequest_FieldViolation
	for _, detail := range st.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			all = append(all, bad.GetFieldViolations()...)
		}
	}
	return all
}

// words spells a code as people would: NotFound as "not found".
func words(code codes.Code) string {
	var b strings.Builder
	for i, r := range code.String() {
		if i > 0 && unicode.IsUpper(r) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
