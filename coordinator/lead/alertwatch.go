package lead

import (
	"context"
	"sync"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// alertWatchBuffer is how many changes of alerts a watcher may have unread
// before it is cut: a record's, and then some.
const alertWatchBuffer = 1024

// alertWatchers passes on what was made durable of alerts. A slow one is cut,
// never waited for.
type alertWatchers struct {
	mu  sync.Mutex
	all map[*AlertWatcher]struct{} // guarded by mu; nil: closed
}

// AlertWatcher gets the changes of a tenant's alerts.
type AlertWatcher struct {
	of     *alertWatchers
	wants  func(*fanfarev1.Alert) bool
	alerts chan *fanfarev1.Alert // closed when the watcher is cut or the leader ends
	err    error                 // why it was closed; set before
}

func newAlertWatchers() *alertWatchers {
	return &alertWatchers{all: make(map[*AlertWatcher]struct{})}
}

// Pass calls send with each change, until ctx ends, send fails, the leadership
// ends, or send is too slow (ErrSlowWatcher).
func (w *AlertWatcher) Pass(ctx context.Context, send func(*fanfarev1.Alert) error) error {
	for {
		select {
		case a, ok := <-w.alerts:
			if !ok {
				return w.err
			}
			if err := send(a); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// End ends the watch.
func (w *AlertWatcher) End() {
	w.of.mu.Lock()
	defer w.of.mu.Unlock()
	delete(w.of.all, w)
}

func (ws *alertWatchers) add(w *AlertWatcher) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.all == nil {
		return false
	}
	ws.all[w] = struct{}{}
	return true
}

// close ends all watchers, for good.
func (ws *alertWatchers) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		w.err = ErrNotLeading
		close(w.alerts)
	}
	ws.all = nil
}

// publish passes a change on to those who want it, and cuts who is too slow.
func (ws *alertWatchers) publish(a *fanfarev1.Alert) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		if !w.wants(a) {
			continue
		}
		select {
		case w.alerts <- a:
		default:
			delete(ws.all, w)
			w.err = ErrSlowWatcher
			close(w.alerts)
		}
	}
}
