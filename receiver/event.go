package receiver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/fanfare-dev/fanfare/signature"
)

// MaxBatch is how many events one request may hold.
const MaxBatch = 1000

// Headers that say what a request is, beside those of package signature.
const (
	headerGitHubEvent    = "X-Github-Event"
	headerGitHubDelivery = "X-Github-Delivery"
)

// versionExtension is the CloudEvents extension attribute that holds the version
// of a payload.
const versionExtension = "dataversion"

// Event is one thing that a sender says has happened.
type Event struct {
	// ID is the same whenever the event is sent again; of a CloudEvent, unique
	// within its Source. Empty if the sender gives none: then it cannot be told
	// from a repetition.
	ID string
	// Type is what happened, as in `order.created`, without a version.
	Type string
	// Version of the payload: the CloudEvents extension `dataversion`, or what
	// stands behind the type as `.v2`. Empty if the sender says none.
	Version string
	// Source and Subject are those of CloudEvents; empty elsewhere.
	Source, Subject string
	// Time is when it happened; when the request was sent if that is not said.
	Time time.Time
	// ContentType is the media type of Data.
	ContentType string
	// Data is the payload: of a Standard Webhooks body its `data`, of a
	// CloudEvent its data, of GitHub's forms the field `payload`, of anything
	// else the whole body.
	Data []byte
	// Extensions are the extension attributes of a CloudEvent.
	Extensions map[string]string
	// Request is the header of the request that it came with.
	Request http.Header
	// Index is its place in the request, from 0.
	Index int
}

// Decode decodes the data, which must be JSON, into v.
func (e *Event) Decode(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("decoding the data of event %s: %w", e.ID, err)
	}
	return nil
}

// DecodeEvents returns the events of a request. The body must have been
// verified: nothing here is a check of where it comes from. If it was compressed
// it must be so no more. An error is a
// *Error of kind Malformed.
func DecodeEvents(ctx context.Context, header http.Header, body []byte) ([]*Event, error) {
	events, err := decode(ctx, header, body)
	if err != nil {
		return nil, &Error{Kind: Malformed, Err: err}
	}
	for i, e := range events {
		e.Request, e.Index = header, i
		if e.Version == "" {
			e.Type, e.Version = splitVersion(e.Type)
		}
		if e.Time.IsZero() {
			e.Time = sentAt(header)
		}
	}
	return events, nil
}

func decode(ctx context.Context, header http.Header, body []byte) ([]*Event, error) {
	media, _, _ := mime.ParseMediaType(header.Get("Content-Type")) // what it cannot read is no known type
	switch {
	case strings.HasPrefix(media, event.ApplicationCloudEventsBatchJSON):
		return decodeCloudEvents(ctx, header, body, true)
	case strings.HasPrefix(media, event.ApplicationCloudEventsJSON), header.Get("Ce-Specversion") != "":
		return decodeCloudEvents(ctx, header, body, false)
	case header.Get(headerGitHubEvent) != "":
		return []*Event{decodeGitHub(header, body, media)}, nil
	case header.Get(signature.HeaderStripe) != "":
		return decodeStripe(header, body)
	default:
		return decodeStandard(header, body, media)
	}
}

// decodeCloudEvents reads the modes of the HTTP protocol binding.
func decodeCloudEvents(ctx context.Context, header http.Header, body []byte, batch bool) ([]*Event, error) {
	reader := io.NopCloser(bytes.NewReader(body))
	var all []event.Event
	if batch {
		var err error
		if all, err = binding.ToEvents(ctx, cehttp.NewMessage(header, reader), bytes.NewReader(body)); err != nil {
			return nil, fmt.Errorf("decoding CloudEvents: %w", err)
		}
	} else {
		one, err := binding.ToEvent(ctx, cehttp.NewMessage(header, reader))
		if err != nil {
			return nil, fmt.Errorf("decoding CloudEvent: %w", err)
		}
		all = append(all, *one)
	}
	if len(all) > MaxBatch {
		return nil, tooMany(len(all))
	}
	events := make([]*Event, len(all))
	for i, given := range all {
		if err := given.Validate(); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		events[i] = fromCloudEvent(given)
		if json := header.Get("Ce-Specversion") == "" && !given.DataBase64; json && events[i].ContentType == "" {
			events[i].ContentType = event.ApplicationJSON // CloudEvents JSON format, section 3.1
		}
	}
	return events, nil
}

func fromCloudEvent(given event.Event) *Event {
	e := &Event{
		ID: given.ID(), Type: given.Type(), Source: given.Source(), Subject: given.Subject(),
		Time: given.Time(), ContentType: given.DataContentType(), Data: given.Data(),
		Extensions: make(map[string]string),
	}
	for name, value := range given.Extensions() {
		e.Extensions[name] = fmt.Sprint(value)
	}
	e.Version = e.Extensions[versionExtension]
	return e
}

