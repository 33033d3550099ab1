package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// complaint returns the field that an error is about, and checks that the
// error is one a client understands. It is empty for nil.
func complaint(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != codes.InvalidArgument || e.Field == "" || e.Message == "" {
		t.Fatalf("error %v is not an invalid field", err)
	}
	if want := e.Field + " " + e.Message; e.Error() != want {
		t.Errorf("error says %q, want %q", e.Error(), want)
	}
	return e.Field
}

// extensions returns so many attributes.
func extensions(n int) map[string]string {
	all := make(map[string]string)
	for i := range n {
		all[fmt.Sprintf("attribute%d", i)] = "value"
	}
	return all
}

func TestCheckEvent(t *testing.T) {
	tests := []struct {
		name  string
		event *fanfarev1.Event // type is filled in if it is empty
		want  string           // the field at fault; empty: none
	}{
		{"the least", &fanfarev1.Event{}, ""},

		{"id of 256", &fanfarev1.Event{Id: strings.Repeat("i", 256)}, ""},
		{"id of 257", &fanfarev1.Event{Id: strings.Repeat("i", 257)}, "id"},
		{"id of all that is visible", &fanfarev1.Event{Id: "!\"#$%&'()*+,-.0129:;<=>?@AZ[\\]^_`az{|}~"}, ""},
		{"id with a slash", &fanfarev1.Event{Id: "a/b"}, "id"},
		{"id with a space", &fanfarev1.Event{Id: "a b"}, "id"},
		{"id with a line break", &fanfarev1.Event{Id: "a\n"}, "id"},
		{"id with DEL", &fanfarev1.Event{Id: "a\x7f"}, "id"},
		{"id beyond ASCII", &fanfarev1.Event{Id: "é"}, "id"},

		{"type of 256", &fanfarev1.Event{Type: strings.Repeat("t", 256)}, ""},
		{"type of 257", &fanfarev1.Event{Type: strings.Repeat("t", 257)}, "type"},
		{"type of all that is allowed", &fanfarev1.Event{Type: "Order_1.line-item.CREATED"}, ""},
		{"type that begins with a dot", &fanfarev1.Event{Type: ".a"}, "type"},
		{"type that ends with a dot", &fanfarev1.Event{Type: "a."}, "type"},
		{"type with two dots", &fanfarev1.Event{Type: "a..b"}, "type"},
		{"type with a star", &fanfarev1.Event{Type: "a.*"}, "type"},
		{"type with a space", &fanfarev1.Event{Type: "a b"}, "type"},
		{"type with a slash", &fanfarev1.Event{Type: "a/b"}, "type"},
		{"type beyond ASCII", &fanfarev1.Event{Type: "é"}, "type"},

		{"source of 1024", &fanfarev1.Event{Source: strings.Repeat("s", 1024)}, ""},
		{"source of 1025", &fanfarev1.Event{Source: strings.Repeat("s", 1025)}, "source"},
		{"source of 1025 bytes in fewer characters", &fanfarev1.Event{Source: strings.Repeat("s", 1023) + "é"}, "source"},
		{"source with a control character", &fanfarev1.Event{Source: "a\x00b"}, "source"},
		{"subject of 1024", &fanfarev1.Event{Subject: strings.Repeat("s", 1024)}, ""},
		{"subject of 1025", &fanfarev1.Event{Subject: strings.Repeat("s", 1025)}, "subject"},
		{"subject in any language", &fanfarev1.Event{Subject: "Zürich 東京 \"quoted\" 100%"}, ""},
		{"subject with a line break", &fanfarev1.Event{Subject: "a\r\nb: c"}, "subject"},
		{"subject with DEL", &fanfarev1.Event{Subject: "\x7f"}, "subject"},
		{"subject with a C1 control character", &fanfarev1.Event{Subject: "\u0085"}, "subject"},
		{"subject with the first that is none", &fanfarev1.Event{Subject: "\u00a0"}, ""},
		{"subject that is not UTF-8", &fanfarev1.Event{Subject: "\xff"}, "subject"},
		{"data_schema of 1024", &fanfarev1.Event{DataSchema: strings.Repeat("s", 1024)}, ""},
		{"data_schema of 1025", &fanfarev1.Event{DataSchema: strings.Repeat("s", 1025)}, "data_schema"},
		{"data_schema with a tab", &fanfarev1.Event{DataSchema: "a\tb"}, "data_schema"},
		{"ordering_key of 256", &fanfarev1.Event{OrderingKey: strings.Repeat("k", 256)}, ""},
		{"ordering_key of 257", &fanfarev1.Event{OrderingKey: strings.Repeat("k", 257)}, "ordering_key"},
		{"ordering_key with a control character", &fanfarev1.Event{OrderingKey: "\x01"}, "ordering_key"},

		{"time at the beginning", &fanfarev1.Event{Time: at(t, "0001-01-01T00:00:00Z")}, ""},
		{"time before it", &fanfarev1.Event{Time: &timestamppb.Timestamp{Seconds: -62135596801}}, "time"},
		{"time at the end", &fanfarev1.Event{Time: at(t, "9999-12-31T23:59:59.999999999Z")}, ""},
		{"time after it", &fanfarev1.Event{Time: &timestamppb.Timestamp{Seconds: 253402300800}}, "time"},
		{"time beyond all", &fanfarev1.Event{Time: &timestamppb.Timestamp{Seconds: math.MaxInt64}}, "time"},
		{"time with too many nanoseconds", &fanfarev1.Event{Time: &timestamppb.Timestamp{Nanos: 1e9}}, "time"},
		{"time with negative nanoseconds", &fanfarev1.Event{Time: &timestamppb.Timestamp{Nanos: -1}}, "time"},

		{"content type with parameters", &fanfarev1.Event{DataContentType: "text/plain; charset=utf-8"}, ""},
		{"content type of 256", &fanfarev1.Event{DataContentType: "text/" + strings.Repeat("x", 251)}, ""},
		{"content type of 257", &fanfarev1.Event{DataContentType: "text/" + strings.Repeat("x", 252)}, "data_content_type"},
		{"content type without a slash", &fanfarev1.Event{DataContentType: "json"}, "data_content_type"},
		{"content type that is none", &fanfarev1.Event{DataContentType: "/;"}, "data_content_type"},
		{"content type with a bad parameter", &fanfarev1.Event{DataContentType: "text/plain; charset"}, "data_content_type"},
		{"content type with a line break", &fanfarev1.Event{DataContentType: "text/plain;\r\n a=b"}, "data_content_type"},

		{"no data", &fanfarev1.Event{}, ""},
		{"JSON", &fanfarev1.Event{Data: []byte(` {"a": [1, 2.50, null]} `)}, ""},
		{"a JSON string", &fanfarev1.Event{Data: []byte(`"text"`)}, ""},
		{"text, said to be nothing", &fanfarev1.Event{Data: []byte(`text`)}, "data"},
		{"two JSON values", &fanfarev1.Event{Data: []byte(`{}{}`)}, "data"},
		{"text, said to be JSON", &fanfarev1.Event{Data: []byte(`text`), DataContentType: "application/JSON; charset=utf-8"}, "data"},
		{"text, said to be of a JSON type", &fanfarev1.Event{Data: []byte(`text`), DataContentType: "application/vnd.acme+json"}, "data"},
		{"text, said to be old JSON", &fanfarev1.Event{Data: []byte(`text`), DataContentType: "text/json"}, "data"},
		{"text, said to be text", &fanfarev1.Event{Data: []byte(`text`), DataContentType: "text/plain"}, ""},
		{"text, of a type that only begins so", &fanfarev1.Event{Data: []byte(`text`), DataContentType: "application/jsonlines"}, ""},
		{"bytes", &fanfarev1.Event{Data: []byte{0, 0xff, 0xfe}, DataContentType: "application/octet-stream"}, ""},
		{"data at the limit", &fanfarev1.Event{Data: make([]byte, 256<<10), DataContentType: "a/b"}, ""}, // the rest no longer fits: see TestEventSize
		{"data over the limit", &fanfarev1.Event{Data: make([]byte, 256<<10+1), DataContentType: "a/b"}, "data"},

		{"32 extensions", &fanfarev1.Event{Extensions: extensions(32)}, ""},
		{"33 extensions", &fanfarev1.Event{Extensions: extensions(33)}, "extensions"},
		{"extension name of 20", &fanfarev1.Event{Extensions: map[string]string{strings.Repeat("n", 20): ""}}, ""},
		{"extension name of 21", &fanfarev1.Event{Extensions: map[string]string{strings.Repeat("n", 21): ""}}, "extensions"},
		{"extension without a name", &fanfarev1.Event{Extensions: map[string]string{"": "x"}}, "extensions"},
		{"extension name of digits", &fanfarev1.Event{Extensions: map[string]string{"0a9z": "x"}}, ""},
		{"extension name in capitals", &fanfarev1.Event{Extensions: map[string]string{"Name": "x"}}, "extensions"},
		{"extension name with a hyphen", &fanfarev1.Event{Extensions: map[string]string{"a-b": "x"}}, "extensions"},
		{"extension name with a line break", &fanfarev1.Event{Extensions: map[string]string{"a\n": "x"}}, "extensions"},
		{"extension value of 1024", &fanfarev1.Event{Extensions: map[string]string{"a": strings.Repeat("v", 1024)}}, ""},
		{"extension value of 1025", &fanfarev1.Event{Extensions: map[string]string{"a": strings.Repeat("v", 1025)}}, "extensions.a"},
		{"extension value with a line break", &fanfarev1.Event{Extensions: map[string]string{"a": "\n"}}, "extensions.a"},
		{"the first of several wrong extensions", &fanfarev1.Event{Extensions: map[string]string{"c": "\n", "a": "\n", "b": "\n"}}, "extensions.a"},
	}
	for _, name := range []string{
		"id", "type", "source", "subject", "time", "specversion", "datacontenttype", "dataschema", "data", "data_base64",
	} {
		tests = append(tests, struct {
			name  string
			event *fanfarev1.Event
			want  string
		}{"extension named " + name, &fanfarev1.Event{Extensions: map[string]string{name: "x"}}, "extensions"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.event.GetType() == "" {
				tt.event.Type = "order.created"
			}
			if got := complaint(t, checkEvent(tt.event)); got != tt.want {
				t.Errorf("checkEvent complains of %q, want %q", got, tt.want)
			}
		})
	}
	for name, event := range map[string]*fanfarev1.Event{"no event": nil, "no type": {}} {
		if got := complaint(t, checkEvent(event)); got != "type" {
			t.Errorf("%s: checkEvent complains of %q, want type", name, got)
		}
	}
}

