package sim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	"github.com/fanfare-dev/fanfare/coordinator/notify"
	"github.com/fanfare-dev/fanfare/internal/sim"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// systemTenant is where alerts are published, and what is wrong with the
// cluster is.
const systemTenant = "tenants/fanfare-system"

// recorder is told of alerts, by all coordinators, and counts.
type recorder struct {
	mu   sync.Mutex
	told map[string]int // guarded by mu; by kind and what has happened
}

func newRecorder() *recorder { return &recorder{told: make(map[string]int)} }

// Tell implements notify.Listener.
func (r *recorder) Tell(_ string, what alert.Notification) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range what.Alerts {
		event := "fires"
		switch {
		case a.GetState() == fanfarev1.Alert_RESOLVED:
			event = "is resolved"
		case what.Repeated:
			event = "repeats"
		}
		r.told[a.GetKind()+" "+event]++
	}
}

// Remind implements notify.Listener.
func (r *recorder) Remind(string, []*fanfarev1.Alert) {}

// Forget implements notify.Listener.
func (r *recorder) Forget(string) {}

// Run implements notify.Listener.
func (r *recorder) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (r *recorder) listeners() []notify.Listener { return []notify.Listener{r} }

func (r *recorder) count(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told[what]
}

// checkTold checks that of nothing more was told than once.
func (r *recorder) checkTold(t *testing.T, when string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(r.told)) {
		if n := r.told[what]; n > 1 {
			t.Errorf("%s: it was told %d times that %s", when, n, what)
		}
	}
}

// webhooks returns the types of the events that an endpoint has taken.
func webhooks(t *testing.T, e *sim.Endpoint) (types []string) {
	t.Helper()
	for _, request := range e.Requests() {
		var event struct {
			Type string
			Data struct{ Kind, State, Subscription string }
		}
		if err := json.Unmarshal(request.Body, &event); err != nil || request.Signed != nil || event.Data.Kind == "" {
			t.Errorf("an alert came as %s, signed: %v, %v", request.Body, request.Signed, err)
		}
		types = append(types, event.Type)
	}
	return types
}

// An endpoint dies, and everybody is told once; what happens to the leaders
// meanwhile changes nothing about that. It recovers, and everybody is told so.
func TestAlertsOverLeaderChanges(t *testing.T) {
	ends := map[string]func(*testing.T, *sim.Coordinator){
		"killed": func(_ *testing.T, leads *sim.Coordinator) { leads.Kill() },
		"stopped": func(t *testing.T, leads *sim.Coordinator) {
			if err := leads.Stop(); err != nil {
				t.Error(err)
			}
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told := newRecorder()
				c := sim.New(t, sim.Config{Coordinators: 2, Told: told.listeners()})
				ops := c.Endpoint("ops")
				c.Client.SubscribeIn(systemTenant, ops, &fanfarev1.Subscription{EventTypes: []string{"fanfare.endpoint.*"}})
				e := c.Endpoint("down")
				e.Behave(sim.Status(http.StatusServiceUnavailable))
				dies := c.Client.Subscribe(e, nil)
				c.Client.PublishMany(30, "e", "order.created")

				sim.Pass(4 * time.Minute)
				if n := told.count("endpoint_failing fires"); n != 0 {
					t.Errorf("an alert fires after 4 min, before it is time for it")
				}
				for round := range 3 {
					sim.Pass(20 * time.Minute)
					if n := told.count("endpoint_failing fires"); n != 1 {
						t.Fatalf("in round %d %d alerts have fired, want 1", round, n)
					}
					told.checkTold(t, fmt.Sprintf("round %d", round))
					leads, other := leader(t, c)
					end(t, leads)
					awaitLeads(t, c, other)
					leads.Start()
				}
				sim.Pass(20 * time.Minute)
				firing := alertOf(t, c, sim.Tenant, alert.EndpointFailing)
				if firing.GetState() != fanfarev1.Alert_FIRING || firing.GetSubscription() != dies.GetName() ||
					firing.GetLastStatusCode() != http.StatusServiceUnavailable || firing.GetUrl() != e.URL ||
					!strings.HasPrefix(firing.GetEvent(), sim.Tenant+"/events/e") {
					t.Errorf("the alert is %v", firing)
				}

				e.Behave(sim.OK())
				c.AwaitSettled(time.Hour)
				leads, other := leader(t, c) // before it is resolved
				end(t, leads)
				awaitLeads(t, c, other)
				sim.Pass(5 * time.Minute)
				if n := told.count("endpoint_failing is resolved"); n != 1 {
					t.Errorf("it was told %d times that the endpoint has recovered, want once", n)
				}
				if state := alertOf(t, c, sim.Tenant, alert.EndpointFailing).GetState(); state != fanfarev1.Alert_RESOLVED {
					t.Errorf("the alert is %v", state)
				}
				told.checkTold(t, "in the end")
				if got, want := webhooks(t, ops), []string{"fanfare.endpoint.failing", "fanfare.endpoint.recovered"}; !slices.Equal(got, want) {
					t.Errorf("operational webhooks: %v, want %v", got, want)
				}
				leads.Start()
			})
		})
	}
}

