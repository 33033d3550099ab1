package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Limits of what is published. They are part of the API: see
// event_service.proto.
const (
	MaxEvents        = 1000      // in one request
	MaxEventBytes    = 256 << 10 // one event, with all its fields
	MaxRequestBytes  = 8 << 20   // all events of one request
	maxIDBytes       = 256
	maxAttribute     = 1024 // source, subject, data_schema, extension values; bytes
	maxOrderingKey   = 256
	maxContentType   = 256
	maxExtensions    = 32
	maxExtensionName = 20
	streamWindow     = 64 // requests of one stream that are not answered
)

const defaultContentType = "application/json"

// Publish implements EventService.
func (s *Server) Publish(ctx context.Context, request *fanfarev1.PublishRequest) (*fanfarev1.PublishResponse, error) {
	p, err := s.publish(ctx, request.GetParent(), request.GetEvents())
	if err != nil {
		return nil, err
	}
	results, err := p.results(ctx)
	if err != nil {
		return nil, err
	}
	return &fanfarev1.PublishResponse{Results: results}, nil
}

// PublishStream implements EventService. Requests are handed to the log as
// they come and answered as they become durable, so that many share a block.
func (s *Server) PublishStream(stream grpc.BidiStreamingServer[fanfarev1.PublishStreamRequest, fanfarev1.PublishStreamResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	// Its capacity is how many requests of one stream are on their way. The
	// receiver closes it.
	underway := make(chan *publishing, streamWindow)
	received := make(chan error, 1)
	answered := make(chan struct{})
	defer close(answered)
	// Receiving can be ended only by ending the stream, which is to return:
	// that must not wait for a client that sends no more.
	go func() {
		received <- s.receiveStream(ctx, stream, underway)
		close(underway)
		<-answered
		for p := range underway {
			p.abandon(ctx)
		}
	}()
	for p := range underway {
		results, err := p.results(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&fanfarev1.PublishStreamResponse{Results: results}); err != nil {
			return err
		}
	}
	return <-received
}

// receiveStream hands over what a stream sends until it ends, or ctx does.
func (s *Server) receiveStream(ctx context.Context,
	stream grpc.BidiStreamingServer[fanfarev1.PublishStreamRequest, fanfarev1.PublishStreamResponse], underway chan<- *publishing,
) error {
	parent := ""
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch given := request.GetParent(); {
		case parent == "":
			parent = given
		case given != "" && given != parent:
			return invalid("parent", "is %q, and the stream is for %s: each tenant needs a stream of its own", given, parent)
		}
		p, err := s.publish(ctx, parent, request.GetEvents())
		if err != nil {
			return err
		}
		select {
		case underway <- p:
		case <-ctx.Done():
			p.abandon(ctx)
			return ctx.Err()
		}
	}
}

// publishing is one request on its way into the log.
type publishing struct {
	events  []*linkv1.LoggedEvent
	waits   *lead.Publishing
	begin   time.Time
	span    trace.Span // of the request
	commit  trace.Span // of its way into the log
	metrics *serveMetrics
}

// publish checks the events of one request and hands them to the log.
func (s *Server) publish(ctx context.Context, parent string, events []*fanfarev1.Event) (*publishing, error) {
	begin := time.Now()
	tenant, err := parseTenant("parent", parent)
	if err != nil {
		return nil, err
	}
	ctx, span := s.startPublish(ctx, tenant, events)
	p, err := s.handOver(ctx, tenant, events)
	if err != nil {
		s.metrics.published(ctx, len(events), begin, err)
		endSpan(span, err)
		return nil, err
	}
	p.begin, p.span, p.metrics = begin, span, s.metrics
	return p, nil
}

// handOver hands events to the log.
func (s *Server) handOver(ctx context.Context, tenant ledger.TenantID, events []*fanfarev1.Event) (*publishing, error) {
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	logged, err := logEvents(tenant, withTrace(ctx, events), time.Now())
	if err != nil {
		return nil, err
	}
	_, commit := s.Tracer.Start(ctx, "commit")
	waits, err := leader.Publish(ctx, logged)
	if err != nil {
		endSpan(commit, err)
		return nil, err
	}
	return &publishing{events: logged, waits: waits, commit: commit}, nil
}

// wait waits until the events are durable.
func (p *publishing) wait(ctx context.Context) ([]bool, error) {
	duplicates, err := p.waits.Wait(ctx)
	endSpan(p.commit, err)
	p.metrics.published(trace.ContextWithSpan(ctx, p.span), len(p.events), p.begin, err)
	if len(p.events) == 1 && p.span.IsRecording() {
		p.span.SetAttributes(semconv.MessagingMessageID(p.events[0].GetId()))
	}
	endSpan(p.span, err)
	return duplicates, err
}

// results waits until the events are durable.
func (p *publishing) results(ctx context.Context) ([]*fanfarev1.PublishResult, error) {
	duplicates, err := p.wait(ctx)
	if err != nil {
		return nil, err
	}
	results := make([]*fanfarev1.PublishResult, len(p.events))
	for i, e := range p.events {
		results[i] = &fanfarev1.PublishResult{Id: e.GetId(), Duplicate: duplicates[i]}
	}
	return results, nil
}

