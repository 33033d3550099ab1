package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.opentelemetry.io/collector/otelcol"
	"go.yaml.in/yaml/v3"
)

// sampler is a processor of the Collector's contributions, which is not in this
// one: it is taken out of the configuration.
const sampler = "tail_sampling"

// The shipped configuration is one that a Collector takes.
func TestShippedConfiguration(t *testing.T) {
	text, err := os.ReadFile("../../deploy/observability/otel-collector/collector.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := dryRun(t, withoutSampler(t, text)); err != nil {
		t.Error(err)
	}
	if err := dryRun(t, []byte("receivers: {otlp: {protocols: {grpc: {endpiont: x}}}}")); err == nil {
		t.Error("it takes anything")
	}
}

func withoutSampler(t *testing.T, text []byte) []byte {
	t.Helper()
	var config struct {
		Processors map[string]any
		Service    struct {
			Pipelines map[string]map[string][]string
		}
		Rest map[string]any `yaml:",inline"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	if config.Processors[sampler] == nil {
		t.Fatalf("there is no %s", sampler)
	}
	delete(config.Processors, sampler)
	for _, pipeline := range config.Service.Pipelines {
		pipeline["processors"] = slices.DeleteFunc(pipeline["processors"], func(name string) bool { return name == sampler })
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// dryRun makes a Collector as a configuration says, and does not start it.
func dryRun(t *testing.T, config []byte) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "collector.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	with := settings()
	with.ConfigProviderSettings.ResolverSettings.URIs = []string{"file:" + file}
	c, err := otelcol.NewCollector(with)
	if err != nil {
		t.Fatal(err)
	}
	return c.DryRun(t.Context())
}
