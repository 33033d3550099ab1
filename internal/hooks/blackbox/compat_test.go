package blackbox_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// -nopanic alone lets it start without hooks, silently; and a reload finds them.
func TestNoPanic(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, "[]")
	socket := shortDir(t) + "/s"
	server := begin(t, dir, "-nopanic", "-socket", socket)
	server.network, server.address = "unix", socket
	awaitSocket(t, socket)
	if got := server.send("POST /hooks/x", nil, ""); got.status != 404 || got.body != "Hook not found." {
		t.Errorf("answered %d %q", got.status, got.body)
	}
	server.signal(syscall.SIGTERM)
	if code := server.exit(); code != 0 || server.log.len() > 0 {
		t.Errorf("exit code %d, stderr %q", code, server.log.text())
	}
}

// -debug is -verbose too. (The other tests have both.)
func TestDebugIsVerbose(t *testing.T) {
	t.Parallel()
	socket := shortDir(t) + "/s"
	server := begin(t, withHooks(t, oneHook), "-debug", "-socket", socket)
	server.log.await(t, 0, "serving hooks on http://")
}

// -cert and -key name the files of -secure.
func TestCertificatePaths(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, oneHook)
	certificate(t, dir)
	for old, name := range map[string]string{"cert.pem": "a.crt", "key.pem": "a.key"} {
		if err := os.Rename(filepath.Join(dir, old), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	overTCP(t, dir, "-secure", "-cert", "a.crt", "-key", "a.key").log.await(t, 0, "serving hooks on https://")
}

// Templates are executed anew when a file is read again.
func TestTemplateReload(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, `[{"id": "{{ cat "id" }}", "execute-command": "/bin/true"}]`)
	write(t, filepath.Join(dir, "id"), "first")
	server := overTCP(t, dir, "-template")
	server.has("first", "first", "second")
	write(t, filepath.Join(dir, "id"), "second")
	server.signal(syscall.SIGHUP)
	server.log.await(t, 0, "\tloaded: second")
	server.has("second", "first", "second")
}

// waiting is a hook whose command waits until somebody writes into its fifo.
func waiting(t *testing.T, hook string) (dir, fifo string) {
	t.Helper()
	dir = t.TempDir()
	fifo = filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	script(t, dir, "wait", "#!/bin/sh\ncat fifo; echo $1 >done\n")
	script(t, dir, "leave", "#!/bin/sh\n(cat fifo) &\necho parent\n")
	write(t, filepath.Join(dir, "hooks.json"), "["+hook+"]")
	return dir, fifo
}

func fill(t *testing.T, fifo, text string) {
	t.Helper()
	pipe, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for who reads
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(pipe, text)
	pipe.Close() //nolint:errcheck // a test is over, or about to fail otherwise
}

// A command that runs keeps the hook it was started for; and a client that goes
// away does not end it.
func TestCommandGoesOn(t *testing.T) {
	t.Parallel()
	hook := `{"id": "x", "execute-command": "./wait", "include-command-output-in-response": true, "pass-arguments-to-command": [{"source": "string", "name": %q}]}`
	dir, fifo := waiting(t, fmt.Sprintf(hook, "old"))
	server := overTCP(t, dir)
	conn := server.dial()
	if _, err := io.WriteString(conn, request("POST /hooks/x", nil, "")); err != nil {
		t.Fatal(err)
	}
	server.log.await(t, 0, "executing ./wait")
	conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	write(t, filepath.Join(dir, "hooks.json"), "["+fmt.Sprintf(hook, "new")+"]")
	from := server.log.len()
	server.signal(syscall.SIGHUP)
	server.log.await(t, from, "\tloaded: x")
	fill(t, fifo, "text\n")
	server.log.await(t, from, "finished handling x")
	if text, err := os.ReadFile(filepath.Join(dir, "done")); err != nil || string(text) != "old\n" {
		t.Errorf("the command has written %q, %v", text, err)
	}
}

