package telemetry_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/fanfare-dev/fanfare/internal/telemetry"
)

// scrape returns what Prometheus reads of the metrics.
func scrape(t *testing.T, from *telemetry.Telemetry) map[string]*dto.MetricFamily {
	t.Helper()
	recorder := httptest.NewRecorder()
	from.Handler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	if recorder.Code != http.StatusOK {
		t.Fatalf("answered %d: %s", recorder.Code, recorder.Body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(recorder.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func newTelemetry(t *testing.T, version string) *telemetry.Telemetry {
	t.Helper()
	made, err := telemetry.New(t.Context(), telemetry.Config{Version: version})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// labels returns a metric's labels by name.
func labels(metric *dto.Metric) map[string]string {
	all := make(map[string]string)
	for _, label := range metric.GetLabel() {
		all[label.GetName()] = label.GetValue()
	}
	return all
}

func TestInstrumentsAreServed(t *testing.T) {
	measured := newTelemetry(t, "v1.2.3")
	counter, err := measured.Meter().Int64Counter("fanfare.things", metric.WithDescription("Things counted."), metric.WithUnit("{thing}"))
	if err != nil {
		t.Fatal(err)
	}
	histogram, err := measured.Meter().Int64Histogram("fanfare.size", metric.WithUnit("By"), metric.WithExplicitBucketBoundaries(10, 100))
	if err != nil {
		t.Fatal(err)
	}
	kind := attribute.String("fanfare.thing.kind", `with "quotes" and \ and é`)
	counter.Add(t.Context(), 2, metric.WithAttributes(kind))
	counter.Add(t.Context(), 3, metric.WithAttributes(kind))
	for _, size := range []int64{5, 50, 500} {
		histogram.Record(t.Context(), size)
	}

	families := scrape(t, measured)
	things := families["fanfare_things_total"]
	if things.GetType() != dto.MetricType_COUNTER || things.GetHelp() != "Things counted." || len(things.GetMetric()) != 1 {
		t.Fatalf("the counter is %v", things)
	}
	if got := things.GetMetric()[0]; got.GetCounter().GetValue() != 5 || labels(got)["fanfare_thing_kind"] != kind.Value.AsString() {
		t.Errorf("the counter is %v", got)
	}
	size := families["fanfare_size_bytes"].GetMetric()
	if len(size) != 1 || size[0].GetHistogram().GetSampleCount() != 3 || size[0].GetHistogram().GetSampleSum() != 555 || len(size[0].GetHistogram().GetBucket()) != 3 {
		t.Errorf("the histogram is %v", size)
	}
	if scope := labels(things.GetMetric()[0])["otel_scope_name"]; scope != "github.com/fanfare-dev/fanfare" {
		t.Errorf("the scope is %q", scope)
	}
}

// The process describes itself: which version it is, and what it uses.
func TestTheProcessIsServed(t *testing.T) {
	families := scrape(t, newTelemetry(t, "v1.2.3"))
	info := families["target_info"].GetMetric()
	if len(info) != 1 || labels(info[0])["service_name"] != "fanfare" || labels(info[0])["service_version"] != "v1.2.3" {
		t.Errorf("target_info is %v", info)
	}
	for _, name := range []string{"go_goroutines", "go_memstats_heap_alloc_bytes"} {
		if families[name] == nil {
			t.Errorf("%s is not served", name)
		}
	}
}

// Two in one process, as in tests, do not know of each other.
func TestTwoOfThemAreApart(t *testing.T) {
	one, other := newTelemetry(t, "v1"), newTelemetry(t, "v2")
	counter, err := one.Meter().Int64Counter("fanfare.things")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 1)
	if scrape(t, one)["fanfare_things_total"] == nil {
		t.Error("the first does not serve its counter")
	}
	if scrape(t, other)["fanfare_things_total"] != nil {
		t.Error("the second serves the first's counter")
	}
}

// A scraper that asks for OpenMetrics gets it.
func TestOpenMetrics(t *testing.T) {
	server := httptest.NewServer(newTelemetry(t, "v1").Handler())
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType := response.Header.Get("Content-Type"); !strings.HasPrefix(contentType, "application/openmetrics-text") || !strings.HasSuffix(string(body), "# EOF\n") {
		t.Errorf("content type %q, %d bytes", contentType, len(body))
	}
}

// Once it is shut down, measuring does nothing, and shutting down again says so.
func TestShutdown(t *testing.T) {
	measured := newTelemetry(t, "v1")
	counter, err := measured.Meter().Int64Counter("fanfare.things")
	if err != nil {
		t.Fatal(err)
	}
	if err := measured.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("shutting down: %v", err)
	}
	counter.Add(t.Context(), 1)
	if scrape(t, measured)["fanfare_things_total"] != nil {
		t.Error("it measures after it was shut down")
	}
	if err := measured.Shutdown(t.Context()); err == nil {
		t.Error("shutting down again is no error")
	}
}
