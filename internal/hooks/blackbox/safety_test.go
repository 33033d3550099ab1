package blackbox_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// guarded is a hook that only a signed request may trigger.
const guarded = `{"id": "guarded", "execute-command": "/bin/true", "response-message": "triggered",
	"pass-arguments-to-command": [{"source": "payload", "name": "a"}],
	"trigger-rule": {"match": {"type": "payload-hmac-sha256", "secret": "topsecret", "parameter": {"source": "header", "name": "X-Sig"}}}}`

// Two million open elements ended upstream's process with a stack overflow,
// before any rule was asked.
func TestDeepXML(t *testing.T) {
	t.Parallel()
	server := overTCP(t, withHooks(t, "["+guarded+`, {"id": "x", "execute-command": "/bin/echo", "include-command-output-in-response": true, "pass-arguments-to-command": [{"source": "entire-payload"}]}]`))
	for _, body := range []string{strings.Repeat("<a>", 2_000_000), strings.Repeat("<a>", 2000) + strings.Repeat("</a>", 2000), strings.Repeat("<a>", 1001)} {
		if got := server.send("POST /hooks/guarded", []string{"Content-Type: application/xml"}, body); got.status != 200 || got.body != "Hook rules were not satisfied." {
			t.Errorf("guarded: answered %d %q", got.status, got.body)
		}
		if got := server.send("POST /hooks/x", []string{"Content-Type: application/xml"}, body); got.body != "null\n" {
			t.Errorf("x: answered %d %.80q", got.status, got.body)
		}
	}
	if got := server.send("POST /hooks/x", []string{"Content-Type: application/xml"}, strings.Repeat("<a>", 1000)+strings.Repeat("</a>", 1000)); !strings.HasPrefix(got.body, `{"a":{"a":`) {
		t.Errorf("at the limit: answered %d %.80q", got.status, got.body)
	}
}

// A valid signature of nothing was good for any multipart body.
func TestMultipartIsSigned(t *testing.T) {
	t.Parallel()
	server := overTCP(t, withHooks(t, "["+guarded+"]"))
	form := "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nevil\r\n--b--\r\n"
	for _, contentType := range []string{"multipart/form-data; boundary=b", "multipart/form-data; boundary=b; y=json"} {
		send := func(signed string) answer {
			return server.send("POST /hooks/guarded", []string{"Content-Type: " + contentType, expand(t, `X-Sig: {{hmac "sha256" "topsecret" .}}`, signed)}, form)
		}
		if got := send(""); got.status != 500 {
			t.Errorf("%s, signature of nothing: answered %d %q", contentType, got.status, got.body)
		}
		if got := send(form); got.body != "triggered" {
			t.Errorf("%s, signature of the body: answered %d %q", contentType, got.status, got.body)
		}
	}
}

// A body has a limit, whether its length is known or not.
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	server := overTCP(t, withHooks(t, `[{"id": "x", "execute-command": "/bin/true"}, {"id": "small", "execute-command": "/bin/true", "max-body-bytes": 10}]`), "-max-body", "1000")
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 600, strings.Repeat("x", 600))
	cases := []struct {
		line    string
		headers []string
		body    string
		status  int
	}{
		{"POST /hooks/x", nil, strings.Repeat("x", 1000), 200},
		{"POST /hooks/x", nil, strings.Repeat("x", 1001), 413},
		{"POST /hooks/x", []string{"Transfer-Encoding: chunked"}, chunk + "0\r\n\r\n", 200},
		{"POST /hooks/x", []string{"Transfer-Encoding: chunked"}, chunk + chunk + "0\r\n\r\n", 413},
		{"POST /hooks/x", []string{"Content-Length: 99999999999999"}, "", 413},
		{"POST /hooks/x", []string{"Content-Length: 99999999", "Expect: 100-continue"}, "", 413},
		{"POST /hooks/small", nil, strings.Repeat("x", 11), 413},
		{"POST /hooks/small", nil, strings.Repeat("x", 10), 200},
	}
	for i, c := range cases {
		if got := server.send(c.line, c.headers, c.body); got.status != c.status {
			t.Errorf("case %d: answered %d, want %d", i, got.status, c.status)
		}
	}
}

