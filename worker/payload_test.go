package worker

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func fullEvent() *fanfarev1.Event {
	return &fanfarev1.Event{
		Id:              "evt_1",
		Type:            "order.created",
		Source:          "/shop",
		Subject:         `order "7" Ü`,
		Time:            timestamppb.New(time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)),
		DataContentType: "application/json",
		Data:            []byte(`{"n": 1.0e2,  "big":12345678901234567890}`),
		DataSchema:      "https://example.com/s",
		OrderingKey:     "customer 9",
		Extensions:      map[string]string{"zone": "50%", "alpha": "a\nb", "id": "evil", "Bad Name": "x"},
	}
}

func dispatchOf(t testing.TB, e *fanfarev1.Event) *linkv1.Dispatch {
	t.Helper()
	encoded, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return &linkv1.Dispatch{Tenant: "acme", Event: encoded, PublishTimeUnixMs: 1772366400123}
}

func TestRender(t *testing.T) {
	bare := &fanfarev1.Event{Id: "evt_2", Type: "ping"}
	text := &fanfarev1.Event{Id: "evt_3", Type: "t", DataContentType: "text/plain; charset=utf-8", Data: []byte("say \"hi\"\\\n\x01é")}
	binary := &fanfarev1.Event{Id: "evt_4", Type: "t", DataContentType: "image/png", Data: []byte{0xff, 0x00, 0x10}}
	tests := []struct {
		name  string
		event *fanfarev1.Event
		mode  payloadMode
		body  string
		want  http.Header
	}{
		{
			"standard", fullEvent(), modeStandard,
			`{"type":"order.created","timestamp":"2026-03-01T12:00:00.0000005Z","data":{"n": 1.0e2,  "big":12345678901234567890}}`,
			http.Header{"Content-Type": {"application/json"}},
		},
		{
			"standard, nothing but the required", bare, modeStandard,
			`{"type":"ping","timestamp":"2026-03-01T12:00:00.123Z","data":null}`,
			http.Header{"Content-Type": {"application/json"}},
		},
		{
			"standard, text", text, modeStandard,
			`{"type":"t","timestamp":"2026-03-01T12:00:00.123Z","data":"say \"hi\"\\\n\u0001é"}`,
			http.Header{"Content-Type": {"application/json"}},
		},
		{
			"standard, bytes", binary, modeStandard,
			`{"type":"t","timestamp":"2026-03-01T12:00:00.123Z","data_base64":"/wAQ"}`,
			http.Header{"Content-Type": {"application/json"}},
		},
		{
			"structured", fullEvent(), modeStructured,
			`{"specversion":"1.0","id":"evt_1","source":"/shop","type":"order.created","subject":"order \"7\" Ü",` +
				`"time":"2026-03-01T12:00:00.0000005Z","dataschema":"https://example.com/s","alpha":"a\nb",` +
				`"partitionkey":"customer 9","zone":"50%","datacontenttype":"application/json",` +
				`"data":{"n": 1.0e2,  "big":12345678901234567890}}`,
			http.Header{"Content-Type": {"application/cloudevents+json"}},
		},
		{
			"structured, nothing but the required", bare, modeStructured,
			`{"specversion":"1.0","id":"evt_2","source":"/tenants/acme","type":"ping","time":"2026-03-01T12:00:00.123Z","datacontenttype":"application/json"}`,
			http.Header{"Content-Type": {"application/cloudevents+json"}},
		},
		{"binary", fullEvent(), modeBinary, string(fullEvent().GetData()), http.Header{
			"Content-Type":    {"application/json"},
			"Ce-Specversion":  {"1.0"},
			"Ce-Id":           {"evt_1"},
			"Ce-Source":       {"/shop"},
			"Ce-Type":         {"order.created"},
			"Ce-Subject":      {"order%20%227%22%20%C3%9C"},
			"Ce-Time":         {"2026-03-01T12:00:00.0000005Z"},
			"Ce-Dataschema":   {"https://example.com/s"},
			"Ce-Alpha":        {"a%0Ab"},
			"Ce-Partitionkey": {"customer%209"},
			"Ce-Zone":         {"50%25"},
		}},
		{"raw", text, modeRaw, string(text.GetData()), http.Header{"Content-Type": {"text/plain; charset=utf-8"}}},
		{"raw, nothing but the required", bare, modeRaw, "", http.Header{"Content-Type": {"application/json"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := newMessage(dispatchOf(t, test.event)).render(test.mode)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.body, string(got.body)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, got.header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderKeepsGivenPartitionKey(t *testing.T) {
	e := fullEvent()
	e.Extensions["partitionkey"] = "own"
	if got := binaryHeader(e).Values("ce-partitionkey"); !cmp.Equal(got, []string{"own"}) {
		t.Errorf("ce-partitionkey = %q, want the event's own", got)
	}
}

func TestRenderOncePerMode(t *testing.T) {
	m := newMessage(dispatchOf(t, fullEvent()))
	first, err := m.render(modeStandard)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.render(modeStandard)
	if err != nil {
		t.Fatal(err)
	}
	if first != again {
		t.Error("the second render made a second payload")
	}
}

func TestRenderUnusableEvent(t *testing.T) {
	for _, encoded := range [][]byte{{0xff}, nil} {
		if _, err := newMessage(&linkv1.Dispatch{Event: encoded}).render(modeRaw); err == nil {
			t.Errorf("event %x was rendered", encoded)
		}
	}
}

func TestParseMode(t *testing.T) {
	for name, want := range map[string]payloadMode{
		"": modeStandard, "standard": modeStandard, "raw": modeRaw,
		"cloudevents-binary": modeBinary, "cloudevents-structured": modeStructured,
	} {
		if got, err := parseMode(name); err != nil || got != want {
			t.Errorf("parseMode(%q) = %v, %v; want %v", name, got, err, want)
		}
	}
	if _, err := parseMode("xml"); err == nil {
		t.Error("parseMode(xml) is no error")
	}
}

func FuzzRender(f *testing.F) {
	f.Add("evt_1", "a.b", "sub\"ject", "application/json", []byte(`{"a":1}`), "key", "ext", "vé")
	f.Add("evt_2", "a", "", "text/plain", []byte("\x00\"\\"), "", "", "")
	f.Add("evt_3", "a", "\u2028", "", []byte{0xff}, "", "data", "x")
	f.Add("evt_4", "a", "", "application/vnd.x+json; v=1", []byte(" 1e400 "), "", "x", "\x7f")
	f.Fuzz(func(t *testing.T, id, kind, subject, contentType string, data []byte, key, extension, value string) {
		e := &fanfarev1.Event{
			Id: id, Type: kind, Subject: subject, DataContentType: contentType, Data: data,
			OrderingKey: key, Extensions: map[string]string{extension: value},
		}
		encoded, err := proto.Marshal(e)
		if err != nil || id == "" {
			t.Skip("not an event")
		}
		m := newMessage(&linkv1.Dispatch{Tenant: "acme", Event: encoded})
		for mode := range payloadMode(modeCount) {
			p, err := m.render(mode)
			if err != nil {
				t.Fatal(err)
			}
			switch mode {
			case modeRaw:
				checkData(t, "raw", p.body, data)
			case modeBinary:
				checkData(t, "binary", p.body, data)
				checkHeader(t, p.header)
			case modeStandard:
				checkData(t, "standard", checkDocument(t, e, p.body, "type", kind), data)
			case modeStructured:
				checkData(t, "structured", checkDocument(t, e, p.body, "subject", subject), data)
			}
		}
	})
}

func checkData(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: data is %q, want %q", name, got, want)
	}
}

// checkDocument parses a JSON body, compares one of its members, and returns
// the event's data as a receiver gets it.
func checkDocument(t *testing.T, e *fanfarev1.Event, body []byte, member, want string) []byte {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil || !utf8.Valid(body) {
		t.Fatalf("%q does not parse: %v", body, err)
	}
	if got := stringMember(t, fields, member); got != want {
		t.Errorf("%s = %q, want %q", member, got, want)
	}
	if members := countMembers(t, body); members != len(fields) {
		t.Errorf("%q has a member twice", body)
	}
	if raw, ok := fields["data_base64"]; ok {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			t.Fatal(err)
		}
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	switch raw, ok := fields["data"]; {
	case !ok, len(e.GetData()) == 0:
		return nil
	case isJSONType(e.GetDataContentType()) || e.GetDataContentType() == "":
		if !json.Valid(e.GetData()) {
			return []byte(stringMember(t, fields, "data"))
		}
		if !bytes.Contains(body, e.GetData()) {
			t.Errorf("%q does not hold %q as it is", body, e.GetData())
		}
		if !bytes.Equal(bytes.TrimSpace(e.GetData()), raw) {
			t.Errorf("data is %q, want %q", raw, e.GetData())
		}
		return e.GetData()
	default:
		return []byte(stringMember(t, fields, "data"))
	}
}

func stringMember(t *testing.T, fields map[string]json.RawMessage, name string) string {
	t.Helper()
	var text string
	if raw, ok := fields[name]; ok {
		if err := json.Unmarshal(raw, &text); err != nil {
			t.Fatalf("member %s: %v", name, err)
		}
	}
	return text
}

// countMembers counts the members of a JSON object, double ones too.
func countMembers(t *testing.T, body []byte) int {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	count := 0
	for ; d.More(); count++ {
		if _, err := d.Token(); err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	return count
}

// checkHeader checks that a receiver gets every ce-* header as it was sent.
func checkHeader(t *testing.T, h http.Header) {
	t.Helper()
	for name, values := range h {
		if name == "Content-Type" {
			continue
		}
		for _, c := range fmt.Append(nil, name, values[0]) {
			if c <= ' ' || c > '~' {
				t.Errorf("header %s: %q has the byte %#x", name, values[0], c)
			}
		}
	}
}
