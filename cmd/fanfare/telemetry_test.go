package main

import (
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// The page about what can be seen has every metric that the code makes, with its
// unit, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	made := make(map[string]string) // :: name -> unit
	instrument := regexp.MustCompile(`(?s)meter\.(?:Int64|Float64)\w+\("(fanfare\.[a-z_.]+)",(.*?)WithUnit\("([^"]+)"\)`)
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		if strings.Contains(filepath.ToSlash(path), "internal/hooks/") {
			return nil // another program: docs/hooks.md
		}
		source, err := os.ReadFile(path)
		for _, found := range instrument.FindAllSubmatch(source, -1) {
			if strings.Contains(string(found[2]), "meter.") {
				t.Errorf("%s: %s has no unit", path, found[1])
			}
			made[string(found[1])] = string(found[3])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "observability.md"))
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `(fanfare\\.[a-z_.]+)` \\| `([^`]+)` \\| .+ \\|$").FindAllSubmatch(page, -1) {
		said[string(row[1])] = string(row[2])
	}
	if diff := cmp.Diff(made, said); diff != "" {
		t.Errorf("metrics (-made +said):\n%s", diff)
	}
}

// What Prometheus reads has nothing that its own linter finds fault with.
func TestMetricsAreClean(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "--metrics-tenants", "1")
	r := newReceiver(t, nil)
	d.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/hook"})
	d.publish(t, "order.created", "e1")
	eventually(t, "the event arrives", func() bool { return r.arrivals("/hook")["e1"] == 1 })
	var text string
	eventually(t, "the delivery is counted", func() bool {
		var code int
		code, text = d.call(t, http.MethodGet, "/metrics", nil, "")
		return code == http.StatusOK && strings.Contains(text, `fanfare_delivery_state="DELIVERED",fanfare_tenant="default"`)
	})
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		if strings.HasPrefix(problem.Metric, "go_") || strings.HasPrefix(problem.Metric, "process_") {
			continue // the client library's
		}
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
	for _, name := range []string{
		"fanfare_publish_duration_seconds_bucket", "fanfare_delivery_duration_seconds_bucket", "fanfare_dispatch_duration_seconds_bucket",
		"fanfare_log_append_duration_seconds_bucket", "fanfare_log_fold_duration_seconds_bucket", "fanfare_backlog_deliveries{",
		"fanfare_log_size_bytes{", "fanfare_history_lag{", "fanfare_breakers_open{", "fanfare_lease_margin_seconds{", "fanfare_worker_window{",
	} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("there is no %s", name)
		}
	}
}

// A back end on which nobody answers costs nothing but what is not sent: events
// are taken and arrive, and the process ends in time, which is a success.
func TestTelemetryThatHangs(t *testing.T) {
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+silent.Addr().String())
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
	d := startDev(t, t.TempDir(), "--metrics-tenants", "1")
	r := newReceiver(t, nil)
	d.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/hook"})
	var ids []string
	for i := range 100 {
		ids = append(ids, fmt.Sprint("e", i))
		d.publish(t, "order.created", ids[i])
	}
	eventually(t, "all events arrive", func() bool { return len(r.arrivals("/hook")) == len(ids) })
	eventually(t, "what is lost is counted", func() bool {
		_, text := d.call(t, http.MethodGet, "/metrics", nil, "")
		return strings.Contains(text, `fanfare_telemetry_lost_total{error_type="queue_full",fanfare_telemetry_signal="traces"`)
	})
	d.stop(t)
	if log := d.stderr.String(); !strings.Contains(log, "the last of the telemetry was not sent") {
		t.Errorf("the log does not say what was not sent:\n%s", lastLines(log))
	}
}
