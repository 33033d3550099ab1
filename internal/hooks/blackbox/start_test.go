package blackbox_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const oneHook = `[{"id": "x", "execute-command": "/bin/true", "response-message": "ok"}]`

// withHooks returns a directory with a hooks.json.
func withHooks(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hooks.json"), text)
	return dir
}

// How it ends at once, with which code, and what it says where.
func TestExits(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // the test ends it itself
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() }) //nolint:errcheck // a test is over, or about to fail otherwise
	_, takenPort, _ := net.SplitHostPort(taken.Addr().String())
	const noHooks = `(?s)^couldn't load any hooks from file!\naborting webhook execution since the -verbose flag is set to false\.\nIf, for some reason, you want webhook to start without the hooks, either use -verbose flag, or -nopanic\n$`
	local := []string{"-ip", "127.0.0.1", "-port", "0"}
	cases := []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // patterns; empty: nothing
	}{
		{"version", []string{"-version"}, 0, `^webhook version 2\.8\.2\n`, ""},
		{"version with two dashes", []string{"--version=true"}, 0, `^webhook version 2\.8\.2\n`, ""},
		{"help", []string{"-h"}, 0, "", `-urlprefix`},
		{"long help", []string{"--help"}, 0, "", `-hotreload`},
		{"unknown flag", []string{"-nonsense"}, 2, "", `(?s)flag provided but not defined: -nonsense.*-urlprefix`},
		{"bad value", []string{"-setuid=x"}, 2, "", `(?s)invalid value "x".*-urlprefix`},
		{"bad boolean", []string{"-verbose=maybe"}, 2, "", `invalid boolean value`},
		{"header without =", []string{"-header", "x"}, 2, "", `invalid value "x" for flag -header`},
		{"setuid alone", []string{"-setuid", "1"}, 1, `^error: setuid and setgid options must be used together\n$`, ""},
		{"setgid alone", []string{"-setgid", "1"}, 1, `^error: setuid and setgid options must be used together\n$`, ""},
		{"socket and setuid", []string{"-socket", "s", "-setuid", "1", "-setgid", "1"}, 1, "", `-socket cannot be used with -setuid`},
		{"port in use", []string{"-ip", "127.0.0.1", "-port", takenPort}, 1, "", `address already in use`},
		{"ipv6 without brackets", []string{"-ip", "::1", "-port", "0"}, 1, "", `too many colons`},
		{"socket exists", []string{"-socket", "hooks.json"}, 1, "", `address already in use`},
		{"log file cannot be opened", append(local, "-logfile", "none/log"), 1, "", `none/log`},
		{"no hooks file", append(local, "-hooks", "none"), 1, noHooks, `^fanfare hooks: couldn't load hooks from none: .*no such file`},
		{"empty hooks file", append(local, "-hooks", "empty.json"), 1, noHooks, ""},
		{"hooks file of null", append(local, "-hooks", "null.json"), 1, noHooks, ""},
		{"hooks file of nothing", append(local, "-hooks", "nothing.json"), 1, noHooks, ""},
		{"hooks file with a mistake", append(local, "-hooks", "mistake.json"), 1, noHooks, `^fanfare hooks: couldn't load hooks from mistake\.json: `},
		{"same file twice", append(local, "-hooks", "hooks.json", "-hooks", "hooks.json"), 1, "", `hook with the id x has already been loaded`},
		{"no certificate", append(local, "-secure"), 0, "", `reading -cert and -key`},
		{"tls version", append(local, "-secure", "-tls-min-version", "1.4"), 1, "", `-tls-min-version: want 1\.0, 1\.1, 1\.2 or 1\.3`},
		{"cipher suite", append(local, "-secure", "-cipher-suites", "TLS_NONE"), 1, "", `there is no "TLS_NONE"`},
		{"cipher suites", []string{"-list-cipher-suites"}, 0, `(?m)^TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256$`, ""},
		{"cipher suites of 1.3", []string{"-list-cipher-suites", "-tls-min-version=1.3"}, 0, `^TLS_AES_128_GCM_SHA256\nTLS_AES_256_GCM_SHA384\nTLS_CHACHA20_POLY1305_SHA256\n$`, ""},
		{"cipher suites of no version", []string{"-list-cipher-suites", "-tls-min-version=9"}, 1, "", `-tls-min-version`},
		{"pidfile of a process that runs", append(local, "-pidfile", "running.pid"), 1, "", `is running`},
		{"bad prefix", append(local, "-urlprefix", "a{b"), 1, "", `urlprefix`},
		{"own flag", []string{"-max-body", "0"}, 2, "", `want a number of at least 1`},
		{"number with a unit", []string{"-max-body", "32M"}, 2, "", `want a number of at least 1`},
		{"number too large", []string{"-max-commands", "99999999999999999999"}, 2, "", `want a number of at least 1`},
		{"negative duration", []string{"-read-timeout", "-5s"}, 2, "", `(?s)for flag -read-timeout: want a duration such as 30s or 5m`},
		{"no duration", []string{"-write-timeout", "0"}, 2, "", `want a duration`},
		{"duration in words", []string{"-command-timeout", "soon"}, 2, "", `want a duration`},
		{"log format", []string{"-log-format", "xml"}, 2, "", `want text or json`},
		{"trusted proxies", []string{"-trusted-proxies", "10.0.0.0/99"}, 2, "", `want an address or a CIDR range`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := withHooks(t, oneHook)
			for name, text := range map[string]string{"empty": "[]", "null": "null", "nothing": "", "mistake": "[{]"} {
				write(t, filepath.Join(dir, name+".json"), text)
			}
			write(t, filepath.Join(dir, "running.pid"), strconv.Itoa(os.Getpid()))
			server := begin(t, dir, c.args...)
			if code := server.exit(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			server.log.mu.Lock()
			for !server.log.done {
				server.log.cond.Wait()
			}
			server.log.mu.Unlock()
			for what, check := range map[string][2]string{"stdout": {server.stdout.String(), c.stdout}, "stderr": {server.log.text(), c.stderr}} {
				if check[1] == "" && check[0] != "" || !regexp.MustCompile(check[1]).MatchString(check[0]) {
					t.Errorf("%s is %q, want a match of %q", what, check[0], check[1])
				}
			}
		})
	}
}

