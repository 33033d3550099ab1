package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the examples in deploy/ propose, behind a #, is there to be set: a setting
// of that role with a value that it takes, or a variable that
// docs/observability.md describes.
func TestDeploymentsProposeWhatThereIs(t *testing.T) {
	described, err := os.ReadFile(filepath.Join("..", "..", "docs", "observability.md"))
	if err != nil {
		t.Fatal(err)
	}
	for file, commands := range map[string][]string{
		"compose/alerts.env.example":    {"coordinator"},
		"compose/telemetry.env.example": {"coordinator", "worker"},
		"systemd/coordinator.env":       {"coordinator"},
		"systemd/worker.env":            {"worker"},
	} {
		proposed := proposals(t, filepath.Join(deployDir, file), `(?m)^#([A-Z_]+)=(.+)$`)
		for variable, value := range proposed {
			if strings.HasPrefix(variable, "OTEL_") {
				if !strings.Contains(string(described), "`"+variable+"`") {
					t.Errorf("%s: %s is not in docs/observability.md", file, variable)
				}
				continue
			}
			for _, command := range commands {
				checkProposal(t, file, command, variable, value)
			}
		}
	}
	for key, value := range proposals(t, filepath.Join(deployDir, "systemd", "coordinator.yaml"), `(?m)^#([a-z-]+): (.+)$`) {
		variable := "FANFARE_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
		checkProposal(t, "systemd/coordinator.yaml", "coordinator", variable, strings.Trim(value, `["]`))
	}
}

// proposals returns the names and values of lines that stand behind a #.
func proposals(t *testing.T, file, line string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, match := range regexp.MustCompile(line).FindAllStringSubmatch(string(text), -1) {
		found[match[1]] = match[2]
	}
	if len(found) < 2 {
		t.Errorf("%s proposes %v: this test is blind", file, found)
	}
	return found
}

func checkProposal(t *testing.T, file, command, variable, value string) {
	t.Helper()
	flag := settingsOf(t, command)[variable]
	if flag == nil {
		t.Errorf("%s: %s is no setting of a %s", file, variable, command)
		return
	}
	if err := flag.Value.Set(value); err != nil {
		t.Errorf("%s: %s: %v", file, variable, err)
	}
}
