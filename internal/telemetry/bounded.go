package telemetry

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// DefaultQueue is how many spans, and how many logs, wait to be sent or are
// being sent, unless OTEL_BSP_MAX_QUEUE_SIZE and OTEL_BLRP_MAX_QUEUE_SIZE say
// otherwise. What comes beyond is lost.
const DefaultQueue = 2048

// loss counts what was observed and could not be sent.
type loss struct{ lost metric.Int64Counter }

func newLoss(meter metric.Meter) (*loss, error) {
	lost, err := meter.Int64Counter("fanfare.telemetry.lost",
		metric.WithDescription("Spans and log records that were not sent, by why."), metric.WithUnit("{item}"))
	if err != nil {
		return nil, fmt.Errorf("making an instrument: %w", err)
	}
	return &loss{lost}, nil
}

// of returns what counts the loss of one signal. full is for what found no room
// in a queue, failed for what the back end did not take.
func (l *loss) of(s signal) lossOf {
	because := func(why string) metric.AddOption {
		return metric.WithAttributeSet(attribute.NewSet(
			attribute.String("fanfare.telemetry.signal", strings.ToLower(string(s))), semconv.ErrorTypeKey.String(why),
		))
	}
	return lossOf{l.lost, because("queue_full"), because("not_sent")}
}

type lossOf struct {
	lost         metric.Int64Counter
	full, failed metric.AddOption
}

// room is the place for what waits to be sent or is being sent: the queue of an
// SDK's processor cannot be asked what it drops, so it is never let run full.
type room struct {
	size int
	used atomic.Int64
	loss lossOf
}

func newRoom(variable string, loss lossOf) (*room, error) {
	size, err := number(variable, DefaultQueue)
	if err != nil {
		return nil, err
	}
	return &room{size: size, loss: loss}, nil
}

// take reports whether there is room for one more, which leaves it by free.
func (r *room) take(ctx context.Context) bool {
	if r.used.Add(1) <= int64(r.size) {
		return true
	}
	r.used.Add(-1)
	r.loss.lost.Add(ctx, 1, r.loss.full)
	return false
}

// free takes note that so many have been sent, or given up.
func (r *room) free(ctx context.Context, n int, err error) {
	r.used.Add(-int64(n))
	if err != nil {
		r.loss.lost.Add(ctx, int64(n), r.loss.failed)
	}
}

// boundedSpans lets only so many spans into a processor as there is room for.
type boundedSpans struct {
	sdktrace.SpanProcessor
	room *room
}

func (b boundedSpans) OnEnd(span sdktrace.ReadOnlySpan) {
	if span.SpanContext().IsSampled() && b.room.take(context.Background()) {
		b.SpanProcessor.OnEnd(span)
	}
}

// countedSpans sends spans, and makes room.
type countedSpans struct {
	sdktrace.SpanExporter
	room *room
}

func (c countedSpans) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	c.room.free(context.WithoutCancel(ctx), len(spans), err)
	return err
}

// boundedLogs is boundedSpans for logs.
type boundedLogs struct {
	sdklog.Processor
	room *room
}

func (b boundedLogs) OnEmit(ctx context.Context, record *sdklog.Record) error {
	if !b.room.take(ctx) {
		return nil
	}
	return b.Processor.OnEmit(ctx, record)
}

// countedLogs is countedSpans for logs.
type countedLogs struct {
	sdklog.Exporter
	room *room
}

func (c countedLogs) Export(ctx context.Context, records []sdklog.Record) error {
	err := c.Exporter.Export(ctx, records)
	c.room.free(context.WithoutCancel(ctx), len(records), err)
	return err
}
