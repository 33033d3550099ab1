package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	ceevent "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// headers makes a header of names and values.
func headers(pairs ...string) http.Header {
	header := make(http.Header)
	for i := 0; i < len(pairs); i += 2 {
		header.Add(pairs[i], pairs[i+1])
	}
	return header
}

// decodeOne is decodeCloudEvents for a request with one event.
func decodeOne(t *testing.T, header http.Header, body string) (*fanfarev1.Event, error) {
	t.Helper()
	events, err := decodeCloudEvents(header, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if len(events) != 1 {
		t.Fatalf("%d events, want one", len(events))
	}
	return events[0], nil
}

func TestDecodeBinary(t *testing.T) {
	tests := []struct {
		name   string
		header http.Header
		body   string
		want   *fanfarev1.Event // nil: an error
		field  string           // of the error
	}{
		{
			"ce-type alone", headers("ce-type", "order.created"), `{"a":1}`,
			&fanfarev1.Event{Type: "order.created", Data: []byte(`{"a":1}`)}, "",
		},
		{
			"as curl -d sends it", headers("ce-type", "a", "content-type", "application/x-www-form-urlencoded"), `{"a":1}`,
			&fanfarev1.Event{Type: "a", Data: []byte(`{"a":1}`)}, "",
		},
		{
			"the same in other words", headers("ce-type", "a", "content-type", "Application/X-WWW-Form-Urlencoded; charset=utf-8"), `1`,
			&fanfarev1.Event{Type: "a", Data: []byte(`1`)}, "",
		},
		{
			"a type that only begins like a form", headers("ce-type", "a", "content-type", "application/x-www-form-urlencoded2"), `1`,
			&fanfarev1.Event{Type: "a", Data: []byte(`1`), DataContentType: "application/x-www-form-urlencoded2"}, "",
		},
		{
			"everything",
			headers("CE-SpecVersion", "1.0", "Ce-Id", "e1", "ce-type", "a.b", "ce-source", "/shop", "ce-subject", "42",
				"ce-time", "2020-02-03T04:05:06.789+01:00", "ce-dataschema", "https://example.com/s", "ce-partitionkey", "k",
				"ce-traceparent", "00-1-2-01", "ce-Mixed1", "x", "content-type", "Text/Plain; Charset=UTF-8", "other", "ignored"),
			"hello",
			&fanfarev1.Event{
				Id: "e1", Type: "a.b", Source: "/shop", Subject: "42", Time: at(t, "2020-02-03T03:05:06.789Z"),
				DataSchema: "https://example.com/s", OrderingKey: "k", DataContentType: "Text/Plain; Charset=UTF-8",
				Extensions: map[string]string{"traceparent": "00-1-2-01", "mixed1": "x"}, Data: []byte("hello"),
			},
			"",
		},
		{"no body", headers("ce-type", "a"), "", &fanfarev1.Event{Type: "a"}, ""},
		{
			"bytes", headers("ce-type", "a", "content-type", "image/png"), "\x89PNG\x00\xff",
			&fanfarev1.Event{Type: "a", DataContentType: "image/png", Data: []byte("\x89PNG\x00\xff")}, "",
		},
		{
			"data is not taken apart", headers("ce-type", "a", "content-type", "application/json"), ` { "data" : 1 } `,
			&fanfarev1.Event{Type: "a", DataContentType: "application/json", Data: []byte(` { "data" : 1 } `)}, "",
		},
		{"no type", headers("ce-id", "e1", "content-type", "application/json"), `{}`, nil, "ce-type"},
		{"an empty type", headers("ce-type", ""), `{}`, nil, "ce-type"},
		{"nothing at all", headers(), ``, nil, "ce-type"},
		{"specversion 0.3", headers("ce-type", "a", "ce-specversion", "0.3"), `{}`, nil, "ce-specversion"},
		{"specversion 1.0.2", headers("ce-type", "a", "ce-specversion", "1.0.2"), `{}`, nil, "ce-specversion"},
		{"a time that is none", headers("ce-type", "a", "ce-time", "yesterday"), `{}`, nil, "ce-time"},
		{"a time without a zone", headers("ce-type", "a", "ce-time", "2020-02-03T04:05:06"), `{}`, nil, "ce-time"},
		{"an attribute twice", headers("ce-type", "a", "ce-id", "1", "ce-id", "2"), `{}`, nil, "ce-id"},
		{"the type twice", headers("ce-type", "a", "ce-type", "b"), `{}`, nil, "ce-type"},
		{"ce-datacontenttype", headers("ce-type", "a", "ce-datacontenttype", "text/plain"), `{}`, nil, "ce-datacontenttype"},
		{
			"a content type that is none", headers("ce-type", "a", "content-type", "json"), `{}`,
			&fanfarev1.Event{Type: "a", DataContentType: "json", Data: []byte(`{}`)}, "",
		}, // Publish refuses it
		{"a content type that cannot be read", headers("ce-type", "a", "content-type", "text/plain; ="), `{}`, nil, "content-type"},
		{"a content type that is not UTF-8", headers("ce-type", "a", "content-type", "text/plain; a=\"\xff\""), `{}`, nil, "content-type"},
		{"percent at the end", headers("ce-type", "a", "ce-subject", "100%"), `{}`, nil, "ce-subject"},
		{"percent before no digits", headers("ce-type", "a", "ce-subject", "%zz"), `{}`, nil, "ce-subject"},
		{"percent-encoding of what is not UTF-8", headers("ce-type", "a", "ce-subject", "%C0%A0"), `{}`, nil, "ce-subject"},
		{"bytes that are not UTF-8", headers("ce-type", "a", "ce-subject", "\xff"), `{}`, nil, "ce-subject"},
		{"a quote that is not closed", headers("ce-type", "a", "ce-subject", `"abc`), `{}`, nil, "ce-subject"},
		{"a quote alone", headers("ce-type", "a", "ce-subject", `"`), `{}`, nil, "ce-subject"},
		{"a quote that is escaped away", headers("ce-type", "a", "ce-subject", `"abc\"`), `{}`, nil, "ce-subject"},
		{"a quote closed too soon", headers("ce-type", "a", "ce-subject", `"a"b"`), `{}`, nil, "ce-subject"},
		{"another event format", headers("content-type", "application/cloudevents+avro"), ``, nil, "content-type"},
		{"another batch format", headers("content-type", "application/cloudevents-batch+protobuf"), ``, nil, "content-type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeOne(t, tt.header, tt.body)
			if field := complaint(t, err); field != tt.field {
				t.Fatalf("complains of %q (%v), want %q", field, err, tt.field)
			}
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
		})
	}
}