// A process that a command leaves behind with its output open delays the answer,
// and what it prints is in it.
func TestGrandchild(t *testing.T) {
	t.Parallel()
	dir, fifo := waiting(t, `{"id": "x", "execute-command": "./leave", "include-command-output-in-response": true}`)
	server := overTCP(t, dir)
	conn := server.dial()
	defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	if _, err := io.WriteString(conn, request("POST /hooks/x", nil, "")); err != nil {
		t.Fatal(err)
	}
	server.log.await(t, 0, "executing ./leave")
	fill(t, fifo, "child\n")
	if got := read(t, conn, "POST"); got.body != "parent\nchild\n" {
		t.Errorf("answered %d %q", got.status, got.body)
	}
}

// HTTP/1.0, and several requests over one connection.
func TestConnections(t *testing.T) {
	t.Parallel()
	server := overTCP(t, withHooks(t, oneHook))
	if got := server.raw("POST", "POST /hooks/x HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}"); got.status != 200 || got.body != "ok" {
		t.Errorf("HTTP/1.0: answered %d %q", got.status, got.body)
	}
	conn := server.dial()
	defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	one := "POST /hooks/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
	if _, err := fmt.Fprintf(conn, one+one, "x", "none"); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	for _, want := range []string{"ok", "Hook not found."} {
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != want {
			t.Errorf("answered %q, %v; want %q", body, err, want)
		}
	}
}

// Files of a form beyond -max-multipart-mem go to disk, count as before, and do
// not stay there.
func TestMultipartOnDisk(t *testing.T) {
	t.Parallel()
	temporary := t.TempDir()
	dir := withHooks(t, `[{"id": "x", "execute-command": "/bin/echo", "include-command-output-in-response": true, "pass-arguments-to-command": [{"source": "payload", "name": "f.a"}]}]`)
	script(t, dir, "fanfare", "#!/bin/sh\nTMPDIR="+temporary+" exec "+fanfare+" \"$@\"\n")
	socket := shortDir(t) + "/s"
	server := beginWith(t, filepath.Join(dir, "fanfare"), dir, "-verbose", "-socket", socket, "-max-multipart-mem", "10")
	server.network, server.address = "unix", socket
	server.log.await(t, 0, "serving hooks on ")
	form := strings.ReplaceAll(`--b
Content-Disposition: form-data; name="f"; filename="1"
Content-Type: application/json

{"a": "first`+strings.Repeat(" ", 5000)+`"}
--b
Content-Disposition: form-data; name="f"; filename="2"
Content-Type: application/json

{"a": "second"}
--b--
`, "\n", "\r\n")
	got := server.send("POST /hooks/x", []string{"Content-Type: multipart/form-data; boundary=b"}, form)
	if !strings.HasPrefix(got.body, "first ") { // and of two files of a name the first
		t.Errorf("answered %d %.80q", got.status, got.body)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("on disk is left %v, %v", left, err)
	}
}

// admin returns what sends to the address of metrics and health.
func (s *running) admin() *running {
	s.t.Helper()
	return &running{t: s.t, network: "tcp", address: s.log.await(s.t, 0, `serving metrics and health on http://(\S+)`)[1]}
}

// Metrics and health have an address of their own.
func TestAdmin(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, oneHook)
	server := overTCP(t, dir, "-admin-address", "127.0.0.1:0")
	server.send("POST /hooks/x", nil, "")
	server.log.await(t, 0, "finished handling x")
	admin := server.admin()
	if got := admin.send("GET /healthz", nil, ""); got.status != 200 {
		t.Errorf("/healthz: answered %d", got.status)
	}
	if got := admin.send("GET /readyz", nil, ""); got.status != 200 || got.body != "1 hooks\n" {
		t.Errorf("/readyz: answered %d %q", got.status, got.body)
	}
	metrics := admin.send("GET /metrics", nil, "").body
	for _, pattern := range []string{
		`(?m)^fanfare_hooks_requests_total\{[^}]*hook="x"[^}]*status="200"[^}]*\} 1$`,
		`(?m)^fanfare_hooks_command_duration_seconds_count\{[^}]*hook="x"[^}]*outcome="ok"[^}]*\} 1$`,
		`(?m)^fanfare_hooks_loaded(\{[^}]*\})? 1$`,
		`(?m)^fanfare_hooks_commands_running(\{[^}]*\})? `,
		`(?m)^fanfare_hooks_commands_accepted(\{[^}]*\})? `,
		`(?m)^fanfare_hooks_bodies_bytes(\{[^}]*\})? `,
	} {
		if !regexp.MustCompile(pattern).MatchString(metrics) {
			t.Errorf("/metrics has nothing that matches %s:\n%s", pattern, metrics)
		}
	}
	if got := server.send("GET /metrics", nil, ""); got.status != 404 {
		t.Errorf("where hooks are: /metrics is answered %d", got.status)
	}
	write(t, filepath.Join(dir, "hooks.json"), "[]")
	from := server.log.len()
	server.signal(syscall.SIGHUP)
	server.log.await(t, from, `found 0 hook\(s\) in file`)
	if got := admin.send("GET /readyz", nil, ""); got.status != 503 {
		t.Errorf("without hooks /readyz is answered %d", got.status)
	}
}