// abandon lets go of events that nobody waits for any more. ctx has ended.
func (p *publishing) abandon(ctx context.Context) {
	_, _ = p.wait(ctx) // returns at once
}

// logEvents checks events whole, fills in what was left out, and encodes them
// as they go into the log.
func logEvents(tenant ledger.TenantID, events []*fanfarev1.Event, now time.Time) ([]*linkv1.LoggedEvent, error) {
	if len(events) == 0 || len(events) > MaxEvents {
		return nil, invalid("events", "has %d elements; expected 1 to %d", len(events), MaxEvents)
	}
	total := 0
	logged := make([]*linkv1.LoggedEvent, len(events))
	for i, event := range events {
		one, err := logEvent(tenant, event, now)
		if err != nil {
			return nil, within(fmt.Sprintf("events[%d]", i), err)
		}
		logged[i] = one
		if total += len(one.GetEvent()); total > MaxRequestBytes {
			return nil, invalid("events", "has more than %d bytes together", MaxRequestBytes)
		}
	}
	return logged, nil
}

func logEvent(tenant ledger.TenantID, given *fanfarev1.Event, now time.Time) (*linkv1.LoggedEvent, error) {
	if err := checkEvent(given); err != nil {
		return nil, err
	}
	event := &fanfarev1.Event{
		Id:              given.GetId(),
		Type:            given.GetType(),
		Source:          given.GetSource(),
		Subject:         given.GetSubject(),
		Time:            given.GetTime(),
		DataContentType: given.GetDataContentType(),
		Data:            given.GetData(),
		DataSchema:      given.GetDataSchema(),
		OrderingKey:     given.GetOrderingKey(),
		Extensions:      given.GetExtensions(),
	}
	generated := event.GetId() == ""
	if generated {
		id, err := NewEventID()
		if err != nil {
			return nil, err
		}
		event.Id = id
	}
	if event.GetSource() == "" {
		event.Source = "/" + tenantName(tenant)
	}
	if event.GetTime() == nil {
		event.Time = timestamppb.New(now)
	}
	if event.GetDataContentType() == "" {
		event.DataContentType = defaultContentType
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(event)
	if err != nil {
		return nil, fmt.Errorf("encoding an event: %w", err)
	}
	if len(data) > MaxEventBytes {
		return nil, invalid("data", "makes the event %d bytes long; at most %d are allowed", len(data), MaxEventBytes)
	}
	return &linkv1.LoggedEvent{
		Tenant: string(tenant), Id: event.GetId(), Type: event.GetType(),
		OrderingKey: event.GetOrderingKey(), IdGenerated: generated, Event: data,
		Json: len(event.GetData()) > 0 && isJSONType(event.GetDataContentType()), // else it was refused
	}, nil
}

// checkEvent says what is wrong with an event as a producer gave it.
func checkEvent(e *fanfarev1.Event) error {
	if e == nil {
		return invalid("type", "is empty")
	}
	if len(e.GetData()) > MaxEventBytes {
		return invalid("data", "has %d bytes; an event has at most %d", len(e.GetData()), MaxEventBytes)
	}
	if err := checkID(e.GetId()); err != nil {
		return err
	}
	if err := ledger.CheckType(e.GetType()); err != nil {
		return invalid("type", "%s", err.Error())
	}
	for _, text := range []struct {
		field, value string
		most         int
	}{
		{"source", e.GetSource(), maxAttribute},
		{"subject", e.GetSubject(), maxAttribute},
		{"data_schema", e.GetDataSchema(), maxAttribute},
		{"ordering_key", e.GetOrderingKey(), maxOrderingKey},
	} {
		if err := checkText(text.field, text.value, text.most); err != nil {
			return err
		}
	}
	if t := e.GetTime(); t != nil && (!t.IsValid() || t.AsTime().Year() > 9999) {
		return invalid("time", "is not a time between the years 1 and 9999")
	}
	if err := checkData(e.GetDataContentType(), e.GetData()); err != nil {
		return err
	}
	return checkExtensions(e.GetExtensions())
}

func checkID(id string) error {
	if len(id) > maxIDBytes {
		return invalid("id", "has %d bytes; at most %d are allowed", len(id), maxIDBytes)
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' || c == '/' {
			return invalid("id", "has the character %q; visible ASCII without '/' is allowed", c)
		}
	}
	return nil
}

// checkText refuses what could not be sent as a header or an attribute.
func checkText(field, value string, most int) error {
	if len(value) > most {
		return invalid(field, "has %d bytes; at most %d are allowed", len(value), most)
	}
	if !utf8.ValidString(value) {
		return invalid(field, "is not UTF-8")
	}
	for _, r := range value {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return invalid(field, "has the control character %q", r)
		}
	}
	return nil
}