// rss returns how much memory the server has used at most, in bytes.
func (s *running) rss() int64 {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Skip("there is no /proc here:", err)
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	kilobytes, err := strconv.ParseInt(string(match[1]), 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return kilobytes << 10
}

// Many bodies that become large when they are parsed do not add up: what all
// may take is bounded, and who comes too much is told to come later.
func TestMemory(t *testing.T) {
	t.Parallel()
	if buildFlags != nil {
		t.Skip("the race detector needs memory of its own")
	}
	server := overTCP(t, withHooks(t, "["+guarded+"]"), "-max-body-memory", strconv.Itoa(64<<20), "-max-body", strconv.Itoa(8<<20))
	bodies := map[string]string{
		"application/json":                  "[" + strings.Repeat("[],", 1<<19) + "[]]",
		"text/json":                         strings.Repeat("[", 1<<20),
		"application/xml":                   "<a>" + strings.Repeat("<b/>", 1<<19) + "</a>",
		"application/x-www-form-urlencoded": strings.Repeat("a&", 1<<20),
		"text/plain":                        strings.Repeat("x", 8<<20),
	}
	done := make(chan error)
	for range 4 {
		for contentType, body := range bodies {
			go func() {
				conn := server.dial()
				defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
				_, _ = io.WriteString(conn, request("POST /hooks/guarded", []string{"Content-Type: " + contentType}, body))
				got, err := tryRead(conn, "POST")
				// It may close before it has read all, and the answer be lost.
				if err == nil && got.status != 200 && got.status != 503 {
					err = fmt.Errorf("%s: answered %d %q", contentType, got.status, got.body)
				} else {
					err = nil
				}
				done <- err
			}()
		}
	}
	for range 4 * len(bodies) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if used := server.rss(); used > 512<<20 {
		t.Errorf("it has used %d MiB", used>>20)
	}
	if got := server.send("POST /hooks/guarded", nil, "small"); got.status != 200 {
		t.Errorf("afterwards it answers %d %q", got.status, got.body)
	}
}

// Who sends half a body holds nothing for ever, and triggers nothing.
func TestStalledBody(t *testing.T) {
	t.Parallel()
	server := overTCP(t, withHooks(t, oneHook), "-read-timeout", "200ms")
	got := server.send("POST /hooks/x", []string{"Content-Length: 10"}, "half")
	if got.status != 408 {
		t.Errorf("answered %d %q", got.status, got.body)
	}
	server.log.await(t, 0, "error reading the request body: ")
}

func TestTruncatedBody(t *testing.T) {
	t.Parallel()
	server := overTCP(t, withHooks(t, oneHook))
	conn := server.dial()
	defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	if _, err := io.WriteString(conn, request("POST /hooks/x", []string{"Content-Length: 10"}, "half")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, conn, "POST"); got.status != 400 {
		t.Errorf("answered %d %q", got.status, got.body)
	}
	if strings.Contains(server.log.text(), "triggered successfully") {
		t.Error("half a body has triggered the hook")
	}
}

// No more commands run at a time than there may, and no more wait.
func TestCommandLimits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// It runs until somebody writes a line for it.
	script(t, dir, "wait", "#!/bin/sh\necho started >&2; read line <"+fifo+"\n")
	hooks := func(limits string) string {
		return `[{"id": "x", "execute-command": "` + dir + `/wait", "response-message": "ok"` + limits + `}]`
	}
	for name, c := range map[string]struct {
		hooks, refused string
		status         int
		args           []string
	}{
		"of the server": {hooks(""), "", 503, []string{"-max-commands", "1", "-max-waiting", "1"}},
		"of a hook":     {hooks(`, "max-concurrency": 1, "max-queue": 1`), "1 commands run and 1 wait already", 429, nil},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, filepath.Join(dir, "hooks.json"), c.hooks)
			server := overTCP(t, dir, c.args...)
			post := func() answer { return server.send("POST /hooks/x", nil, "") }
			if got := [2]int{post().status, post().status}; got != [2]int{200, 200} {
				t.Errorf("the first two are answered %v", got)
			}
			server.log.await(t, 0, "executing ")
			got := post()
			if got.status != c.status || got.header.Get("Retry-After") == "" {
				t.Errorf("the third is answered %d, Retry-After %q", got.status, got.header.Get("Retry-After"))
			}
			if c.refused != "" {
				server.log.await(t, 0, c.refused)
			}
			if n := strings.Count(server.log.text(), "executing "); n != 1 {
				t.Errorf("%d run", n)
			}
			for range 2 { // opening waits for a command that reads
				from := server.log.len()
				pipe, err := os.OpenFile(fifo, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintln(pipe, "go")
				pipe.Close() //nolint:errcheck // a test is over, or about to fail otherwise
				server.log.await(t, from, "finished handling x")
			}
			if got := post(); got.status != 200 {
				t.Errorf("afterwards it is answered %d", got.status)
			}
			pipe, err := os.OpenFile(fifo, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			pipe.Close() //nolint:errcheck // a test is over, or about to fail otherwise
		})
	}
}

