package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fanfare-dev/fanfare/internal/hooks/command"
	"github.com/fanfare-dev/fanfare/internal/hooks/journal"
	"github.com/fanfare-dev/fanfare/internal/hooks/server"
	"github.com/fanfare-dev/fanfare/internal/telemetry"
	"github.com/fanfare-dev/fanfare/internal/version"
)

// compatibleWith is the version of adnanh/webhook whose files and flags are
// understood; -version prints it, for scripts that look.
const compatibleWith = "2.8.2"

const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 1 << 20
	logFileMode       = 0o666 // and the umask, as upstream
)

// noHooksText is what upstream says when there is nothing to serve.
const noHooksText = `couldn't load any hooks from file!
aborting webhook execution since the -verbose flag is set to false.
If, for some reason, you want webhook to start without the hooks, either use -verbose flag, or -nopanic
`

// Daemon is one run of `fanfare hooks`.
type Daemon struct {
	options        Options
	stdout, stderr io.Writer
	journal        *journal.Journal
}

// New returns a daemon that was not started.
func New(options Options, stdout, stderr io.Writer) *Daemon {
	return &Daemon{options: options, stdout: stdout, stderr: stderr}
}

// Run serves hooks until ctx ends, and then until what was accepted has ended
// too. It returns nil if all went well, else an *ExitError, having said why.
//
//	listen ─▶ drop privileges ─▶ log ─▶ pidfile ─▶ load hooks
//	                                                   │
//	   Serve ──────── answers requests                 ▼
//	   Watcher.Run ── -hotreload: reloads what has changed
//	   reload ─────── SIGHUP, SIGUSR1
//	   admin ──────── -admin-address: metrics and health
//	   end ────────── waits for ctx, then ends Serve and the commands
func (d *Daemon) Run(ctx context.Context) error {
	o := &d.options
	switch {
	case o.Version:
		fmt.Fprintf(d.stdout, "webhook version %s\nfanfare %s\n", compatibleWith, version.String())
		return nil
	case o.ListCipherSuites:
		return d.failed(o.listCipherSuites(d.stdout))
	case (o.SetUID != 0) != (o.SetGID != 0):
		fmt.Fprintln(d.stdout, "error: setuid and setgid options must be used together")
		return &ExitError{Code: exitFailed}
	}
	listener, where, err := o.listen(ctx)
	if err != nil {
		return d.failed(fmt.Errorf("listening: %w", err))
	}
	defer listener.Close() //nolint:errcheck // Serve closes it; this is for the errors before
	if o.SetUID != 0 {
		if err := dropPrivileges(o.SetUID, o.SetGID); err != nil {
			return d.failed(err)
		}
	}
	closeLog, err := d.openLog()
	if err != nil {
		return d.failed(err)
	}
	defer closeLog()
	if o.PIDFile != "" {
		if err := writePIDFile(o.PIDFile); err != nil {
			return d.failed(err)
		}
		defer d.removePIDFile()
	}
	return d.serve(ctx, listener, where)
}

// failed says why the process ends, where somebody will see it.
func (d *Daemon) failed(err error) error {
	if err == nil {
		return nil
	}
	if d.journal != nil && !d.journal.Silent() {
		d.journal.Printf("%v", err)
	}
	if d.journal == nil || d.journal.Silent() || d.options.LogFile != "" {
		fmt.Fprintf(d.stderr, "fanfare hooks: %v\n", err)
	}
	return &ExitError{Code: exitFailed}
}

// openLog opens the log that the flags ask for.
func (d *Daemon) openLog() (closeLog func(), err error) {
	o := &d.options
	switch {
	case o.LogFile != "":
		file, err := os.OpenFile(o.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, logFileMode)
		if err != nil {
			return nil, fmt.Errorf("opening -logfile: %w", err)
		}
		d.journal = journal.New(file, o.LogFormat)
		return func() { _ = file.Close() }, nil // who could be told?
	case o.Verbose:
		d.journal = journal.New(d.stderr, o.LogFormat)
	default:
		d.journal = journal.New(nil, o.LogFormat)
	}
	return func() {}, nil
}

func (d *Daemon) removePIDFile() {
	if err := os.Remove(d.options.PIDFile); err != nil {
		d.journal.Printf("removing pidfile: %v", err)
	}
}