// decodeGitHub reads what GitHub says in headers: `issues` with the action
// `opened` is the type `issues.opened`. A hook whose content type was left as
// GitHub proposes it sends a form, with the JSON in its field `payload`.
func decodeGitHub(header http.Header, body []byte, media string) *Event {
	if media == "application/x-www-form-urlencoded" {
		if form, err := url.ParseQuery(string(body)); err == nil && form.Has("payload") {
			body, media = []byte(form.Get("payload")), "application/json"
		}
	}
	e := &Event{
		ID: header.Get(headerGitHubDelivery), Type: header.Get(headerGitHubEvent),
		ContentType: cmp.Or(media, "application/json"), Data: body,
	}
	var of struct{ Action string }
	if json.Unmarshal(body, &of) == nil && of.Action != "" {
		e.Type += "." + of.Action
	}
	return e
}

// decodeStripe reads Stripe's event object.
func decodeStripe(header http.Header, body []byte) ([]*Event, error) {
	var of struct {
		ID, Type   string
		Created    int64
		APIVersion string `json:"api_version"`
	}
	if err := json.Unmarshal(body, &of); err != nil {
		return nil, fmt.Errorf("decoding event: %w", err)
	}
	e := &Event{ID: cmp.Or(of.ID, header.Get(signature.HeaderID)), Type: of.Type, Version: of.APIVersion, ContentType: "application/json", Data: body}
	if of.Created > 0 {
		e.Time = time.Unix(of.Created, 0).UTC()
	}
	return []*Event{e}, nil
}

// standardEvent is an object of the Standard Webhooks specification; in a batch
// it has its own id.
type standardEvent struct {
	ID        string          `json:"id"`
	Type      string          `json:"type"`
	Timestamp string          `json:"timestamp"`
	Data      json.RawMessage `json:"data"`
}

// decodeStandard reads {"type", "timestamp", "data"}, or an array of them. What
// is no such object is one event without a type.
func decodeStandard(header http.Header, body []byte, media string) ([]*Event, error) {
	id := header.Get(signature.HeaderID)
	whole := &Event{ID: id, ContentType: cmp.Or(media, "application/octet-stream"), Data: body}
	if media != "application/json" {
		return []*Event{whole}, nil
	}
	if trimmed := bytes.TrimSpace(body); len(trimmed) > 0 && trimmed[0] == '[' {
		return decodeArray(id, trimmed)
	}
	var one standardEvent
	switch err := json.Unmarshal(body, &one); {
	case err != nil && !isSyntax(err), err == nil && (one.Type == "" || one.Data == nil):
		return []*Event{whole}, nil // JSON, but of another shape
	case err != nil:
		return nil, fmt.Errorf("decoding the body: %w", err)
	}
	one.ID = id
	return []*Event{one.event()}, nil
}

// decodeArray reads a batch. An element without an id of its own has that of the
// batch and its place.
func decodeArray(id string, body []byte) ([]*Event, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, fmt.Errorf("decoding the batch: %w", err)
	}
	if len(all) > MaxBatch {
		return nil, tooMany(len(all))
	}
	events := make([]*Event, len(all))
	for i, raw := range all {
		var one standardEvent
		err := json.Unmarshal(raw, &one)
		if one.ID == "" && id != "" {
			one.ID = id + "#" + strconv.Itoa(i)
		}
		if err != nil || one.Type == "" || one.Data == nil {
			events[i] = &Event{ID: one.ID, ContentType: "application/json", Data: raw}
			continue
		}
		events[i] = one.event()
	}
	return events, nil
}

func (s standardEvent) event() *Event {
	e := &Event{ID: s.ID, Type: s.Type, ContentType: "application/json", Data: s.Data}
	e.Time, _ = time.Parse(time.RFC3339Nano, s.Timestamp) // else when it was sent
	return e
}

func tooMany(n int) error {
	return fmt.Errorf("the request has %d events; at most %d are allowed", n, MaxBatch)
}

func isSyntax(err error) bool {
	_, syntax := errors.AsType[*json.SyntaxError](err)
	return syntax || errors.Is(err, io.ErrUnexpectedEOF)
}

// sentAt is when the sender says it sent the request; zero if it does not.
func sentAt(header http.Header) time.Time {
	seconds, err := strconv.ParseInt(header.Get(signature.HeaderTimestamp), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// versioned is a type with a version at its end.
var versioned = regexp.MustCompile(`^(.+)\.v([0-9]+)$`)

func splitVersion(eventType string) (name, version string) {
	if parts := versioned.FindStringSubmatch(eventType); parts != nil {
		return parts[1], parts[2]
	}
	return eventType, ""
}
