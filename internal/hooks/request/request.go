// Package request is what came to a hook, and the values found in it.
//
// Headers, query and payload are maps in which a value is found by a path:
// `head_commit.author.name`, `commits.0.id`. Each failure to find one has a
// kind, because rules treat them differently: a NodeError is something that is
// not there, which makes a rule false; every other error ends the request.
package request

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// Request is a request to a hook, with its body read. It is not changed by
// looking values up.
type Request struct {
	Method string
	// RemoteAddr is the peer of the connection: ip:port, or @ on a Unix socket.
	RemoteAddr string
	// Client is who sent it: the peer, or who the trusted proxies say it was.
	// It is not valid on a Unix socket without proxies.
	Client netip.Addr
	// Raw are the headers as they came, of which Header has the first values.
	Raw http.Header
	// Body is the body as it was sent, byte for byte.
	Body []byte
	// Header, Query and Payload have strings, json.Numbers, bools, nils,
	// []any and map[string]any in them. Payload is nil if there is none.
	Header, Query, Payload map[string]any
	// RawBody is what upstream calls so: Body, but empty for multipart.
	RawBody []byte
}

// NodeError says that there is nothing at a path.
type NodeError struct{ Name string }

// Error implements error.
func (e *NodeError) Error() string { return "parameter node not found: " + e.Name }

var (
	errNoSource     = errors.New("no source for value retrieval")
	errNoParameters = errors.New("no parameters")
)

// New returns the request r as rules see it, without a payload yet.
func New(r *http.Request, body []byte, client netip.Addr) *Request {
	return &Request{
		Method:     r.Method,
		RemoteAddr: r.RemoteAddr,
		Client:     client,
		Raw:        r.Header,
		Body:       body,
		RawBody:    body,
		Header:     firstValues(r.Header),
		Query:      firstValues(r.URL.Query()), // drops what it cannot read, as upstream does
	}
}

// firstValues keeps the first value of each key.
func firstValues(all map[string][]string) map[string]any {
	first := make(map[string]any, len(all))
	for key, values := range all {
		if len(values) > 0 {
			first[key] = values[0]
		}
	}
	return first
}

// Value returns the text that arg stands for. It fails with a *NodeError if
// there is nothing of that name, and with another error if there never can be.
func (r *Request) Value(arg spec.Argument) (string, error) {
	switch arg.Source {
	case spec.SourceHeader:
		return textAt(r.Header, textproto.CanonicalMIMEHeaderKey(arg.Name))
	case spec.SourceURL, spec.SourceQuery:
		return textAt(r.Query, arg.Name)
	case spec.SourcePayload:
		return textAt(r.Payload, arg.Name)
	case spec.SourceString:
		return arg.Name, nil
	case spec.SourceRawBody:
		return string(r.RawBody), nil
	case spec.SourceBody:
		return string(r.Body), nil
	case spec.SourceRequest:
		return r.property(arg.Name)
	case spec.SourceEntirePayload:
		return compactJSON(r.Payload)
	case spec.SourceEntireHeaders:
		return compactJSON(r.Header)
	case spec.SourceEntireQuery:
		return compactJSON(r.Query)
	}
	return "", errNoSource
}

// property returns what the source `request` has.
func (r *Request) property(name string) (string, error) {
	switch strings.ToLower(name) {
	case "method":
		return r.Method, nil
	case "remote-addr":
		return r.RemoteAddr, nil
	case "client-ip": // ours
		if r.Client.IsValid() {
			return r.Client.String(), nil
		}
		return "", &NodeError{Name: name}
	}
	return "", fmt.Errorf("unsupported request key: %q", name)
}

func textAt(values map[string]any, path string) (string, error) {
	value, err := find(values, path)
	if err != nil {
		return "", err
	}
	return text(value)
}

// find returns what is at path in value.
//
// In a map, the whole path is tried as a key first; then what is before the
// first full stop is the key, and the rest goes on from there. So {"a.b": 1}
// is found by a.b, and hides {"a": {"b": …}}. In a list, what is before the
// first full stop is an index.
func find(value any, path string) (any, error) {
	for rest := path; ; {
		head, tail, more := strings.Cut(rest, ".")
		switch container := value.(type) {
		case nil:
			return nil, errNoParameters
		case map[string]any:
			if found, ok := container[rest]; ok {
				return found, nil
			}
			found, ok := container[head]
			if !ok || !more {
				return nil, &NodeError{Name: path}
			}
			value = found
		case []any:
			index, err := strconv.ParseUint(head, 10, 31)
			if err != nil || index >= uint64(len(container)) {
				return nil, &NodeError{Name: path}
			}
			if !more {
				return container[index], nil
			}
			value = container[index]
		default:
			return nil, &NodeError{Name: path}
		}
		rest = tail
	}
}

// text writes a value as commands and rules see it.
func text(value any) (string, error) {
	switch value := value.(type) {
	case nil:
		return "<nil>", nil
	case string:
		return value, nil
	case json.Number:
		return value.String(), nil
	case bool:
		return strconv.FormatBool(value), nil
	}
	return compactJSON(value)
}

// compactJSON writes a value as JSON with sorted keys, with <, > and & escaped,
// and with numbers as they came.
func compactJSON(value any) (string, error) {
	out, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("writing JSON: %w", err)
	}
	return string(out), nil
}

// ParseAsJSON replaces the value that arg names in headers, query or payload
// by the object that its text is. On an error it is as before.
//
// A name that is a path replaces at the end of the path; upstream panics.
func (r *Request) ParseAsJSON(arg spec.Argument) error {
	target, name, err := r.target(arg)
	if err != nil {
		return err
	}
	value, err := textAt(target, name)
	if err != nil {
		return err
	}
	if err := checkValues([]byte(value)); err != nil {
		return err
	}
	object, err := decodeObject([]byte(value))
	if err != nil {
		return err
	}
	return replace(target, name, object)
}

// target returns where ParseAsJSON looks for arg, and under which name.
func (r *Request) target(arg spec.Argument) (values map[string]any, name string, err error) {
	switch arg.Source {
	case spec.SourceHeader:
		return r.Header, textproto.CanonicalMIMEHeaderKey(arg.Name), nil
	case spec.SourceURL, spec.SourceQuery:
		return r.Query, arg.Name, nil
	case spec.SourcePayload:
		return r.Payload, arg.Name, nil
	}
	return nil, "", fmt.Errorf("source %q cannot be parsed as JSON", arg.Source)
}

// replace puts object where find finds path. It must be there.
func replace(value any, path string, object map[string]any) error {
	for rest := path; ; {
		head, tail, more := strings.Cut(rest, ".")
		switch container := value.(type) {
		case map[string]any:
			if _, ok := container[rest]; ok {
				container[rest] = object
				return nil
			}
			value = container[head]
		case []any:
			index, err := strconv.ParseUint(head, 10, 31)
			if err != nil || index >= uint64(len(container)) {
				return &NodeError{Name: path}
			}
			if !more {
				container[index] = object
				return nil
			}
			value = container[index]
		default:
			return &NodeError{Name: path}
		}
		rest = tail
	}
}

// decodeObject decodes the first JSON value, which must be an object or null.
// What comes behind it does not count.
func decodeObject(text []byte) (map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil {
		return nil, err
	}
	return object, nil
}
