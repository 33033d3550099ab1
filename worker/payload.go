package worker

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/tracing"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// payloadMode says what the body of a request is.
type payloadMode int

const (
	// modeStandard: {"type":…,"timestamp":…,"data":…}.
	modeStandard payloadMode = iota
	// modeBinary: the data, with the CloudEvents attributes as ce-* headers.
	modeBinary
	// modeStructured: one JSON document of the CloudEvents JSON format.
	modeStructured
	// modeRaw: the data alone.
	modeRaw

	modeCount = iota
)

// parseMode reads Subscription.payload_mode; empty is standard.
func parseMode(name string) (payloadMode, error) {
	switch name {
	case "", "standard":
		return modeStandard, nil
	case "cloudevents-binary":
		return modeBinary, nil
	case "cloudevents-structured":
		return modeStructured, nil
	case "raw":
		return modeRaw, nil
	default:
		return 0, fmt.Errorf("unknown payload mode %q", name)
	}
}

const (
	jsonType            = "application/json"
	cloudEventsJSONType = "application/cloudevents+json"
	// partitionKey is the CloudEvents extension that carries the ordering key.
	partitionKey = "partitionkey"
)

// errNoID: an event without an id cannot be signed or told from another.
var errNoID = errors.New("event has no id")

// payload is an event rendered in one mode. Shared by all requests that carry
// it, so neither body nor header may be changed.
type payload struct {
	body   []byte
	header http.Header // content-type and, in binary mode, ce-*
	trace  http.Header // trace context, for those that want it; nil if there is none

	zipOnce sync.Once // guards the making of zipped
	zipped  *payload  // see compressed
}

// message is one event in a worker's hands. It is decoded once and rendered
// once per mode, whoever asks first; safe for concurrent use.
type message struct {
	event *fanfarev1.Event // with id, source, time and data_content_type filled in
	json  bool             // its data is known to be JSON
	err   error            // why event is unusable

	published int64             // unix ms: when it became durable
	dispatch  trace.SpanContext // that it came with, if that is recorded

	rendered [modeCount]struct {
		once    sync.Once
		payload *payload
	}
}

// newMessage decodes the event of a dispatch. An event that cannot be decoded
// is kept with its error, which fails the attempts made for it.
func newMessage(d *linkv1.Dispatch) *message {
	event := &fanfarev1.Event{}
	if err := proto.Unmarshal(d.GetEvent(), event); err != nil {
		return &message{err: fmt.Errorf("decoding event: %w", err)}
	}
	if event.GetId() == "" {
		return &message{err: errNoID}
	}
	if event.GetSource() == "" {
		event.Source = "/tenants/" + d.GetTenant()
	}
	if event.GetDataContentType() == "" {
		event.DataContentType = jsonType
	}
	if event.GetTime() == nil {
		event.Time = timestamppb.New(time.UnixMilli(d.GetPublishTimeUnixMs()))
	}
	m := &message{event: event, json: d.GetJson(), published: d.GetPublishTimeUnixMs()}
	if d.GetTraceparent() != "" {
		m.dispatch = tracing.Remote(d.GetTraceparent(), event.GetExtensions()[tracing.State])
	}
	return m
}

// isJSON reports whether the data is JSON, by its type and in fact.
func (m *message) isJSON() bool {
	return isJSONType(m.event.GetDataContentType()) && (m.json || json.Valid(m.event.GetData()))
}

// render returns the event in the given mode.
func (m *message) render(mode payloadMode) (*payload, error) {
	if m.err != nil {
		return nil, m.err
	}
	r := &m.rendered[mode]
	r.once.Do(func() {
		r.payload = m.renderAs(mode)
		r.payload.trace = traceOf(m.event)
	})
	return r.payload, nil
}

func (m *message) renderAs(mode payloadMode) *payload {
	e := m.event
	switch mode {
	case modeStandard:
		return &payload{body: m.appendStandard(nil), header: contentType(jsonType)}
	case modeStructured:
		return &payload{body: m.appendStructured(nil), header: contentType(cloudEventsJSONType)}
	case modeBinary:
		return &payload{body: e.GetData(), header: binaryHeader(e)}
	case modeRaw:
		return &payload{body: e.GetData(), header: contentType(e.GetDataContentType())}
	}
	panic(fmt.Sprintf("payload mode %d", mode)) // parseMode makes no others
}

func contentType(value string) http.Header {
	return http.Header{"Content-Type": {value}}
}

