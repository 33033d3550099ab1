// Package daemon is `fanfare hooks` from its command line to its exit code.
package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/fanfare-dev/fanfare/internal/hooks/journal"
	"github.com/fanfare-dev/fanfare/internal/hooks/server"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// DefaultShutdownTimeout is how `long` requests and commands have to end when
// the server ends.
const DefaultShutdownTimeout = 30 * time.Second

// defaultHooks is the hooks file if none is named.
const defaultHooks = "hooks.json"

// Options are the flags.
type Options struct {
	IP, Port, Socket string
	Hooks            []string
	HotReload        bool
	Template         bool
	Verbose, Debug   bool
	LogFile          string
	NoPanic          bool
	Secure           bool
	Cert, Key        string
	TLSMinVersion    string
	CipherSuites     string
	ListCipherSuites bool
	PIDFile          string
	SetUID, SetGID   int
	Version          bool

	LogFormat       journal.Format
	AdminAddress    string
	ShutdownTimeout time.Duration

	Server server.Config
}

// ExitError ends the process with a code. What there was to say has been said.
type ExitError struct{ Code int }

// Error implements error.
func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// ParseFlags reads the command line as package flag does, which is how
// upstream reads it: with one dash or two, up to the first argument that is no
// flag. A mistake is told to stderr with the usage; the error is an *ExitError
// then, of code 0 if only help was asked for.
func ParseFlags(args []string, stderr io.Writer) (Options, error) {
	var o Options
	set := flag.NewFlagSet("fanfare hooks", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() { usage(set) }
	o.compatible(set)
	o.own(set)
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, &ExitError{Code: 0}
		}
		return o, &ExitError{Code: exitUsage}
	}
	if len(o.Hooks) == 0 {
		o.Hooks = []string{defaultHooks}
	}
	o.Verbose = o.Verbose || o.Debug || o.LogFile != ""
	o.Server.Debug = o.Debug
	return o, nil
}

func usage(set *flag.FlagSet) {
	fmt.Fprint(set.Output(), `Usage of fanfare hooks:

  fanfare hooks [flags]                              run commands on incoming webhooks
  fanfare hooks check FILE... [--request FILE]       explain hooks files; see 'fanfare hooks check -help'

Reads the hooks files and the flags of adnanh/webhook. docs/hooks.md is the
reference. Flags take one dash or two.

`)
	set.PrintDefaults()
}

// compatible are upstream's flags.
func (o *Options) compatible(set *flag.FlagSet) {
	set.StringVar(&o.IP, "ip", "0.0.0.0", "`address` to listen on; IPv6 in brackets")
	set.StringVar(&o.Port, "port", "9000", "TCP `port` to listen on")
	set.StringVar(&o.Socket, "socket", "", "`path` of a Unix socket to listen on instead; @name is abstract")
	set.Func("hooks", "`path` of a hooks file, or of a directory of them; may be repeated (default "+defaultHooks+")", func(path string) error {
		o.Hooks = append(o.Hooks, path)
		return nil
	})
	set.BoolVar(&o.HotReload, "hotreload", false, "reload hooks files when they change")
	set.BoolVar(&o.Template, "template", false, "run hooks files through Go's text/template")
	set.BoolVar(&o.Verbose, "verbose", false, "log to stderr; without it nothing is logged")
	set.BoolVar(&o.Debug, "debug", false, "log requests and answers whole; implies -verbose")
	set.StringVar(&o.LogFile, "logfile", "", "`path` to append the log to; implies -verbose")
	set.BoolVar(&o.NoPanic, "nopanic", false, "start even if no hook could be loaded")
	set.Func("header", "`name=value` of a header for every answer of a hook; may be repeated", func(text string) error {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return errors.New("want name=value")
		}
		o.Server.Headers = append(o.Server.Headers, spec.Header{Name: name, Value: value})
		return nil
	})
	set.StringVar(&o.Server.Prefix, "urlprefix", server.DefaultPrefix, "`path` before the ids of hooks")
	methodsFlag(set, &o.Server.Methods)
	set.Int64Var(&o.Server.MultipartMemory, "max-multipart-mem", server.DefaultMultipartMemory, "`bytes` that files of a form may take in memory; more go to disk")
	set.BoolVar(&o.Server.UseRequestID, "x-request-id", false, "take the id of a request from X-Request-Id")
	set.IntVar(&o.Server.RequestIDLimit, "x-request-id-limit", 0, "`bytes` of X-Request-Id that count; 0 is all")
	set.BoolVar(&o.Secure, "secure", false, "serve HTTPS")
	set.StringVar(&o.Cert, "cert", "cert.pem", "`path` of the certificate, PEM")
	set.StringVar(&o.Key, "key", "key.pem", "`path` of its key, PEM")
	set.StringVar(&o.TLSMinVersion, "tls-min-version", "1.2", "lowest TLS `version`: 1.0, 1.1, 1.2 or 1.3")
	set.StringVar(&o.CipherSuites, "cipher-suites", "", "comma-separated `names` of cipher suites for TLS 1.2 and lower (default all that are secure)")
	set.BoolVar(&o.ListCipherSuites, "list-cipher-suites", false, "print the names of cipher suites and exit")
	set.StringVar(&o.PIDFile, "pidfile", "", "`path` to write the process's id to")
	set.IntVar(&o.SetUID, "setuid", 0, "user `id` to run as, with -setgid")
	set.IntVar(&o.SetGID, "setgid", 0, "group `id` to run as, with -setuid")
	set.BoolVar(&o.Version, "version", false, "print the version and exit")
}

// own are the flags that upstream does not have.
func (o *Options) own(set *flag.FlagSet) {
	o.LogFormat = journal.Text
	set.Func("log-format", "text or json (default text)", func(text string) error {
		o.LogFormat = journal.Format(text)
		if o.LogFormat != journal.Text && o.LogFormat != journal.JSON {
			return errors.New("want text or json")
		}
		return nil
	})
	set.StringVar(&o.AdminAddress, "admin-address", "", "`host:port` for /metrics, /healthz and /readyz (default none)")
	duration(set, "shutdown-timeout", &o.ShutdownTimeout, DefaultShutdownTimeout, "how `long` requests and commands may take to end when the server is told to")
	proxiesFlag(set, &o.Server.TrustedProxies)
	positive(set, &o.Server.MaxBody, "max-body", server.DefaultMaxBody, "`bytes` of a request's body; more is answered 413")
	positive(set, &o.Server.MaxBodies, "max-body-memory", server.DefaultMaxBodies, "`bytes` of all bodies together, parsed or not; more is answered 503")
	positive(set, &o.Server.MaxOutput, "max-output", server.DefaultMaxOutput, "`bytes` of a command's output in an answer; the rest is dropped")
	positive(set, &o.Server.MaxCommands, "max-commands", server.DefaultMaxCommands, "`number` of commands that run at a time")
	positive(set, &o.Server.MaxWaiting, "max-waiting", server.DefaultMaxWaiting, "`number` of commands that wait for one to end; more are answered 503")
	duration(set, "read-timeout", &o.Server.ReadTimeout, server.DefaultReadTimeout, "how `long` a body may take to arrive")
	duration(set, "write-timeout", &o.Server.WriteTimeout, server.DefaultWriteTimeout, "how `long` a client may take to read an answer")
	duration(set, "command-timeout", &o.Server.CommandTimeout, 0, "how `long` commands of hooks without command-timeout may run (default without end)")
}

// methodsFlag adds -http-methods.
func methodsFlag(set *flag.FlagSet, target *[]string) {
	set.Func("http-methods", "comma-separated `methods` of hooks that name none (default all)", func(text string) error {
		*target = nil
		for method := range strings.SplitSeq(strings.ReplaceAll(text, " ", ""), ",") {
			if method != "" {
				*target = append(*target, strings.ToUpper(method))
			}
		}
		return nil
	})
}

// proxiesFlag adds -trusted-proxies.
func proxiesFlag(set *flag.FlagSet, target *[]netip.Prefix) {
	set.Func("trusted-proxies", "comma-separated `ranges` of proxies that are believed who the client is", func(text string) error {
		for _, entry := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }) {
			prefix, err := spec.Prefix(entry)
			if err != nil {
				return err
			}
			*target = append(*target, prefix)
		}
		return nil
	})
}

// positive adds a flag for a number of at least 1.
func positive[T int | int64](set *flag.FlagSet, target *T, name string, value T, help string) {
	*target = value
	set.Func(name, fmt.Sprintf("%s (default %d)", help, value), func(text string) error {
		n, err := strconv.ParseInt(text, 10, bits.UintSize)
		if err != nil || n < 1 {
			return errors.New("want a number of at least 1")
		}
		*target = T(n)
		return nil
	})
}

// duration adds a flag for a time such as 30s. Without any it is value, and 0 is
// only wanted where that is: it means never.
func duration(set *flag.FlagSet, name string, target *time.Duration, value time.Duration, help string) {
	*target = value
	if value > 0 {
		help = fmt.Sprintf("%s (default %v)", help, value)
	}
	set.Func(name, help, func(text string) error {
		d, err := spec.Duration(text)
		if err != nil || text == "" || d == 0 && value > 0 {
			return errors.New("want a duration such as 30s or 5m")
		}
		*target = d
		return nil
	})
}

// address is what -ip and -port say.
func (o *Options) address() string { return o.IP + ":" + o.Port }
