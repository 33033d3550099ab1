package clusterlab_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// key is one event owed to one subscription.
type key struct{ hook, event string }

// receiver takes webhooks at /<hook> and remembers when it accepted what. Safe
// for concurrent use.
type receiver struct {
	server *httptest.Server
	delay  time.Duration
	refuse float64 // the share of requests that it refuses

	mu       sync.Mutex
	accepted map[key][]time.Time    // guarded by mu
	arrivals map[string][]time.Time // guarded by mu; :: hook
}

func newReceiver(t testing.TB, delay time.Duration, refuse float64) *receiver {
	r := &receiver{delay: delay, refuse: refuse, accepted: make(map[key][]time.Time), arrivals: make(map[string][]time.Time)}
	r.server = httptest.NewServer(r)
	t.Cleanup(r.server.Close)
	return r
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if _, err := io.Copy(io.Discard, request.Body); err != nil {
		return
	}
	<-time.After(r.delay)
	hook := strings.TrimPrefix(request.URL.Path, "/")
	if !strings.HasSuffix(hook, inOrder) && rand.Float64() < r.refuse { // one at a time, it could not keep up
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	now := time.Now()
	k := key{hook, request.Header.Get("webhook-id")}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted[k] = append(r.accepted[k], now)
	r.arrivals[k.hook] = append(r.arrivals[k.hook], now)
}

// gap returns the longest time, within a span, in which a hook got nothing,
// over all hooks.
func (r *receiver) gap(from, until time.Time) (longest time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, times := range r.arrivals {
		last := from
		for _, at := range append(slices.Clone(times), until) {
			if at.Before(from) {
				continue
			}
			if at.After(until) {
				at = until
			}
			longest = max(longest, at.Sub(last))
			last = at
		}
	}
	return longest
}

func (r *receiver) total() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, times := range r.accepted {
		n += len(times)
	}
	return n
}

// load is producers that publish without a break.
type load struct {
	lab   *lab
	hooks map[string][]string // :: tenant -> hooks that want everything

	stop      chan struct{}
	producers sync.WaitGroup

	mu           sync.Mutex
	acknowledged map[string]string  // guarded by mu; :: event -> tenant
	published    []*fanfarev1.Event // guarded by mu; what was acknowledged, in the order of each tenant
	failed       int                // guarded by mu; calls
	slowest      time.Duration      // guarded by mu; from the first call to the acknowledgement
}

// inOrder is the ordering of the hooks that get everything in order.
const inOrder = "subscription"

// orderings are those of a tenant's hooks, which end in their names.
var orderings = []string{"none", "key", inOrder}

const (
	tenantsOfLoad = 4
	keysOfLoad    = 3
	publishPeriod = 50 * time.Millisecond
	publishCall   = 5 * time.Second
)

// newLoad makes tenants and subscriptions, and begins to publish.
func newLoad(l *lab, r *receiver) *load {
	l.t.Helper()
	made := &load{lab: l, hooks: make(map[string][]string), stop: make(chan struct{}), acknowledged: make(map[string]string)}
	for i := range tenantsOfLoad {
		tenant := fmt.Sprintf("tenant-%d", i)
		l.createTenant(tenant)
		for _, ordering := range orderings {
			hook := tenant + "-" + ordering
			l.subscribe("tenants/"+tenant, r.server.URL+"/"+hook, ordering)
			made.hooks[tenant] = append(made.hooks[tenant], hook)
		}
	}
	for tenant := range made.hooks {
		made.producers.Go(func() { made.produce(tenant) })
	}
	return made
}

func (l *lab) createTenant(tenant string) {
	l.t.Helper()
	l.await("tenant "+tenant+" is made", time.Minute, func() string {
		_, err := ask(l, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Tenant, error) {
			return fanfarev1.NewTenantServiceClient(conn).CreateTenant(ctx, &fanfarev1.CreateTenantRequest{TenantId: tenant})
		})
		if err == nil || status.Code(err) == codes.AlreadyExists {
			return ""
		}
		return err.Error()
	})
}

