package prometheus_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

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