// serve loads the hooks and serves them.
func (d *Daemon) serve(ctx context.Context, listener net.Listener, where string) error {
	o := &d.options
	d.journal.Printf("version %s (fanfare %s) starting", compatibleWith, version.String())
	d.journal.Printf("setting up os signal watcher")
	signals, stopSignals := reloadSignals()
	defer stopSignals()
	d.journal.Printf("os signal watcher ready")

	library := server.NewLibrary(o.Hooks, o.Template, d.journal)
	if err := library.Load(); err != nil {
		return d.failed(err)
	}
	if library.Len() == 0 && !o.Verbose && !o.NoPanic {
		for _, err := range library.Refused() {
			fmt.Fprintf(d.stderr, "fanfare hooks: %v\n", err)
		}
		return d.noHooks()
	}
	measured, err := telemetry.New(ctx, telemetry.Config{Service: "fanfare-hooks", Version: version.String()})
	if err != nil {
		return d.failed(err)
	}
	defer measured.Shutdown(context.WithoutCancel(ctx)) //nolint:errcheck // what was measured last is no reason to fail
	config := o.Server
	config.Library, config.Journal, config.Meter = library, d.journal, measured.Meter()
	handler, err := server.New(config)
	if err != nil {
		return d.failed(err)
	}
	listener, scheme, err := d.secure(listener)
	if err != nil {
		return err
	}
	admin, err := d.newAdmin(ctx, measured, library)
	if err != nil {
		return d.failed(err)
	}

	group, ctx := errgroup.WithContext(ctx)
	if o.HotReload {
		watcher, err := server.NewWatcher(library)
		if err != nil {
			return d.failed(err)
		}
		group.Go(func() error { return d.watch(ctx, watcher) })
	}
	group.Go(func() error { return reload(ctx, signals, library, d.journal) })
	// Who looks on can do so until the last command has ended.
	serving, served := context.WithCancel(context.WithoutCancel(ctx))
	defer served()
	if admin != nil {
		group.Go(func() error { return admin.run(serving) })
	}
	d.journal.Printf("serving hooks on %s://%s%s", scheme, where, urlTemplate(o.Server.Prefix))
	group.Go(func() error {
		defer served()
		return d.answer(ctx, handler, listener)
	})
	err = group.Wait()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, server.ErrNoHooks):
		return d.noHooks()
	}
	return d.failed(err)
}

func urlTemplate(prefix string) string {
	if prefix == "" {
		return "/{id}"
	}
	return "/" + prefix + "/{id}"
}

func (d *Daemon) noHooks() error {
	fmt.Fprint(d.stdout, noHooksText)
	return &ExitError{Code: exitFailed}
}

// secure wraps the listener for -secure. A certificate that cannot be read is
// the end with code 0, as upstream's; unlike there it is said.
func (d *Daemon) secure(listener net.Listener) (secured net.Listener, scheme string, err error) {
	if !d.options.Secure {
		return listener, "http", nil
	}
	config, err := d.options.tlsConfig()
	if err != nil {
		return nil, "", d.failed(err)
	}
	certificate, err := loadCertificate(d.options.Cert, d.options.Key)
	if err != nil {
		_ = d.failed(err) // only to say it
		return nil, "", &ExitError{Code: 0}
	}
	config.Certificates = append(config.Certificates, certificate)
	return newTLSListener(listener, config), "https", nil
}

// watch reloads hooks files as they change. The removal of the last one ends
// the process, unless the flags say that it may run without.
func (d *Daemon) watch(ctx context.Context, watcher *server.Watcher) error {
	defer watcher.Close() //nolint:errcheck // nothing is written
	for {
		err := watcher.Run(ctx)
		if !errors.Is(err, server.ErrNoHooks) || !d.options.Verbose && !d.options.NoPanic {
			return err
		}
	}
}

// reload reads the hooks files again on a signal, until ctx ends.
func reload(ctx context.Context, signals <-chan os.Signal, library *server.Library, log *journal.Journal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case signal := <-signals:
			log.Printf("caught %s signal", signalName(signal))
			library.Reload()
		}
	}
}

// answer serves until ctx ends; then it takes nothing more, and lets what was
// accepted end within the shutdown timeout.
func (d *Daemon) answer(ctx context.Context, handler *server.Server, listener net.Listener) error {
	httpServer := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(logWriter{d.journal}, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- httpServer.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	if name, ok := strings.CutSuffix(fmt.Sprint(context.Cause(ctx)), " signal received"); ok {
		d.journal.Printf("caught %s signal; exiting", name)
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.options.ShutdownTimeout)
	defer cancel()
	context.AfterFunc(grace, handler.Abort)
	// Who waits for a command gets an answer even if it had to be killed.
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), d.options.ShutdownTimeout+2*command.KillGrace)
	defer cancelLast()
	err := httpServer.Shutdown(last)
	if err != nil {
		err = errors.Join(fmt.Errorf("shutting down: %w", err), httpServer.Close())
	}
	handler.Drain(grace)
	<-served //nolint:errcheck // it is http.ErrServerClosed
	return err
}

// logWriter writes what net/http has to say into the log.
type logWriter struct{ journal *journal.Journal }

// Write implements io.Writer.
func (w logWriter) Write(line []byte) (int, error) {
	w.journal.Printf("%s", strings.TrimRight(string(line), "\n"))
	return len(line), nil
}
