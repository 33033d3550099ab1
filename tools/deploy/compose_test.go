package deploy

import (
	"os"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// TestCompose reads the compose file as Compose does.
func TestCompose(t *testing.T) {
	project := loadCompose(t, composeDir(t))
	for name, service := range project.Services {
		for other := range service.DependsOn {
			if _, ok := project.Services[other]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
		}
		for _, volume := range service.Volumes {
			if volume.Type != "bind" || strings.Contains(volume.Source, "/secrets") {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				t.Errorf("%s mounts what is not there: %v", name, err)
			}
		}
	}
	if len(project.Services) == 0 {
		t.Error("there are no services")
	}
}

// composeDir returns a copy of the compose file's folder, with what must be there
// of what setup makes.
func composeDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../deploy/compose")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/secrets", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/secrets/coordinator.env", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func loadCompose(t *testing.T, dir string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{dir + "/compose.yaml"}, cli.WithWorkingDirectory(dir), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// TestComposeTells: what setup leaves for people to fill in reaches those it is
// for, and a secrets folder that an earlier version made is still enough.
func TestComposeTells(t *testing.T) {
	dir := composeDir(t)
	for name, text := range map[string]string{
		"alerts.env":    "# a comment\nFANFARE_ALERT_SLACK_URL=https://hooks.slack.com/services/a/b#c\n",
		"telemetry.env": "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318\n",
	} {
		if err := os.WriteFile(dir+"/secrets/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, service := range loadCompose(t, dir).Services {
		coordinator, worker := strings.HasPrefix(name, "coordinator-"), name == "worker"
		for variable, want := range map[string]struct {
			value string
			there bool
		}{
			"FANFARE_ALERT_SLACK_URL":     {"https://hooks.slack.com/services/a/b#c", coordinator},
			"OTEL_EXPORTER_OTLP_ENDPOINT": {"http://collector:4318", coordinator || worker},
		} {
			switch got := service.Environment[variable]; {
			case want.there && (got == nil || *got != want.value):
				t.Errorf("%s lacks %s=%s", name, variable, want.value)
			case !want.there && got != nil:
				t.Errorf("%s has %s=%s", name, variable, *got)
			}
		}
	}
}
