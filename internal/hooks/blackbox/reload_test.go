package blackbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func hookFile(ids ...string) string {
	var hooks []string
	for _, id := range ids {
		hooks = append(hooks, fmt.Sprintf(`{"id": %q, "execute-command": "/bin/true", "response-message": %q}`, id, "ok "+id))
	}
	return "[" + strings.Join(hooks, ",") + "]"
}

// has checks which of the ids are served.
func (s *running) has(want string, ids ...string) {
	s.t.Helper()
	var got []string
	for _, id := range ids {
		if s.send("POST /hooks/"+id, nil, "").status == 200 {
			got = append(got, id)
		}
	}
	if text := strings.Join(got, " "); text != want {
		s.t.Errorf("served are %q, want %q", text, want)
	}
}

// SIGHUP and SIGUSR1 read every file again, each for itself.
func TestReloadBySignal(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, filepath.Join(dir, "a"), hookFile("a1", "a2"))
			write(t, filepath.Join(dir, "b"), hookFile("b1"))
			server := overTCP(t, dir, "-hooks", "a", "-hooks", "b", "-hooks", "broken-at-start")
			ids := []string{"a1", "a2", "a3", "b1", "b2"}
			reload := func(pattern string) {
				t.Helper()
				from := server.log.len()
				server.signal(signal)
				server.log.await(t, from, "caught (HUP|USR1) signal")
				server.log.await(t, from, "attempting to reload hooks from a")
				server.log.await(t, from, pattern)
				server.signal(syscall.SIGUSR2) // means nothing
			}
			server.has("a1 a2 b1", ids...)

			write(t, filepath.Join(dir, "a"), hookFile("a1", "a3"))
			write(t, filepath.Join(dir, "b"), hookFile("b2"))
			reload("\tloaded: b2")
			server.has("a1 a3 b2", ids...)

			write(t, filepath.Join(dir, "a"), "[{")
			write(t, filepath.Join(dir, "b"), hookFile("b1"))
			reload("\tloaded: b1")
			server.has("a1 a3 b1", ids...) // a kept what it had

			write(t, filepath.Join(dir, "a"), hookFile("a2", "a2"))
			reload("reverting hooks back to the previous configuration")
			server.has("a1 a3 b1", ids...)

			write(t, filepath.Join(dir, "a"), hookFile("a2", "b1"))
			reload("hook with the id b1 has already been loaded!")
			server.has("a1 a3 b1", ids...)

			if err := os.Remove(filepath.Join(dir, "a")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "b"), "[]")
			reload(`found 0 hook\(s\) in file`)
			server.has("a1 a3", ids...) // vanished keeps, and none at all is fine
		})
	}
}

// -hotreload notices every way in which a file is replaced.
func TestHotReload(t *testing.T) {
	t.Parallel()
	rename := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	ways := map[string]func(t *testing.T, dir, path, text string){
		"written in place": func(t *testing.T, _, path, text string) { write(t, path, text) },
		"renamed over": func(t *testing.T, dir, path, text string) {
			rename(t, write(t, filepath.Join(dir, "new"), text), path)
		},
		"renamed away and created": func(t *testing.T, _, path, text string) {
			rename(t, path, path+"~")
			write(t, path, text)
		},
		"removed and created": func(t *testing.T, _, path, text string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			write(t, path, text)
		},
	}
	for name, replace := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := withHooks(t, hookFile("v0"))
			server := overTCP(t, dir, "-hotreload")
			for i := 1; i <= 5; i++ { // again and again: the watch is not lost
				from := server.log.len()
				id := fmt.Sprintf("version%d", i)
				replace(t, dir, filepath.Join(dir, "hooks.json"), hookFile(id))
				server.log.await(t, from, "\tloaded: "+id)
				server.has(id, "v0", id)
			}
		})
	}
}

// A ConfigMap: the file is a symbolic link through another that is swapped.
func TestHotReloadConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publish := func(version, text string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "hooks.yaml"), text)
		if err := os.Symlink(version, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("..1", hookFile("v1"))
	if err := os.Symlink("..data/hooks.yaml", filepath.Join(dir, "hooks.yaml")); err != nil {
		t.Fatal(err)
	}
	server := overTCP(t, t.TempDir(), "-hotreload", "-hooks", filepath.Join(dir, "hooks.yaml"))
	for i := 2; i <= 4; i++ {
		from := server.log.len()
		publish(fmt.Sprintf("..%d", i), hookFile(fmt.Sprintf("v%d", i)))
		if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..%d", i-1))); err != nil {
			t.Fatal(err)
		}
		server.log.await(t, from, fmt.Sprintf("\tloaded: v%d", i))
		server.has(fmt.Sprintf("v%d", i), "v1", fmt.Sprintf("v%d", i))
	}
}

// A directory link that is swapped, as deployments do.
func TestHotReloadLinkedDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, version := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "hooks.json"), hookFile(version))
	}
	current := filepath.Join(dir, "current")
	if err := os.Symlink("one", current); err != nil {
		t.Fatal(err)
	}
	server := overTCP(t, t.TempDir(), "-hotreload", "-hooks", filepath.Join(current, "hooks.json"))
	from := server.log.len()
	if err := os.Symlink("two", current+"~"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(current+"~", current); err != nil {
		t.Fatal(err)
	}
	server.log.await(t, from, "\tloaded: two")
	server.has("two", "one", "two")
}

