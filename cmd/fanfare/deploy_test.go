package main

import (
	"crypto/tls"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/fanfare-dev/fanfare/internal/setting"
)

const deployDir = "../../deploy"

// settingsOf returns the flags of roles, by their names as variables.
func settingsOf(t *testing.T, commands ...string) map[string]*pflag.Flag {
	t.Helper()
	all := make(map[string]*pflag.Flag)
	for _, command := range commands {
		flags := pflag.NewFlagSet(command, pflag.ContinueOnError)
		roles()[command].register(flags)
		flags.VisitAll(func(flag *pflag.Flag) { all[setting.Variable(flag.Name)] = flag })
	}
	return all
}

// What the deployments set is a setting, with a value that it takes.
func TestDeploymentsSetWhatThereIs(t *testing.T) {
	compose := readYAML(t, filepath.Join(deployDir, "compose", "compose.yaml"))
	services, _ := compose["services"].(map[string]any)
	checked := 0
	for name, service := range services {
		command := strings.TrimRight(name, "-12")
		if command != "coordinator" && command != "worker" {
			continue
		}
		known := settingsOf(t, command)
		environment, _ := service.(map[string]any)["environment"].(map[string]any)
		for variable, value := range environment {
			checked++
			flag, ok := known[variable]
			if !ok {
				t.Errorf("compose.yaml: %s: %s is no setting", name, variable)
				continue
			}
			if err := flag.Value.Set(value.(string)); err != nil {
				t.Errorf("compose.yaml: %s: %s: %v", name, variable, err)
			}
		}
	}
	for _, command := range []string{"coordinator", "worker"} {
		known := settingsOf(t, command)
		for key := range readYAML(t, filepath.Join(deployDir, "systemd", command+".yaml")) {
			checked++
			if known[setting.Variable(key)] == nil {
				t.Errorf("systemd/%s.yaml: %s is no setting", command, key)
			}
		}
	}
	charts, err := filepath.Glob(filepath.Join(deployDir, "helm", "fanfare", "templates", "*"))
	if err != nil {
		t.Fatal(err)
	}
	known := settingsOf(t, "coordinator", "worker")
	for _, file := range charts {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`name: (FANFARE_[A-Z_]+)\n`).FindAllStringSubmatch(string(text), -1) {
			checked++
			if known[match[1]] == nil {
				t.Errorf("%s: %s is no setting", file, match[1])
			}
		}
	}
	if checked < 60 {
		t.Errorf("%d settings: this test is blind", checked)
	}
}

func readYAML(t *testing.T, file string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return document
}

// The script of the compose file makes everything that is mounted, once, and
// NATS takes its configuration: it syncs always.
func TestComposeSetup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(deployDir, "compose"))); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "secrets")); err != nil { // of whoever tried it out
		t.Fatal(err)
	}
	setup := func() ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "setup.sh"))
		cmd.Env = append(os.Environ(), "FANFARE=fanfare")
		return cmd.CombinedOutput()
	}
	if output, err := setup(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if output, err := setup(); err == nil || !strings.Contains(string(output), "not overwritten") {
		t.Errorf("a second time: %v\n%s", err, output)
	}
	compose, err := os.ReadFile(filepath.Join(dir, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	mounted := regexp.MustCompile(`/(secrets/[\w./-]+\.(?:crt|key|yaml|env))`).FindAllStringSubmatch("/"+string(compose), -1)
	if len(mounted) < 8 {
		t.Errorf("%d files: this test is blind", len(mounted))
	}
	for _, match := range mounted {
		if _, err := os.Stat(filepath.Join(dir, match[1])); err != nil {
			t.Error(err)
		}
	}

	text, err := os.ReadFile(filepath.Join(dir, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	here := strings.ReplaceAll(string(text), "/secrets/", filepath.Join(dir, "secrets")+"/")
	file := filepath.Join(dir, "here.conf")
	if err := os.WriteFile(file, []byte(here), privateMode); err != nil {
		t.Fatal(err)
	}
	options, err := natsserver.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !options.SyncAlways || !options.JetStream || len(options.Routes) != 3 ||
		options.TLSConfig.ClientAuth != tls.RequireAndVerifyClientCert ||
		options.Cluster.TLSConfig.ClientAuth != tls.RequireAndVerifyClientCert {
		t.Errorf("NATS is told %+v", options)
	}
}
