package embedded_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fanfare-dev/fanfare/internal/eventlog/embedded"
)

func TestServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "the server")
	for range 2 {
		server, err := embedded.Start(embedded.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if !server.SyncsAlways() {
			t.Error("the server does not sync always")
		}
		nc, err := server.Connect()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.RTT(); err != nil {
			t.Error(err)
		}
		nc.Close()
		server.Close()
		server.Close()
		if _, err := server.Connect(); err == nil {
			t.Error("connected to a server that was closed")
		}
	}
}

func TestStartFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	_, err := embedded.Start(embedded.Config{Dir: file, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "JetStream") {
		t.Errorf("Start in a file = %v, want an error that names it and what failed", err)
	}
	if !strings.Contains(logged.String(), "level=ERROR") {
		t.Errorf("logged %q, want an error", &logged)
	}
	if _, err := embedded.Start(embedded.Config{}); err == nil || !strings.Contains(err.Error(), "dir") {
		t.Errorf("Start without a directory = %v, want an error that names dir", err)
	}
}
