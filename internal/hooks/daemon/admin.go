package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/fanfare-dev/fanfare/internal/hooks/server"
	"github.com/fanfare-dev/fanfare/internal/telemetry"
)

// admin serves metrics and health, on an address of its own: they are not for
// who sends webhooks.
type admin struct {
	listener net.Listener
	server   *http.Server
}

// newAdmin listens on -admin-address; nil if there is none.
func (d *Daemon) newAdmin(ctx context.Context, measured *telemetry.Telemetry, library *server.Library) (*admin, error) {
	if d.options.AdminAddress == "" {
		return nil, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", d.options.AdminAddress)
	if err != nil {
		return nil, fmt.Errorf("opening -admin-address: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", measured.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ctx.Err() != nil || library.Len() == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "%d hooks\n", library.Len())
	})
	d.journal.Printf("serving metrics and health on http://%s", listener.Addr())
	return &admin{listener, &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readHeaderTimeout,
		WriteTimeout:      server.DefaultWriteTimeout,
		IdleTimeout:       idleTimeout,
	}}, nil
}

// run serves until ctx ends.
func (a *admin) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = a.server.Close() })() // nobody waits for an answer here
	if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}

func loadCertificate(cert, key string) (tls.Certificate, error) {
	certificate, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading -cert and -key: %w", err)
	}
	return certificate, nil
}

func newTLSListener(listener net.Listener, config *tls.Config) net.Listener {
	return tls.NewListener(listener, config)
}