func at(t testing.TB, text string) *timestamppb.Timestamp {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return timestamppb.New(at)
}

// An event's limit is for all of its fields together, those that were filled
// in among them.
func TestEventSize(t *testing.T) {
	now := time.Now()
	small, err := logEvent("acme", &fanfarev1.Event{Id: "e", Type: "a", DataContentType: "a/b", Data: []byte{0}}, now)
	if err != nil {
		t.Fatal(err)
	}
	// With so much data its length takes two bytes more.
	most := MaxEventBytes - len(small.GetEvent()) + 1 - 2
	for _, tt := range []struct {
		name string
		more int
		want string
	}{{"at the limit", 0, ""}, {"over it", 1, "data"}} {
		data := make([]byte, most+tt.more)
		logged, err := logEvent("acme", &fanfarev1.Event{Id: "e", Type: "a", DataContentType: "a/b", Data: data}, now)
		if got := complaint(t, err); got != tt.want {
			t.Errorf("%s: complains of %q, want %q", tt.name, got, tt.want)
		}
		if err == nil && len(logged.GetEvent()) != MaxEventBytes {
			t.Errorf("%s: the event has %d bytes, want %d", tt.name, len(logged.GetEvent()), MaxEventBytes)
		}
	}
}

func TestLogEvents(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.UTC)
	many := func(n, size int) []*fanfarev1.Event {
		events := make([]*fanfarev1.Event, n)
		for i := range events {
			events[i] = &fanfarev1.Event{Type: "a", DataContentType: "a/b", Data: make([]byte, size)}
		}
		return events
	}
	wrong := many(5, 0)
	wrong[3].Type = "a b"
	wrong[4].Id = "a b"
	withNil := many(2, 0)
	withNil[1] = nil
	for _, tt := range []struct {
		name   string
		events []*fanfarev1.Event
		want   string
	}{
		{"none", nil, "events"},
		{"one", many(1, 0), ""},
		{"1000", many(1000, 0), ""},
		{"1001", many(1001, 0), "events"},
		{"the first wrong one", wrong, "events[3].type"},
		{"one that is not there", withNil, "events[1].type"},
		{"8 MiB together", many(32, MaxEventBytes-200), ""},
		{"more than 8 MiB together", many(33, MaxEventBytes-200), "events"},
	} {
		logged, err := logEvents("acme", tt.events, now)
		if got := complaint(t, err); got != tt.want {
			t.Errorf("%s: complains of %q, want %q", tt.name, got, tt.want)
		}
		if err == nil && len(logged) != len(tt.events) {
			t.Errorf("%s: %d events were made of %d", tt.name, len(logged), len(tt.events))
		}
	}
}

