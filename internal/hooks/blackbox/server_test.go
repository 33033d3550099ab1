package blackbox_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fanfare is what is tested.
var fanfare string

// patience is how long a test waits for what must happen. It never waits that
// long if all is well.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "fanfare-hooks")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a test is over, or about to fail otherwise
		fanfare = filepath.Join(dir, "fanfare")
		args := append(append([]string{"build"}, buildFlags...), "-o", fanfare, "github.com/fanfare-dev/fanfare/cmd/fanfare")
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil { //nolint:noctx // the test ends it itself
			fmt.Fprintf(os.Stderr, "building fanfare: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// running is a `fanfare hooks` that was started.
type running struct {
	t       *testing.T
	dir     string // its working directory
	network string // tcp or unix
	address string
	cmd     *exec.Cmd
	log     *lines
	stdout  bytes.Buffer
	exited  chan struct{} // closed when it has ended
}

// lines is a log that is being written, line by line.
type lines struct {
	mu   sync.Mutex
	cond *sync.Cond // on mu
	all  []string   // guarded by mu
	done bool       // guarded by mu
}

func newLines(r io.Reader) *lines {
	l := &lines{}
	l.cond = sync.NewCond(&l.mu)
	go func() {
		reader := bufio.NewReader(r)
		for {
			line, err := reader.ReadString('\n')
			l.mu.Lock()
			if line != "" {
				l.all = append(l.all, strings.TrimSuffix(line, "\n"))
			}
			l.done = err != nil
			l.cond.Broadcast()
			l.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return l
}

func (l *lines) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// await waits for a line, from the given one on, that matches, and returns its
// groups.
func (l *lines) await(t *testing.T, from int, pattern string) []string {
	t.Helper()
	expression := regexp.MustCompile(pattern)
	timer := time.AfterFunc(patience, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.done = true
		l.cond.Broadcast()
	})
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for ; from < len(l.all); from++ {
			if match := expression.FindStringSubmatch(l.all[from]); match != nil {
				return match
			}
		}
		if l.done {
			t.Fatalf("no line of the log matches %s:\n%s", pattern, strings.Join(l.all, "\n"))
		}
		l.cond.Wait()
	}
}

// script writes an executable into dir.
func script(t *testing.T, dir, name, text string) string { //nolint:unparam // the tests read better
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// begin starts `fanfare hooks` in dir; it need not come to serve.
func begin(t *testing.T, dir string, args ...string) *running {
	t.Helper()
	return beginWith(t, fanfare, dir, args...)
}

// beginWith is begin with a program that becomes fanfare.
func beginWith(t *testing.T, program, dir string, args ...string) *running {
	t.Helper()
	s := &running{t: t, dir: dir, exited: make(chan struct{})}
	s.cmd = exec.Command(program, append([]string{"hooks"}, args...)...) //nolint:noctx // the test ends it itself
	s.cmd.Dir = dir
	s.cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1")
	s.cmd.Stdout = &s.stdout
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = writer
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	s.log = newLines(reader)
	go func() {
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.exited
		reader.Close() //nolint:errcheck // a test is over, or about to fail otherwise
		if text := s.log.text(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic:") {
			t.Errorf("the server's log:\n%s", text)
		}
	})
	return s
}

// overTCP starts a server on a free port of loopback.
func overTCP(t *testing.T, dir string, args ...string) *running {
	t.Helper()
	s := begin(t, dir, append([]string{"-verbose", "-ip", "127.0.0.1", "-port", "0"}, args...)...)
	s.network = "tcp"
	s.address = s.log.await(t, 0, `serving hooks on https?://([^/]+)/`)[1]
	return s
}

// overUnix starts a server on a Unix socket.
func overUnix(t *testing.T, dir string, args ...string) *running {
	t.Helper()
	// The path of a socket has 108 bytes at most; t.TempDir may have more.
	short, err := os.MkdirTemp("", "hooks") //nolint:usetesting // a short path that others can read
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) }) //nolint:errcheck // a test is over, or about to fail otherwise
	socket := filepath.Join(short, "s")
	s := begin(t, dir, append([]string{"-verbose", "-socket", socket}, args...)...)
	s.network, s.address = "unix", socket
	s.log.await(t, 0, `serving hooks on https?://{unix:`+regexp.QuoteMeta(socket)+`}`)
	return s
}

// exit waits until the server has ended and returns its exit code.
func (s *running) exit() int {
	s.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(patience):
		s.t.Fatalf("it does not end; the log:\n%s", s.log.text())
	}
	return s.cmd.ProcessState.ExitCode()
}

func (s *running) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
}

// dial opens a connection.
func (s *running) dial() net.Conn {
	s.t.Helper()
	conn, err := new(net.Dialer).DialContext(context.Background(), s.network, s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// answer is what the server said.
type answer struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
}

// raw sends bytes and reads the answer to them; method is that of the request.
func (s *running) raw(method, text string) answer {
	s.t.Helper()
	conn := s.dial()
	defer conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
	if _, err := io.WriteString(conn, text); err != nil {
		s.t.Logf("sending: %v", err) // it may have answered already
	}
	return read(s.t, conn, method)
}

func read(t *testing.T, conn io.Reader, method string) answer {
	t.Helper()
	got, err := tryRead(conn, method)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	return got
}

func tryRead(conn io.Reader, method string) (answer, error) {
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body), response.Trailer}, err
}

// request writes a request: `POST /hooks/x`, `Name: value`…, and a body.
func request(line string, headers []string, body string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s HTTP/1.1\r\nHost: hooks.test\r\nConnection: close\r\n", line)
	length := true
	for _, header := range headers {
		fmt.Fprintf(&b, "%s\r\n", header)
		name, _, _ := strings.Cut(strings.ToLower(header), ":")
		length = length && name != "content-length" && name != "transfer-encoding"
	}
	if length && body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n" + body)
	return b.String()
}

// send sends a request and returns the answer.
func (s *running) send(line string, headers []string, body string) answer {
	s.t.Helper()
	method, _, _ := strings.Cut(line, " ")
	return s.raw(method, request(line, headers, body))
}
