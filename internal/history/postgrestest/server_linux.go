package postgrestest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Required is the environment variable that makes it a failure, not a reason
// to skip, that there is no PostgreSQL.
const Required = "FANFARE_REQUIRE_POSTGRES"

// startTimeout bounds how long a server takes to start. A machine that runs
// many tests at once is slow.
const startTimeout = time.Minute

// Server is a PostgreSQL server on a Unix socket, with a database whose owner
// needs no password.
type Server struct {
	dir     string // of its socket, and of all else that it has
	bin     string
	account *account
	process *os.Process
	ended   chan struct{} // closed once the process has ended
	log     *bytes.Buffer // what it said; read after ended
	schemas atomic.Int64
}

// Start starts a server, which ends with the test. Without PostgreSQL the test
// is skipped. It runs as another user if this is root, which it refuses to be.
func Start(tb testing.TB) *Server {
	tb.Helper()
	bin, err := programs()
	if err != nil {
		if os.Getenv(Required) != "" {
			tb.Fatalf("%v, and %s is set", err, Required)
		}
		tb.Skipf("%v: install Debian's package postgresql, for instance", err)
	}
	s := &Server{bin: bin}
	if s.account, err = unprivileged(); err != nil {
		tb.Fatal(err)
	}
	if s.dir, err = os.MkdirTemp("", "pg"); err != nil { //nolint:usetesting // a short name: it is in a socket's, which is bounded
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	if err := s.account.own(s.dir); err != nil {
		tb.Fatal(err)
	}
	initdb := s.command("initdb", "--pgdata", s.data(), "--username", "fanfare", "--auth", "trust",
		"--encoding", "UTF8", "--locale", "C", "--no-sync")
	if output, err := initdb.CombinedOutput(); err != nil {
		tb.Fatalf("initdb: %v\n%s", err, output)
	}
	s.Run(tb)
	tb.Cleanup(func() { s.Kill(syscall.SIGQUIT) })
	return s
}

// Run runs the server again after Kill.
func (s *Server) Run(tb testing.TB) {
	tb.Helper()
	s.log, s.ended = &bytes.Buffer{}, make(chan struct{})
	cmd := s.command("postgres", "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "max_connections=200", "-c", "log_min_messages=warning")
	cmd.Stdout, cmd.Stderr = s.log, s.log
	// It is to end when this process does, however that ends. The kernel takes
	// the end of the thread that started it for that.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	started := make(chan error)
	ended := s.ended
	go func() {
		runtime.LockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		tb.Fatalf("starting postgres: %v", err)
	}
	s.process = cmd.Process
	if err := s.wait(tb.Context()); err != nil {
		s.Kill(syscall.SIGKILL)
		tb.Fatalf("waiting for postgres: %v\n%s", err, s.log)
	}
}

// wait returns once the server answers.
func (s *Server) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.address(nil))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return err
		}
	}
}

// Kill ends the server by a signal: SIGQUIT and SIGKILL are crashes.
func (s *Server) Kill(signal syscall.Signal) {
	select {
	case <-s.ended:
		return
	default:
	}
	// Its children are its group. They notice the end of SIGKILL by themselves.
	_ = s.process.Signal(signal)
	<-s.ended
}

// Settle returns once nobody has a transaction under way: a client that was
// killed may have left one, which the server has still to end.
func (s *Server) Settle(tb testing.TB) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), s.address(nil))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close(tb.Context()) }()
	const query = `SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'`
	for busy := 1; busy > 0; {
		if err := conn.QueryRow(tb.Context(), query).Scan(&busy); err != nil {
			tb.Fatal(err)
		}
	}
}

// URL returns the address of a schema of its own, which does not exist yet.
func (s *Server) URL() string {
	return s.address(url.Values{"search_path": {"test_" + strconv.FormatInt(s.schemas.Add(1), 10)}})
}

func (s *Server) address(parameters url.Values) string {
	query := url.Values{"host": {s.dir}, "user": {"fanfare"}, "dbname": {"postgres"}}
	maps.Copy(query, parameters)
	return "postgres:///?" + query.Encode()
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// command returns a command of a program of PostgreSQL, to be run by the
// account.
func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, program), args...) //nolint:noctx,gosec // Kill ends it; the programs of the machine
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.account.credential()}
	return cmd
}

// programs returns the folder of PostgreSQL's programs: that of the path, else
// the newest one where Debian has them, which does not put them there.
func programs() (string, error) {
	if found, err := exec.LookPath("initdb"); err == nil {
		if found, err = filepath.EvalSymlinks(found); err == nil {
			return filepath.Dir(found), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		number, _, _ := strings.Cut(strings.TrimPrefix(path, "/usr/lib/postgresql/"), "/")
		n, _ := strconv.Atoi(number)
		return n
	}
	if len(found) == 0 {
		return "", errors.New("there is no PostgreSQL server on this machine")
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// account is the user that a server runs as; nil for the one of this process.
type account struct{ uid, gid uint32 }

// unprivileged returns an account that is not root's.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // its meaning is in the type
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(found.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("reading the id of user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(found.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("reading the group of user %s: %w", name, err)
		}
		return &account{uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("this is root, and there is neither a user postgres nor nobody to run PostgreSQL")
}

func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

func (a *account) credential() *syscall.Credential {
	if a == nil {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}
