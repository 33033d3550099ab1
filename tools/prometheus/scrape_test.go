package prometheus_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
)

// A Prometheus scrapes a process that runs, by the shipped configuration but for
// where it is and how to log in, and evaluates the shipped rules over what it
// got: all of them can be evaluated, and of a cluster that is well none fires.
func TestPrometheusScrapes(t *testing.T) {
	address := startDev(t)
	db, err := tsdb.Open(t.TempDir(), promslog.NewNopLogger(), nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	grammar := parser.NewParser(parser.Options{})
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, Parser: grammar})
	query := rules.EngineQueryFunc(engine, db)
	// What comes after that moment is not looked at: a scrape may take too long.
	scraped := scrapeAll(t, db, address, func(now time.Time) bool {
		found, err := query(t.Context(), `sum_over_time(up{job="fanfare"}[5m]) >= 3 and up == 1`, now)
		return err == nil && len(found) == 1
	})
	for expr, want := range map[string]int{
		`up{job="fanfare"} == 1`:                     1,
		`fanfare_partitions_halted == 0`:             1,
		`sum(fanfare_backlog_deliveries) == 0`:       1,
		`scrape_samples_scraped{job="fanfare"} > 50`: 1,
	} {
		if found, err := query(t.Context(), expr, scraped); err != nil || len(found) != want {
			t.Errorf("%s: %v, %v, want %d", expr, found, err, want)
		}
	}

	checkMetrics(t, address)
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: query, AppendableV2: db, Queryable: db, Context: t.Context(), Parser: grammar, Logger: promslog.NewNopLogger(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
	})
	groups, errs := manager.LoadGroups(time.Second, labels.EmptyLabels(), "", nil, false, filepath.Join(shipped, "fanfare.rules.yaml"))
	if errs != nil {
		t.Fatal(errs)
	}
	evaluated := 0
	for _, name := range slices.Sorted(keys(groups)) {
		group := groups[name]
		group.Eval(t.Context(), scraped)
		for _, rule := range group.Rules() {
			evaluated++
			if rule.Health() != rules.HealthGood {
				t.Errorf("%s: %s is %s: %v", name, rule.Name(), rule.Health(), rule.LastError())
			}
			if alerting, ok := rule.(*rules.AlertingRule); ok && alerting.State() == rules.StateFiring {
				t.Errorf("%s fires: %v", rule.Name(), alerting.ActiveAlerts())
			}
		}
	}
	if evaluated < 10 {
		t.Errorf("%d rules were evaluated", evaluated)
	}
}

// checkMetrics has promtool read what a process shows.
func checkMetrics(t *testing.T, address string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	runPromtool(t, response.Body, "check", "metrics")
}

func keys(groups map[string]*rules.Group) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range groups {
			if !yield(name) {
				return
			}
		}
	}
}

// scrapeAll scrapes an address every second until done says so, and returns when
// that was.
func scrapeAll(t *testing.T, db *tsdb.DB, address string, done func(now time.Time) bool) time.Time {
	t.Helper()
	loaded, err := config.LoadFile(filepath.Join(shipped, "prometheus.yaml"), false, promslog.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.ScrapeConfigs) != 1 {
		t.Fatalf("there are %d scrape configs", len(loaded.ScrapeConfigs))
	}
	one := loaded.ScrapeConfigs[0]
	one.Scheme, one.HTTPClientConfig.Authorization, one.HTTPClientConfig.TLSConfig.CAFile = "http", nil, ""
	one.ScrapeInterval, one.ScrapeTimeout = model.Duration(time.Second), model.Duration(time.Second)
	manager, err := scrape.NewManager(nil, promslog.NewNopLogger(), nil, nil, db, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.ApplyConfig(loaded); err != nil {
		t.Fatal(err)
	}
	targets := make(chan map[string][]*targetgroup.Group, 1)
	targets <- map[string][]*targetgroup.Group{one.JobName: {{
		Source: "test", Targets: []model.LabelSet{{model.AddressLabel: model.LabelValue(address)}},
	}}}
	ended := make(chan error, 1)
	go func() { ended <- manager.Run(targets) }()
	defer func() {
		manager.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	limit := time.After(5 * time.Minute)
	for {
		if now := time.Now(); done(now) {
			return now
		}
		select {
		case <-look.C:
		case <-limit:
			for _, target := range manager.TargetsActive()[one.JobName] {
				t.Logf("%v is %s: %v", target.URL(), target.Health(), target.LastError())
			}
			t.Fatal("it was not scraped within five minutes")
		}
	}
}

// startDev builds `fanfare` and runs `fanfare dev` until the test ends. It returns
// where that serves HTTP.
func startDev(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "fanfare")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "../..", "-o", binary, "./cmd/fanfare")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
	dev := exec.Command(binary, "dev", "--data-dir", filepath.Join(dir, "data"), "--log-format", "json",
		"--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
	log, err := dev.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	t.Cleanup(func() {
		if err := dev.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		<-drained
		if err := dev.Wait(); err != nil {
			t.Errorf("dev has ended: %v", err)
		}
	})
	ready := make(chan string, 1)
	go func() {
		defer close(drained)
		defer close(ready)
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			var line struct{ Msg, HTTP string }
			if err := json.Unmarshal(lines.Bytes(), &line); err == nil && line.Msg == "ready" {
				ready <- strings.TrimPrefix(line.HTTP, "http://")
			}
		}
		_, _ = io.Copy(io.Discard, log)
	}()
	address, ok := <-ready
	if !ok {
		t.Fatal("dev is not ready")
	}
	return address
}
