package eventlog_test

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
)

// TestSyncWatch asks real servers.
func TestSyncWatch(t *testing.T) {
	mute := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(mute.Close)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }))
	t.Cleanup(other.Close)
	for _, test := range []struct {
		name    string
		urls    []string
		setting string
		problem string // of which there is one; "" for none
		logged  string
	}{
		{
			name: "none is given", setting: "as its servers are set, which a client cannot see; sync_interval must be always",
			logged: "level=WARN msg=\"cannot see whether NATS syncs each record",
		},
		{name: "always", urls: []string{monitored(t, true, true) + "/"}, setting: "always"},
		{
			name: "one of two does not", urls: []string{monitored(t, true, true), monitored(t, true, false)},
			setting: "not always on each server", problem: "does not sync each record to disk", logged: "level=ERROR",
		},
		{
			name: "no JetStream", urls: []string{monitored(t, false, false)},
			setting: "not always on each server", problem: "it has no JetStream", logged: "level=WARN",
		},
		{
			name: "no monitoring there", urls: []string{mute.URL},
			setting: "not always on each server", problem: "GET /varz answered 404 Not Found", logged: "level=WARN",
		},
		{
			name: "something else", urls: []string{other.URL},
			setting: "not always on each server", problem: "what is not a NATS server's", logged: "level=WARN",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			watch := &eventlog.SyncWatch{URLs: test.urls, Client: new(http.Client), Logger: slog.New(slog.NewTextHandler(&log, nil))}
			if len(test.urls) == 0 {
				if err := watch.Run(t.Context()); err != nil {
					t.Error(err)
				}
			} else {
				if got := watch.Setting(); got != "not looked at yet" {
					t.Errorf("before a look, the setting is %q", got)
				}
				watch.Look(t.Context())
			}
			if got := watch.Setting(); got != test.setting {
				t.Errorf("setting is %q, want %q", got, test.setting)
			}
			problems := strings.Join(watch.Problems(), "\n")
			if (problems == "") != (test.problem == "") || !strings.Contains(problems, test.problem) {
				t.Errorf("problems are %q, want %q", problems, test.problem)
			}
			if text := log.String(); (text == "") != (test.logged == "") || !strings.Contains(text, test.logged) {
				t.Errorf("logged %q, want %q", text, test.logged)
			}
		})
	}
}

// monitored starts a NATS server and returns its monitoring address.
func monitored(t *testing.T, jetStream, syncAlways bool) string {
	t.Helper()
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT,
		NoSigs: true, NoLog: true, JetStream: jetStream, StoreDir: t.TempDir(), SyncAlways: syncAlways,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.StartMonitoring(); err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	return "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(ns.MonitorAddr().Port))
}
