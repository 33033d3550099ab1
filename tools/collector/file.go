package main

import (
	"context"
	"os"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// fileConfig is the config of the exporter `file`.
type fileConfig struct {
	Path string `mapstructure:"path"`
}

// newFileFactory makes the exporter `file`: it appends what it gets to a file, as
// OTLP in JSON, one request a line. (The one of the Collector's contributions
// does that too, and much that is not needed here.)
func newFileFactory() exporter.Factory {
	return exporter.NewFactory(component.MustNewType("file"), func() component.Config { return new(fileConfig) },
		exporter.WithTraces(func(_ context.Context, _ exporter.Settings, config component.Config) (exporter.Traces, error) {
			return newFile(config)
		}, component.StabilityLevelDevelopment),
		exporter.WithMetrics(func(_ context.Context, _ exporter.Settings, config component.Config) (exporter.Metrics, error) {
			return newFile(config)
		}, component.StabilityLevelDevelopment),
		exporter.WithLogs(func(_ context.Context, _ exporter.Settings, config component.Config) (exporter.Logs, error) {
			return newFile(config)
		}, component.StabilityLevelDevelopment),
	)
}

// file is one such exporter.
type file struct {
	mu  sync.Mutex
	out *os.File // guarded by mu
}

func newFile(config component.Config) (*file, error) {
	out, err := os.OpenFile(config.(*fileConfig).Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &file{out: out}, nil
}

func (f *file) Start(context.Context, component.Host) error { return nil }
func (f *file) Shutdown(context.Context) error              { return f.out.Close() }
func (f *file) Capabilities() consumer.Capabilities         { return consumer.Capabilities{} }

func (f *file) ConsumeTraces(_ context.Context, traces ptrace.Traces) error {
	return f.append(new(ptrace.JSONMarshaler).MarshalTraces(traces))
}

func (f *file) ConsumeMetrics(_ context.Context, metrics pmetric.Metrics) error {
	return f.append(new(pmetric.JSONMarshaler).MarshalMetrics(metrics))
}

func (f *file) ConsumeLogs(_ context.Context, logs plog.Logs) error {
	return f.append(new(plog.JSONMarshaler).MarshalLogs(logs))
}

func (f *file) append(line []byte, err error) error {
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err = f.out.Write(append(line, '\n'))
	return err
}
