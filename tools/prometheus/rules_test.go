package prometheus_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const shipped = "../../deploy/observability/prometheus"

// promtool is where Prometheus's own tool was built. Set by TestMain.
var promtool string

// TestMain builds promtool, without the clients of all clouds: they find what is
// to be scraped there, and check nothing.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "promtool")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	promtool = filepath.Join(dir, "promtool")
	said, err := exec.Command("go", "build", "-tags", "remove_all_sd", "-o", promtool, "github.com/prometheus/prometheus/cmd/promtool").CombinedOutput()
	code := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "building promtool: %v\n%s", err, said)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// runPromtool fails the test if promtool finds fault.
func runPromtool(t *testing.T, input io.Reader, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), promtool, args...)
	cmd.Stdin = input
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, said)
	}
}

// The shipped rules can be read, and do what their tests say.
func TestRules(t *testing.T) {
	runPromtool(t, nil, "check", "rules", "--lint-fatal", filepath.Join(shipped, "fanfare.rules.yaml"))
	runPromtool(t, nil, "test", "rules", filepath.Join(shipped, "fanfare.rules.test.yaml"))
}

// The shipped configuration can be read. The files that it names are elsewhere.
func TestConfiguration(t *testing.T) {
	runPromtool(t, nil, "check", "config", "--syntax-only", filepath.Join(shipped, "prometheus.yaml"))
}
