package daemon

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/fanfare-dev/fanfare/internal/hooks/check"
	"github.com/fanfare-dev/fanfare/internal/hooks/journal"
	"github.com/fanfare-dev/fanfare/internal/hooks/server"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// maxRequestBytes bounds the file of --request.
const maxRequestBytes = server.DefaultMaxBody

// Check is `fanfare hooks check`: it prints what is wrong in hooks files, and
// what would be done with a request. It returns an *ExitError of code 1 if a
// file has errors; warnings are none.
func Check(args []string, stdout, stderr io.Writer) error {
	set := flag.NewFlagSet("fanfare hooks check", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() {
		fmt.Fprint(stderr, "Usage of fanfare hooks check:\n\n  fanfare hooks check FILE... [--request FILE]\n\n")
		set.PrintDefaults()
	}
	request := set.String("request", "", "`file` with a request, as it is on the wire: say what would be done with it, rule by rule")
	templated := set.Bool("template", false, "run hooks files through Go's text/template")
	prefix := set.String("urlprefix", server.DefaultPrefix, "`path` before the ids of hooks")
	paths, err := parseMixed(set, args)
	if errors.Is(err, flag.ErrHelp) {
		return &ExitError{Code: 0}
	}
	if err != nil {
		return &ExitError{Code: exitUsage}
	}
	if len(paths) == 0 {
		fmt.Fprintln(stderr, "fanfare hooks check: want a hooks file")
		return &ExitError{Code: exitUsage}
	}
	failed := false
	for _, path := range paths {
		failed = checkFile(stdout, path, *templated) || failed
	}
	if *request != "" {
		if err := explain(stdout, *request, paths, *templated, *prefix); err != nil {
			fmt.Fprintf(stderr, "fanfare hooks check: %v\n", err)
			failed = true
		}
	}
	if failed {
		return &ExitError{Code: exitFailed}
	}
	return nil
}

// parseMixed parses flags that may stand behind arguments too, and returns the
// arguments.
func parseMixed(set *flag.FlagSet, args []string) ([]string, error) {
	var others []string
	for {
		if err := set.Parse(args); err != nil {
			return nil, err
		}
		if set.NArg() == 0 {
			return others, nil
		}
		others = append(others, set.Arg(0))
		args = set.Args()[1:]
	}
}

// checkFile prints the problems of a file, and reports whether there are
// errors.
func checkFile(w io.Writer, path string, templated bool) (failed bool) {
	text, err := spec.ReadText(path, templated)
	if err != nil {
		fmt.Fprintf(w, "%s: error: %v\n", path, err)
		return true
	}
	problems, hooks := check.Text(text)
	fatal := 0
	for _, problem := range problems {
		fmt.Fprintf(w, "%s:%d: %s\n", path, problem.Line, problem)
		if problem.Fatal {
			fatal++
		}
	}
	fmt.Fprintf(w, "%s: %d hooks, %d errors, %d warnings\n", path, hooks, fatal, len(problems)-fatal)
	return fatal > 0
}

// explain prints what would be done with the request in a file.
func explain(w io.Writer, requestPath string, paths []string, templated bool, prefix string) error {
	r, body, err := readRequest(requestPath)
	if err != nil {
		return fmt.Errorf("reading --request: %w", err)
	}
	log := journal.New(nil, journal.Text)
	library := server.NewLibrary(paths, templated, log)
	if err := library.Load(); err != nil {
		return fmt.Errorf("loading hooks: %w", err)
	}
	return server.Explain(w, server.Config{Library: library, Journal: log, Prefix: prefix}, r, body)
}

// readRequest reads a request as it is on the wire. Lines may end without a
// carriage return, HTTP/1.1 may be left out, and the body is what is left, or
// as much of it as Content-Length says.
func readRequest(path string) (*http.Request, []byte, error) {
	file, err := os.Open(path) //nolint:gosec // the path is the operator's to choose
	if err != nil {
		return nil, nil, err
	}
	defer file.Close() //nolint:errcheck // only read from, or already ended
	text, err := io.ReadAll(io.LimitReader(file, maxRequestBytes))
	if err != nil {
		return nil, nil, err
	}
	return parseRequest(text)
}

func parseRequest(text []byte) (*http.Request, []byte, error) {
	head, body := text, []byte(nil)
	end := len(text)
	for _, separator := range []string{"\r\n\r\n", "\n\n"} {
		if i := bytes.Index(text, []byte(separator)); i >= 0 && i < end {
			end = i
			head, body = text[:i], text[i+len(separator):]
		}
	}
	lines := strings.Split(strings.ReplaceAll(strings.TrimSpace(string(head)), "\r\n", "\n"), "\n")
	if !strings.Contains(lines[0], " HTTP/") {
		lines[0] += " HTTP/1.1"
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.Join(lines, "\r\n") + "\r\n\r\n")))
	if err != nil {
		return nil, nil, err
	}
	r.RemoteAddr = "127.0.0.1:0" // nobody knows who sent it
	if length := r.ContentLength; length > 0 && length <= int64(len(body)) {
		body = body[:length]
	}
	if r.Header.Get("Content-Length") == "" && len(body) > 0 {
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	return r, body, nil
}
