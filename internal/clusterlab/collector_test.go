package clusterlab_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fanfare-dev/fanfare/internal/telemetry"
	"github.com/fanfare-dev/fanfare/internal/tracing"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// collectorVariable names the program of an OpenTelemetry Collector: see `make
// collector`, which builds it in tools/collector.
const collectorVariable = "FANFARE_COLLECTOR"

// collected bounds how long what was observed may take to be in the collector's
// files.
const collected = time.Minute

// collector is an OpenTelemetry Collector that writes all it gets to files.
type collector struct {
	lab     *testing.T
	dir     string
	process *process
	grpc    string
}

const collectorConfig = `receivers:
  otlp:
    protocols:
      grpc: {endpoint: %q}
exporters:
  file/traces: {path: %q}
  file/metrics: {path: %q}
  file/logs: {path: %q}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [file/traces]}
    metrics: {receivers: [otlp], exporters: [file/metrics]}
    logs: {receivers: [otlp], exporters: [file/logs]}
`

func startCollector(t *testing.T, path string) *collector {
	t.Helper()
	c := &collector{lab: t, dir: t.TempDir(), grpc: freeAddress(t)}
	config := filepath.Join(c.dir, "config.yaml")
	text := fmt.Sprintf(collectorConfig, c.grpc, c.file("traces"), c.file("metrics"), c.file("logs"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.process = &process{t: t, name: "collector", path: path, args: []string{"--config", config}, log: filepath.Join(c.dir, "collector.log")}
	c.process.start()
	t.Cleanup(c.process.stop)
	return c
}

func (c *collector) file(signal string) string { return filepath.Join(c.dir, signal+".json") }

// collectedSpan is one that the collector has got.
type collectedSpan struct {
	TraceID  string `json:"traceId"`
	ID       string `json:"spanId"`
	ParentID string `json:"parentSpanId"`
	Name     string `json:"name"`
	Events   []struct {
		Name string `json:"name"`
	} `json:"events"`
	Attributes []attribute `json:"attributes"`
	Status     struct {
		Code int `json:"code"`
	} `json:"status"`

	instance string // of the process that it is of
}

type attribute struct {
	Key   string `json:"key"`
	Value struct {
		String string `json:"stringValue"`
		Int    string `json:"intValue"`
	} `json:"value"`
}

// get returns an attribute, a number in decimal.
func get(all []attribute, key string) string {
	for _, a := range all {
		if a.Key == key {
			return a.Value.String + a.Value.Int
		}
	}
	return ""
}

// spans returns those of a trace.
func (c *collector) spans(traceID string) (all []collectedSpan) {
	type exported struct {
		ResourceSpans []struct {
			Resource struct {
				Attributes []attribute `json:"attributes"`
			} `json:"resource"`
			ScopeSpans []struct {
				Spans []collectedSpan `json:"spans"`
			} `json:"scopeSpans"`
		} `json:"resourceSpans"`
	}
	for _, line := range c.lines("traces") {
		var e exported
		if err := json.Unmarshal(line, &e); err != nil {
			c.lab.Fatalf("reading what was collected: %v", err)
		}
		for _, of := range e.ResourceSpans {
			for _, scope := range of.ScopeSpans {
				for _, s := range scope.Spans {
					if s.TraceID == traceID {
						s.instance = get(of.Resource.Attributes, "service.instance.id")
						all = append(all, s)
					}
				}
			}
		}
	}
	return all
}

// lines returns what was exported so far, without a line that is being written.
func (c *collector) lines(signal string) (lines [][]byte) {
	data, err := os.ReadFile(c.file(signal))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.lab.Fatal(err)
	}
	for reader := bufio.NewReader(bytes.NewReader(data)); ; {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return lines
		}
		lines = append(lines, line)
	}
}

// tree returns a trace as text: each span behind its parent, indented, with its
// process, in the order of their text. Which attempt a span is of is behind its
// name.
func tree(all []collectedSpan, parent, indent string) (text string) {
	var lines []string
	for _, s := range all {
		if s.ParentID != parent {
			continue
		}
		line := indent + s.Name
		if attempt := get(s.Attributes, "fanfare.attempt"); attempt != "" {
			line += " #" + attempt
		}
		if s.Status.Code == 2 {
			line += " failed: " + get(s.Attributes, "error.type")
		}
		lines = append(lines, line+" @"+s.instance+"\n"+tree(all, s.ID, indent+"  "))
	}
	for len(lines) > 0 {
		least := 0
		for i := range lines {
			if lines[i] < lines[least] {
				least = i
			}
		}
		text += lines[least]
		lines = append(lines[:least], lines[least+1:]...)
	}
	return text
}

// traceReceiver refuses the first request, and remembers the trace context of
// all.
type traceReceiver struct {
	refused chan struct{} // closed when it has refused

	mu      sync.Mutex
	parents []string // guarded by mu
}

func (r *traceReceiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parents = append(r.parents, request.Header.Get("Traceparent"))
	if len(r.parents) == 1 {
		w.WriteHeader(http.StatusServiceUnavailable)
		close(r.refused)
	}
}

