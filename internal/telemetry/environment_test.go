package telemetry

import (
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// setAll sets variables for the time of a test.
func setAll(t *testing.T, variables map[string]string) {
	t.Helper()
	for name, value := range variables {
		t.Setenv(name, value)
	}
}

func TestIsSent(t *testing.T) {
	const endpoint = "http://127.0.0.1:4318"
	for name, test := range map[string]struct {
		set                   map[string]string
		traces, metrics, logs bool
	}{
		"nothing said":          {},
		"an endpoint":           {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, true, true, true},
		"one signal's endpoint": {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}, true, false, false},
		"one signal's exporter": {map[string]string{"OTEL_LOGS_EXPORTER": "console"}, false, false, true},
		"all but one": {map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "prometheus",
		}, true, false, false},
		"disabled": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SDK_DISABLED": "True"}, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			setAll(t, test.set)
			if isSent(traces) != test.traces || isSent(metrics) != test.metrics || isSent(logs) != test.logs {
				t.Errorf("traces %v, metrics %v, logs %v", isSent(traces), isSent(metrics), isSent(logs))
			}
		})
	}
}

func TestChooseSampler(t *testing.T) {
	for _, test := range []struct{ name, argument, want, err string }{
		{"", "", "ParentBased{root:AlwaysOnSampler", ""},
		{"always_on", "", "AlwaysOnSampler", ""},
		{"always_off", "", "AlwaysOffSampler", ""},
		{"traceidratio", "0.25", "TraceIDRatioBased{0.25}", ""},
		{"parentbased_always_on", "", "ParentBased{root:AlwaysOnSampler", ""},
		{"parentbased_always_off", "", "ParentBased{root:AlwaysOffSampler", ""},
		{"parentbased_traceidratio", "0.01", "ParentBased{root:TraceIDRatioBased{0.01}", ""},
		{"parentbased_", "", "", "OTEL_TRACES_SAMPLER"},
		{"jaeger_remote", "", "", "OTEL_TRACES_SAMPLER"},
		{"traceidratio", "1.5", "", "OTEL_TRACES_SAMPLER_ARG"},
		{"traceidratio", "NaN", "", "OTEL_TRACES_SAMPLER_ARG"},
		{"parentbased_traceidratio", "most", "", "OTEL_TRACES_SAMPLER_ARG"},
	} {
		setAll(t, map[string]string{"OTEL_TRACES_SAMPLER": test.name, "OTEL_TRACES_SAMPLER_ARG": test.argument})
		chosen, err := chooseSampler()
		switch {
		case test.err != "":
			if err == nil || !strings.Contains(err.Error(), test.err+" is") {
				t.Errorf("%q, %q: the error is %v", test.name, test.argument, err)
			}
		case err != nil:
			t.Errorf("%q, %q: %v", test.name, test.argument, err)
		case !strings.HasPrefix(chosen.Description(), test.want):
			t.Errorf("%q, %q: %s", test.name, test.argument, chosen.Description())
		}
	}
}

// A span that begins a trace of its own because of one long ago is recorded if
// that was, whatever part of new traces is; the streams of workers never are.
func TestSamplerOfLinks(t *testing.T) {
	span := func(flags trace.TraceFlags) trace.SpanContext {
		return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: flags, Remote: true})
	}
	recorded, not := trace.Link{SpanContext: span(trace.FlagsSampled)}, trace.Link{SpanContext: span(0)}
	never, always := sdktrace.ParentBased(sdktrace.NeverSample()), sdktrace.ParentBased(sdktrace.AlwaysSample())
	for name, test := range map[string]struct {
		sampler sdktrace.Sampler
		span    string
		parent  trace.SpanContext
		links   []trace.Link
		want    bool
	}{
		"a root":                          {always, "s", trace.SpanContext{}, nil, true},
		"a root that is not":              {never, "s", trace.SpanContext{}, nil, false},
		"linked to a recorded one":        {never, "s", trace.SpanContext{}, []trace.Link{not, recorded}, true},
		"linked to others":                {always, "s", trace.SpanContext{}, []trace.Link{not}, false},
		"with a parent, the link is none": {never, "s", span(0), []trace.Link{recorded}, false},
		"never at all":                    {sdktrace.NeverSample(), "s", trace.SpanContext{}, []trace.Link{recorded}, false},
		"a stream of a worker":            {always, "fanfare.link.v1.LinkService/Attach", trace.SpanContext{}, nil, false},
	} {
		parent := trace.ContextWithSpanContext(t.Context(), test.parent)
		got := sampler{test.sampler}.ShouldSample(sdktrace.SamplingParameters{ParentContext: parent, Name: test.span, Links: test.links})
		if (got.Decision == sdktrace.RecordAndSample) != test.want {
			t.Errorf("%s: %v", name, got.Decision)
		}
	}
}