// Section 3.1.3.2 of the HTTP binding: first quoted strings, then one round of
// percent-decoding.
func TestDecodeHeader(t *testing.T) {
	for value, want := range map[string]string{
		`plain`:                           `plain`,
		`two words`:                       `two words`,
		`Euro%20%E2%82%AC%20%F0%9F%98%80`: `Euro € 😀`,
		`lower%e2%82%ac`:                  `lower€`,
		`%61unnecessary`:                  `aunnecessary`,
		`a+b`:                             `a+b`,
		`100%25`:                          `100%`,
		`%2525`:                           `%25`,
		`Zürich`:                          `Zürich`,
		`""`:                              ``,
		``:                                ``,
		`"quoted text"`:                   `quoted text`,
		`"a \"word\" and \\ that"`:        `a "word" and \ that`,
		`"\d\n"`:                          `dn`,
		`"%22"`:                           `"`,
		`a"b"`:                            `a"b"`,
		`%22a%22`:                         `"a"`,
	} {
		if got, err := decodeHeader(value); err != nil || got != want {
			t.Errorf("decodeHeader(%s) = %q, %v; want %q", value, got, err, want)
		}
	}
}

func TestDecodeStructured(t *testing.T) {
	const json, batch = "application/cloudevents+json", "application/cloudevents-batch+json"
	type events = []*fanfarev1.Event
	many := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`{"type":"a"},`, n), ",") + "]" }
	tests := []struct {
		name        string
		contentType string
		body        string
		want        events // nil: an error
		field       string // of the error
	}{
		{"the type alone", json, `{"type":"a"}`, events{{Type: "a"}}, ""},
		{"with a charset", "Application/CloudEvents+JSON; charset=UTF-8", `{"type":"a"}`, events{{Type: "a"}}, ""},
		{
			"everything", json,
			`{"specversion":"1.0","id":"e1","type":"a.b","source":"/shop","subject":"Zürich \"1\"","time":"2020-02-03T04:05:06Z",
			"dataschema":"https://example.com/s","partitionkey":"k","datacontenttype":"application/json","text":"x","yes":true,
			"no":false,"number":-42,"nothing":null,"data": { "a" : 1.50 } }`,
			events{{
				Id: "e1", Type: "a.b", Source: "/shop", Subject: `Zürich "1"`, Time: at(t, "2020-02-03T04:05:06Z"),
				DataSchema: "https://example.com/s", OrderingKey: "k", DataContentType: "application/json",
				Extensions: map[string]string{"text": "x", "yes": "true", "no": "false", "number": "-42"},
				Data:       []byte(`{ "a" : 1.50 }`),
			}},
			"",
		},
		{"a JSON string", json, `{"type":"a","data":"hello"}`, events{{Type: "a", Data: []byte(`"hello"`)}}, ""},
		{"a JSON null", json, `{"type":"a","data":null}`, events{{Type: "a", Data: []byte(`null`)}}, ""},
		{"a JSON number", json, `{"type":"a","data":12345678901234567890}`, events{{Type: "a", Data: []byte(`12345678901234567890`)}}, ""},
		{
			"text", json, `{"type":"a","datacontenttype":"text/plain","data":"a \"b\"\n\u20ac"}`,
			events{{Type: "a", DataContentType: "text/plain", Data: []byte("a \"b\"\n€")}},
			"",
		},
		{
			"JSON of a type that is not JSON", json, `{"type":"a","datacontenttype":"text/xml","data":{"a":1}}`,
			events{{Type: "a", DataContentType: "text/xml", Data: []byte(`{"a":1}`)}},
			"",
		},
		{
			"JSON of a type that ends in +json", json, `{"type":"a","datacontenttype":"application/vnd.acme+json","data":"x"}`,
			events{{Type: "a", DataContentType: "application/vnd.acme+json", Data: []byte(`"x"`)}},
			"",
		},
		{
			"bytes", json, `{"type":"a","datacontenttype":"image/png","data_base64":"iVBORwD/"}`,
			events{{Type: "a", DataContentType: "image/png", Data: []byte("\x89PNG\x00\xff")}},
			"",
		},
		{"JSON in base64", json, `{"type":"a","data_base64":"e30="}`, events{{Type: "a", Data: []byte(`{}`)}}, ""},
		{"no bytes", json, `{"type":"a","data_base64":""}`, events{{Type: "a"}}, ""},
		{"data beside no bytes", json, `{"type":"a","data":1,"data_base64":null}`, events{{Type: "a", Data: []byte(`1`)}}, ""},
		{"the last of two", json, `{"type":"a","type":"b"}`, events{{Type: "b"}}, ""},

		{"no JSON", json, `type=a`, nil, "body"},
		{"nothing", json, ``, nil, "body"},
		{"more than one", json, `{"type":"a"}{"type":"b"}`, nil, "body"},
		{"an array", json, `[{"type":"a"}]`, nil, "body"},
		{"specversion 0.3", json, `{"type":"a","specversion":"0.3"}`, nil, "body.specversion"},
		{"specversion as a number", json, `{"type":"a","specversion":1.0}`, nil, "body.specversion"},
		{"an object as an attribute", json, `{"type":"a","source":{}}`, nil, "body.source"},
		{"an array as an extension", json, `{"type":"a","tags":["x"]}`, nil, "body.tags"},
		{"a fraction as an extension", json, `{"type":"a","ratio":1.5}`, nil, "body.ratio"},
		{"a number of more than 32 bits", json, `{"type":"a","n":2147483648}`, nil, "body.n"},
		{"a time that is none", json, `{"type":"a","time":"2020-02-30T00:00:00Z"}`, nil, "body.time"},
		{"data twice", json, `{"type":"a","data":1,"data_base64":"e30="}`, nil, "body.data_base64"},
		{"bytes that are not base64", json, `{"type":"a","data_base64":"e30"}`, nil, "body.data_base64"},
		{"bytes as an array", json, `{"type":"a","data_base64":[1,2]}`, nil, "body.data_base64"},

		{
			"a batch", batch, ` [ {"type":"a","data":1} , {"type":"b","datacontenttype":"text/plain","data":"x"} ] `,
			events{{Type: "a", Data: []byte(`1`)}, {Type: "b", DataContentType: "text/plain", Data: []byte(`x`)}},
			"",
		},
		{"an empty batch", batch, `[]`, events{}, ""}, // Publish refuses it
		{"a batch that is none", batch, `{"type":"a"}`, nil, "body"},
		{"a batch with something else in it", batch, `[{"type":"a"},1]`, nil, "body[1]"},
		{"a batch with something wrong in it", batch, `[{"type":"a"},{"type":"a"},{"time":"x"}]`, nil, "body[2].time"},
		{"a batch of 1001", batch, many(1001), nil, "body"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeCloudEvents(headers("content-type", tt.contentType, "ce-type", "not.this"), strings.NewReader(tt.body))
			if field := complaint(t, err); field != tt.field {
				t.Fatalf("complains of %q (%v), want %q", field, err, tt.field)
			}
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
	if got, err := decodeCloudEvents(headers("content-type", batch), strings.NewReader(many(1000))); err != nil || len(got) != 1000 {
		t.Errorf("a batch of 1000: %d events, %v", len(got), err)
	}
}

func TestDecodeSizes(t *testing.T) {
	binary := headers("ce-type", "a", "content-type", "a/b")
	batch := headers("content-type", "application/cloudevents-batch+json")
	inBase64 := func(n, size int) string {
		one := `{"type":"a","datacontenttype":"a/b","data_base64":"` + base64.StdEncoding.EncodeToString(make([]byte, size)) + `"},`
		return "[" + strings.TrimSuffix(strings.Repeat(one, n), ",") + "]"
	}
	for _, tt := range []struct {
		name   string
		header http.Header
		body   string
		field  string
	}{
		{"8 MiB, nearly, in base64", batch, inBase64(32, MaxEventBytes-200), ""},
		{"more than 8 MiB in base64", batch, inBase64(33, MaxEventBytes-200), "events"},
		{"an event of 8 MiB, nearly", binary, strings.Repeat("x", MaxRequestBytes-100), ""}, // Publish refuses it
		{"an event of more than 8 MiB", binary, strings.Repeat("x", MaxRequestBytes), "events"},
		{"a body at the limit", binary, strings.Repeat("x", maxBodyBytes), "events"},
		{"a body over the limit", binary, strings.Repeat("x", maxBodyBytes+1), "body"},
		{"white space over the limit", batch, "[" + strings.Repeat(" ", maxBodyBytes) + "]", "body"},
	} {
		_, err := decodeCloudEvents(tt.header, strings.NewReader(tt.body))
		if field := complaint(t, err); field != tt.field {
			t.Errorf("%s: complains of %q (%v), want %q", tt.name, field, err, tt.field)
		}
	}
	if _, err := decodeCloudEvents(binary, iotest.ErrReader(io.ErrUnexpectedEOF)); err == nil {
		t.Error("a body that breaks off is no error")
	}
}

// What the CloudEvents SDK for Go sends is read as what it was told to send.
func TestDecodeWhatTheSDKSends(t *testing.T) {
	for name, event := range sdkEvents(t) {
		for mode, encode := range map[string]func(*testing.T, ceevent.Event) *http.Request{
			"binary": sdkRequest(binding.WithForceBinary), "structured": sdkRequest(binding.WithForceStructured), "batch": sdkBatch,
		} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				request := overTheWire(t, encode(t, event))
				events, err := decodeCloudEvents(request.Header, request.Body)
				if err != nil {
					t.Fatal(err)
				}
				if len(events) != 1 {
					t.Fatalf("%d events, want one", len(events))
				}
				if diff := cmp.Diff(asFanfare(t, event), events[0], protocmp.Transform()); diff != "" {
					t.Errorf("event (-sent +read):\n%s", diff)
				}
				if err := checkEvent(events[0]); err != nil {
					t.Errorf("Publish would refuse it: %v", err)
				}
			})
		}
	}
}

