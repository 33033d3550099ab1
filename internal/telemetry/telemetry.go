package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// scope is the name of the instrumentation, as OpenTelemetry wants it.
const scope = "github.com/fanfare-dev/fanfare"

// ShutdownTimeout bounds how long the end of a process waits until what was
// observed last is sent.
const ShutdownTimeout = 3 * time.Second

// Config says who is observed.
type Config struct {
	Service string // "": fanfare
	Version string
	// Instance tells this process from others of its cluster; "": nothing does.
	Instance string
	// Log is where the process logs, besides what is sent; nil: nowhere.
	Log slog.Handler
}

// Telemetry is what a process is observed by.
type Telemetry struct {
	registry *prometheus.Registry
	meters   *sdkmetric.MeterProvider
	tracers  *sdktrace.TracerProvider // nil: nothing is traced
	logs     *sdklog.LoggerProvider   // nil: no logs are sent
	logger   *slog.Logger
	own      *slog.Logger // of trouble with telemetry itself: it is not sent
}

// New sets up what the environment asks for. An error names the variable that
// is wrong.
func New(ctx context.Context, config Config) (*Telemetry, error) {
	about, err := describe(ctx, config)
	if err != nil {
		return nil, err
	}
	t := &Telemetry{registry: prometheus.NewRegistry()}
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := t.measure(ctx, about); err != nil {
		return nil, err
	}
	lost, err := newLoss(t.Meter())
	if err != nil {
		return nil, err
	}
	if err := t.trace(ctx, about, lost); err != nil {
		return nil, err
	}
	if err := t.sendLogs(ctx, about, lost); err != nil {
		return nil, err
	}
	t.makeLoggers(config.Log)
	return t, nil
}

// describe says who is observed. What the environment says is more particular,
// and wins.
func describe(ctx context.Context, config Config) (*resource.Resource, error) {
	known := []attribute.KeyValue{semconv.ServiceName(cmp.Or(config.Service, "fanfare")), semconv.ServiceVersion(config.Version)}
	if config.Instance != "" {
		known = append(known, semconv.ServiceInstanceID(config.Instance))
	}
	about, err := resource.New(ctx, resource.WithAttributes(known...), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("reading OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return about, nil
}

func (t *Telemetry) measure(ctx context.Context, about *resource.Resource) error {
	scraped, err := otelprometheus.New(otelprometheus.WithRegisterer(t.registry))
	if err != nil {
		return fmt.Errorf("exporting metrics to Prometheus: %w", err)
	}
	options := []sdkmetric.Option{sdkmetric.WithReader(scraped), sdkmetric.WithResource(about)}
	if isSent(metrics) {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return fmt.Errorf("sending metrics, as OTEL_METRICS_EXPORTER and OTEL_EXPORTER_OTLP_* say: %w", err)
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	t.meters = sdkmetric.NewMeterProvider(options...)
	return nil
}

func (t *Telemetry) trace(ctx context.Context, about *resource.Resource, lost *loss) error {
	if !isSent(traces) {
		return nil
	}
	chosen, err := chooseSampler()
	if err != nil {
		return err
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return fmt.Errorf("sending traces, as OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_* say: %w", err)
	}
	room, err := newRoom("OTEL_BSP_MAX_QUEUE_SIZE", lost.of(traces))
	if err != nil {
		return err
	}
	t.tracers = sdktrace.NewTracerProvider(
		sdktrace.WithResource(about),
		sdktrace.WithSampler(sampler{chosen}),
		sdktrace.WithSpanProcessor(boundedSpans{
			sdktrace.NewBatchSpanProcessor(countedSpans{exporter, room}, sdktrace.WithMaxQueueSize(room.size)), room,
		}),
	)
	return nil
}

func (t *Telemetry) sendLogs(ctx context.Context, about *resource.Resource, lost *loss) error {
	if !isSent(logs) {
		return nil
	}
	exporter, err := autoexport.NewLogExporter(ctx)
	if err != nil {
		return fmt.Errorf("sending logs, as OTEL_LOGS_EXPORTER and OTEL_EXPORTER_OTLP_* say: %w", err)
	}
	room, err := newRoom("OTEL_BLRP_MAX_QUEUE_SIZE", lost.of(logs))
	if err != nil {
		return err
	}
	t.logs = sdklog.NewLoggerProvider(
		sdklog.WithResource(about),
		sdklog.WithProcessor(boundedLogs{
			sdklog.NewBatchProcessor(countedLogs{exporter, room}, sdklog.WithMaxQueueSize(room.size)), room,
		}),
	)
	return nil
}

// Handler serves the metrics in Prometheus's formats, with exemplars to who asks
// for OpenMetrics.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// MeterProvider is where instruments come from.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.meters }

// Meter is where Fanfare's own instruments come from.
func (t *Telemetry) Meter() metric.Meter { return t.meters.Meter(scope) }

// Traces reports whether traces are sent.
func (t *Telemetry) Traces() bool { return t.tracers != nil }

// TracerProvider is where tracers come from; without traces it does nothing.
func (t *Telemetry) TracerProvider() trace.TracerProvider {
	if t.tracers == nil {
		return noop.NewTracerProvider()
	}
	return t.tracers
}

// Tracer is where Fanfare's own spans come from; nil without traces.
func (t *Telemetry) Tracer() trace.Tracer {
	if t.tracers == nil {
		return nil
	}
	return t.tracers.Tracer(scope)
}

// Propagator passes traces on from process to process; without traces it does
// nothing.
func (t *Telemetry) Propagator() propagation.TextMapPropagator {
	if t.tracers == nil {
		return propagation.NewCompositeTextMapPropagator()
	}
	return recordedOnly{}
}

// recordedOnly passes on what is recorded. What is not goes on as it came, since
// who forwards calls passes metadata on: a producer that is not traced is not
// given a trace that nobody records.
type recordedOnly struct{ propagation.TraceContext }

func (p recordedOnly) Inject(ctx context.Context, carrier propagation.TextMapCarrier) {
	if trace.SpanContextFromContext(ctx).IsSampled() {
		p.TraceContext.Inject(ctx, carrier)
	}
}

// Logger is the process's log: to Config.Log and, if asked for, to where logs
// are sent.
func (t *Telemetry) Logger() *slog.Logger { return t.logger }

// HandleErrors has OpenTelemetry itself report its trouble to the process's log.
// It concerns everything in the process that uses OpenTelemetry.
func (t *Telemetry) HandleErrors() {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		t.own.Warn("telemetry is not sent; all else goes on", "error", err)
	}))
}

// Shutdown sends what there is still to send, as long as ShutdownTimeout and ctx
// allow, and ends the observing.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ShutdownTimeout)
	defer cancel()
	var ending sync.WaitGroup
	var errs [3]error
	ending.Go(func() { errs[0] = wrap("ending metrics", t.meters.Shutdown(ctx)) })
	if t.tracers != nil {
		ending.Go(func() { errs[1] = wrap("ending traces", t.tracers.Shutdown(ctx)) })
	}
	if t.logs != nil {
		ending.Go(func() { errs[2] = wrap("ending logs", t.logs.Shutdown(ctx)) })
	}
	ending.Wait()
	return errors.Join(errs[:]...)
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
