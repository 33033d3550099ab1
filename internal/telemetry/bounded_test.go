package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// backEnd is where spans and logs are sent in tests.
type backEnd struct {
	hang bool
	fail error
	got  int
}

func (b *backEnd) take(ctx context.Context, n int) error {
	if b.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	b.got += n
	return b.fail
}

func (b *backEnd) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	return b.take(ctx, len(spans))
}

func (b *backEnd) Export(ctx context.Context, records []sdklog.Record) error {
	return b.take(ctx, len(records))
}
func (b *backEnd) Shutdown(context.Context) error   { return nil }
func (b *backEnd) ForceFlush(context.Context) error { return nil }

// observatory is telemetry that sends to a back end.
type observatory struct {
	*testing.T
	reader  *sdkmetric.ManualReader
	room    *room
	tracers *sdktrace.TracerProvider
	logs    *sdklog.LoggerProvider
}

func newObservatory(t *testing.T, to *backEnd) *observatory {
	t.Helper()
	o := &observatory{T: t, reader: sdkmetric.NewManualReader()}
	lost, err := newLoss(sdkmetric.NewMeterProvider(sdkmetric.WithReader(o.reader)).Meter(scope))
	if err != nil {
		t.Fatal(err)
	}
	if o.room, err = newRoom("OTEL_BSP_MAX_QUEUE_SIZE", lost.of(traces)); err != nil {
		t.Fatal(err)
	}
	o.tracers = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(boundedSpans{
		sdktrace.NewBatchSpanProcessor(countedSpans{to, o.room}, sdktrace.WithMaxQueueSize(o.room.size)), o.room,
	}))
	logRoom, err := newRoom("OTEL_BLRP_MAX_QUEUE_SIZE", lost.of(logs))
	if err != nil {
		t.Fatal(err)
	}
	o.logs = sdklog.NewLoggerProvider(sdklog.WithProcessor(boundedLogs{
		sdklog.NewBatchProcessor(countedLogs{to, logRoom}, sdklog.WithMaxQueueSize(logRoom.size)), logRoom,
	}))
	return o
}

func (o *observatory) spans(n int) {
	tracer := o.tracers.Tracer(scope)
	for range n {
		_, span := tracer.Start(o.Context(), "s")
		span.End()
	}
}

// lost returns what was lost of a signal, by why.
func (o *observatory) lost(signal string) map[string]int64 {
	o.Helper()
	var data metricdata.ResourceMetrics
	if err := o.reader.Collect(o.Context(), &data); err != nil {
		o.Fatal(err)
	}
	lost := make(map[string]int64)
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, _ := m.Data.(metricdata.Sum[int64])
			for _, point := range sum.DataPoints {
				if of, _ := point.Attributes.Value("fanfare.telemetry.signal"); of.AsString() == signal {
					why, _ := point.Attributes.Value("error.type")
					lost[why.AsString()] += point.Value
				}
			}
		}
	}
	return lost
}

// A back end that hangs costs what its queue holds: nobody waits, what comes
// beyond is lost and counted, and so is the end bounded.
func TestHangingBackEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newObservatory(t, &backEnd{hang: true})
		begin := time.Now()
		o.spans(3 * DefaultQueue)
		logger := otelslog.NewLogger(scope, otelslog.WithLoggerProvider(o.logs))
		for range 2 * DefaultQueue {
			logger.Info("m")
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("who is observed waited for %v", waited)
		}
		if got := o.lost("traces"); got["queue_full"] != 2*DefaultQueue {
			t.Errorf("lost of spans: %v", got)
		}
		if got := o.lost("logs"); got["queue_full"] != DefaultQueue {
			t.Errorf("lost of logs: %v", got)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), ShutdownTimeout)
		defer cancel()
		begin = time.Now()
		var tracesErr, logsErr error
		var ending sync.WaitGroup
		ending.Go(func() { tracesErr = o.tracers.Shutdown(ctx) })
		ending.Go(func() { logsErr = o.logs.Shutdown(ctx) })
		ending.Wait()
		if !errors.Is(tracesErr, context.DeadlineExceeded) || !errors.Is(logsErr, context.DeadlineExceeded) {
			t.Errorf("ending: %v, %v", tracesErr, logsErr)
		}
		if took := time.Since(begin); took > ShutdownTimeout {
			t.Errorf("the end took %v", took)
		}
		<-time.After(10 * time.Minute) // what the SDK has begun ends by its own limits
	})
}

// What a back end refuses is lost and counted, and makes room.
func TestFailingBackEnd(t *testing.T) {
	to := &backEnd{fail: errors.New("no")}
	o := newObservatory(t, to)
	o.spans(100)
	_ = o.tracers.ForceFlush(t.Context()) // it fails, as it should
	if got := o.lost("traces"); got["not_sent"] != 100 || got["queue_full"] != 0 || o.room.used.Load() != 0 {
		t.Errorf("lost %v, %d in the queue", got, o.room.used.Load())
	}
	to.fail = nil
	o.spans(DefaultQueue)
	if err := o.tracers.Shutdown(context.WithoutCancel(t.Context())); err != nil || to.got != 100+DefaultQueue {
		t.Errorf("%v; %d were sent", err, to.got)
	}
}

// The whole of it, against a socket on which nobody answers.
func TestNobodyAnswers(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			setAll(t, map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + listener.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
			})
			observed, err := New(t.Context(), Config{Version: "v1", Instance: "i"})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 * DefaultQueue {
				_, span := observed.Tracer().Start(t.Context(), "s")
				span.End()
			}
			observed.Logger().Log(t.Context(), slog.LevelInfo, "m")
			if err := observed.Shutdown(context.WithoutCancel(t.Context())); err == nil {
				t.Error("that nothing was sent is no error")
			}
		})
	}
}
