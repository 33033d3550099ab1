package lead

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// ErrSlowWatcher says that a watcher did not keep up and was cut.
var ErrSlowWatcher = errors.New("watcher fell behind")

// watchBuffer is how many changes a watcher may have unread before it is cut:
// about a second of a busy partition.
const watchBuffer = 4096

// watchers passes on what the follower has written. A slow one is cut, never
// waited for.
type watchers struct {
	mu  sync.Mutex
	all map[*Watcher]struct{} // guarded by mu; nil: closed
}

// Watcher gets the changes of a tenant's deliveries.
type Watcher struct {
	of           *watchers
	tenant       ledger.TenantID
	subscription string                                  // id; empty: all
	changes      chan *fanfarev1.WatchDeliveriesResponse // closed when the watcher is cut or the leader ends
	err          error                                   // why it was closed; set before
}

func newWatchers() *watchers {
	return &watchers{all: make(map[*Watcher]struct{})}
}

// Watch begins to watch a tenant's deliveries: no change from now on is
// missed. An empty subscription id stands for all. End must be called.
func (l *Leader) Watch(tenant ledger.TenantID, subscription string) (*Watcher, error) {
	w := &Watcher{
		of: l.watch, tenant: tenant, subscription: subscription,
		changes: make(chan *fanfarev1.WatchDeliveriesResponse, watchBuffer),
	}
	if !l.watch.add(w) {
		return nil, ErrNotLeading
	}
	return w, nil
}

// Pass calls send with each change, until ctx ends, send fails, the leadership
// ends, or send is too slow (ErrSlowWatcher).
func (w *Watcher) Pass(ctx context.Context, send func(*fanfarev1.WatchDeliveriesResponse) error) error {
	for {
		select {
		case change, ok := <-w.changes:
			if !ok {
				return w.err
			}
			if err := send(change); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// End ends the watch.
func (w *Watcher) End() { w.of.remove(w) }

func (ws *watchers) add(w *Watcher) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.all == nil {
		return false
	}
	ws.all[w] = struct{}{}
	return true
}

func (ws *watchers) remove(w *Watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
}

// close ends all watchers, for good.
func (ws *watchers) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		w.err = ErrNotLeading
		close(w.changes)
	}
	ws.all = nil
}

// publish passes changes on to those who want them. Called by the follower.
func (ws *watchers) publish(ctx context.Context, l *Leader, changes []ledger.DeliveryChange) {
	for _, w := range ws.interested() {
		for _, change := range changes {
			if change.Tenant != w.tenant || w.subscription != "" && w.subscription != change.ID {
				continue
			}
			response, err := l.describe(ctx, change)
			if err != nil {
				l.logger.Warn("describing a delivery to a watcher", "error", err)
				continue
			}
			if !ws.pass(w, response) {
				break
			}
		}
	}
}

func (ws *watchers) interested() []*Watcher {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	all := make([]*Watcher, 0, len(ws.all))
	for w := range ws.all {
		all = append(all, w)
	}
	return all
}

// pass hands a change to a watcher, or cuts it.
func (ws *watchers) pass(w *Watcher, response *fanfarev1.WatchDeliveriesResponse) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if _, there := ws.all[w]; !there {
		return false
	}
	select {
	case w.changes <- response:
		return true
	default:
		delete(ws.all, w)
		w.err = ErrSlowWatcher
		close(w.changes)
		return false
	}
}

// describe says what the change did, from the history, which has it already.
func (l *Leader) describe(ctx context.Context, change ledger.DeliveryChange) (*fanfarev1.WatchDeliveriesResponse, error) {
	delivery, err := l.config.History.Delivery(ctx, string(change.Tenant), keyOf(l.config.Partition, change.Delivery))
	if err != nil {
		return nil, err
	}
	response := &fanfarev1.WatchDeliveriesResponse{Delivery: delivery}
	// Later changes of one batch are in the history too: show this one's.
	delivery.State = stateOf(change.Kind)
	delivery.AttemptCount = int32(change.Attempts) //nolint:gosec // few attempts
	if change.Outcome != nil {
		response.Attempt = attemptOf(change)
		response.Attempt.Name = fmt.Sprintf("%s/attempts/%d", delivery.GetName(), response.Attempt.GetNumber())
	}
	return response, nil
}

// toUTF8 makes text of what may be any bytes.
func toUTF8(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }
