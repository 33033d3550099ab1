package eventlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// syncLook is how often servers are asked how they sync: one may have been
	// started again with another setting.
	syncLook        = time.Minute
	syncLookTimeout = 5 * time.Second
	// mostVarz limits what a server may say of itself. A real one says some 5 KiB.
	mostVarz = 1 << 20
)

// SyncWatch asks NATS servers whether they sync each record to disk before
// they acknowledge it, which a client of theirs cannot see. It is safe for
// concurrent use.
type SyncWatch struct {
	// URLs are the servers' monitoring addresses, as in http://nats-1:8222.
	URLs []string
	// Client asks them.
	Client *http.Client
	// Logger hears, loudly, of servers that do not sync.
	Logger *slog.Logger

	mu    sync.Mutex
	known map[string]string // :: URL -> what is wrong there, "" for nothing; guarded by mu
}

// Run looks until ctx ends: at once, and now and then.
func (w *SyncWatch) Run(ctx context.Context) error {
	if len(w.URLs) == 0 {
		w.Logger.Warn("cannot see whether NATS syncs each record to disk: without sync_interval: always in its configuration, " +
			"what is acknowledged may be lost with a machine; give --nats-monitor-urls to have it watched")
		return nil
	}
	ticker := time.NewTicker(syncLook)
	defer ticker.Stop()
	for {
		w.Look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Setting returns, in words, how the servers sync as far as is known.
func (w *SyncWatch) Setting() string {
	problems := w.Problems()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case len(w.URLs) == 0:
		return "as its servers are set, which a client cannot see; sync_interval must be always"
	case len(w.known) < len(w.URLs):
		return "not looked at yet"
	case len(problems) > 0:
		return "not always on each server"
	default:
		return "always"
	}
}

// Problems returns what is wrong, a line for each server.
func (w *SyncWatch) Problems() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var problems []string
	for _, url := range w.URLs {
		if problem := w.known[url]; problem != "" {
			problems = append(problems, problem)
		}
	}
	return problems
}

// Look asks each server once.
func (w *SyncWatch) Look(ctx context.Context) {
	for _, url := range w.URLs {
		always, server, err := w.ask(ctx, url)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil:
			if problem := fmt.Sprintf("cannot see whether the NATS server at %s syncs each record: %v", url, err); w.learn(url, problem) {
				w.Logger.Warn("cannot see whether a NATS server syncs each record", "url", url, "error", err)
			}
		case !always: // said at every look
			w.learn(url, fmt.Sprintf("the NATS server %s at %s does not sync each record to disk: "+unsynced, server, url))
			w.Logger.Error("a NATS server does not sync each record to disk: "+unsynced, "url", url, "server", server)
		case w.learn(url, ""):
			w.Logger.Info("the NATS server syncs each record", "url", url)
		}
	}
}

// unsynced is what it means, and what to do.
const unsynced = "what is acknowledged may be lost with its machine; set sync_interval: always in its jetstream block"

// learn keeps what is wrong with a server, "" for nothing, and reports whether
// it was something else before; that nothing is wrong is no news at first.
func (w *SyncWatch) learn(url, problem string) (news bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known == nil {
		w.known = make(map[string]string)
	}
	news = problem != w.known[url]
	w.known[url] = problem
	return news
}

// varz is what is read of what a server says of itself at /varz.
type varz struct {
	Name      string `json:"server_name"`
	JetStream struct {
		Config *struct {
			SyncAlways bool `json:"sync_always"`
		} `json:"config"`
	} `json:"jetstream"`
}

func (w *SyncWatch) ask(ctx context.Context, url string) (always bool, server string, err error) {
	bounded, cancel := context.WithTimeout(ctx, syncLookTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(bounded, http.MethodGet, strings.TrimSuffix(url, "/")+"/varz", nil)
	if err != nil {
		return false, "", err
	}
	response, err := w.Client.Do(request)
	if err != nil {
		return false, "", err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode != http.StatusOK {
		return false, "", fmt.Errorf("GET /varz answered %s", response.Status)
	}
	var said varz
	if err := json.NewDecoder(io.LimitReader(response.Body, mostVarz)).Decode(&said); err != nil {
		return false, "", fmt.Errorf("GET /varz answered what is not a NATS server's: %w", err)
	}
	if said.JetStream.Config == nil {
		return false, "", errors.New("it has no JetStream")
	}
	return said.JetStream.Config.SyncAlways, said.Name, nil
}
