package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-dev/fanfare/signature"
)

// maxListeners bounds the ports that receivers are spread over: endpoints of
// real life are different hosts, but a thousand ports tell nothing more.
const maxListeners = 64

// headerTimeout is how long a receiver waits for the head of a request.
const headerTimeout = 30 * time.Second

// receivers answer what the load's subscriptions are sent. They are made for
// one Run, and count for one phase of it at a time.
type receivers struct {
	config  Config
	secret  signature.Secret
	servers []*http.Server
	hosts   []string // host:port of each, as the cluster reaches it
	dead    string   // host:port where nothing listens
	serving sync.WaitGroup
	phase   atomic.Pointer[phase]
	unknown atomic.Int64 // requests that no phase knows
	forged  atomic.Int64 // requests whose signature does not hold
}

func startReceivers(ctx context.Context, config Config, secret signature.Secret) (*receivers, error) {
	r := &receivers{config: config, secret: secret}
	for range min(config.Subscriptions*config.Tenants, maxListeners) {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(config.Listen, "0"))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening a receiver: %w", err), r.close())
		}
		r.hosts = append(r.hosts, r.reachable(listener))
		server := &http.Server{
			Handler:           r,
			ReadHeaderTimeout: headerTimeout,
			ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // of connections cut at the end
		}
		r.servers = append(r.servers, server)
		r.serving.Go(func() { _ = server.Serve(listener) }) // until close
	}
	// A port that was free a moment ago refuses connections.
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(config.Listen, "0"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("finding a dead port: %w", err), r.close())
	}
	r.dead = r.reachable(listener)
	return r, listener.Close()
}

func (r *receivers) reachable(listener net.Listener) string {
	_, port, _ := net.SplitHostPort(listener.Addr().String()) // a listener's own address
	return net.JoinHostPort(r.config.Host, port)
}

func (r *receivers) close() error {
	var errs []error
	for _, server := range r.servers {
		errs = append(errs, server.Close())
	}
	r.serving.Wait()
	return errors.Join(errs...)
}

// paths of the endpoints.
const (
	healthyPath = "/healthy/"
	slowPath    = "/slow/"
	rawPath     = "/raw"
)

// healthyURL is where a phase's subscription is sent to that has a number.
func (r *receivers) healthyURL(number int) string {
	return "http://" + r.hosts[number%len(r.hosts)] + healthyPath + strconv.Itoa(number)
}

func (r *receivers) slowURL(number int) string {
	return "http://" + r.hosts[number%len(r.hosts)] + slowPath + strconv.Itoa(number)
}

func (r *receivers) deadURL(number int) string {
	return "http://" + r.dead + "/dead/" + strconv.Itoa(number)
}

// ServeHTTP implements http.Handler.
func (r *receivers) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var err error
	if r.config.Verify {
		err = r.verify(request)
	} else {
		_, err = io.Copy(io.Discard, request.Body)
	}
	if err != nil {
		r.forged.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	path := request.URL.Path
	switch {
	case path == rawPath:
	case strings.HasPrefix(path, slowPath):
		select {
		case <-time.After(r.config.SlowDelay):
		case <-request.Context().Done():
		}
	default:
		r.count(strings.TrimPrefix(path, healthyPath), request.Header["Webhook-Id"])
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *receivers) verify(request *http.Request) error {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return err
	}
	return signature.Verify([]signature.Secret{r.secret}, request.Header, body, time.Now(), 0)
}

// count notes that an event has arrived at a subscription of the phase.
func (r *receivers) count(subscription string, ids []string) {
	now := time.Now()
	p := r.phase.Load()
	number, err := strconv.Atoi(subscription)
	if p == nil || err != nil || len(ids) != 1 || !p.arrived(number, ids[0], now) {
		r.unknown.Add(1)
	}
}
