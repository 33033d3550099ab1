package prometheus_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v3"
)

const shipped = "../../deploy/observability/prometheus"

// unitTests is what is read of promtool's format
// (https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/):
// what these tests use. `promtool test rules` takes the same file; it is not used
// here because it is built with the clients of every cloud there is.
type unitTests struct {
	RuleFiles []string       `yaml:"rule_files"`
	Interval  model.Duration `yaml:"evaluation_interval"`
	Tests     []unitTest     `yaml:"tests"`
}

type unitTest struct {
	Name     string         `yaml:"name"`
	Interval model.Duration `yaml:"interval"`
	Series   []struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	} `yaml:"input_series"`
	Alerts []struct {
		Name string         `yaml:"alertname"`
		At   model.Duration `yaml:"eval_time"`
		Want []struct {
			Labels      map[string]string `yaml:"exp_labels"`
			Annotations map[string]string `yaml:"exp_annotations"`
		} `yaml:"exp_alerts"`
	} `yaml:"alert_rule_test"`
	Expressions []struct {
		Expr string         `yaml:"expr"`
		At   model.Duration `yaml:"eval_time"`
		Want []struct {
			Labels string  `yaml:"labels"`
			Value  float64 `yaml:"value"`
		} `yaml:"exp_samples"`
	} `yaml:"promql_expr_test"`
}

// The shipped rules do what their tests say, in Prometheus's own engine.
func TestRules(t *testing.T) {
	file, err := os.Open(filepath.Join(shipped, "fanfare.rules.test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var all unitTests
	decoder := yaml.NewDecoder(file)
	decoder.KnownFields(true)
	if err := decoder.Decode(&all); err != nil {
		t.Fatal(err)
	}
	if len(all.Tests) == 0 {
		t.Fatal("there are no tests")
	}
	for _, test := range all.Tests {
		t.Run(test.Name, func(t *testing.T) { test.run(t, time.Duration(all.Interval), all.RuleFiles) })
	}
}

// evaluation is rules over series, at one time after the other.
type evaluation struct {
	suite  *promqltest.LazyLoader
	groups []*rules.Group
}

func (u unitTest) load(t *testing.T, interval time.Duration, files []string) evaluation {
	t.Helper()
	var input strings.Builder
	fmt.Fprintf(&input, "load %v\n", time.Duration(u.Interval))
	for _, s := range u.Series {
		fmt.Fprintf(&input, "  %s %s\n", s.Series, s.Values)
	}
	grammar := parser.NewParser(parser.Options{})
	suite, err := promqltest.NewLazyLoader(input.String(), promqltest.LazyLoaderOpts{Parser: grammar})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := suite.Close(); err != nil {
			t.Error(err)
		}
	})
	suite.SubqueryInterval = interval
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc:    rules.EngineQueryFunc(suite.QueryEngine(), suite.Storage()),
		AppendableV2: suite.Storage(),
		Context:      t.Context(),
		NotifyFunc:   func(context.Context, string, ...*rules.Alert) {},
		Logger:       promslog.NewNopLogger(),
		Parser:       grammar,
	})
	e := evaluation{suite: suite}
	for _, name := range files {
		found, errs := manager.LoadGroups(interval, labels.EmptyLabels(), "", nil, false, filepath.Join(shipped, name))
		if errs != nil {
			t.Fatal(errs)
		}
		for _, group := range found {
			for _, rule := range group.Rules() {
				if alerting, ok := rule.(*rules.AlertingRule); ok {
					alerting.SetRestored(true)
				}
			}
			e.groups = append(e.groups, group)
		}
	}
	// Those that record come before those that fire.
	slices.SortFunc(e.groups, func(a, b *rules.Group) int { return strings.Compare(b.Name(), a.Name()) })
	return e
}