// sdkEvents are events as producers make them.
func sdkEvents(t *testing.T) map[string]ceevent.Event {
	t.Helper()
	type order struct {
		ID    string  `json:"id"`
		Total float64 `json:"total"`
		Note  string  `json:"note"`
	}
	events := make(map[string]ceevent.Event)
	add := func(name, contentType string, data any, change func(*ceevent.Event)) {
		event := ceevent.New()
		event.SetID("e-" + name)
		event.SetType("com.example.order.created")
		event.SetSource("https://example.com/orders?a=b")
		if data != nil {
			if err := event.SetData(contentType, data); err != nil {
				t.Fatal(err)
			}
		}
		if change != nil {
			change(&event)
		}
		if err := event.Validate(); err != nil {
			t.Fatal(err)
		}
		events[name] = event
	}
	add("least", "", nil, nil)
	add("json", ceevent.ApplicationJSON, order{"42", 12.5, `<b>"quoted" & 'more'</b> €`}, nil)
	add("json-text", ceevent.ApplicationJSON, "only text", nil)
	add("json-null", ceevent.ApplicationJSON, []byte("null"), nil)
	add("text", ceevent.TextPlain, "hello, \"world\"\n€", nil)
	add("xml", ceevent.ApplicationXML, []byte("<a>1</a>"), nil)
	add("bytes", "application/octet-stream", []byte{0, 1, 2, 0xff, 0xfe}, nil)
	add("every-attribute", ceevent.ApplicationJSON, order{}, func(event *ceevent.Event) {
		event.SetSubject("orders/42")
		event.SetTime(time.Date(2026, 2, 3, 4, 5, 6, 789000000, time.FixedZone("", 3600)))
		event.SetDataSchema("https://example.com/schemas/order")
	})
	add("extensions", ceevent.ApplicationJSON, order{}, func(event *ceevent.Event) {
		event.SetExtension("partitionkey", "customer-7")
		event.SetExtension("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		event.SetExtension("flag", true)
		event.SetExtension("count", int32(-7))
		event.SetExtension("seen", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	})
	return events
}

func sdkRequest(mode func(context.Context) context.Context) func(*testing.T, ceevent.Event) *http.Request {
	return func(t *testing.T, event ceevent.Event) *http.Request {
		t.Helper()
		request, err := cehttp.NewHTTPRequestFromEvent(mode(t.Context()), "http://fanfare.example/", event)
		if err != nil {
			t.Fatal(err)
		}
		return request
	}
}

func sdkBatch(t *testing.T, event ceevent.Event) *http.Request {
	t.Helper()
	request, err := cehttp.NewHTTPRequestFromEvents(t.Context(), "http://fanfare.example/", []ceevent.Event{event})
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// overTheWire returns a request as a server reads it.
func overTheWire(t *testing.T, sent *http.Request) *http.Request {
	t.Helper()
	var wire bytes.Buffer
	if err := sent.Write(&wire); err != nil {
		t.Fatal(err)
	}
	received, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatal(err)
	}
	return received
}

// asFanfare says what an event of the SDK should be read as.
func asFanfare(t *testing.T, event ceevent.Event) *fanfarev1.Event {
	t.Helper()
	want := &fanfarev1.Event{
		Id: event.ID(), Type: event.Type(), Source: event.Source(), Subject: event.Subject(),
		DataContentType: event.DataContentType(), DataSchema: event.DataSchema(), Data: event.Data(),
	}
	if !event.Time().IsZero() {
		want.Time = at(t, event.Time().Format(time.RFC3339Nano))
	}
	for name, value := range event.Extensions() {
		text := fmt.Sprint(value)
		if moment, ok := value.(interface{ Format(string) string }); ok {
			text = moment.Format(time.RFC3339)
		}
		if name == "partitionkey" {
			want.OrderingKey = text
			continue
		}
		if want.Extensions == nil {
			want.Extensions = make(map[string]string)
		}
		want.Extensions[name] = text
	}
	return want
}

// FuzzDecodeCloudEvents wants no panic, and what is accepted, here and by
// Publish, to be the same after it was written again in each mode.
func FuzzDecodeCloudEvents(f *testing.F) {
	f.Add("", "order.created", "e1", "a%20b", "2020-02-03T04:05:06Z", "k", "x", []byte(`{}`))
	f.Add("application/x-www-form-urlencoded", "a", "", `"q\"q"`, "", "", "", []byte(`1`))
	f.Add("text/plain; charset=utf-8", "a", "", "", "", "", "", []byte("\xff"))
	f.Add("application/cloudevents+json", "", "", "", "", "", "",
		[]byte(`{"specversion":"1.0","type":"a","time":"2020-02-03T04:05:06.789+01:00","n":-1,"b":true,"partitionkey":"k","data":{"a":[1]}}`))
	f.Add("application/cloudevents+json", "", "", "", "", "", "", []byte(`{"type":"a","datacontenttype":"image/png","data_base64":"iVBORwD/"}`))
	f.Add("application/cloudevents-batch+json", "", "", "", "", "", "", []byte(`[{"type":"a","data":"x"},{"type":"b","data":null}]`))
	f.Fuzz(func(t *testing.T, contentType, eventType, id, subject, moment, key, extension string, body []byte) {
		header := make(http.Header)
		for name, value := range map[string]string{
			"content-type": contentType, "ce-type": eventType, "ce-id": id, "ce-subject": subject,
			"ce-time": moment, "ce-partitionkey": key, "ce-extension": extension,
		} {
			if value != "" {
				header.Set(name, value)
			}
		}
		events, err := decodeCloudEvents(header, bytes.NewReader(body))
		if err != nil {
			complaint(t, err)
			return
		}
		for _, event := range events {
			if err := checkEvent(event); err != nil {
				complaint(t, err)
				continue
			}
			checkRoundTrip(t, event, "binary", writeBinary)
			checkRoundTrip(t, event, "structured", writeStructured)
		}
	})
}

func checkRoundTrip(t *testing.T, event *fanfarev1.Event, mode string, write func(*fanfarev1.Event) (http.Header, []byte)) {
	t.Helper()
	header, body := write(event)
	again, err := decodeCloudEvents(header, bytes.NewReader(body))
	if err != nil {
		t.Fatalf("%s: %v\nof %v\n%v\n%s", mode, err, event, header, body)
	}
	want := proto.CloneOf(event)
	if mode == "structured" && want.GetDataContentType() == "" {
		want.DataContentType = defaultContentType
	}
	if len(want.GetData()) == 0 {
		want.Data = nil
	}
	if len(again) == 1 && len(again[0].GetData()) == 0 {
		again[0].Data = nil
	}
	if diff := cmp.Diff([]*fanfarev1.Event{want}, again, protocmp.Transform()); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", mode, diff)
	}
}

// attributesOf are an event's attributes by their CloudEvents names, but for
// the content type.
func attributesOf(event *fanfarev1.Event) map[string]string {
	attributes := map[string]string{
		"specversion": "1.0", "type": event.GetType(), "id": event.GetId(), "source": event.GetSource(),
		"subject": event.GetSubject(), "dataschema": event.GetDataSchema(), "partitionkey": event.GetOrderingKey(),
	}
	if event.GetTime() != nil {
		attributes["time"] = event.GetTime().AsTime().Format(time.RFC3339Nano)
	}
	maps.DeleteFunc(attributes, func(_, value string) bool { return value == "" })
	maps.Copy(attributes, event.GetExtensions())
	return attributes
}

func writeBinary(event *fanfarev1.Event) (http.Header, []byte) {
	header := make(http.Header)
	for name, value := range attributesOf(event) {
		var encoded strings.Builder
		for _, c := range []byte(value) {
			fmt.Fprintf(&encoded, "%%%02x", c)
		}
		header.Set("ce-"+name, encoded.String())
	}
	if event.GetDataContentType() != "" {
		header.Set("content-type", event.GetDataContentType())
	}
	return header, event.GetData()
}

func writeStructured(event *fanfarev1.Event) (http.Header, []byte) {
	members := make(map[string]any)
	for name, value := range attributesOf(event) {
		members[name] = value
	}
	members["datacontenttype"] = event.GetDataContentType()
	if event.GetDataContentType() == "" {
		members["datacontenttype"] = defaultContentType
	}
	members["data_base64"] = event.GetData()
	body, err := json.Marshal(members)
	if err != nil {
		panic(err) // texts and bytes
	}
	return headers("content-type", structuredType), body
}