func checkData(contentType string, data []byte) error {
	if contentType == "" {
		contentType = defaultContentType
	}
	if err := checkText("data_content_type", contentType, maxContentType); err != nil {
		return err
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil || !strings.Contains(mediaType, "/") {
		return invalid("data_content_type", "is %q, which is not a media type", contentType)
	}
	if isJSONType(mediaType) && len(data) > 0 && !json.Valid(data) {
		return invalid("data", "is not JSON, which data_content_type %q says it is", contentType)
	}
	return nil
}

// isJSONType reports whether data of a content type is JSON; an empty one is.
func isJSONType(contentType string) bool {
	mediaType, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	mediaType = strings.TrimSpace(mediaType)
	return mediaType == "" || strings.HasSuffix(mediaType, "/json") || strings.HasSuffix(mediaType, "+json")
}

func checkExtensions(extensions map[string]string) error {
	if len(extensions) > maxExtensions {
		return invalid("extensions", "has %d attributes; at most %d are allowed", len(extensions), maxExtensions)
	}
	for _, name := range slices.Sorted(maps.Keys(extensions)) { // the same error each time
		if err := checkExtensionName(name); err != nil {
			return err
		}
		if err := checkText("extensions."+name, extensions[name], maxAttribute); err != nil {
			return err
		}
	}
	return nil
}

// checkExtensionName refuses names that CloudEvents does not allow, and those
// of its own attributes.
func checkExtensionName(name string) error {
	wrong := name == "" || len(name) > maxExtensionName
	for _, c := range []byte(name) {
		wrong = wrong || (c < 'a' || c > 'z') && (c < '0' || c > '9')
	}
	if wrong {
		return invalid("extensions", "has the name %q; 1-%d lower-case letters and digits are allowed", name, maxExtensionName)
	}
	switch name {
	case "id", "type", "source", "subject", "time", "specversion", "datacontenttype", "dataschema", "data", "data_base64":
		return invalid("extensions", "has the name %q, which is a core attribute", name)
	}
	return nil
}

// GetEvent implements EventService.
func (s *Server) GetEvent(ctx context.Context, request *fanfarev1.GetEventRequest) (*fanfarev1.Event, error) {
	tenant, id, err := parseChild("name", request.GetName(), "events")
	if err != nil {
		return nil, err
	}
	if err := s.followed(ctx, tenant); err != nil {
		return nil, err
	}
	event, err := s.History.Event(ctx, string(tenant), id)
	if errors.Is(err, history.ErrNotFound) {
		return nil, notFound("event", request.GetName())
	}
	return event, err
}

// ListEvents implements EventService.
func (s *Server) ListEvents(ctx context.Context, request *fanfarev1.ListEventsRequest) (*fanfarev1.ListEventsResponse, error) {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	page, err := pageOf(request.GetPageSize(), request.GetPageToken())
	if err != nil {
		return nil, err
	}
	query, err := eventQuery(tenant, request)
	if err != nil {
		return nil, err
	}
	if err := s.followed(ctx, tenant); err != nil {
		return nil, err
	}
	events, next, err := s.History.Events(ctx, query, page)
	if err != nil {
		return nil, err
	}
	return &fanfarev1.ListEventsResponse{Events: events, NextPageToken: next}, nil
}

// eventFilter is what requests have in common that select events.
type eventFilter interface {
	GetType() string
	GetTraceId() string
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
}

// eventQuery reads the filters of a request.
func eventQuery(tenant ledger.TenantID, filter eventFilter) (query history.EventQuery, err error) {
	query = history.EventQuery{Tenant: string(tenant), Type: filter.GetType()}
	if query.TraceID, err = parseTrace(filter.GetTraceId()); err != nil {
		return query, err
	}
	query.Start, query.End, err = between(filter.GetStartTime(), filter.GetEndTime())
	return query, err
}

// ExportEvents implements EventService.
func (s *Server) ExportEvents(request *fanfarev1.ExportEventsRequest, stream grpc.ServerStreamingServer[fanfarev1.ExportEventsResponse]) error {
	ctx := stream.Context()
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return err
	}
	query, err := eventQuery(tenant, request)
	if err != nil {
		return err
	}
	if err := s.followed(ctx, tenant); err != nil {
		return err
	}
	return export(func(page history.Page) ([]*fanfarev1.Event, string, error) {
		return s.History.Events(ctx, query, page)
	}, func(event *fanfarev1.Event) error {
		whole, err := s.History.Event(ctx, string(tenant), event.GetId())
		if errors.Is(err, history.ErrNotFound) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if !whole.GetPublishTime().AsTime().Equal(event.GetPublishTime().AsTime()) {
			whole = event // of an id that came again; the older one's data is not found by its id
			whole.DataExpired = true
		}
		return stream.Send(&fanfarev1.ExportEventsResponse{Event: whole})
	})
}

// between reads a range of times; a time that is not given is zero.
func between(start, end *timestamppb.Timestamp) (from, until time.Time, err error) {
	if start != nil {
		if !start.IsValid() {
			return from, until, invalid("start_time", "is not a valid time")
		}
		from = start.AsTime()
	}
	if end != nil {
		if !end.IsValid() {
			return from, until, invalid("end_time", "is not a valid time")
		}
		until = end.AsTime()
	}
	return from, until, nil
}
