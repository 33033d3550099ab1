package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// firstPassedFD is the first file descriptor that systemd passes.
const firstPassedFD = 3

// listen opens what is listened on: a socket that systemd passes, or -socket,
// or -ip and -port. where is what the log calls it.
func (o *Options) listen(ctx context.Context) (listener net.Listener, where string, err error) {
	passed, err := passedListener()
	if err != nil {
		return nil, "", err
	}
	if passed != nil {
		return passed, passed.Addr().String(), nil
	}
	if o.Socket != "" {
		if o.SetUID != 0 || o.SetGID != 0 {
			return nil, "", errors.New("-socket cannot be used with -setuid and -setgid")
		}
		listener, err = new(net.ListenConfig).Listen(ctx, "unix", o.Socket)
		return listener, "{unix:" + o.Socket + "}", err
	}
	listener, err = new(net.ListenConfig).Listen(ctx, "tcp", o.address())
	if err != nil {
		return nil, "", err
	}
	return listener, listener.Addr().String(), nil
}

// passedListener returns the socket that systemd passes to this process; nil
// if it passes none.
func passedListener() (net.Listener, error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	// They are not for the commands.
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("taking the passed socket: %w", err)
		}
	}
	n, err := strconv.Atoi(count)
	switch {
	case err != nil || n < 1:
		return nil, nil
	case n > 1:
		return nil, fmt.Errorf("LISTEN_FDS: want one socket, got %d", n)
	}
	file := os.NewFile(firstPassedFD, "LISTEN_FD_3")
	defer file.Close() //nolint:errcheck // only read from, or already ended
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("taking the passed socket: %w", err)
	}
	return listener, nil
}

// minTLS returns the lowest version of TLS.
func (o *Options) minTLS() (uint16, error) {
	switch o.TLSMinVersion {
	case "1.0":
		return tls.VersionTLS10, nil
	case "1.1":
		return tls.VersionTLS11, nil
	case "", "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("-tls-min-version: want 1.0, 1.1, 1.2 or 1.3, got %q", o.TLSMinVersion)
}

// tlsConfig returns the settings of -secure: upstream's curves, no HTTP/2.
func (o *Options) tlsConfig() (*tls.Config, error) {
	lowest, err := o.minTLS()
	if err != nil {
		return nil, err
	}
	suites, err := cipherSuites(o.CipherSuites)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:       lowest,
		CipherSuites:     suites,
		CurvePreferences: []tls.CurveID{tls.CurveP521, tls.CurveP384, tls.CurveP256},
		NextProtos:       []string{"http/1.1"},
	}, nil
}

// cipherSuites finds suites by name, among those that are secure. None is nil,
// which is all of them.
func cipherSuites(names string) ([]uint16, error) {
	if names == "" {
		return nil, nil
	}
	var found []uint16
	for name := range strings.SplitSeq(names, ",") {
		known := tls.CipherSuites()
		i := slices.IndexFunc(known, func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("-cipher-suites: there is no %q among the secure ones; -list-cipher-suites lists them", name)
		}
		found = append(found, known[i].ID)
	}
	return found, nil
}

// listCipherSuites prints the suites that the lowest version allows.
func (o *Options) listCipherSuites(w io.Writer) error {
	lowest, err := o.minTLS()
	if err != nil {
		return err
	}
	for _, suite := range tls.CipherSuites() {
		if slices.Max(suite.SupportedVersions) >= lowest {
			if _, err := fmt.Fprintln(w, suite.Name); err != nil {
				return fmt.Errorf("writing cipher suites: %w", err)
			}
		}
	}
	return nil
}
