package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/textproto"
	"strings"
	"syscall"
)

// Class says in one word why a request got no whole response. The words are
// stored in the history and shown to people: they do not change.
type Class string

// The classes.
const (
	// ClassNone: there is no error.
	ClassNone Class = ""
	// ClassDNS: the name could not be resolved, for lack of an answer too.
	ClassDNS Class = "dns"
	// ClassConnect: there is no way to the address, or nobody listens.
	ClassConnect Class = "connect"
	// ClassTLS: the two ends did not agree on TLS, or the certificate is not
	// to be trusted, or what answered does not speak TLS.
	ClassTLS Class = "tls"
	// ClassTimeout: it took too long; while connecting, too.
	ClassTimeout Class = "timeout"
	// ClassReset: the other end closed the connection or stream, or it broke,
	// before the response was whole.
	ClassReset Class = "reset"
	// ClassEgressDenied: the Policy does not let the request go there.
	ClassEgressDenied Class = "egress_denied"
	// ClassProtocol: what came back is not HTTP, or over a limit of it.
	ClassProtocol Class = "protocol"
	// ClassCanceled: this end gave the request up.
	ClassCanceled Class = "canceled"
	// ClassOther: none of these. The request itself may be impossible, for a
	// header that HTTP cannot carry, say.
	ClassOther Class = "other"
)

// Classify says what kind of failure err is, which Client.Do returned or which
// came of reading a response's body. A failure of several kinds has the one
// that comes first in: denied, canceled, DNS, timeout, TLS, and then the rest,
// which exclude each other.
func Classify(err error) Class {
	switch {
	case err == nil:
		return ClassNone
	case isType[*DeniedError](err):
		return ClassEgressDenied
	case errors.Is(err, context.Canceled):
		return ClassCanceled
	case isType[*net.DNSError](err):
		return ClassDNS
	case isTimeout(err):
		return ClassTimeout
	case isTLS(err):
		return ClassTLS
	case isDial(err):
		return ClassConnect
	case isReset(err):
		return ClassReset
	case isProtocol(err):
		return ClassProtocol
	}
	return ClassOther
}

func isType[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	failure, ok := errors.AsType[net.Error](err)
	return ok && failure.Timeout()
}

// isTLS knows the types that crypto/tls exports. The others, such as the
// alerts of either end, all have its name in them.
func isTLS(err error) bool {
	return isType[*tls.CertificateVerificationError](err) ||
		isType[tls.RecordHeaderError](err) ||
		isType[x509.UnknownAuthorityError](err) ||
		isType[x509.HostnameError](err) ||
		isType[x509.CertificateInvalidError](err) ||
		strings.Contains(err.Error(), "tls: ")
}

func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

func isReset(err error) bool {
	for _, closed := range []error{
		io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE,
	} {
		if errors.Is(err, closed) {
			return true
		}
	}
	if stream, ok := errors.AsType[streamError](err); ok {
		return stream.Cause != nil && stream.Cause.Error() == "received from peer"
	}
	return containsAny(err.Error(),
		"server closed idle connection",
		"GOAWAY",
		"http2: client connection lost", // it did not answer pings
		"http2: client conn is closed",
		"http2: client conn not usable",
	)
}

// isProtocol goes by the texts of net/http and its chunked and HTTP/2 parts,
// which export few types. A text they change makes a failure ClassOther.
func isProtocol(err error) bool {
	if isType[textproto.ProtocolError](err) || isType[streamError](err) {
		return true
	}
	return containsAny(err.Error(),
		"malformed ",
		"Content-Length",
		"transfer encoding",
		"chunk",
		"server response headers exceeded",
		"response header list larger",
		"read limit of ",
		"connection error: ", // how HTTP/2 names an offence of the other end
		"http2: ",
	)
}

func containsAny(text string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// streamError has the shape of HTTP/2's StreamError: the one inside net/http,
// which is not exported, turns itself into any type of that shape.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

// Error implements error.
func (e streamError) Error() string { return "HTTP/2 stream error" }