// SIGTERM lets what was accepted end: the request gets its answer, the command
// that nobody waits for ends, its file goes away.
func TestGracefulEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	script(t, dir, "wait", "#!/bin/sh\ncat "+fifo+"\n")
	script(t, dir, "note", "#!/bin/sh\ncat "+fifo+"2; cat $FILE >noted; echo $FILE >file\n")
	if err := syscall.Mkfifo(fifo+"2", 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "hooks.json"), `[{"id": "sync", "execute-command": "./wait", "include-command-output-in-response": true},
		{"id": "async", "execute-command": "./note", "pass-file-to-command": [{"source": "string", "name": "content", "envname": "FILE"}]}]`)
	server := overTCP(t, dir)
	if got := server.send("POST /hooks/async", nil, ""); got.status != 200 {
		t.Fatalf("answered %d", got.status)
	}
	conn := server.dial()
	defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	if _, err := io.WriteString(conn, request("POST /hooks/sync", nil, "")); err != nil {
		t.Fatal(err)
	}
	server.log.await(t, 0, "executing ./wait")
	server.signal(syscall.SIGTERM)
	server.log.await(t, 0, "caught terminated signal; exiting")
	for _, path := range []string{fifo, fifo + "2"} {
		pipe, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(pipe, "late")
		pipe.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	}
	if got := read(t, conn, "POST"); got.body != "late" {
		t.Errorf("answered %d %q", got.status, got.body)
	}
	if code := server.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "noted")); err != nil || string(text) != "content" {
		t.Errorf("the command has noted %q, %v", text, err)
	}
	file, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(strings.TrimSpace(string(file))); err == nil {
		t.Error("its file is still there")
	}
}

// What does not end within the shutdown timeout is ended.
func TestEndWithoutPatience(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "forever", "#!/bin/sh\nsleep 3600 & sleep 3600\n")
	write(t, filepath.Join(dir, "hooks.json"), `[{"id": "x", "execute-command": "./forever", "include-command-output-in-response": true}]`)
	server := overTCP(t, dir, "-shutdown-timeout", "100ms")
	conn := server.dial()
	defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	if _, err := io.WriteString(conn, request("POST /hooks/x", nil, "")); err != nil {
		t.Fatal(err)
	}
	server.log.await(t, 0, "executing ./forever")
	server.signal(syscall.SIGTERM)
	if got := read(t, conn, "POST"); got.status != 503 {
		t.Errorf("answered %d %q", got.status, got.body)
	}
	if code := server.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A single IPv6 address is one, not all that share its first 32 bits.
