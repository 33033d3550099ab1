package notify

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// shownAlerts is how many alerts of one notification are shown one by one.
const shownAlerts = 10

// subject names what an alert is about.
func subject(a *fanfarev1.Alert) string {
	if a.GetSubscription() != "" {
		return a.GetSubscription()
	}
	return a.GetObject()
}

// endpoint names the endpoint of an alert by scheme, host and port, to those who
// need not be allowed to read subscriptions: the rest of its URL may be a secret,
// as that of a chat's incoming webhook is. Empty: it has none.
func endpoint(a *fanfarev1.Alert) string {
	parsed, err := url.Parse(a.GetUrl())
	if err != nil || parsed.Host == "" {
		return ""
	}
	return parsed.Scheme + "://" + parsed.Host
}

// lastFailure says what the last attempt that failed came to; empty if none
// did.
func lastFailure(a *fanfarev1.Alert) string {
	var parts []string
	if code := a.GetLastStatusCode(); code != 0 {
		parts = append(parts, fmt.Sprintf("HTTP %d", code))
	}
	for _, part := range []string{a.GetLastErrorClass(), a.GetLastError()} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ", ")
}

// Log is a Listener that writes a line of the log for each alert.
type Log struct{ Logger *slog.Logger }

// Tell implements Listener.
func (l Log) Tell(_ string, what alert.Notification) {
	for _, a := range what.Alerts[:min(len(what.Alerts), shownAlerts)] {
		l.say(a, what.Repeated)
	}
	if more := len(what.Alerts) - shownAlerts; more > 0 {
		l.Logger.Warn("more alerts", "group", what.Group, "count", more)
	}
}

func (l Log) say(a *fanfarev1.Alert, repeated bool) {
	level := slog.LevelWarn
	switch {
	case a.GetState() == fanfarev1.Alert_RESOLVED:
		level = slog.LevelInfo
	case a.GetSeverity() == alert.Critical:
		level = slog.LevelError
	case a.GetSeverity() == alert.Info:
		level = slog.LevelInfo
	}
	attributes := []slog.Attr{
		slog.String("alert", a.GetName()), slog.String("state", strings.ToLower(a.GetState().String())), slog.String("kind", a.GetKind()), slog.String("severity", a.GetSeverity()),
		slog.String("about", subject(a)), slog.String("summary", a.GetSummary()),
	}
	if repeated {
		attributes = append(attributes, slog.Bool("again", true))
	}
	for _, field := range [][2]string{
		{"url", endpoint(a)}, {"event", a.GetEvent()}, {"trace_id", a.GetTraceId()}, {"last_failure", lastFailure(a)}, {"link", a.GetLink()},
	} {
		if field[1] != "" {
			attributes = append(attributes, slog.String(field[0], field[1]))
		}
	}
	l.Logger.LogAttrs(context.Background(), level, "alert", attributes...)
}

// Remind implements Listener.
func (Log) Remind(string, []*fanfarev1.Alert) {}

// Forget implements Listener.
func (Log) Forget(string) {}

// Run implements Listener.
func (Log) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
