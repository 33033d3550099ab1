package daemon

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
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
	c := checking{stdout: stdout, ids: map[string]string{}}
	set.StringVar(&c.request, "request", "", "`file` with a request, as it is on the wire, or - for standard input: say what would be done with it, rule by rule")
	set.StringVar(&c.from, "from", "127.0.0.1", "`address` that the request comes from")
	set.BoolVar(&c.templated, "template", false, "run hooks files through Go's text/template")
	set.StringVar(&c.server.Prefix, "urlprefix", server.DefaultPrefix, "`path` before the ids of hooks")
	methodsFlag(set, &c.server.Methods)
	proxiesFlag(set, &c.server.TrustedProxies)
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
	if _, err := netip.ParseAddr(c.from); err != nil {
		fmt.Fprintf(stderr, "fanfare hooks check: -from is %q; want an address\n", c.from)
		return &ExitError{Code: exitUsage}
	}
	failed := false
	for _, path := range paths {
		failed = c.path(path) || failed
	}
	if c.request != "" {
		if err := c.explain(paths); err != nil {
			fmt.Fprintf(stderr, "fanfare hooks check: %v\n", err)
			failed = true
		}
	}
	if failed {
		return &ExitError{Code: exitFailed}
	}
	return nil
}

// checking is one run of Check.
type checking struct {
	stdout        io.Writer
	request, from string
	templated     bool
	server        server.Config
	ids           map[string]string // :: id -> file that has it
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

// path checks a file, or all of a directory, and reports whether there are
// errors.
func (c *checking) path(path string) (failed bool) {
	files, err := server.FilesIn(path)
	if err != nil {
		fmt.Fprintf(c.stdout, "%s: error: %v\n", path, err)
		return true
	}
	for _, file := range files {
		failed = c.file(file) || failed
	}
	if len(files) == 0 {
		fmt.Fprintf(c.stdout, "%s: warning: there is no hooks file in this directory\n", path)
	}
	return failed
}

// file prints the problems of a file, and reports whether there are errors.
func (c *checking) file(path string) (failed bool) {
	text, err := spec.ReadText(path, c.templated)
	if err != nil {
		fmt.Fprintf(c.stdout, "%s: error: %v\n", path, err)
		return true
	}
	found := check.Text(text)
	problems := found.Elsewhere(c.ids)
	fatal := 0
	for _, problem := range problems {
		fmt.Fprintf(c.stdout, "%s:%d: %s\n", path, problem.Line, problem)
		if problem.Fatal {
			fatal++
		}
	}
	for id := range found.IDs {
		c.ids[id] = path
	}
	fmt.Fprintf(c.stdout, "%s: %d hooks, %d errors, %d warnings\n", path, found.Hooks, fatal, len(problems)-fatal)
	return fatal > 0
}

// explain prints what would be done with the request.
func (c *checking) explain(paths []string) error {
	r, body, err := readRequest(c.request)
	if err != nil {
		return fmt.Errorf("reading --request: %w", err)
	}
	r.RemoteAddr = net.JoinHostPort(c.from, "0")
	config := c.server
	config.Journal = journal.New(nil, journal.Text)
	config.Library = server.NewLibrary(paths, c.templated, config.Journal)
	if err := config.Library.Load(); err != nil {
		return fmt.Errorf("loading hooks: %w", err)
	}
	return server.Explain(c.stdout, config, r, body)
}

// readRequest reads a request as it is on the wire. Lines may end without a
// carriage return, HTTP/1.1 may be left out, and the body is what is left, or
// as much of it as Content-Length says.
func readRequest(path string) (*http.Request, []byte, error) {
	file := os.Stdin
	if path != "-" {
		var err error
		if file, err = os.Open(path); err != nil { //nolint:gosec // the path is the operator's to choose
			return nil, nil, err
		}
		defer file.Close() //nolint:errcheck // only read from, or already ended
	}
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
	if length := r.ContentLength; length > 0 && length <= int64(len(body)) {
		body = body[:length]
	}
	if r.Header.Get("Content-Length") == "" && len(body) > 0 {
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	return r, body, nil
}
