package receiver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/receiver"
)

func TestDecodeEvents(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	head := func(pairs ...string) http.Header {
		h := make(http.Header)
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	const js = "application/json"
	for _, tt := range []struct {
		name   string
		header http.Header
		body   string
		want   []receiver.Event // nil: malformed
	}{
		{
			"standard", head("Content-Type", js, "webhook-id", "m1"), `{"type":"order.created","timestamp":"2026-01-02T03:04:05Z","data":{"a":1}}`,
			[]receiver.Event{{ID: "m1", Type: "order.created", Time: at, ContentType: js, Data: []byte(`{"a":1}`)}},
		},
		{
			"standard, versioned", head("Content-Type", js+"; charset=utf-8", "webhook-id", "m1"), `{"type":"order.created.v2","timestamp":"2026-01-02T03:04:05Z","data":null}`,
			[]receiver.Event{{ID: "m1", Type: "order.created", Version: "2", Time: at, ContentType: js, Data: []byte(`null`)}},
		},
		{
			"time of the request", head("Content-Type", js, "webhook-id", "m1", "webhook-timestamp", "1767323045"), `{"type":"a","data":0}`,
			[]receiver.Event{{ID: "m1", Type: "a", Time: at, ContentType: js, Data: []byte(`0`)}},
		},
		{
			"JSON of another shape", head("Content-Type", js, "webhook-id", "m1"), `{"hello":"world"}`,
			[]receiver.Event{{ID: "m1", ContentType: js, Data: []byte(`{"hello":"world"}`)}},
		},
		{
			"JSON with a type that is no text", head("Content-Type", js, "webhook-id", "m1"), `{"type":1,"data":2}`,
			[]receiver.Event{{ID: "m1", ContentType: js, Data: []byte(`{"type":1,"data":2}`)}},
		},
		{
			"not JSON", head("Content-Type", "text/plain", "webhook-id", "m1"), `hello`,
			[]receiver.Event{{ID: "m1", ContentType: "text/plain", Data: []byte(`hello`)}},
		},
		{
			"no content type", head("webhook-id", "m1"), `{`,
			[]receiver.Event{{ID: "m1", ContentType: "application/octet-stream", Data: []byte(`{`)}},
		},
		{"broken JSON", head("Content-Type", js), `{"type":`, nil},
		{
			"batch", head("Content-Type", js, "webhook-id", "b"), ` [{"type":"a","data":1},{"id":"m2","type":"b","data":2},3]`,
			[]receiver.Event{
				{ID: "b#0", Type: "a", ContentType: js, Data: []byte(`1`)},
				{ID: "m2", Type: "b", ContentType: js, Data: []byte(`2`), Index: 1},
				{ID: "b#2", ContentType: js, Data: []byte(`3`), Index: 2},
			},
		},
		{"batch without ids", head("Content-Type", js), `[{"type":"a","data":1}]`, []receiver.Event{{Type: "a", ContentType: js, Data: []byte(`1`)}}},
		{"batch, broken", head("Content-Type", js), `[1,`, nil},
		{"batch, too large", head("Content-Type", js), "[" + strings.Repeat("1,", receiver.MaxBatch) + "1]", nil},
		{
			"CloudEvents, binary", head("Content-Type", js, "ce-specversion", "1.0", "ce-id", "e1", "ce-type", "order.created", "ce-source", "/s",
				"ce-subject", "x", "ce-time", "2026-01-02T03:04:05Z", "ce-dataversion", "3", "webhook-id", "ignored"), `{"a":1}`,
			[]receiver.Event{{ID: "e1", Type: "order.created", Version: "3", Source: "/s", Subject: "x", Time: at, ContentType: js, Data: []byte(`{"a":1}`)}},
		},
		{
			"CloudEvents, structured", head("Content-Type", "application/cloudevents+json"), `{"specversion":"1.0","id":"e1","type":"a","source":"/s","data":{"b":2}}`,
			[]receiver.Event{{ID: "e1", Type: "a", Source: "/s", ContentType: js, Data: []byte(`{"b":2}`)}},
		},
		{
			"CloudEvents, batched", head("Content-Type", "application/cloudevents-batch+json"),
			`[{"specversion":"1.0","id":"e1","type":"a","source":"/s","data":1},{"specversion":"1.0","id":"e2","type":"b.v9","source":"/s","data_base64":"aGk="}]`,
			[]receiver.Event{
				{ID: "e1", Type: "a", Source: "/s", ContentType: js, Data: []byte(`1`)},
				{ID: "e2", Type: "b", Version: "9", Source: "/s", Data: []byte(`hi`), Index: 1},
			},
		},
		{"CloudEvents without an id", head("Content-Type", "application/cloudevents+json"), `{"specversion":"1.0","type":"a","source":"/s"}`, nil},
		{"CloudEvents, broken", head("Content-Type", "application/cloudevents+json"), `{`, nil},
		{
			"GitHub", head("Content-Type", js, "X-GitHub-Event", "issues", "X-GitHub-Delivery", "g1"), `{"action":"opened"}`,
			[]receiver.Event{{ID: "g1", Type: "issues.opened", ContentType: js, Data: []byte(`{"action":"opened"}`)}},
		},
		{
			"GitHub, without an action", head("X-GitHub-Event", "ping", "X-GitHub-Delivery", "g1"), `{}`,
			[]receiver.Event{{ID: "g1", Type: "ping", ContentType: js, Data: []byte(`{}`)}},
		},
		{
			"GitHub, as a form", head("Content-Type", "application/x-www-form-urlencoded", "X-GitHub-Event", "issues", "X-GitHub-Delivery", "g1"), `payload=%7B%22action%22%3A%22opened%22%7D`,
			[]receiver.Event{{ID: "g1", Type: "issues.opened", ContentType: js, Data: []byte(`{"action":"opened"}`)}},
		},
		{
			"Stripe", head("Content-Type", js, "Stripe-Signature", "t=1,v1=0"), `{"id":"evt_1","type":"charge.failed","created":1767323045,"api_version":"2026-01-01"}`,
			[]receiver.Event{{
				ID: "evt_1", Type: "charge.failed", Version: "2026-01-01", Time: at, ContentType: js,
				Data: []byte(`{"id":"evt_1","type":"charge.failed","created":1767323045,"api_version":"2026-01-01"}`),
			}},
		},
		{"Stripe, broken", head("Stripe-Signature", "t=1,v1=0"), `x`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events, err := receiver.DecodeEvents(t.Context(), tt.header, []byte(tt.body))
			if tt.want == nil {
				if err == nil {
					t.Errorf("decoded %v, want an error", events)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []receiver.Event
			for _, e := range events {
				one := *e
				one.Request, one.Extensions = nil, nil
				got = append(got, one)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Whatever comes, it is events or an error, and each event knows its place.
func FuzzDecodeEvents(f *testing.F) {
	for _, contentType := range []string{"application/json", "application/cloudevents+json", "application/cloudevents-batch+json", "text/plain"} {
		f.Add(contentType, "", "", []byte(`[{"specversion":"1.0","id":"e","type":"a.v1","source":"/s","data":1}]`))
		f.Add(contentType, "ping", "1.0", []byte(`{"type":"a","data":{}}`))
	}
	f.Fuzz(func(t *testing.T, contentType, github, specVersion string, body []byte) {
		header := http.Header{"Content-Type": {contentType}}
		for name, value := range map[string]string{"X-Github-Event": github, "Ce-Specversion": specVersion} {
			if value != "" {
				header.Set(name, value)
			}
		}
		events, err := receiver.DecodeEvents(t.Context(), header, body)
		if err == nil && len(events) > receiver.MaxBatch {
			t.Errorf("%d events", len(events))
		}
		for i, e := range events {
			if e.Index != i || e.Request == nil {
				t.Errorf("event %d is %s", i, fmt.Sprint(e))
			}
		}
	})
}