// While it waits for what was accepted it is not ready, and says so.
func TestNotReadyWhileEnding(t *testing.T) {
	t.Parallel()
	dir, fifo := waiting(t, `{"id": "x", "execute-command": "./wait"}`)
	server := overTCP(t, dir, "-admin-address", "127.0.0.1:0")
	admin := server.admin()
	server.send("POST /hooks/x", nil, "")
	server.log.await(t, 0, "executing ./wait")
	server.signal(syscall.SIGTERM)
	server.log.await(t, 0, "caught terminated signal; exiting")
	if got := admin.send("GET /readyz", nil, ""); got.status != 503 {
		t.Errorf("/readyz: answered %d %q", got.status, got.body)
	}
	if got := admin.send("GET /metrics", nil, ""); !strings.Contains(got.body, "fanfare_hooks_commands_running") {
		t.Errorf("/metrics: answered %d", got.status)
	}
	fill(t, fifo, "go\n")
	if code := server.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Requests with one id at the same time run one command; when it has ended well
// its id is known, over a reload too.
func TestDuplicatesAtOnce(t *testing.T) {
	t.Parallel()
	dir, fifo := waiting(t, `{"id": "x", "execute-command": "./wait", "response-message": "accepted", "deduplicate-by": {"source": "payload", "name": "id"}}`)
	server := overTCP(t, dir)
	const clients = 8
	answers := make(chan answer, clients)
	for range clients {
		go func() {
			conn := server.dial()
			defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
			_, _ = io.WriteString(conn, request("POST /hooks/x", []string{"Content-Type: application/json"}, `{"id": 7}`))
			got, _ := tryRead(conn, "POST")
			answers <- got
		}()
	}
	counts := map[int]int{}
	for range clients {
		got := <-answers
		counts[got.status]++
		if got.status == 409 && got.header.Get("Retry-After") == "" {
			t.Error("nothing says when to come again")
		}
	}
	if counts[200] != 1 || counts[409] != clients-1 {
		t.Errorf("answered %v", counts)
	}
	fill(t, fifo, "go\n")
	server.log.await(t, 0, "finished handling x")
	from := server.log.len()
	server.signal(syscall.SIGHUP)
	server.log.await(t, from, "\tloaded: x")
	if got := server.send("POST /hooks/x", []string{"Content-Type: application/json"}, `{"id": 7}`); got.status != 200 || got.body != "The same request has been handled already." {
		t.Errorf("afterwards it is answered %d %q", got.status, got.body)
	}
	if n := strings.Count(server.log.text(), "executing "); n != 1 {
		t.Errorf("%d commands ran", n)
	}
}

// Every line of a JSON log is an object, whatever a request has in it.
func TestJSONLog(t *testing.T) {
	t.Parallel()
	server := overUnix(t, withHooks(t, oneHook), "-log-format", "json", "-debug")
	server.send("POST /hooks/x?a=%22%0a", []string{`X-A: "\`}, "\"\n\x00{\xff")
	server.signal(syscall.SIGTERM)
	server.exit()
	for line := range strings.SplitSeq(server.log.text(), "\n") {
		var entry struct{ Time, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time == "" || entry.Msg == "" {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// The mode of a Unix socket is what the umask leaves.
func TestSocketMode(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, oneHook)
	script(t, dir, "fanfare", "#!/bin/sh\numask 027; exec "+fanfare+" \"$@\"\n")
	socket := shortDir(t) + "/s"
	server := beginWith(t, filepath.Join(dir, "fanfare"), dir, "-verbose", "-socket", socket)
	server.log.await(t, 0, "serving hooks on ")
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != "750" {
		t.Errorf("its mode is %s", got)
	}
}