// A removed file takes its hooks along; it may come back.
func TestHotReloadRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), hookFile("a"))
	write(t, filepath.Join(dir, "b"), hookFile("b"))
	server := overTCP(t, dir, "-hotreload", "-hooks", "a", "-hooks", "b")
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	server.log.await(t, 0, "hooks file a removed")
	server.has("b", "a", "b")
	from := server.log.len()
	write(t, filepath.Join(dir, "a"), hookFile("a"))
	server.log.await(t, from, "\tloaded: a")
	server.has("a b", "a", "b")
}

// When the last one is removed it ends, unless it may run without.
func TestHotReloadRemovedLast(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, hookFile("a"))
	socket := shortDir(t) + "/s"
	server := begin(t, dir, "-hotreload", "-socket", socket)
	awaitSocket(t, socket)
	server.network, server.address = "unix", socket
	server.has("a", "a") // so it has come to watching
	if err := os.Remove(filepath.Join(dir, "hooks.json")); err != nil {
		t.Fatal(err)
	}
	if code := server.exit(); code != 1 || !strings.HasPrefix(server.stdout.String(), "couldn't load any hooks from file!\n") {
		t.Errorf("exit code %d, stdout %q", code, server.stdout.String())
	}
}

// With -verbose it runs on without hooks, and sees the file come back. It once
// went on with a watch that it had closed, and wrote of nothing else.
func TestHotReloadRemovedLastAndBack(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, hookFile("a"))
	server := overTCP(t, dir, "-hotreload")
	for range 3 {
		from := server.log.len()
		if err := os.Remove(filepath.Join(dir, "hooks.json")); err != nil {
			t.Fatal(err)
		}
		server.log.await(t, from, `hooks file hooks\.json removed`)
		server.has("", "a")
		from = server.log.len()
		write(t, filepath.Join(dir, "hooks.json"), hookFile("a"))
		server.log.await(t, from, "\tloaded: a")
		server.has("a", "a")
	}
	if text := server.log.text(); strings.Contains(text, "watching hooks files") {
		t.Errorf("the watch is broken:\n%.2000s", text)
	}
}

// A directory is all hooks files in it, as they come and go.
func TestHooksDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.json"), hookFile("a"))
	write(t, filepath.Join(dir, "b.yml"), hookFile("b"))
	write(t, filepath.Join(dir, "c.txt"), hookFile("c"))
	write(t, filepath.Join(dir, ".d.json"), hookFile("d"))
	server := overTCP(t, t.TempDir(), "-hotreload", "-hooks", dir)
	server.has("a b", "a", "b", "c", "d", "e")
	from := server.log.len()
	write(t, filepath.Join(dir, "e.yaml"), hookFile("e"))
	server.log.await(t, from, "\tloaded: e")
	server.has("a b e", "a", "b", "c", "d", "e")
	from = server.log.len()
	if err := os.Remove(filepath.Join(dir, "a.json")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "b.yml"), hookFile("b", "b2"))
	server.log.await(t, from, "\tloaded: b2")
	server.has("b b2 e", "a", "b", "b2", "e")
}

// A secret in a file of its own is replaced without a restart.
func TestHotReloadSecretFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secret"), "first-secret\n")
	write(t, filepath.Join(dir, "hooks.json"), `[{"id": "x", "execute-command": "/bin/true", "trigger-rule": {"match":
		{"type": "payload-hmac-sha256", "secret-file": "secret", "parameter": {"source": "header", "name": "X-Sig"}}}}]`)
	server := overTCP(t, dir, "-hotreload")
	signed := func(secret string) int {
		return server.send("POST /hooks/x", []string{expand(t, `X-Sig: {{hmac "sha256" "`+secret+`" .}}`, "hello")}, "hello").status
	}
	if got := [2]int{signed("first-secret"), signed("second-secret")}; got != [2]int{200, 500} {
		t.Errorf("answered %v", got)
	}
	from := server.log.len()
	write(t, filepath.Join(dir, "secret"), "second-secret\nfirst-secret\n")
	server.log.await(t, from, "\tloaded: x")
	if got := [2]int{signed("first-secret"), signed("second-secret")}; got != [2]int{200, 200} {
		t.Errorf("answered %v", got)
	}
}

// Under load, each request sees the old hooks or the new ones, and none is
// lost. The race detector looks on if the test has it.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	dir := withHooks(t, hookFile("x"))
	server := overTCP(t, dir, "-hotreload")
	var stop atomic.Bool
	var group sync.WaitGroup
	var wrong, answered atomic.Int64
	for range 4 {
		group.Go(func() {
			for !stop.Load() {
				conn := server.dial()
				_, _ = conn.Write([]byte(request("POST /hooks/x", nil, "")))
				got, err := tryRead(conn, "POST")
				conn.Close() //nolint:errcheck // a test is over, or about to fail otherwise
				if answered.Add(1); err != nil || got.body != "ok x" {
					wrong.Add(1)
				}
			}
		})
	}
	for i := range 30 {
		from := server.log.len()
		id := fmt.Sprintf("y%d-", i)
		path := write(t, filepath.Join(dir, "new"), hookFile("x", id))
		if err := os.Rename(path, filepath.Join(dir, "hooks.json")); err != nil {
			t.Fatal(err)
		}
		server.signal(syscall.SIGHUP)
		server.log.await(t, from, "\tloaded: "+id)
	}
	stop.Store(true)
	group.Wait()
	if wrong.Load() > 0 || answered.Load() == 0 {
		t.Errorf("%d of %d answers were wrong", wrong.Load(), answered.Load())
	}
}