// What a producer leaves out is filled in, what only the server says is not
// taken from the producer, and everything else stays as it is.
func TestDefaults(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.UTC)
	whole := &fanfarev1.Event{
		Id: "e1", Type: "order.created", Source: "/shop", Subject: "42", Time: at(t, "2020-02-03T04:05:06.789Z"),
		DataContentType: "text/plain", Data: []byte("hello"), DataSchema: "https://example.com/s",
		OrderingKey: "customer-7", Extensions: map[string]string{"traceparent": "00-1-2-01", "a": "b"},
	}
	faked := proto.CloneOf(whole)
	faked.Name, faked.PublishTime = "tenants/other/events/e1", at(t, "2000-01-01T00:00:00Z")
	tests := []struct {
		name  string
		given *fanfarev1.Event
		want  *fanfarev1.Event
	}{
		{"whole", whole, whole},
		{"with what is the server's", faked, whole},
		{
			"least", &fanfarev1.Event{Id: "e2", Type: "a"},
			&fanfarev1.Event{Id: "e2", Type: "a", Source: "/tenants/acme", Time: timestamppb.New(now), DataContentType: "application/json"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			given := proto.CloneOf(tt.given)
			logged, err := logEvent("acme", given, now)
			if err != nil {
				t.Fatal(err)
			}
			got := new(fanfarev1.Event)
			if err := proto.Unmarshal(logged.GetEvent(), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.given, given, protocmp.Transform()); diff != "" {
				t.Errorf("the producer's event was changed:\n%s", diff)
			}
			if logged.GetTenant() != "acme" || logged.GetId() != tt.want.GetId() || logged.GetType() != tt.want.GetType() ||
				logged.GetOrderingKey() != tt.want.GetOrderingKey() || logged.GetIdGenerated() {
				t.Errorf("beside the event stands %v", logged)
			}
		})
	}
}

