package eventlog

import (
	"cmp"
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
	// Client asks them. Default http.DefaultClient.
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
		var problem string
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			problem = fmt.Sprintf("cannot see whether the NATS server at %s syncs each record: %v", url, err)
		case !always:
			problem = fmt.Sprintf("the NATS server %s at %s does not sync each record to disk: what is acknowledged may be lost with its machine; "+
				"set sync_interval: always in its jetstream block", server, url)
		}
		w.learn(url, problem, err == nil)
	}
}

// learn keeps what was found, and says what is new. What does not sync is said
// at every look.
func (w *SyncWatch) learn(url, problem string, answered bool) {
	w.mu.Lock()
	if w.known == nil {
		w.known = make(map[string]string)
	}
	before, looked := w.known[url]
	w.known[url] = problem
	w.mu.Unlock()
	switch {
	case problem != "" && answered:
		w.Logger.Error(problem)
	case problem != "" && problem != before:
		w.Logger.Warn(problem)
	case problem == "" && looked && before != "":
		w.Logger.Info("the NATS server syncs each record", "url", url)
	}
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
	response, err := cmp.Or(w.Client, http.DefaultClient).Do(request)
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