func TestIPv6Address(t *testing.T) {
	t.Parallel()
	probe, err := net.Listen("tcp", "[::1]:0") //nolint:noctx // the test ends it itself
	if err != nil {
		t.Skip("there is no IPv6 here:", err)
	}
	probe.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	hook := func(id, ranges string) string {
		return `{"id": "` + id + `", "execute-command": "/bin/true", "response-message": "in", "trigger-rule": {"match": {"type": "ip-whitelist", "ip-range": "` + ranges + `"}}}`
	}
	dir := withHooks(t, "["+hook("one", "::1")+","+hook("neighbour", "::2")+","+hook("all", "::/0")+","+hook("v4", "0.0.0.0/0")+"]")
	server := overTCP(t, dir, "-ip", "[::1]")
	for id, want := range map[string]string{"one": "in", "neighbour": "Hook rules were not satisfied.", "all": "in", "v4": "Hook rules were not satisfied."} {
		if got := server.send("POST /hooks/"+id, nil, ""); got.body != want {
			t.Errorf("%s: answered %d %q", id, got.status, got.body)
		}
	}
}

// The log has no secrets, and nobody outside can write lines of it.
func TestLogIsSafe(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, `[{"id": "x", "execute-command": "/bin/true", "trigger-rule": {"or": [{"match": {"type": "value", "value": "configured-secret", "secret": "configured-secret", "parameter": {"source": "url", "name": "v"}}}, {"and": []}]},
		"pass-arguments-to-command": [{"source": "url", "name": "v"}, {"source": "url", "name": "api_token"}],
		"pass-environment-to-command": [{"source": "header", "name": "Authorization", "envname": "A"}, {"source": "entire-headers", "envname": "H"}, {"source": "url", "name": "v", "envname": "V"}]}]`)
	server := overTCP(t, dir, "-debug")
	from := server.log.len()
	server.send("POST /hooks/x?v=%0A[webhook]%20forged%1b[31m&api_token=token-value", []string{"Authorization: Bearer header-value", "Cookie: cookie-value"}, "body\n[webhook] forged too")
	server.send("POST /hooks/x?v=configured-secret", nil, "")
	server.log.await(t, from, "finished handling x")
	server.signal(syscall.SIGTERM)
	server.exit()
	text := server.log.text()
	for _, secret := range []string{"token-value", "header-value", "cookie-value", "configured-secret", "\x1b"} {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("the log has %q: %.200s", secret, text[max(0, i-100):])
		}
	}
	if match := regexp.MustCompile(`(?m)^\[webhook\] forged.*$`).FindString(text); match != "" {
		t.Errorf("the log has a forged line: %s", match)
	}
}

// A client that does not read its answer is cut off in the end.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, `[{"id": "x", "execute-command": "/usr/bin/head", "stream-command-output": true, "pass-arguments-to-command": [{"source": "string", "name": "-c100M"}, {"source": "string", "name": "/dev/zero"}]}]`)
	server := overTCP(t, dir, "-write-timeout", "100ms")
	conn := server.dial()
	defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	if _, err := io.WriteString(conn, request("POST /hooks/x", nil, "")); err != nil {
		t.Fatal(err)
	}
	server.log.await(t, 0, "finished handling x") // it is not held up
}

// The output in an answer is bounded.
func TestOutputLimit(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, `[{"id": "x", "execute-command": "/usr/bin/head", "include-command-output-in-response": true, "pass-arguments-to-command": [{"source": "string", "name": "-c1M"}, {"source": "string", "name": "/dev/zero"}]}]`)
	server := overTCP(t, dir, "-max-output", "1000")
	if got := server.send("POST /hooks/x", nil, ""); got.status != 200 || len(got.body) != 1000 {
		t.Errorf("answered %d with %d bytes", got.status, len(got.body))
	}
	server.log.await(t, 0, "command output: 1047576 more bytes were dropped")
}

// Slow headers do not hold a connection for ever. The limit is ten seconds, so
// it is only seen that there is one.
func TestSlowHeaders(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	server := overTCP(t, withHooks(t, oneHook))
	conn := server.dial()
	defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	began := time.Now()
	if _, err := io.WriteString(conn, "POST /hooks/x HTTP/1.1\r\nHost: x\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil || time.Since(began) > patience {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