func alertOf(t *testing.T, c *sim.Cluster, tenant string, kind alert.Kind) *fanfarev1.Alert {
	t.Helper()
	for _, a := range c.Client.Alerts(tenant) {
		if a.GetKind() == string(kind) {
			return a
		}
	}
	t.Fatalf("%s has no alert of kind %s", tenant, kind)
	return nil
}

// An endpoint for alerts that fails is told of elsewhere, and causes no events
// that would be sent to it and fail.
func TestAlertsDoNotLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := newRecorder()
		c := sim.New(t, sim.Config{Told: told.listeners()})
		ops, e := c.Endpoint("ops"), c.Endpoint("down")
		ops.Behave(sim.Status(http.StatusInternalServerError))
		e.Behave(sim.Status(http.StatusInternalServerError))
		failing := c.Client.SubscribeIn(systemTenant, ops, &fanfarev1.Subscription{})
		c.Client.Subscribe(e, nil)
		c.Client.PublishMany(30, "e", "order.created")
		sim.Pass(6 * 24 * time.Hour)

		about := 0
		for _, a := range c.Client.Alerts(systemTenant) {
			if a.GetSubscription() == failing.GetName() {
				about++
			}
		}
		if about == 0 || told.count("endpoint_disabled fires") != 2 {
			t.Errorf("%d alerts are about the endpoint for alerts, and %d endpoints were disabled", about, told.count("endpoint_disabled fires"))
		}
		seen := make(map[string]bool)
		for _, request := range ops.Requests() {
			seen[request.EventID] = true
			if strings.Contains(string(request.Body), `"subscription":"`+failing.GetName()) {
				t.Errorf("the endpoint for alerts is sent an alert about itself: %s", request.Body)
			}
		}
		if len(seen) == 0 || len(seen) > 40 {
			t.Errorf("%d events were sent to the endpoint for alerts", len(seen))
		}
	})
}

// What is wrong with the cluster itself is told once, whoever looks after it.
func TestAlertsOfTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := newRecorder()
		c := sim.New(t, sim.Config{Coordinators: 2, Workers: 1, Told: told.listeners()})
		e := c.Endpoint("one")
		c.Client.Subscribe(e, nil)
		sim.Pass(time.Minute)
		c.Workers[0].Kill()
		sim.Pass(3 * time.Minute)
		if n := told.count("shard_unowned fires"); n != 1 {
			t.Errorf("%d alerts say that a shard has no worker, want 1", n)
		}
		for _, coordinator := range c.Coordinators { // one of them is the assigner
			coordinator.Restart()
			sim.Pass(3 * time.Minute)
		}
		told.checkTold(t, "after all coordinators were killed")
		if a := alertOf(t, c, systemTenant, alert.ShardUnowned); a.GetState() != fanfarev1.Alert_FIRING || !strings.HasPrefix(a.GetObject(), "shards/0/") {
			t.Errorf("the alert is %v", a)
		}
		c.Workers[0].Start()
		sim.Pass(3 * time.Minute)
		told.checkTold(t, "with a worker again")
		if n := told.count("shard_unowned is resolved"); n != 1 {
			t.Errorf("it was told %d times that the shard has a worker, want once", n)
		}
	})
}

// A coordinator that cannot reach the store of members says so, though nothing
// can be kept or assigned meanwhile.
func TestAlertsWithoutTheControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := newRecorder()
		c := sim.New(t, sim.Config{Told: told.listeners()})
		sim.Pass(time.Minute)
		c.StoreDown(true)
		sim.Pass(3 * time.Minute)
		if n := told.count("control_plane_lost fires"); n != 1 {
			t.Errorf("%d alerts say that etcd is away, want 1", n)
		}
		c.StoreDown(false)
		sim.Pass(5 * time.Minute)
		if n := told.count("control_plane_lost is resolved"); n != 1 {
			t.Errorf("it was told %d times that etcd is back, want once", n)
		}
		told.checkTold(t, "in the end")
	})
}