// Ids that are made sort by the time they were made, to the millisecond.
func TestGeneratedID(t *testing.T) {
	logged, err := logEvent("acme", &fanfarev1.Event{Type: "a"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id := logged.GetId()
	if !logged.GetIdGenerated() || !strings.HasPrefix(id, "evt_") || len(id) != 30 || id != strings.ToLower(id) {
		t.Errorf("id is %q (made: %t)", id, logged.GetIdGenerated())
	}
	if err := checkID(id); err != nil {
		t.Errorf("the id is not one: %v", err)
	}
	event := new(fanfarev1.Event)
	if err := proto.Unmarshal(logged.GetEvent(), event); err != nil || event.GetId() != id {
		t.Errorf("the event has the id %q (%v), want %q", event.GetId(), err, id)
	}
	again, err := logEvent("acme", &fanfarev1.Event{Type: "a"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const random = 16 // characters
	if again.GetId() == id || again.GetId()[:len(id)-random] < id[:len(id)-random] {
		t.Errorf("%q was made after %q", again.GetId(), id)
	}
}

// Equal events have equal bytes in the log.
func TestLoggedBytesAreDeterministic(t *testing.T) {
	event := &fanfarev1.Event{Id: "e", Type: "a", Extensions: extensions(32)}
	now := time.Now()
	first, err := logEvent("acme", event, now)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := logEvent("acme", event, now)
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(first, again) {
			t.Fatal("the same event was encoded in two ways")
		}
	}
}

// FuzzCheckEvent wants what passes the check to keep to the limits of
// event_service.proto, as they are written there, and to be encodable.
func FuzzCheckEvent(f *testing.F) {
	f.Add("e1", "order.created", "/shop", "42", "application/json", []byte(`{}`), "", "k", "traceparent", "00-1", int64(1), int32(2))
	f.Add("", "a", "", "", "", []byte(nil), "", "", "", "", int64(0), int32(0))
	f.Add("é", "a..b", "\x00", "\xff", "text", []byte(`{`), "\n", "\u0085", "A", "\r\n", int64(-1)<<40, int32(-1))
	f.Fuzz(func(t *testing.T, id, eventType, source, subject, contentType string, data []byte,
		schema, key, name, value string, seconds int64, nanos int32,
	) {
		event := &fanfarev1.Event{
			Id: id, Type: eventType, Source: source, Subject: subject, DataContentType: contentType, Data: data,
			DataSchema: schema, OrderingKey: key, Extensions: map[string]string{name: value},
			Time: &timestamppb.Timestamp{Seconds: seconds, Nanos: nanos},
		}
		if err := checkEvent(event); err != nil {
			complaint(t, err)
			return
		}
		for _, c := range []byte(id) {
			if c < 0x21 || c > 0x7e || c == '/' {
				t.Errorf("id %q passed", id)
			}
		}
		if len(id) > 256 || len(eventType) < 1 || len(eventType) > 256 || len(source) > 1024 || len(subject) > 1024 ||
			len(schema) > 1024 || len(key) > 256 || len(name) < 1 || len(name) > 20 || len(value) > 1024 || len(data) > 256<<10 {
			t.Errorf("too long or too short: %v", event)
		}
		if strings.Trim(eventType, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != "" ||
			strings.Contains("."+eventType+".", "..") {
			t.Errorf("type %q passed", eventType)
		}
		for _, text := range []string{source, subject, schema, key, value, contentType} {
			if !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\x00") {
				t.Errorf("text %q passed", text)
			}
		}
		if contentType == "" && len(data) > 0 && !json.Valid(data) {
			t.Errorf("data %q passed as JSON", data)
		}
		if _, err := logEvent("acme", event, time.Now()); err != nil && complaint(t, err) != "data" {
			t.Errorf("it passed the check and cannot be logged: %v", err)
		}
	})
}
