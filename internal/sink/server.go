package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// How the server treats its clients.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10

	// answerGrace is how long requests under way may still take to be
	// answered when the server is to end. Then they are cut off.
	answerGrace = 3 * time.Second
	// shutdownLimit is when connections are closed whatever they are doing.
	shutdownLimit = 6 * time.Second

	// countsInterval is the time between two lines of WriteCounts.
	countsInterval = time.Second
)

// Serve answers requests that come to listener until ctx ends, then lets those
// under way have their answers and returns nil. It closes listener. Requests
// that hang are cut off at once; others are given a few seconds.
func (s *Sink) Serve(ctx context.Context, listener net.Listener, logger *slog.Logger) error {
	// Two promises: ctx ends the taking of requests, inHand those taken.
	inHand, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	server := &http.Server{
		Handler:           s,
		BaseContext:       func(net.Listener) context.Context { return inHand },
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	group, ending := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ending.Done()
		grace := answerGrace
		if s.cfg.Hang {
			grace = 0
		}
		defer time.AfterFunc(grace, abort).Stop()
		return shutDown(context.WithoutCancel(ctx), server)
	})
	return group.Wait()
}

// shutDown waits for the requests under way, within shutdownLimit.
func shutDown(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownLimit)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("shutting down: %w", err), server.Close())
	}
	return nil
}

// WriteCounts writes the counts to w, a line at most each second and only when
// they have changed, until ctx ends.
func (s *Sink) WriteCounts(ctx context.Context, w io.Writer) error {
	ticker := time.NewTicker(countsInterval)
	defer ticker.Stop()
	var last Stats
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		counts := s.Stats()
		if counts == last {
			continue
		}
		last = counts
		if _, err := fmt.Fprintln(w, counts); err != nil {
			return fmt.Errorf("writing counts: %w", err)
		}
	}
}