// Positional arguments and what is behind them do not count, not even a file
// that is called check.
func TestPositionals(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, oneHook)
	write(t, filepath.Join(dir, "check"), strings.ReplaceAll(oneHook, `"x"`, `"y"`))
	server := overTCP(t, dir, "-hooks", "check", "--hooks=hooks.json", "stray", "-nonsense")
	for _, id := range []string{"x", "y"} {
		if got := server.send("POST /hooks/"+id, nil, ""); got.body != "ok" {
			t.Errorf("%s: answered %d %q", id, got.status, got.body)
		}
	}
}

// Without -verbose nothing is logged, and it serves.
func TestSilence(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, oneHook)
	socket := shortDir(t) + "/s"
	server := begin(t, dir, "-socket", socket)
	server.network, server.address = "unix", socket
	awaitSocket(t, socket)
	if got := server.send("POST /hooks/x", nil, ""); got.body != "ok" {
		t.Errorf("answered %d %q", got.status, got.body)
	}
	server.signal(syscall.SIGTERM)
	if code := server.exit(); code != 0 || server.log.len() != 0 || server.stdout.Len() != 0 {
		t.Errorf("exit code %d, stderr %q, stdout %q", code, server.log.text(), server.stdout.String())
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is still there")
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hooks") //nolint:usetesting // a short path that others can read
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // a test is over, or about to fail otherwise
	return dir
}

// awaitSocket waits until somebody listens.
func awaitSocket(t *testing.T, path string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		conn, err := net.Dial("unix", path) //nolint:noctx // the test ends it itself
		if err == nil {
			conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // without a log nothing else tells
	}
}