// appendStandard appends the body of the Standard Webhooks specification.
func (m *message) appendStandard(b []byte) []byte {
	e := m.event
	b = slices.Grow(b, len(e.GetData())+256)
	b = append(b, `{"type":`...)
	b = appendString(b, e.GetType())
	b = append(b, `,"timestamp":`...)
	b = appendString(b, eventTime(e))
	b = append(b, ',')
	if len(e.GetData()) == 0 {
		b = append(b, `"data":null`...) // receivers can rely on one of the two members
	} else {
		b = m.appendData(b)
	}
	return append(b, '}')
}

// appendStructured appends an event in the CloudEvents JSON format 1.0.
func (m *message) appendStructured(b []byte) []byte {
	e := m.event
	b = slices.Grow(b, len(e.GetData())+512)
	b = append(b, `{"specversion":"1.0"`...)
	for _, a := range attributes(e) {
		b = append(b, ',')
		b = appendString(b, a.name)
		b = append(b, ':')
		b = appendString(b, a.value)
	}
	b = append(b, `,"datacontenttype":`...)
	b = appendString(b, e.GetDataContentType())
	if len(e.GetData()) > 0 {
		b = append(b, ',')
		b = m.appendData(b)
	}
	return append(b, '}')
}

// appendData appends the member that holds an event's data:
//
//   - data of a JSON media type, if it is JSON in UTF-8: "data", byte for byte
//     as the producer sent it, numbers and white space included;
//   - other data that is UTF-8: "data", a JSON string;
//   - anything else: "data_base64", a JSON string in padded base64.
//
// It is the rule of the CloudEvents JSON format, and serves both modes.
func (m *message) appendData(b []byte) []byte {
	data := m.event.GetData()
	if !utf8.Valid(data) {
		b = append(b, `"data_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, data)
		return append(b, '"')
	}
	b = append(b, `"data":`...)
	if m.isJSON() {
		return append(b, data...)
	}
	return appendString(b, string(data))
}

// isJSONType reports whether a media type is of JSON: application/json,
// text/json, or any with the suffix +json (RFC 6839).
func isJSONType(value string) bool {
	media, _, err := mime.ParseMediaType(value)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return false
	}
	return media == jsonType || media == "text/json" || strings.HasSuffix(media, "+json")
}

// ceAttribute is a CloudEvents context attribute.
type ceAttribute struct{ name, value string }

// attributes returns an event's attributes without specversion and
// datacontenttype: the core ones in their usual order, without empty ones,
// then the extensions by name. No name comes twice.
func attributes(e *fanfarev1.Event) []ceAttribute {
	list := []ceAttribute{
		{"id", e.GetId()},
		{"source", e.GetSource()},
		{"type", e.GetType()},
		{"subject", e.GetSubject()},
		{"time", eventTime(e)},
		{"dataschema", e.GetDataSchema()},
	}
	list = slices.DeleteFunc(list, func(a ceAttribute) bool { return a.value == "" })
	extensions := make(map[string]string, len(e.GetExtensions())+1)
	if key := e.GetOrderingKey(); key != "" {
		extensions[partitionKey] = key
	}
	maps.Copy(extensions, e.GetExtensions())
	for _, name := range slices.Sorted(maps.Keys(extensions)) {
		if isExtensionName(name) {
			list = append(list, ceAttribute{name, extensions[name]})
		}
	}
	return list
}

// isExtensionName reports whether name may be that of an extension: lower-case
// letters and digits, and none of the names that CloudEvents has for itself.
// Publishing checks it as well; here it keeps a body free of double members
// and a header free of anything that is not a header's name.
func isExtensionName(name string) bool {
	switch name {
	case "", "specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype", "data":
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// binaryHeader returns the headers of the CloudEvents HTTP binding's binary
// mode.
func binaryHeader(e *fanfarev1.Event) http.Header {
	h := contentType(e.GetDataContentType())
	h.Set("Ce-Specversion", "1.0")
	for _, a := range attributes(e) {
		h.Set("Ce-"+a.name, percentEncode(a.value))
	}
	return h
}

// percentEncode encodes the value of a ce-* header: space, the double quote,
// the per cent sign and all that is not printable ASCII (CloudEvents HTTP
// binding 1.0.2, section 3.1.3.2).
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ', c > '~', c == '"', c == '%':
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&0xf])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// eventTime returns when the event happened, in RFC 3339 and UTC.
func eventTime(e *fanfarev1.Event) string {
	return e.GetTime().AsTime().Format(time.RFC3339Nano)
}

// appendString appends s as a JSON string. Only what must be escaped is: the
// quote, the backslash and control characters (RFC 8259, section 7). Bytes
// that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	s = strings.ToValidUTF8(s, "\uFFFD")
	b = append(b, '"')
	begin := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[begin:i]...)
		begin = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
		}
	}
	b = append(b, s[begin:]...)
	return append(b, '"')
}
