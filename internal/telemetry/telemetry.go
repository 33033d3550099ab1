// Package telemetry sets up OpenTelemetry for a process.
package telemetry

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
)

// scope is the name of the instrumentation, as OpenTelemetry wants it.
const scope = "github.com/fanfare-dev/fanfare"

// Telemetry is what a process measures itself with.
type Telemetry struct {
	registry *prometheus.Registry
	provider *sdkmetric.MeterProvider
}

// New sets up the metrics of one process, kept for whoever scrapes Handler.
func New(version string) (*Telemetry, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry))
	if err != nil {
		return nil, fmt.Errorf("exporting metrics to Prometheus: %w", err)
	}
	provider := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(exporter),
		sdkmetric.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "fanfare"),
			attribute.String("service.version", version),
		)),
	)
	return &Telemetry{registry, provider}, nil
}

// Handler serves the metrics in Prometheus's formats.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// MeterProvider is where instruments come from.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.provider }

// Meter is where Fanfare's own instruments come from.
func (t *Telemetry) Meter() metric.Meter { return t.provider.Meter(scope) }

// Shutdown ends the measuring.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("ending metrics: %w", err)
	}
	return nil
}
