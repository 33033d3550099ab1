package main

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fanfare": main})
}

// TestScripts runs the command lines of testdata/script against a fake
// cluster, a new one for each script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               startFake,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fault":    planFault,
			"received": showRequest,
			"watching": awaitWatch,
			"endwatch": endWatches,
			"looking":  awaitLook,

			"exit-code": checkExitCode,

			"await":      awaitText,
			"capture":    captureText,
			"eventually": eventuallyPrints,
			"webhook":    sendWebhook,
			"get":        getURL,
			"secret":     newSecret,
		},
	})
}

type fakeKey struct{}

func startFake(env *testscript.Env) error {
	listener, err := (&net.ListenConfig{}).Listen(env.T().(testing.TB).Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	cluster := newFake()
	server := grpc.NewServer(grpc.UnaryInterceptor(cluster.intercept))
	cluster.register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	env.Defer(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			env.T().Log("serving:", err)
		}
	})
	env.Values[fakeKey{}] = cluster
	env.Setenv(addressVariable, listener.Addr().String())
	env.Setenv("TZ", "UTC")
	return nil
}

func fakeOf(ts *testscript.TestScript) *fake { return ts.Value(fakeKey{}).(*fake) }

// planFault makes the next call of a method fail:
//
//	fault METHOD CODE [after]
//
// With `after` it fails in the caller's eyes, but has happened.
func planFault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 || len(args) == 3 && args[2] != "after" {
		ts.Fatalf("usage: fault METHOD CODE [after]")
	}
	fakeOf(ts).plan(args[0], fault{code: parseCode(ts, args[1]), after: len(args) == 3})
}

// showRequest prints the last request of a method as JSON:
//
//	received METHOD
func showRequest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: received METHOD")
	}
	request, err := fakeOf(ts).lastRequest(args[0])
	ts.Check(err)
	_, err = fmt.Fprint(ts.Stdout(), request)
	ts.Check(err)
}

// awaitWatch waits until one more watch has been opened:
//
//	watching
func awaitWatch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: watching")
	}
	await(ts, "opened a watch", fakeOf(ts).opened)
}

// awaitLook waits until somebody looks, from now on, how far a replay is:
//
//	looking
func awaitLook(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: looking")
	}
	looked := fakeOf(ts).looked
	select {
	case <-looked: // by a command before
	default:
	}
	await(ts, "looked at a replay", looked)
}

func await(ts *testscript.TestScript, what string, done <-chan struct{}) {
	const patience = 20 * time.Second
	select {
	case <-done:
	case <-time.After(patience):
		ts.Fatalf("nobody %s within %s", what, patience)
	}
}

// endWatches ends all watches with a code:
//
//	endwatch CODE
func endWatches(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: endwatch CODE")
	}
	fakeOf(ts).endWatches(status.Error(parseCode(ts, args[0]), "ended by the test"))
}

// checkExitCode runs a program and wants it to end with a certain code:
//
//	exit-code CODE PROGRAM [ARG…]
func checkExitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit-code CODE PROGRAM [ARG...]")
	}
	got := exitOK
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("running %s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

func parseCode(ts *testscript.TestScript, name string) codes.Code {
	var code codes.Code
	ts.Check(code.UnmarshalJSON([]byte(strconv.Quote(name))))
	return code
}