// A real Collector gets what processes of a cluster observe: one trace from the
// producer to the receiver, over a retry and a new start of the coordinator
// between the two attempts, and metrics and logs of all processes.
func TestCollector(t *testing.T) {
	path := os.Getenv(collectorVariable)
	if path == "" {
		t.Skip(collectorVariable + " is not set to the program of a Collector; see make collector")
	}
	c := startCollector(t, path)
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + c.grpc, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
		"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0",
		"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_BLRP_SCHEDULE_DELAY": "200", "OTEL_METRIC_EXPORT_INTERVAL": "500",
	} {
		t.Setenv(name, value)
	}
	l := newLab(t, 1, 1)
	receiver := &traceReceiver{refused: make(chan struct{})}
	server := httptest.NewServer(receiver)
	t.Cleanup(server.Close)
	subscribeForTrace(l, server.URL+"/secret/path")

	traceID := publishTraced(t, l)
	<-receiver.refused
	l.coordinators[0].stop() // its successor knows the trace from the event alone
	l.coordinators[0].start()

	want := `order @producer
  fanfare.v1.EventService/Publish @coordinator-1
    publish order.created @coordinator-1
      commit @coordinator-1
      dispatch order.created #1 @coordinator-1
        deliver order.created #1 failed: 503 @worker-1
      dispatch order.created #2 @coordinator-1
        deliver order.created #2 @worker-1
`
	var all []collectedSpan
	l.await("the collector has the whole trace", collected, func() string {
		if all = c.spans(traceID); tree(all, "", "") == want {
			return ""
		}
		return "it has\n" + tree(all, "", "") + "of\n" + fmt.Sprint(len(all)) + " spans"
	})
	checkDelivery(t, all, receiver)
	for signal, texts := range map[string][]string{
		"metrics": {`"fanfare.events.published"`, `"fanfare.delivery.duration"`, `"fanfare.lease.margin"`, `"coordinator-1"`, `"worker-1"`},
		"logs":    {`"leading"`, `"worker attached"`, `"coordinator-1"`, `"worker-1"`},
	} {
		l.await("the collector has "+signal+" of all", collected, func() string {
			got := string(bytes.Join(c.lines(signal), nil))
			for _, text := range texts {
				if !strings.Contains(got, text) {
					return "it lacks " + text
				}
			}
			return ""
		})
	}
}

func subscribeForTrace(l *lab, url string) {
	l.t.Helper()
	_, err := fanfarev1.NewSubscriptionServiceClient(l.coordinators[0].conn).CreateSubscription(l.t.Context(),
		&fanfarev1.CreateSubscriptionRequest{Parent: "tenants/default", Subscription: &fanfarev1.Subscription{
			Url: url, RetrySchedule: []*durationpb.Duration{durationpb.New(time.Second)},
		}})
	if err != nil {
		l.t.Fatal(err)
	}
}

// publishTraced publishes an event as a producer does that is traced itself, and
// returns the trace.
func publishTraced(t *testing.T, l *lab) (traceID string) {
	t.Helper()
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	producer, err := telemetry.New(t.Context(), telemetry.Config{Version: "test", Instance: "producer"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, order := producer.Tracer().Start(t.Context(), "order")
	called := metadata.AppendToOutgoingContext(ctx, tracing.Parent, tracing.Format(trace.SpanContextFromContext(ctx)))
	_, err = fanfarev1.NewEventServiceClient(l.coordinators[0].conn).Publish(called, &fanfarev1.PublishRequest{
		Parent: "tenants/default", Events: []*fanfarev1.Event{{Id: "traced", Type: "order.created", Data: []byte(`{}`)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	order.End()
	if err := producer.Shutdown(context.WithoutCancel(ctx)); err != nil {
		t.Fatal(err)
	}
	return order.SpanContext().TraceID().String()
}

// checkDelivery checks what the spans of attempts say.
func checkDelivery(t *testing.T, all []collectedSpan, receiver *traceReceiver) {
	t.Helper()
	receiver.mu.Lock()
	defer receiver.mu.Unlock()
	for _, s := range all {
		if s.Name != "deliver order.created" {
			continue
		}
		for key, want := range map[string]string{
			"messaging.system": "fanfare", "messaging.message.id": "traced", "messaging.destination.name": "order.created",
			"http.request.method": "POST", "url.scheme": "http", "server.address": "127.0.0.1",
		} {
			if got := get(s.Attributes, key); got != want {
				t.Errorf("%s of an attempt is %q, want %q", key, got, want)
			}
		}
		if !strings.HasPrefix(get(s.Attributes, "messaging.destination.subscription.name"), "sub_") {
			t.Errorf("an attempt does not say of which subscription it is: %v", s.Attributes)
		}
		if text := fmt.Sprint(s); strings.Contains(text, "secret") {
			t.Errorf("a span tells the path of an endpoint, which may be a secret: %s", text)
		}
		var events []string
		for _, e := range s.Events {
			events = append(events, e.Name)
		}
		for _, phase := range []string{"connection", "request.sent", "response.first_byte"} {
			if !strings.Contains(strings.Join(events, " "), phase) {
				t.Errorf("an attempt has the phases %q, but not %s", events, phase)
			}
		}
		if parent := "00-" + s.TraceID + "-" + s.ID + "-01"; !strings.Contains(strings.Join(receiver.parents, " "), parent) {
			t.Errorf("the receiver was sent %q, but not %s", receiver.parents, parent)
		}
	}
}