func (l *lab) subscribe(parent, url, ordering string) {
	l.t.Helper()
	_, err := ask(l, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Subscription, error) {
		schedule := slices.Repeat([]*durationpb.Duration{durationpb.New(time.Second)}, 50)
		return fanfarev1.NewSubscriptionServiceClient(conn).CreateSubscription(ctx, &fanfarev1.CreateSubscriptionRequest{
			Parent: parent, Subscription: &fanfarev1.Subscription{Url: url, Ordering: ordering, RetrySchedule: schedule},
		})
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// produce publishes to one tenant until it is told to stop, each event again
// and again, by one coordinator after the other, until it is acknowledged.
func (p *load) produce(tenant string) {
	for n := 0; ; n++ {
		select {
		case <-p.stop:
			return
		case <-time.After(publishPeriod):
		}
		var events []*fanfarev1.Event
		for i := range 1 + n%3 {
			events = append(events, &fanfarev1.Event{
				Id: fmt.Sprintf("%s-%d-%d", tenant, n, i), Type: "order.created", Data: []byte(`{"n":1}`),
				OrderingKey: fmt.Sprint("key-", (n+i)%keysOfLoad),
			})
		}
		start := time.Now()
		for try := n; p.publish(tenant, events, try) != nil; try++ {
			<-time.After(publishPeriod)
		}
		p.mu.Lock()
		p.slowest = max(p.slowest, time.Since(start))
		for _, e := range events {
			p.acknowledged[e.GetId()] = tenant
		}
		p.published = append(p.published, events...)
		p.mu.Unlock()
	}
}

func (p *load) publish(tenant string, events []*fanfarev1.Event, try int) error {
	m := p.lab.coordinators[try%len(p.lab.coordinators)]
	ctx, cancel := context.WithTimeout(context.Background(), publishCall)
	defer cancel()
	_, err := fanfarev1.NewEventServiceClient(m.conn).Publish(ctx, &fanfarev1.PublishRequest{Parent: "tenants/" + tenant, Events: events})
	if err != nil {
		p.mu.Lock()
		p.failed++
		p.mu.Unlock()
	}
	return err
}

// end stops publishing.
func (p *load) end() {
	close(p.stop)
	p.producers.Wait()
}

// span is a time in which something impolite was done.
type span struct{ from, until time.Time }

// check compares what was acknowledged with what has arrived: all of it, and
// twice only where an impolite span lies between or around the two.
func (p *load) check(r *receiver, impolite []span) (owed, duplicates int) {
	p.lab.t.Helper()
	lost, unexplained := 0, 0
	for event, tenant := range p.acknowledged {
		for _, hook := range p.hooks[tenant] {
			owed++
			times := r.accepted[key{hook, event}]
			if len(times) == 0 {
				if lost++; lost <= 10 {
					p.lab.t.Errorf("%s never got %s", hook, event)
				}
				continue
			}
			for i := 1; i < len(times); i++ {
				duplicates++
				explained := slices.ContainsFunc(impolite, func(s span) bool {
					return !s.from.After(times[i]) && !s.until.Before(times[i-1])
				})
				if !explained {
					if unexplained++; unexplained <= 10 {
						p.lab.t.Errorf("%s got %s twice, at %v and %v, and nobody was killed meanwhile",
							hook, event, times[i-1].Format(time.TimeOnly), times[i].Format(time.TimeOnly))
					}
				}
			}
		}
	}
	if lost+unexplained > 0 {
		p.lab.t.Errorf("lost %d, duplicates without a reason %d", lost, unexplained)
	}
	return owed, duplicates
}

// checkOrder checks that each hook that asked for an order accepted events for
// the first time in the one in which they were published.
func (p *load) checkOrder(r *receiver) {
	p.lab.t.Helper()
	type lane struct{ hook, key string }
	newest := make(map[lane]time.Time)
	wrong := 0
	for _, e := range p.published {
		for _, hook := range p.hooks[p.acknowledged[e.GetId()]] {
			l := lane{hook: hook}
			switch {
			case strings.HasSuffix(hook, inOrder):
			case strings.HasSuffix(hook, "key"):
				l.key = e.GetOrderingKey()
			default:
				continue
			}
			times := r.accepted[key{hook, e.GetId()}]
			if len(times) == 0 {
				continue // check has said so
			}
			if times[0].Before(newest[l]) {
				if wrong++; wrong <= 10 {
					p.lab.t.Errorf("%s got %s, of key %s, at %v, after something newer at %v",
						hook, e.GetId(), e.GetOrderingKey(), times[0].Format(time.TimeOnly), newest[l].Format(time.TimeOnly))
				}
				continue
			}
			newest[l] = times[0]
		}
	}
	if wrong > 0 {
		p.lab.t.Errorf("%d came out of order", wrong)
	}
}
