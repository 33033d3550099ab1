package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func TestParseEvent(t *testing.T) {
	noon := timestamppb.New(time.Date(2026, time.January, 2, 12, 0, 0, 0, time.UTC))
	tests := []struct {
		name string
		line string
		want *fanfarev1.Event
	}{
		{
			"an object as data",
			`{"id":"1","type":"a.b","data":{"n": 1.50},"data_content_type":"application/json"}`,
			&fanfarev1.Event{Id: "1", Type: "a.b", Data: []byte(`{"n": 1.50}`), DataContentType: "application/json"},
		},
		{"a number as data", `{"type":"a","data":7}`, &fanfarev1.Event{Type: "a", Data: []byte("7")}},
		{"base64 as data", `{"type":"a","data":"aGk="}`, &fanfarev1.Event{Type: "a", Data: []byte("hi")}},
		{"no data", `{"type":"a","data":null}`, &fanfarev1.Event{Type: "a"}},
		{
			"everything of an event",
			`{"type":"a","source":"/s","subject":"x","time":"2026-01-02T12:00:00Z","orderingKey":"k","extensions":{"e":"1"}}`,
			&fanfarev1.Event{
				Type: "a", Source: "/s", Subject: "x", Time: noon, OrderingKey: "k",
				Extensions: map[string]string{"e": "1"},
			},
		},
		{
			"everything of a CloudEvent",
			`{"specversion":"1.0","id":"1","type":"a","source":"/s","subject":"x","time":"2026-01-02T13:00:00+01:00",
			  "datacontenttype":"application/vnd.a+json","dataschema":"https://example.com/a","partitionkey":"k",
			  "flag":true,"count":3,"none":null,"data":[1, 2]}`,
			&fanfarev1.Event{
				Id: "1", Type: "a", Source: "/s", Subject: "x", Time: noon, OrderingKey: "k",
				DataContentType: "application/vnd.a+json", DataSchema: "https://example.com/a",
				Extensions: map[string]string{"flag": "true", "count": "3"}, Data: []byte("[1, 2]"),
			},
		},
		{
			"a CloudEvent with a JSON string",
			`{"specversion":"1.0","type":"a","data":"hi"}`,
			&fanfarev1.Event{Type: "a", Data: []byte(`"hi"`)},
		},
		{
			"a CloudEvent with text",
			`{"specversion":"1.0","type":"a","datacontenttype":"text/plain; charset=utf-8","data":"hi"}`,
			&fanfarev1.Event{Type: "a", DataContentType: "text/plain; charset=utf-8", Data: []byte("hi")},
		},
		{
			"a CloudEvent with bytes",
			`{"specversion":"1.0","type":"a","data_base64":"AAE="}`,
			&fanfarev1.Event{Type: "a", Data: []byte{0, 1}},
		},
		{
			"a CloudEvent whose data is null",
			`{"specversion":"1.0","type":"a","data":null}`,
			&fanfarev1.Event{Type: "a", Data: []byte("null")},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseEvent([]byte(test.line))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("parseEvent (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseEventRefuses(t *testing.T) {
	tests := []struct{ line, want string }{
		{`[]`, "not a JSON object"},
		{`null`, "not a JSON object"},
		{`{"type":"a"`, "not a JSON object"},
		{`{"kind":"a"}`, `unknown field "kind"`},
		{`{"type":7}`, "invalid value for string field type: 7"},
		{`{"type":"a","data":"?"}`, "invalid value for bytes field data"},
		{`{"specversion":"0.3","type":"a"}`, `specversion: want 1.0, got "0.3"`},
		{`{"specversion":"1.0","time":"noon"}`, "time: parsing time"},
		{`{"specversion":"1.0","subject":{}}`, "subject: an attribute is a string"},
		{`{"specversion":"1.0","data":1,"data_base64":"AA=="}`, "exclude each other"},
		{`{"specversion":"1.0","data_base64":1}`, "data_base64: "},
		{`{"specversion":"1.0","data_base64":"?"}`, "data_base64: illegal base64"},
	}
	for _, test := range tests {
		event, err := parseEvent([]byte(test.line))
		if err == nil {
			t.Errorf("parseEvent(%s) = %v, want an error", test.line, event)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("parseEvent(%s): %v, want %q", test.line, err, test.want)
		}
	}
}

// collect reads all batches.
func collect(t *testing.T, r io.Reader) []batch {
	t.Helper()
	batches := newBatchReader(r)
	var all []batch
	for {
		b, err := batches.next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
}

func TestBatchesAreBoundedByCount(t *testing.T) {
	const events = 2*maxBatchEvents + 1
	input := strings.Repeat("{\"type\":\"a\"}\n\n", events)
	type extent struct{ events, first, last int }
	var got []extent
	ids := make(map[string]bool)
	for _, b := range collect(t, strings.NewReader(input)) {
		got = append(got, extent{len(b.events), b.firstLine, b.lastLine})
		for _, event := range b.events {
			ids[event.GetId()] = true
		}
	}
	// Every other line is empty.
	want := []extent{{1000, 1, 1999}, {1000, 2001, 3999}, {1, 4001, 4001}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(extent{})); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
	if len(ids) != events {
		t.Errorf("%d different ids for %d events", len(ids), events)
	}
}

func TestBatchesAreBoundedBySize(t *testing.T) {
	const events, dataBytes = 32, 256 << 10
	line := `{"type":"a","data":"` + strings.Repeat("AAAA", dataBytes/3) + "\"}\n"
	total := 0
	for _, b := range collect(t, strings.NewReader(strings.Repeat(line, events))) {
		bytes := 0
		for _, event := range b.events {
			bytes += proto.Size(event)
		}
		if bytes >= maxBatchBytes+maxLineBytes {
			t.Errorf("a batch of %d bytes", bytes)
		}
		total += len(b.events)
	}
	if total != events {
		t.Errorf("%d events came out, want %d", total, events)
	}
}

// TestBatchIsNotHeldBack writes a line to a pipe and wants it before the next.
func TestBatchIsNotHeldBack(t *testing.T) {
	read, write := io.Pipe()
	batches := newBatchReader(read)
	for i := range 3 {
		written := make(chan error, 1)
		go func() {
			_, err := fmt.Fprintf(write, "{\"id\":\"%d\",\"type\":\"a\"}\n", i)
			written <- err
		}()
		b, err := batches.next()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := b.events[0].GetId(), fmt.Sprint(i); got != want || len(b.events) != 1 {
			t.Errorf("batch of %d events from %s, want 1 from %s", len(b.events), got, want)
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
	}
}

func TestBatchRefusesLongLine(t *testing.T) {
	input := "{\"type\":\"a\"}\n" + strings.Repeat(" ", maxLineBytes+1) + "\n"
	_, err := newBatchReader(strings.NewReader(input)).next()
	if err == nil || !strings.Contains(err.Error(), "line 2: longer than 2.0 MiB") {
		t.Errorf("next() = %v, want an error about line 2", err)
	}
}

func TestBatchPassesReadError(t *testing.T) {
	broken := errors.New("the disk is gone")
	_, err := newBatchReader(io.MultiReader(strings.NewReader("{\"typ"), failingReader{broken})).next()
	if !errors.Is(err, broken) {
		t.Errorf("next() = %v, want %v", err, broken)
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"type":"a","data":{"n":1}}`))
	f.Add([]byte(`{"specversion":"1.0","id":"1","type":"a","source":"/s","data_base64":"AAE="}`))
	f.Add([]byte(`{"specversion":"1.0","time":"2026-01-02T12:00:00Z","data":null,"x":1e9}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, line []byte) {
		before := bytes.Clone(line)
		event, err := parseEvent(line)
		if !bytes.Equal(line, before) {
			t.Fatal("parseEvent changed its input")
		}
		if err != nil {
			return
		}
		clear(line) // the reader uses its buffer again
		if _, err := proto.Marshal(event); err != nil {
			t.Errorf("parseEvent made an event that cannot be sent: %v", err)
		}
		if again, err := parseEvent(before); err != nil || !proto.Equal(again, event) {
			t.Errorf("the event depends on the reader's buffer: %v, then %v (%v)", event, again, err)
		}
	})
}
