package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// page keeps what is logged, without times.
type page struct{ strings.Builder }

func (p *page) handler() slog.Handler {
	return slog.NewTextHandler(p, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
}

// sayer logs at times of its own.
type sayer struct {
	*testing.T
	now time.Time
}

func (s *sayer) say(to slog.Handler, level slog.Level, message string, times int) {
	s.Helper()
	for range times {
		if err := to.Handle(s.Context(), slog.NewRecord(s.now, level, message, 0)); err != nil {
			s.Fatal(err)
		}
	}
}

func TestRepeatsAreCounted(t *testing.T) {
	written := new(page)
	all := limitRepeats(written.handler(), func(context.Context, slog.Level) bool { return true })
	s := &sayer{t, time.Unix(1000, 0)}
	one, other := all.WithAttrs([]slog.Attr{slog.Int("partition", 1)}), all.WithAttrs([]slog.Attr{slog.Int("partition", 2)})
	s.say(one, slog.LevelWarn, "broken", RepeatsShown+5)
	s.say(one, slog.LevelError, "broken", 1)  // another level,
	s.say(other, slog.LevelWarn, "broken", 1) // another part,
	s.say(one, slog.LevelWarn, "mended", 1)   // another message
	shown := strings.Repeat("level=WARN msg=broken partition=1\n", RepeatsShown) +
		"level=ERROR msg=broken partition=1\nlevel=WARN msg=broken partition=2\nlevel=WARN msg=mended partition=1\n"
	if got := written.String(); got != shown {
		t.Fatalf("logged\n%s", got)
	}
	written.Reset()

	s.now = s.now.Add(RepeatInterval)
	s.say(one, slog.LevelWarn, "broken", 2) // says what was not logged, once
	if got, want := written.String(), "level=WARN msg=broken partition=1 suppressed=5\nlevel=WARN msg=broken partition=1\n"; got != want {
		t.Errorf("logged\n%swant\n%s", got, want)
	}
}

// What does not come again is reported all the same, when anything is logged.
func TestTheLastOfRepeatsIsReported(t *testing.T) {
	written := new(page)
	all := limitRepeats(written.handler(), func(context.Context, slog.Level) bool { return true })
	s := &sayer{t, time.Unix(1000, 0)}
	s.say(all.WithAttrs([]slog.Attr{slog.Int("partition", 1)}), slog.LevelWarn, "broken", RepeatsShown+3)
	written.Reset()
	s.now = s.now.Add(2 * RepeatInterval)
	s.say(all, slog.LevelInfo, "all is well", 2)
	want := "level=WARN msg=\"more of the same was not logged\" partition=1 message=broken suppressed=3\n" +
		"level=INFO msg=\"all is well\"\nlevel=INFO msg=\"all is well\"\n"
	if got := written.String(); got != want {
		t.Errorf("logged\n%swant\n%s", got, want)
	}
}

// However many different things are logged, only so many are counted.
func TestRepeatsAreBounded(t *testing.T) {
	written := new(page)
	all, _ := limitRepeats(written.handler(), func(context.Context, slog.Level) bool { return true }).(*repeats)
	s := &sayer{t, time.Unix(1000, 0)}
	for i := range 2 * MaxRepeats {
		s.say(all, slog.LevelInfo, fmt.Sprint("message ", i), 1)
	}
	if n := len(all.counts.seen); n != MaxRepeats {
		t.Errorf("%d are counted", n)
	}
	if n := strings.Count(written.String(), "\n"); n != 2*MaxRepeats {
		t.Errorf("%d were logged", n)
	}
	s.now = s.now.Add(RepeatInterval)
	s.say(all, slog.LevelInfo, "later", 1)
	if n := len(all.counts.seen); n != 1 {
		t.Errorf("%d are counted later", n)
	}
}

func TestLevelsThatAreNotEnabled(t *testing.T) {
	written := new(page)
	to := written.handler() // info and above
	logger := slog.New(limitRepeats(to, to.Enabled))
	logger.Debug("nobody wants to know")
	if logger.Enabled(t.Context(), slog.LevelDebug) || written.String() != "" {
		t.Errorf("logged %q", written.String())
	}
}