func (u unitTest) run(t *testing.T, interval time.Duration, files []string) {
	e := u.load(t, interval, files)
	last := model.Duration(0)
	for _, a := range u.Alerts {
		last = max(last, a.At)
	}
	for _, x := range u.Expressions {
		last = max(last, x.At)
	}
	for now := time.Duration(0); now <= time.Duration(last); now += interval {
		at := time.Unix(0, 0).UTC().Add(now)
		e.suite.WithSamplesTill(at, func(err error) {
			if err != nil {
				t.Fatal(err)
			}
			for _, group := range e.groups {
				group.Eval(e.suite.Context(), at)
				for _, rule := range group.Rules() {
					if rule.LastError() != nil {
						t.Fatalf("%s at %v: %v", rule.Name(), now, rule.LastError())
					}
				}
			}
		})
		u.checkAlerts(t, e, now)
	}
	u.checkExpressions(t, e)
}

// said is an alert that fires.
type said struct{ Labels, Annotations map[string]string }

func (u unitTest) checkAlerts(t *testing.T, e evaluation, now time.Duration) {
	t.Helper()
	for _, test := range u.Alerts {
		if time.Duration(test.At) != now {
			continue
		}
		var got, want []said
		known := false
		for _, group := range e.groups {
			for _, rule := range group.Rules() {
				alerting, ok := rule.(*rules.AlertingRule)
				if !ok || rule.Name() != test.Name {
					continue
				}
				known = true
				for _, a := range alerting.ActiveAlerts() {
					if a.State == rules.StateFiring {
						got = append(got, said{a.Labels.Map(), a.Annotations.Map()})
					}
				}
			}
		}
		if !known {
			t.Errorf("there is no alert %s", test.Name)
		}
		for _, one := range test.Want {
			all := map[string]string{"alertname": test.Name}
			for name, value := range one.Labels {
				all[name] = value
			}
			want = append(want, said{all, one.Annotations})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s at %v (-want +got):\n%s", test.Name, now, diff)
		}
	}
}

func (u unitTest) checkExpressions(t *testing.T, e evaluation) {
	t.Helper()
	grammar := parser.NewParser(parser.Options{})
	for _, test := range u.Expressions {
		query, err := e.suite.QueryEngine().NewInstantQuery(t.Context(), e.suite.Queryable(), nil, test.Expr, time.Unix(0, 0).Add(time.Duration(test.At)))
		if err != nil {
			t.Fatalf("%s: %v", test.Expr, err)
		}
		result := query.Exec(t.Context())
		vector, err := result.Vector()
		if err != nil {
			t.Fatalf("%s: %v", test.Expr, err)
		}
		got := sampled(vector)
		var want []string
		for _, sample := range test.Want {
			parsed, err := grammar.ParseMetric(sample.Labels)
			if err != nil {
				t.Fatalf("%s: %v", sample.Labels, err)
			}
			want = append(want, fmt.Sprintf("%s %.9g", parsed, sample.Value))
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s at %v (-want +got):\n%s", test.Expr, time.Duration(test.At), diff)
		}
		query.Close()
	}
}

func sampled(vector promql.Vector) (all []string) {
	for _, sample := range vector {
		all = append(all, fmt.Sprintf("%s %.9g", sample.Metric, sample.F))
	}
	slices.Sort(all)
	return all
}

// Every expression of the dashboards can be read.
func TestDashboardsParse(t *testing.T) {
	files, err := filepath.Glob("../../deploy/observability/grafana/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no dashboards: %v", err)
	}
	grammar := parser.NewParser(parser.Options{})
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			UID    string
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := yaml.Unmarshal(text, &board); err != nil { // JSON is YAML
			t.Fatal(err)
		}
		if board.UID == "" || len(board.Panels) == 0 {
			t.Errorf("%s is no dashboard", name)
		}
		for _, panel := range board.Panels {
			for _, target := range panel.Targets {
				expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
				if _, err := grammar.ParseExpr(expr); err != nil {
					t.Errorf("%s: %s: %v", name, panel.Title, err)
				}
			}
		}
	}
}
