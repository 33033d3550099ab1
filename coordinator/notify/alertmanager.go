package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// remindInterval is how often Alertmanager is told what fires, and
	// remindTTL how long it takes that for true when nobody tells it any more: it
	// outlasts a change of leader.
	remindInterval = time.Minute
	remindTTL      = 5 * time.Minute
	// alertsPerPost is how many alerts one request has at most.
	alertsPerPost = 200
	// alertmanagerPath is what is added to the URL of one
	// (https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml).
	alertmanagerPath = "/api/v2/alerts"
)

// Alertmanager is a Listener that tells one Alertmanager what fires.
type Alertmanager struct {
	url    string
	client *http.Client
	logger *slog.Logger
	count  metric.Int64Counter
	wake   chan struct{} // capacity 1: there is news

	mu       sync.Mutex
	firing   map[string]map[string]*fanfarev1.Alert // guarded by mu; by source and name
	news     map[string]*fanfarev1.Alert            // guarded by mu; by name: not told yet
	reminded time.Time                              // owned by Run
}

// NewAlertmanager returns a listener that tells the Alertmanager at a URL,
// which may have a name and a password in it.
func NewAlertmanager(url string, client *http.Client, config Config) (*Alertmanager, error) {
	count, err := config.counter()
	if err != nil {
		return nil, err
	}
	return &Alertmanager{
		url: strings.TrimSuffix(url, "/") + alertmanagerPath, client: client, logger: config.Logger.With("sink", "alertmanager"),
		count: count, wake: make(chan struct{}, 1),
		firing: make(map[string]map[string]*fanfarev1.Alert), news: make(map[string]*fanfarev1.Alert),
	}, nil
}

// Tell implements Listener.
func (m *Alertmanager) Tell(source string, what alert.Notification) {
	m.learn(source, what.Alerts)
}

// Remind implements Listener.
func (m *Alertmanager) Remind(source string, firing []*fanfarev1.Alert) {
	m.learn(source, firing)
}

func (m *Alertmanager) learn(source string, alerts []*fanfarev1.Alert) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.firing[source] == nil {
		m.firing[source] = make(map[string]*fanfarev1.Alert)
	}
	for _, a := range alerts {
		m.news[a.GetName()] = a
		if a.GetState() == fanfarev1.Alert_FIRING {
			m.firing[source][a.GetName()] = a
		} else {
			delete(m.firing[source], a.GetName())
		}
	}
	if len(alerts) > 0 {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// Forget implements Listener. Who looks after the source now reminds
// Alertmanager of what still fires.
func (m *Alertmanager) Forget(source string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.firing, source)
}

// Run implements Listener.
func (m *Alertmanager) Run(ctx context.Context) error {
	timer := time.NewTimer(remindInterval)
	defer timer.Stop()
	wait := firstRetry
	for {
		select {
		case <-m.wake:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := m.tell(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			wait = firstRetry
			timer.Reset(remindInterval)
			continue
		}
		m.counted(ctx, "failed")
		if wait == firstRetry {
			m.logger.Warn("Alertmanager could not be told: it is tried again", "error", err)
		}
		timer.Reset(wait)
		wait = min(2*wait, longestRetry)
	}
}

// tell tells the news, and from time to time all that fires.
func (m *Alertmanager) tell(ctx context.Context) error {
	now := time.Now()
	all := now.Sub(m.reminded) >= remindInterval
	m.mu.Lock()
	told := maps.Clone(m.news)
	if all {
		for _, firing := range m.firing {
			for name, a := range firing {
				if told[name] == nil {
					told[name] = a
				}
			}
		}
	}
	m.mu.Unlock()
	for names := range slices.Chunk(slices.Sorted(maps.Keys(told)), alertsPerPost) {
		if err := m.post(ctx, now, names, told); err != nil {
			return err
		}
		m.counted(ctx, "sent")
		m.forgetNews(names, told)
	}
	if all {
		m.reminded = now
	}
	return nil
}

// post tells some alerts. What Alertmanager will never take is given up.
func (m *Alertmanager) post(ctx context.Context, now time.Time, names []string, told map[string]*fanfarev1.Alert) error {
	posted := make([]postableAlert, len(names))
	for i, name := range names {
		posted[i] = postable(told[name], now)
	}
	body, err := json.Marshal(posted)
	if err != nil {
		return fmt.Errorf("encoding alerts: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, SendTimeout)
	defer cancel()
	err = post(ctx, m.client, m.url, body)
	if isPermanent(err) {
		m.counted(ctx, "dropped")
		m.logger.Error("Alertmanager refuses alerts", "alerts", len(names), "error", err)
		return nil
	}
	return err
}

// forgetNews takes what was told off the news, unless there is newer.
func (m *Alertmanager) forgetNews(names []string, told map[string]*fanfarev1.Alert) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		if m.news[name] == told[name] {
			delete(m.news, name)
		}
	}
}

func (m *Alertmanager) counted(ctx context.Context, result string) {
	m.count.Add(ctx, 1, metric.WithAttributes(
		attribute.String("fanfare.alert.sink", "alertmanager"), attribute.String("fanfare.alert.result", result)))
}

// postableAlert is an alert as Alertmanager's API takes it: postableAlert there.
type postableAlert struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

// postable makes of an alert what Alertmanager takes. The labels are the same
// each time, since they are what it knows the alert by.
func postable(a *fanfarev1.Alert, now time.Time) postableAlert {
	tenant, _, _ := strings.Cut(strings.TrimPrefix(a.GetName(), "tenants/"), "/")
	p := postableAlert{
		Labels: filled(map[string]string{
			"alertname": "Fanfare" + camel(a.GetKind()), "severity": a.GetSeverity(), "tenant": tenant,
			"subscription": a.GetSubscription(), "object": a.GetObject(),
		}),
		Annotations: filled(map[string]string{
			"summary": a.GetSummary(), "description": alert.Kind(a.GetKind()).Description(), "alert": a.GetName(), "url": endpoint(a),
			"event": a.GetEvent(), "trace_id": a.GetTraceId(), "last_failure": lastFailure(a),
		}),
		StartsAt: a.GetStartTime().AsTime(), EndsAt: now.Add(remindTTL), GeneratorURL: a.GetLink(),
	}
	if a.GetState() == fanfarev1.Alert_RESOLVED {
		p.EndsAt = a.GetEndTime().AsTime()
	}
	return p
}

// filled leaves out what is empty: to Alertmanager it is the same.
func filled(texts map[string]string) map[string]string {
	maps.DeleteFunc(texts, func(_, text string) bool { return text == "" })
	return texts
}

// camel makes EndpointFailing of endpoint_failing.
func camel(kind string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(kind, "_") {
		b.WriteString(strings.ToUpper(word[:min(1, len(word))]) + word[min(1, len(word)):])
	}
	return b.String()
}
