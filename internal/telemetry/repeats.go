package telemetry

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Limits of what is logged again and again. Of records with one level and
// message from one part of the process, such as a partition, RepeatsShown are
// logged in a RepeatInterval, and the rest only counted.
const (
	RepeatsShown   = 20
	RepeatInterval = 10 * time.Second
	// MaxRepeats is how many different ones are counted at a time; what is new
	// beyond that is logged without a limit.
	MaxRepeats = 1024
)

// repeats is a handler that passes on so many of what repeats itself, and then
// says how many it did not.
type repeats struct {
	next    slog.Handler
	enabled func(context.Context, slog.Level) bool
	part    string // the attributes of the logger
	counts  *counts
}

// limitRepeats returns a handler before next, for the levels that are enabled.
func limitRepeats(next slog.Handler, enabled func(context.Context, slog.Level) bool) slog.Handler {
	return &repeats{next: next, enabled: enabled, counts: &counts{seen: make(map[repeatKey]*repeat)}}
}

// Enabled implements slog.Handler.
func (h *repeats) Enabled(ctx context.Context, level slog.Level) bool { return h.enabled(ctx, level) }

// Handle implements slog.Handler.
func (h *repeats) Handle(ctx context.Context, record slog.Record) error {
	if record.Time.IsZero() {
		record.Time = time.Now()
	}
	key := repeatKey{record.Level, record.Message, h.part}
	shown, suppressed, over := h.counts.admit(key, h.next, record.Time)
	for _, r := range over {
		_ = r.report(ctx, record.Time) // of what failed before: nobody else can be told
	}
	if !shown {
		return nil
	}
	if suppressed > 0 {
		record = record.Clone()
		record.AddAttrs(slog.Int("suppressed", suppressed))
	}
	return h.next.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (h *repeats) WithAttrs(attrs []slog.Attr) slog.Handler {
	var part strings.Builder
	part.WriteString(h.part)
	for _, attr := range attrs {
		part.WriteString(" " + attr.String())
	}
	return &repeats{h.next.WithAttrs(attrs), h.enabled, part.String(), h.counts}
}

// WithGroup implements slog.Handler.
func (h *repeats) WithGroup(name string) slog.Handler {
	return &repeats{h.next.WithGroup(name), h.enabled, h.part + " " + name + ":", h.counts}
}

// repeatKey is what is the same in repeats.
type repeatKey struct {
	level   slog.Level
	message string
	part    string
}

// repeat counts one of them, in an interval that begins with its first.
type repeat struct {
	repeatKey
	to         slog.Handler
	begin      time.Time
	shown      int
	suppressed int
}

// report logs how many were not.
func (r *repeat) report(ctx context.Context, at time.Time) error {
	record := slog.NewRecord(at, r.level, "more of the same was not logged", 0)
	record.AddAttrs(slog.String("message", r.message), slog.Int("suppressed", r.suppressed))
	return r.to.Handle(ctx, record)
}

// counts counts all repeats of a process.
type counts struct {
	mu    sync.Mutex
	seen  map[repeatKey]*repeat // guarded by mu; at most MaxRepeats
	swept time.Time             // guarded by mu
}

// admit counts a record, and reports whether it is to be logged, how many like it
// were not since the last that was, and which others have ended with some that
// were not.
func (c *counts) admit(key repeatKey, to slog.Handler, now time.Time) (shown bool, suppressed int, over []*repeat) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.seen[key]
	if r != nil && now.Sub(r.begin) >= RepeatInterval {
		suppressed = r.suppressed
		*r = repeat{repeatKey: key, to: to, begin: now}
	}
	if now.Sub(c.swept) >= RepeatInterval {
		over = c.sweep(now)
	}
	if r == nil {
		if len(c.seen) >= MaxRepeats {
			return true, 0, over
		}
		r = &repeat{repeatKey: key, to: to, begin: now}
		c.seen[key] = r
	}
	if r.shown == RepeatsShown {
		r.suppressed++
		return false, 0, over
	}
	r.shown++
	return true, suppressed, over
}

// sweep forgets those whose interval is over, and returns what was not logged of
// them. Called with mu held.
func (c *counts) sweep(now time.Time) (over []*repeat) {
	c.swept = now
	for key, r := range c.seen {
		if now.Sub(r.begin) < RepeatInterval {
			continue
		}
		delete(c.seen, key)
		if r.suppressed > 0 {
			over = append(over, r)
		}
	}
	return over
}
