package deploy

import (
	"os"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
)

// TestCompose reads the compose file as Compose does.
func TestCompose(t *testing.T) {
	// What setup makes is not there; its names are.
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../deploy/compose")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/secrets", 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(dir + "/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"coordinator.env", "postgres.env"} {
		if strings.Contains(string(text), "secrets/"+name) {
			if err := os.WriteFile(dir+"/secrets/"+name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	options, err := cli.NewProjectOptions([]string{dir + "/compose.yaml"}, cli.WithWorkingDirectory(dir), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
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
