package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// later are metrics that a process does not show at first, with what
// docs/observability.md calls them: what must not happen is counted when it
// does, and a snapshot is made after a minute.
var later = map[string]string{
	"fanfare_telemetry_lost_total":             "fanfare.telemetry.lost",
	"fanfare_snapshot_duration_seconds_bucket": "fanfare.snapshot.duration",
}

// Every metric that the rules and dashboards name is one that a process shows.
func TestShippedMetricsExist(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	named := shippedMetrics(t)
	if len(named) < 30 {
		t.Fatalf("the rules and dashboards name %d metrics: %q", len(named), named)
	}
	r := newReceiver(t, func(w http.ResponseWriter, request *http.Request) {
		if request.URL.Path == "/dead" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	d := startDev(t, t.TempDir())
	d.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/well", EventTypes: []string{"a"}})
	d.subscribe(t, &fanfarev1.Subscription{
		Url: r.url + "/dead", EventTypes: []string{"a"}, RetrySchedule: []*durationpb.Duration{durationpb.New(0)},
	})
	d.publish(t, "a", "one", "two") // the second of them dies, and an alert says so
	if _, err := d.events().Publish(t.Context(), &fanfarev1.PublishRequest{Parent: "tenants/default"}); err == nil {
		t.Error("a request without events was taken")
	}
	missing := named
	shown := regexp.MustCompile(`(?m)^([a-z_]+)(\{| )`)
	deadline := time.Now().Add(patience)
	for len(missing) > 0 && time.Now().Before(deadline) {
		_, text := d.call(t, http.MethodGet, "/metrics", nil, "")
		there := make(map[string]bool)
		for _, match := range shown.FindAllStringSubmatch(text, -1) {
			there[match[1]] = true
		}
		missing = slices.DeleteFunc(slices.Clone(named), func(name string) bool { return there[name] || later[name] != "" })
		<-time.After(10 * look)
	}
	if len(missing) > 0 {
		t.Errorf("no process shows %q", missing)
	}
	described, err := os.ReadFile(filepath.Join("..", "..", "docs", "observability.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range later {
		if !strings.Contains(string(described), "`"+name+"`") {
			t.Errorf("%s is not in docs/observability.md", name)
		}
	}
}

// shippedMetrics returns the metrics that the rules and dashboards name.
func shippedMetrics(t *testing.T) []string {
	t.Helper()
	var expressions []string
	var rules struct {
		Groups []struct {
			Rules []struct{ Expr string }
		}
	}
	folder := filepath.Join(deployDir, "observability")
	text, err := os.ReadFile(filepath.Join(folder, "prometheus", "fanfare.rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			expressions = append(expressions, rule.Expr)
		}
	}
	boards, err := filepath.Glob(filepath.Join(folder, "grafana", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range boards {
		var board struct {
			Panels []struct {
				Targets []struct{ Expr string }
			}
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &board); err != nil {
			t.Fatal(err)
		}
		for _, panel := range board.Panels {
			for _, target := range panel.Targets {
				expressions = append(expressions, target.Expr)
			}
		}
	}
	return metricsOf(expressions)
}

// metricsOf returns the names of metrics in PromQL: what is neither a label, nor
// what a rule records.
func metricsOf(expressions []string) (names []string) {
	labels := regexp.MustCompile(`\{[^}]*\}|(?:by|without)\s*\([^)]*\)`)
	metric := regexp.MustCompile(`\b(?:fanfare|process)_[a-z_]+`)
	for _, expression := range expressions {
		names = append(names, metric.FindAllString(labels.ReplaceAllString(expression, ""), -1)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