// An abstract socket has no file.
func TestAbstractSocket(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("@fanfare-hooks-test-%d", os.Getpid())
	server := begin(t, withHooks(t, oneHook), "-socket", name, "-verbose")
	server.log.await(t, 0, "serving hooks on http://{unix:"+name+"}/hooks/{id}")
	server.network, server.address = "unix", name
	if got := server.send("POST /hooks/x", nil, ""); got.body != "ok" {
		t.Errorf("answered %d %q", got.status, got.body)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		args    []string
		line    string
		headers []string
		status  int
		answer  string
		log     string
	}{
		{"prefix", []string{"-urlprefix", "a/b"}, "POST /a/b/x", nil, 200, "ok", ""},
		{"prefix is not hooks", []string{"-urlprefix", "a/b"}, "POST /hooks/x", nil, 404, "404 page not found\n", ""},
		{"no prefix", []string{"-urlprefix="}, "POST /x", nil, 200, "ok", ""},
		{"no prefix and health", []string{"-urlprefix="}, "GET /", nil, 200, "OK", ""},
		{"prefix with slashes is out of reach", []string{"-urlprefix", "/h/"}, "POST /h/x", nil, 404, "404 page not found\n", ""},
		{"prefix with a pattern", []string{"-urlprefix", "p{v}"}, "POST /pANY/x", nil, 200, "ok", ""},
		{"prefix with a pattern of one segment", []string{"-urlprefix", "p{v}"}, "POST /p/x", nil, 404, "404 page not found\n", ""},
		{"methods", []string{"-http-methods", "post, Put"}, "PUT /hooks/x", nil, 200, "ok", ""},
		{"methods refuse", []string{"-http-methods", "post, Put"}, "GET /hooks/x", nil, 405, "", ""},
		{"methods and health", []string{"-http-methods", "post"}, "GET /", nil, 200, "OK", ""},
		{"methods of the hook instead", []string{"-http-methods", "post"}, "GET /hooks/get", nil, 200, "ok", ""},
		{"methods are not intersected", []string{"-http-methods", "post"}, "POST /hooks/get", nil, 405, "", ""},
		{"request id", []string{"-x-request-id"}, "POST /hooks/x", []string{"X-Request-Id: abcdefgh"}, 200, "ok", `\[abcdefgh\] x got matched`},
		{"request id cut", []string{"-x-request-id", "-x-request-id-limit=3"}, "POST /hooks/x", []string{"X-Request-Id: abcdefgh"}, 200, "ok", `\[abc\] x got matched`},
		{"empty request id", []string{"-x-request-id"}, "POST /hooks/x", []string{"X-Request-Id:"}, 200, "ok", `\[[0-9a-f]{6}\] x got matched`},
		{"debug", []string{"-debug"}, "POST /hooks/x", []string{"X-Seen: 1", "Authorization: Bearer hidden"}, 200, "ok", `^> \[[0-9a-f]{6}\] X-Seen: 1`},
		{"debug hides", []string{"-debug"}, "POST /hooks/x", []string{"Authorization: Bearer hidden"}, 200, "ok", `^> \[[0-9a-f]{6}\] Authorization: \*\*\*`},
		{"debug of the answer", []string{"-debug"}, "POST /hooks/x", nil, 200, "ok", `^< \[[0-9a-f]{6}\] ok`},
		{"json", []string{"-log-format", "json"}, "POST /hooks/x", nil, 200, "ok", `^\{"time":"[^"]+","request":"[0-9a-f]{6}","hook":"x","msg":"x got matched"\}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := withHooks(t, `[{"id": "x", "execute-command": "/bin/true", "response-message": "ok"}, {"id": "get", "execute-command": "/bin/true", "response-message": "ok", "http-methods": ["get"]}]`)
			server := overTCP(t, dir, c.args...)
			got := server.send(c.line, c.headers, "")
			if got.status != c.status || got.body != c.answer {
				t.Errorf("answered %d %q, want %d %q", got.status, got.body, c.status, c.answer)
			}
			if c.log != "" {
				server.log.await(t, 0, c.log)
			}
		})
	}
}

func TestLogFile(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, oneHook)
	path := write(t, filepath.Join(dir, "log"), "before\n")
	socket := shortDir(t) + "/s"
	server := begin(t, dir, "-logfile", "log", "-socket", socket)
	awaitSocket(t, socket)
	server.signal(syscall.SIGINT)
	if code := server.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pattern := `(?s)^before\n\[webhook\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d version 2\.8\.2 .*starting\n.*attempting to load hooks from hooks\.json\n.*found 1 hook\(s\) in file\n.*\tloaded: x\n.*caught interrupt signal; exiting\n$`
	if !regexp.MustCompile(pattern).Match(text) || server.log.len() > 0 {
		t.Errorf("the log is %q, stderr %q", text, server.log.text())
	}
}

func TestPIDFile(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{"none": "", "junk": "junk", "stale": "2147483646"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := withHooks(t, oneHook)
			path := filepath.Join(dir, "a", "b", "pid")
			if before != "" {
				path = write(t, filepath.Join(dir, "pid"), before)
			}
			server := overTCP(t, dir, "-pidfile", path)
			text, err := os.ReadFile(path)
			if err != nil || string(text) != strconv.Itoa(server.cmd.Process.Pid) {
				t.Errorf("it has %q, %v", text, err)
			}
			if info, err := os.Stat(path); err != nil || before == "" && info.Mode().Perm() != 0o600 {
				t.Errorf("its mode is %v, %v", info.Mode(), err)
			}
			server.signal(syscall.SIGTERM)
			server.log.await(t, 0, "caught terminated signal; exiting")
			if code := server.exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("it is still there")
			}
		})
	}
}

// A socket that systemd passes is taken instead of any other; two are refused.
func TestSystemd(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // the test ends it itself
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	for count, want := range map[int]string{1: "serving hooks on http://" + listener.Addr().String() + "/hooks/{id}", 2: "LISTEN_FDS: want one socket, got 2"} {
		// The shell's process is the server's: LISTEN_PID must be its id.
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=`+strconv.Itoa(count)+` exec "$0" hooks -verbose -port nonsense`, fanfare) //nolint:noctx // the test ends it itself
		cmd.Dir = withHooks(t, oneHook)
		cmd.ExtraFiles = []*os.File{file, file}[:count]
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		log := newLines(stderr)
		log.await(t, 0, regexp.QuoteMeta(want))
		if count == 1 {
			server := &running{t: t, network: "tcp", address: listener.Addr().String()}
			if got := server.send("POST /hooks/x", nil, ""); got.body != "ok" {
				t.Errorf("answered %d %q", got.status, got.body)
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// certificate writes cert.pem and key.pem into dir.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"hooks.test"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, oneHook)
	certificate(t, dir)
	server := overTCP(t, dir, "-secure", "-tls-min-version", "1.2", "-cipher-suites", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
	server.log.await(t, 0, "serving hooks on https://")
	if got := server.send("GET /", nil, ""); got.status != 400 || got.body != "Client sent an HTTP request to an HTTPS server.\n" {
		t.Errorf("plain HTTP is answered %d %q", got.status, got.body)
	}
	handshake := func(config *tls.Config) (tls.ConnectionState, error) {
		config.InsecureSkipVerify = true
		conn := tls.Client(server.dial(), config)
		defer conn.Close()                       //nolint:errcheck // a test is over, or about to fail otherwise
		if err := conn.Handshake(); err != nil { //nolint:noctx // the test ends it itself
			return tls.ConnectionState{}, err
		}
		_, err := io.WriteString(conn, request("POST /hooks/x", nil, ""))
		if err != nil {
			return tls.ConnectionState{}, err
		}
		if got := read(t, conn, "POST"); got.body != "ok" {
			t.Errorf("answered %d %q", got.status, got.body)
		}
		return conn.ConnectionState(), nil
	}
	state, err := handshake(&tls.Config{NextProtos: []string{"h2", "http/1.1"}})
	if err != nil || state.NegotiatedProtocol == "h2" {
		t.Errorf("handshake: %v, protocol %q", err, state.NegotiatedProtocol)
	}
	state, err = handshake(&tls.Config{MaxVersion: tls.VersionTLS12})
	if err != nil || state.CipherSuite != tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 {
		t.Errorf("TLS 1.2: %v, suite %v", err, tls.CipherSuiteName(state.CipherSuite))
	}
	if _, err := handshake(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
	if _, err := handshake(&tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}); err == nil {
		t.Error("X25519 is accepted")
	}
}

// With root, -setuid and -setgid take effect before hooks are read.
func TestSetUID(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	dir, err := os.MkdirTemp("", "hooks") //nolint:usetesting // a short path that others can read
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // a test is over, or about to fail otherwise
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "hooks.json"), `[{"id": "x", "execute-command": "id", "include-command-output-in-response": true}]`)
	server := overTCP(t, dir, "-setuid", "65534", "-setgid", "65533")
	if got := server.send("POST /hooks/x", nil, ""); !regexp.MustCompile(`^uid=65534\S* gid=65533\S*( groups=65533\S*)?\n$`).MatchString(got.body) {
		t.Errorf("the command runs as %q", got.body)
	}
}
